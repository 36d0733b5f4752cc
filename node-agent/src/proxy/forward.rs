//! The fourth stage: bytes in both directions, until both have ended. The only copy loop.

use std::cell::Cell;

use adit_core::flow::CloseReason;
use futures_util::future::{Either, select, try_join};
use tokio::net::TcpStream;

use super::flows::Flow;
use super::tcp;
use crate::tunnel::{Broken, ReadHalf, WriteHalf};

/// One end of a flow. It is broken off when it is dropped, unless it was seen to finish: whatever
/// happens in between, the application there must not take what it got for the whole. (A socket is
/// reset also if the process dies: see [`tcp::split`].)
pub(super) struct End<R, W: WriteHalf> {
    reader: R,
    writer: W,
    finished: bool,
    /// Policy no longer permits the flow.
    denied: Cell<bool>,
}

/// Whose end broke.
#[derive(Clone, Copy)]
enum Side {
    Source,
    Destination,
}

impl End<tcp::Reader, tcp::Writer> {
    pub(super) fn tcp(tcp: TcpStream) -> Self {
        let (reader, writer) = tcp::split(tcp);
        Self::new(reader, writer)
    }
}

impl<R, W: WriteHalf> End<R, W> {
    pub(super) const fn new(reader: R, writer: W) -> Self {
        Self { reader, writer, finished: false, denied: Cell::new(false) }
    }
}

impl<R, W: WriteHalf> Drop for End<R, W> {
    fn drop(&mut self) {
        if self.finished {
            self.writer.close();
        } else if self.denied.get() {
            self.writer.deny();
        } else {
            self.writer.reset();
        }
    }
}

/// Tells the source's end why it is dropped, if the flow was ended for its policy.
struct Telling<'a> {
    flow: &'a Flow,
    denied: &'a Cell<bool>,
}

impl Drop for Telling<'_> {
    fn drop(&mut self) {
        self.denied.set(matches!(self.flow.ended_for(), Some(CloseReason::Denied(_))));
    }
}

/// Carries the flow.
pub(super) async fn forward<R1, W1, R2, W2>(
    flow: &Flow,
    mut source: End<R1, W1>,
    mut destination: End<R2, W2>,
) -> CloseReason
where
    R1: ReadHalf,
    W1: WriteHalf,
    R2: ReadHalf,
    W2: WriteHalf,
{
    let _telling = Telling { flow, denied: &source.denied };
    let outcome = {
        let sent = pump((Side::Source, &mut source.reader), &mut destination.writer, flow.sent());
        let received =
            pump((Side::Destination, &mut destination.reader), &mut source.writer, flow.received());
        try_join(sent, received).await
    };
    match outcome {
        Ok(_both) => {
            (source.finished, destination.finished) = (true, true);
            CloseReason::Finished
        }
        // Whether a flow is permitted is for the destination's agent to say.
        Err((Side::Source, Broken::Reset | Broken::Denied)) => CloseReason::ResetBySource,
        Err((Side::Destination, Broken::Reset)) => CloseReason::ResetByDestination,
        Err((Side::Destination, Broken::Denied)) => CloseReason::Rejected(401),
        Err((Side::Source, Broken::Silent)) => CloseReason::SourceSilent,
        Err((Side::Destination, Broken::Silent)) => CloseReason::DestinationSilent,
        Err((_, Broken::Evicted)) => CloseReason::MemoryLimit,
        Err((_, Broken::Lost)) => CloseReason::TunnelLost,
    }
}

/// One direction. `count` grows by what was handed on.
async fn pump<R: ReadHalf, W: WriteHalf>(
    (side, reader): (Side, &mut R),
    writer: &mut W,
    count: &Cell<u64>,
) -> Result<(), (Side, Broken)> {
    let other = match side {
        Side::Source => Side::Destination,
        Side::Destination => Side::Source,
    };
    loop {
        let read = {
            let (read, broken) = (std::pin::pin!(reader.read()), std::pin::pin!(writer.broken()));
            match select(read, broken).await {
                Either::Left((read, _)) => read.map_err(|broken| (side, broken))?,
                Either::Right((broken, _)) => return Err((other, broken)),
            }
        };
        let Some(bytes) = read else { break };
        let n = bytes.len() as u64;
        {
            let (write, broken) =
                (std::pin::pin!(writer.write(bytes)), std::pin::pin!(reader.broken()));
            match select(write, broken).await {
                Either::Left((written, _)) => written.map_err(|broken| (other, broken))?,
                Either::Right((broken, _)) => return Err((side, broken)),
            }
        }
        count.set(count.get() + n);
    }
    writer.finish().await.map_err(|broken| (other, broken))
}
