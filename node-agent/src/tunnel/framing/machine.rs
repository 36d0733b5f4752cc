//! The state of one connection, without I/O: what comes goes in at `receive`, what is to be sent comes
//! out at `prepare`, and the handles of streams act in between. The rules are RFC 9113's.
//!
//! Credit for the connection is given back when data comes, and for a stream when its reader has
//! dealt with it: a slow reader stops its own stream and no other. What slow readers hold together is
//! bounded by the [`Budget`](crate::tunnel::Budget).

use std::collections::{BTreeMap, VecDeque};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::frame::{
    Code, ENABLE_PUSH, GOAWAY, INITIAL_WINDOW, INITIAL_WINDOW_SIZE, LARGEST_STREAM,
    LEAST_MAX_FRAME, MAX_CONCURRENT_STREAMS, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE, PING, PREFACE,
    RST_STREAM, WINDOW_UPDATE, put, put_settings,
};
use super::hpack::{self, Decoder, Request};
use super::parser::{FRAME, Parser};
use super::send::Outgoing;
use super::stream::{Answered, FIRST_WINDOW, Receiving, Sending, Stream};
use crate::tunnel::Broken;

/// What all streams of one tunnel may have on their way to this end, in bytes.
pub(super) const CONNECTION_WINDOW: i64 = 16 << 20;

/// Streams that the other end is taken to allow until it has said how many.
const ASSUMED_STREAMS: u32 = 100;

/// Streams beyond the limit that may be on their way out, after the other end has reset them.
pub(super) const LEFT_OVER: usize = 64;

/// Which of a drain's PINGs is answered, and which of a keep-alive's.
pub(super) const DRAIN_PING: [u8; 8] = *b"adit-end";
pub(super) const ALIVE_PING: [u8; 8] = *b"adit-two";

/// Which end this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Client,
    /// With the limit of streams that the other end may have at a time.
    Server(u32),
}

/// What the other end has said of itself.
#[derive(Debug)]
pub(super) struct Theirs {
    pub(super) initial_window: i64,
    pub(super) max_frame: usize,
    pub(super) max_streams: u32,
    /// The last stream that it processes.
    pub(super) going_away: Option<u32>,
}

/// How far this end is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leaving {
    No,
    /// The other end was told; what it asks before it knows is served.
    Announced,
    /// Nothing new is taken.
    Final,
}

/// Why no stream can be opened now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoRoom {
    /// The other end takes no more at a time.
    Full,
    GoingAway,
    Ended,
}

/// One connection.
pub(super) struct Machine {
    pub(super) role: Role,
    pub(super) streams: BTreeMap<u32, Box<Stream>>,
    pub(super) parser: Parser,
    pub(super) decoder: Decoder,
    pub(super) outgoing: Outgoing,
    pub(super) theirs: Theirs,
    /// What the other end takes, in bytes.
    pub(super) send_window: i64,
    /// What the other end may send, and what of it was not given back yet, in bytes.
    pub(super) receive_window: i64,
    pub(super) owed: i64,
    /// The last stream that the client opened.
    pub(super) last: u32,
    /// Streams that count against a limit.
    pub(super) counted: u32,
    pub(super) leaving: Leaving,
    /// Requests that came.
    pub(super) arrived: VecDeque<(u32, Request)>,
    /// Requests that the other end gave up unanswered, less those that it saw answered.
    pub(super) given_up: u32,
    /// Frames without any use, one after another.
    pub(super) useless: u32,
    pub(super) pong: Pong,
    pub(super) over: bool,
    /// Who waits for room for a stream.
    pub(super) waiting: Vec<Waker>,
    pub(super) driver: Option<Waker>,
}

/// The keep-alive's PING.
#[derive(Debug, Default)]
pub(super) struct Pong {
    pub(super) came: bool,
    pub(super) waker: Option<Waker>,
}

impl Machine {
    pub(super) fn new(role: Role) -> Self {
        let mut hello = Vec::new();
        let window = u32::try_from(FIRST_WINDOW).unwrap_or(u32::MAX);
        let frame = u32::try_from(FRAME).unwrap_or(u32::MAX);
        let own = match role {
            Role::Client => {
                hello.extend_from_slice(PREFACE);
                (ENABLE_PUSH, 0)
            }
            Role::Server(streams) => (MAX_CONCURRENT_STREAMS, streams),
        };
        let settings = [
            own,
            (INITIAL_WINDOW_SIZE, window),
            (MAX_FRAME_SIZE, frame),
            (MAX_HEADER_LIST_SIZE, hpack::LIST),
        ];
        put_settings(&mut hello, &settings);
        let more = u32::try_from(CONNECTION_WINDOW - INITIAL_WINDOW).unwrap_or(0);
        put(&mut hello, WINDOW_UPDATE, 0, 0, &more.to_be_bytes());
        Self {
            role,
            streams: BTreeMap::new(),
            parser: Parser::new(role != Role::Client),
            decoder: Decoder::new(),
            outgoing: Outgoing::new(hello),
            theirs: Theirs {
                initial_window: INITIAL_WINDOW,
                max_frame: LEAST_MAX_FRAME,
                max_streams: ASSUMED_STREAMS,
                going_away: None,
            },
            send_window: INITIAL_WINDOW,
            receive_window: CONNECTION_WINDOW,
            owed: 0,
            last: 0,
            counted: 0,
            leaving: Leaving::No,
            arrived: VecDeque::new(),
            given_up: 0,
            useless: 0,
            pong: Pong::default(),
            over: false,
            waiting: Vec::new(),
            driver: None,
        }
    }

