//! The fourth stage: bytes in both directions, until both have ended. The only copy loop.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::task::{Context, Poll};

use adit_core::flow::CloseReason;
use bytes::Bytes;
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

/// An end that is a TCP connection of this node.
pub(super) type TcpEnd = End<tcp::Reader, tcp::Writer>;

impl Side {
    const fn other(self) -> Self {
        match self {
            Self::Source => Self::Destination,
            Self::Destination => Self::Source,
        }
    }
}

impl TcpEnd {
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
    source: &mut End<R1, W1>,
    destination: &mut End<R2, W2>,
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

/// How far one direction has come.
enum Step {
    Ended,
    /// The receiver takes no more for now of so many bytes that were read.
    Slow(u64),
}

/// One direction. `count` grows by what was handed on.
async fn pump<R: ReadHalf, W: WriteHalf>(
    (side, reader): (Side, &mut R),
    writer: &mut W,
    count: &Cell<u64>,
) -> Result<(), (Side, Broken)> {
    let mut bytes = Bytes::new();
    loop {
        match poll_fn(|cx| step((side, &mut *reader), writer, (&mut bytes, count), cx)).await? {
            Step::Ended => break,
            Step::Slow(read) => {
                // Boxed: only who waits for a slow receiver needs the room.
                Box::pin(wait((side, &mut *reader), writer, &mut bytes)).await?;
                count.set(count.get() + read);
            }
        }
    }
    poll_fn(|cx| writer.poll_finish(cx)).await.map_err(|broken| (side.other(), broken))
}

/// Hands on what comes, until nothing more does or the receiver is slow.
fn step<R: ReadHalf, W: WriteHalf>(
    (side, reader): (Side, &mut R),
    writer: &mut W,
    (bytes, count): (&mut Bytes, &Cell<u64>),
    cx: &mut Context<'_>,
) -> Poll<Result<Step, (Side, Broken)>> {
    loop {
        let Poll::Ready(read) = reader.poll_read(cx) else {
            return writer.poll_broken(cx).map(|broken| Err((side.other(), broken)));
        };
        let Some(read) = read.map_err(|broken| (side, broken))? else {
            return Poll::Ready(Ok(Step::Ended));
        };
        let n = read.len() as u64;
        *bytes = read;
        let Poll::Ready(written) = writer.poll_write(bytes, cx) else {
            return Poll::Ready(Ok(Step::Slow(n)));
        };
        written.map_err(|broken| (side.other(), broken))?;
        count.set(count.get() + n);
    }
}

/// Waits until the receiver has taken all of it, or the sender breaks off meanwhile.
async fn wait<R: ReadHalf, W: WriteHalf>(
    (side, reader): (Side, &mut R),
    writer: &mut W,
    bytes: &mut Bytes,
) -> Result<(), (Side, Broken)> {
    let written = pin!(poll_fn(|cx| writer.poll_write(bytes, cx)));
    match select(written, pin!(reader.broken())).await {
        Either::Left((written, _)) => written.map_err(|broken| (side.other(), broken)),
        Either::Right((broken, _)) => Err((side, broken)),
    }
}
