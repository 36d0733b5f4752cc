//! One stream: what is known of both its directions, what came and was not read, what is to be sent.

use std::collections::VecDeque;
use std::task::Waker;

use bytes::{Bytes, BytesMut};

use super::frame::LARGEST_WINDOW;
use crate::tunnel::Broken;

/// What one stream may have in flight towards this end, in bytes: what a slow reader makes this end
/// hold for it.
pub(super) const WINDOW: i64 = 4 << 20;

/// What it may have before its reader has taken anything, in bytes: what a request holds until it is
/// answered. A short flow never needs more.
pub(super) const FIRST_WINDOW: i64 = 64 << 10;

/// Data is gathered up to this size, if it comes together, in bytes.
const CHUNK: usize = 64 << 10;

/// What the other end may still send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Receiving {
    /// The answer to a request, and nothing before it.
    Answer,
    Data,
    Ended,
}

/// What this end may still send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sending {
    /// The answer to a request, and nothing before it.
    Answer,
    Data,
    /// Nothing after what waits to be sent.
    Ending,
    Ended,
}

/// What the other end answered to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answered {
    Status(u16),
    /// Reset with REFUSED_STREAM: not processed.
    Refused,
    /// Above the last stream of a GOAWAY: not processed.
    GoingAway,
    /// Reset otherwise.
    Reset,
    Lost,
}

/// A stream. An idle one holds no buffer.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) receiving: Receiving,
    pub(super) sending: Sending,
    /// It was broken off, by whom or what.
    pub(super) broken: Option<Broken>,
    pub(super) answered: Option<Answered>,
    pub(super) inbox: Inbox,
    pub(super) outbox: Bytes,
    /// It stands in a queue to send.
    pub(super) queued: bool,
    /// It no longer counts against a limit of streams.
    pub(super) settled: bool,
    /// What holds it: a responder, or a reader and a writer.
    pub(super) handles: u8,
    /// What the other end takes, in bytes.
    pub(super) send_window: i64,
    /// What the other end may send, in bytes.
    pub(super) receive_window: i64,
    /// What was taken and not given back to the other end, in bytes.
    pub(super) owed: u32,
    /// The whole window was opened.
    pub(super) opened: bool,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
}

/// Data that came and was not read.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    last: BytesMut,
    before: VecDeque<Bytes>,
    length: usize,
}

impl Stream {
    /// A stream that this end opens.
    pub(super) fn asked(send_window: i64) -> Self {
        Self::new((Receiving::Answer, Sending::Data), send_window)
    }

    /// A stream that the other end opens.
    pub(super) fn answering(send_window: i64) -> Self {
        Self::new((Receiving::Data, Sending::Answer), send_window)
    }

    fn new((receiving, sending): (Receiving, Sending), send_window: i64) -> Self {
        Self {
            receiving,
            sending,
            broken: None,
            answered: None,
            inbox: Inbox::default(),
            outbox: Bytes::new(),
            queued: false,
            settled: false,
            handles: 1,
            send_window,
            receive_window: FIRST_WINDOW,
            owed: 0,
            opened: false,
            reader: None,
            writer: None,
        }
    }

    /// Whether neither end has anything to send.
    pub(super) fn is_over(&self) -> bool {
        let ended = self.receiving == Receiving::Ended && self.sending == Sending::Ended;
        self.broken.is_some() || ended
    }

    /// Ends both directions at once.
    pub(super) fn break_off(&mut self, why: Broken, answered: Answered) {
        if self.broken.is_none() {
            self.broken = Some(why);
            self.answered.get_or_insert(answered);
            self.outbox = Bytes::new();
        }
        self.wake();
    }

    pub(super) fn wake(&mut self) {
        self.wake_reader();
        self.wake_writer();
    }

    pub(super) fn wake_reader(&mut self) {
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }

    pub(super) fn wake_writer(&mut self) {
        if let Some(waker) = self.writer.take() {
            waker.wake();
        }
    }
}

impl Stream {
    /// Its reader has dealt with so many bytes. The credit that is due for them, once it is worth a
    /// frame; the first one opens the whole window.
    pub(super) fn credit(&mut self, bytes: usize) -> Option<u32> {
        self.owed = self.owed.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        let worth = if self.opened { WINDOW / 4 } else { FIRST_WINDOW / 4 };
        if i64::from(self.owed) < worth {
            return None;
        }
        let mut credit = i64::from(std::mem::take(&mut self.owed));
        if !std::mem::replace(&mut self.opened, true) {
            credit += WINDOW - FIRST_WINDOW;
        }
        self.receive_window += credit;
        u32::try_from(credit).ok()
    }
}

impl Inbox {
    /// Keeps data; so much follows in its frame.
    pub(super) fn push(&mut self, bytes: &[u8], more: usize) {
        let free = self.last.capacity() - self.last.len();
        if free < bytes.len() && !self.last.is_empty() {
            let full = std::mem::take(&mut self.last);
            self.before.push_back(full.freeze());
        }
        if self.last.is_empty() {
            let together = bytes.len() + more;
            // What comes together is read together; a short message takes no more than it needs.
            let room = if together < CHUNK / 8 { together } else { together.max(CHUNK) };
            self.last = BytesMut::with_capacity(room.max(bytes.len()));
        }
        self.last.extend_from_slice(bytes);
        self.length += bytes.len();
    }

    /// The data that came first.
    pub(super) fn pop(&mut self) -> Option<Bytes> {
        let first = match self.before.pop_front() {
            Some(first) => first,
            None if self.last.is_empty() => return None,
            None => std::mem::take(&mut self.last).freeze(),
        };
        if self.before.is_empty() {
            self.before = VecDeque::new();
        }
        self.length -= first.len();
        Some(first)
    }

    pub(super) const fn len(&self) -> usize {
        self.length
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// A window that may not grow beyond the largest one (RFC 9113, section 6.9.1).
pub(super) fn grown(window: i64, by: i64) -> Option<i64> {
    Some(window + by).filter(|window| *window <= LARGEST_WINDOW)
}