    /// Whether the connection has nothing left to do.
    pub(super) fn is_done(&self) -> bool {
        let leaving = self.leaving == Leaving::Final || self.theirs.going_away.is_some();
        leaving && self.counted == 0 && self.outgoing.is_empty()
    }

    /// Opens a stream.
    pub(super) fn open(&mut self, block: &[u8]) -> Result<u32, NoRoom> {
        if self.over {
            return Err(NoRoom::Ended);
        }
        let numbers_left = self.last < LARGEST_STREAM - 2;
        if self.theirs.going_away.is_some() || self.leaving != Leaving::No || !numbers_left {
            return Err(NoRoom::GoingAway);
        }
        if self.counted >= self.theirs.max_streams {
            return Err(NoRoom::Full);
        }
        self.last = if self.last == 0 { 1 } else { self.last + 2 };
        self.counted += 1;
        let stream = Stream::asked(self.theirs.initial_window);
        self.streams.insert(self.last, Box::new(stream));
        self.outgoing.put_block(self.last, block, false, self.theirs.max_frame);
        self.wake_driver();
        Ok(self.last)
    }

    /// Sends the answer to a request, and with `ends` that nothing follows.
    pub(super) fn answer(&mut self, id: u32, block: &[u8], ends: bool) -> Result<(), Broken> {
        let stream = self.streams.get_mut(&id).ok_or(Broken::Lost)?;
        if let Some(broken) = stream.broken {
            return Err(broken);
        }
        stream.sending = if ends { Sending::Ended } else { Sending::Data };
        self.given_up = self.given_up.saturating_sub(1);
        self.outgoing.put_block(id, block, ends, self.theirs.max_frame);
        self.settle(id);
        self.wake_driver();
        Ok(())
    }

    /// The answer to the request that opened a stream.
    pub(super) fn poll_answer(&mut self, id: u32, cx: &mut Context<'_>) -> Poll<Answered> {
        let Some(stream) = self.streams.get_mut(&id) else { return Poll::Ready(Answered::Lost) };
        match stream.answered {
            Some(answered) => Poll::Ready(answered),
            None => {
                wait(&mut stream.reader, cx);
                Poll::Pending
            }
        }
    }

