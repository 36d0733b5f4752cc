//! What is to be sent, and in which order: control frames first; then the streams by turns, those with
//! little to say before those with much, so that a request waits behind one turn of a bulk stream at
//! most.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf as _, Bytes};

use super::frame::{CONTINUATION, DATA, END_HEADERS, END_STREAM, Fault, HEADERS, Head, put};
use super::hpack::EMPTY_TABLE;
use super::machine::Machine;
use super::stream::{Sending, Stream};

/// A stream's turn, in bytes.
const TURN: usize = 64 << 10;

/// A stream that has no more than this to send does not wait for those that have, in bytes.
const LITTLE: usize = 8 << 10;

/// What the other end may make this one answer before it reads the answers, in bytes.
const PROVOKED: usize = 32 << 10;

/// What is to be sent.
pub(super) struct Outgoing {
    /// Frames other than of data.
    pub(super) control: Vec<u8>,
    /// How much of that was provoked.
    provoked: usize,
    /// Streams that have something to send.
    little: VecDeque<u32>,
    much: VecDeque<u32>,
    /// How many of the first go before the next of the second.
    first: usize,
    /// The other end has said how large this end's table may be.
    pub(super) table_changed: bool,
    /// What is being written.
    head: Vec<u8>,
    written: usize,
    body: Bytes,
}

impl Outgoing {
    pub(super) const fn new(hello: Vec<u8>) -> Self {
        Self {
            control: hello,
            provoked: 0,
            little: VecDeque::new(),
            much: VecDeque::new(),
            first: 0,
            table_changed: false,
            head: Vec::new(),
            written: 0,
            body: Bytes::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.control.is_empty() && self.slices_are_empty()
    }

    fn slices_are_empty(&self) -> bool {
        self.written == self.head.len() && self.body.is_empty()
    }

    /// Answers what the other end provoked, unless it provokes more than it reads.
    pub(super) fn answer(
        &mut self,
        (kind, flags, stream): (u8, u8, u32),
        payload: &[u8],
    ) -> Result<(), Fault> {
        let before = self.control.len();
        put(&mut self.control, kind, flags, stream, payload);
        self.provoked += self.control.len() - before;
        if self.provoked > PROVOKED {
            return Err(Fault::calm("the other end asks for more answers than it reads"));
        }
        Ok(())
    }

    /// A header block, in as many frames as it needs.
    pub(super) fn put_block(&mut self, stream: u32, block: &[u8], ends: bool, max_frame: usize) {
        let table =
            if std::mem::take(&mut self.table_changed) { vec![EMPTY_TABLE] } else { vec![] };
        let block = [table.as_slice(), block].concat();
        let mut parts = block.chunks(max_frame).peekable();
        let mut kind = HEADERS;
        while let Some(part) = parts.next() {
            let mut flags = if parts.peek().is_none() { END_HEADERS } else { 0 };
            if kind == HEADERS && ends {
                flags |= END_STREAM;
            }
            put(&mut self.control, kind, flags, stream, part);
            kind = CONTINUATION;
        }
    }

    /// The end of a stream that has nothing else to send.
    pub(super) fn put_end(&mut self, stream: u32) {
        put(&mut self.control, DATA, END_STREAM, stream, &[]);
    }

    /// Gives a stream a turn.
    pub(super) fn queue(&mut self, id: u32, stream: &mut Stream) {
        if !stream.queued && !stream.outbox.is_empty() && stream.send_window > 0 {
            stream.queued = true;
            let little = stream.outbox.len() <= LITTLE;
            if little { &mut self.little } else { &mut self.much }.push_back(id);
        }
    }

    fn next_turn(&mut self) -> Option<u32> {
        if self.first == 0 {
            self.first = self.little.len();
            if let Some(id) = self.much.pop_front() {
                return Some(id);
            }
        }
        self.first = self.first.saturating_sub(1);
        self.little.pop_front().or_else(|| self.much.pop_front())
    }

    /// What is to be written next.
    pub(super) fn slices(&self) -> [IoSlice<'_>; 2] {
        let head = self.head.get(self.written..).unwrap_or_default();
        [IoSlice::new(head), IoSlice::new(&self.body)]
    }

    /// So many bytes were written.
    pub(super) fn wrote(&mut self, n: usize) {
        let of_head = n.min(self.head.len() - self.written);
        self.written += of_head;
        self.body.advance((n - of_head).min(self.body.len()));
        if self.slices_are_empty() {
            (self.head, self.written, self.body) = (Vec::new(), 0, Bytes::new());
        }
    }
}

impl Machine {
    /// Sees to it that there is something to write; false if there is nothing.
    pub(super) fn prepare(&mut self) -> bool {
        if self.outgoing.slices_are_empty() {
            let mut head = std::mem::take(&mut self.outgoing.control);
            self.outgoing.provoked = 0;
            self.outgoing.body = self.next_data(&mut head).unwrap_or_default();
            (self.outgoing.head, self.outgoing.written) = (head, 0);
        }
        !self.outgoing.slices_are_empty()
    }

    /// The data of the next DATA frame, whose header is appended.
    fn next_data(&mut self, head: &mut Vec<u8>) -> Option<Bytes> {
        while self.send_window > 0 {
            let id = self.outgoing.next_turn()?;
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            stream.queued = false;
            let windows = usize::try_from(stream.send_window.min(self.send_window)).unwrap_or(0);
            let turn = TURN.min(self.theirs.max_frame).min(windows);
            let body = stream.outbox.split_to(turn.min(stream.outbox.len()));
            if body.is_empty() {
                continue;
            }
            let length = i64::try_from(body.len()).unwrap_or(i64::MAX);
            stream.send_window -= length;
            self.send_window -= length;
            let mut flags = 0;
            if stream.outbox.is_empty() {
                stream.outbox = Bytes::new();
                if stream.sending == Sending::Ending {
                    stream.sending = Sending::Ended;
                    flags = END_STREAM;
                }
                stream.wake_writer();
            } else {
                self.outgoing.queue(id, stream);
            }
            let frame = Head { length: body.len(), kind: DATA, flags, stream: id };
            head.extend_from_slice(&frame.bytes());
            self.settle(id);
            return Some(body);
        }
        None
    }
}