    /// The next data of a stream; `None` when the other end has finished.
    pub(super) fn poll_read(
        &mut self,
        id: u32,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, Broken>> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Poll::Ready(Err(Broken::Lost));
        };
        if let Some(bytes) = stream.inbox.pop() {
            return Poll::Ready(Ok(Some(bytes)));
        }
        match (stream.broken, stream.receiving) {
            (Some(broken), _) => Poll::Ready(Err(broken)),
            (None, Receiving::Ended) => Poll::Ready(Ok(None)),
            (None, Receiving::Answer | Receiving::Data) => {
                wait(&mut stream.reader, cx);
                Poll::Pending
            }
        }
    }

    /// Data of a stream was dealt with: the other end may send as much again.
    pub(super) fn release(&mut self, id: u32, bytes: usize) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.receiving != Receiving::Data || stream.broken.is_some() {
            return;
        }
        if let Some(credit) = stream.credit(bytes) {
            put(&mut self.outgoing.control, WINDOW_UPDATE, 0, id, &credit.to_be_bytes());
            self.wake_driver();
        }
    }

    /// What a stream's reader has not taken, in bytes; or why it breaks.
    pub(super) fn poll_unread(&mut self, id: u32, cx: &mut Context<'_>) -> Result<usize, Broken> {
        let stream = self.streams.get_mut(&id).ok_or(Broken::Lost)?;
        wait(&mut stream.reader, cx);
        match stream.broken {
            Some(broken) => Err(broken),
            None => Ok(stream.inbox.len()),
        }
    }

    /// Takes data to be sent, once what was taken before has gone.
    pub(super) fn poll_write(
        &mut self,
        id: u32,
        bytes: &mut Bytes,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Poll::Ready(Err(Broken::Lost));
        };
        if let Some(broken) = stream.broken {
            return Poll::Ready(Err(broken));
        }
        if stream.sending != Sending::Data {
            return Poll::Ready(Err(Broken::Lost));
        }
        if !stream.outbox.is_empty() {
            wait(&mut stream.writer, cx);
            return Poll::Pending;
        }
        stream.outbox = std::mem::take(bytes);
        self.outgoing.queue(id, stream);
        self.wake_driver();
        Poll::Ready(Ok(()))
    }

    /// Says that nothing more will be sent.
    pub(super) fn finish(&mut self, id: u32) -> Result<(), Broken> {
        let stream = self.streams.get_mut(&id).ok_or(Broken::Lost)?;
        if let Some(broken) = stream.broken {
            return Err(broken);
        }
        if stream.sending == Sending::Data {
            stream.sending = Sending::Ending;
            if stream.outbox.is_empty() {
                stream.sending = Sending::Ended;
                self.outgoing.put_end(id);
                self.settle(id);
            }
            self.wake_driver();
        }
        Ok(())
    }

    /// Why a stream can no longer be written to.
    pub(super) fn poll_broken(&mut self, id: u32, cx: &mut Context<'_>) -> Poll<Broken> {
        let Some(stream) = self.streams.get_mut(&id) else { return Poll::Ready(Broken::Lost) };
        if let Some(broken) = stream.broken {
            return Poll::Ready(broken);
        }
        wait(&mut stream.writer, cx);
        Poll::Pending
    }

    /// Breaks a stream off, if it is not over already.
    pub(super) fn reset(&mut self, id: u32, code: Code) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if !stream.is_over() {
            stream.break_off(Broken::Reset, Answered::Reset);
            self.put_reset(id, code);
            self.settle(id);
        }
    }

    pub(super) fn put_reset(&mut self, id: u32, code: Code) {
        put(&mut self.outgoing.control, RST_STREAM, 0, id, &(code as u32).to_be_bytes());
        self.wake_driver();
    }

    /// One handle more holds a stream.
    pub(super) fn hold(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.handles += 1;
        }
    }

    /// One handle less holds a stream. One that nobody holds is broken off, unless all that is left
    /// of it is to be sent.
    pub(super) fn let_go(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.handles = stream.handles.saturating_sub(1);
        if stream.handles > 0 {
            return;
        }
        stream.inbox.clear();
        let only_to_be_sent =
            stream.receiving == Receiving::Ended && stream.sending == Sending::Ending;
        if !only_to_be_sent {
            // A server that has answered in full wants no more of the request (RFC 9113, section 8.1).
            let answered = self.role != Role::Client && stream.sending == Sending::Ended;
            self.reset(id, if answered { Code::NoError } else { Code::Cancel });
        }
        self.settle(id);
    }

    /// Forgets what is over.
    pub(super) fn settle(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if !stream.is_over() {
            return;
        }
        if !stream.settled {
            stream.settled = true;
            self.counted = self.counted.saturating_sub(1);
            self.waiting.drain(..).for_each(Waker::wake);
            if self.counted == 0
                && let Some(driver) = self.driver.take()
            {
                driver.wake();
            }
        }
        if stream.handles == 0 {
            self.streams.remove(&id);
        }
    }

    /// Takes nothing new from now on, and ends with the last stream. A server lets what is on its way
    /// to it come first (RFC 9113, section 6.8).
    pub(super) fn leave(&mut self) {
        if self.leaving == Leaving::No {
            if self.role == Role::Client {
                self.put_goaway(0, Code::NoError);
                self.leaving = Leaving::Final;
            } else {
                self.put_goaway(LARGEST_STREAM, Code::NoError);
                put(&mut self.outgoing.control, PING, 0, 0, &DRAIN_PING);
                self.leaving = Leaving::Announced;
            }
            self.wake_driver();
        }
    }

    pub(super) fn put_goaway(&mut self, last: u32, code: Code) {
        let mut payload = last.to_be_bytes().to_vec();
        payload.extend_from_slice(&(code as u32).to_be_bytes());
        put(&mut self.outgoing.control, GOAWAY, 0, 0, &payload);
    }

    /// The connection is gone: so are its streams.
    pub(super) fn end(&mut self) {
        self.over = true;
        let ids: Vec<u32> = self.streams.keys().copied().collect();
        for id in ids {
            if let Some(stream) = self.streams.get_mut(&id).filter(|stream| !stream.is_over()) {
                stream.break_off(Broken::Lost, Answered::Lost);
            }
            self.settle(id);
        }
        self.waiting.drain(..).for_each(Waker::wake);
        if let Some(waker) = self.pong.waker.take() {
            waker.wake();
        }
    }

    pub(super) fn send_ping(&mut self) {
        self.pong.came = false;
        put(&mut self.outgoing.control, PING, 0, 0, &ALIVE_PING);
        self.wake_driver();
    }

    /// Whether the PING was answered; false when the connection is gone.
    pub(super) fn poll_pong(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if self.pong.came || self.over {
            return Poll::Ready(std::mem::take(&mut self.pong.came));
        }
        wait(&mut self.pong.waker, cx);
        Poll::Pending
    }

    pub(super) fn wake_driver(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }
}

/// Has the task woken. Only one waits at a place.
pub(super) fn wait(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) if waker.will_wake(cx.waker()) => {}
        _ => *place = Some(cx.waker().clone()),
    }
}
