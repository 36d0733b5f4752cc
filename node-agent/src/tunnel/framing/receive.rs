//! What is received, frame by frame (RFC 9113, sections 5 and 6).

use http::StatusCode;

use super::frame::{
    ACK, CONTINUATION, Code, ENABLE_PUSH, Fault, GOAWAY, HEADER_TABLE_SIZE, HEADERS, Head,
    INITIAL_WINDOW_SIZE, LARGEST_WINDOW, LEAST_MAX_FRAME, MAX_CONCURRENT_STREAMS, MAX_FRAME_SIZE,
    PADDED, PING, PRIORITIZED, PRIORITY, RST_STREAM, SETTINGS, WINDOW_UPDATE, number, put,
};
use super::hpack::{self, Block, Fields, Request};
use super::machine::{
    ALIVE_PING, CONNECTION_WINDOW, DRAIN_PING, LEFT_OVER, Leaving, Machine, Role,
};
use super::stream::{Answered, Receiving, Sending, Stream, grown};
use crate::tunnel::Broken;

/// Requests that the other end may give up before it has its answer, more than it waits for
/// (CVE-2023-44487).
const GIVEN_UP: u32 = 1000;

/// Frames in a row that say nothing (CVE-2019-9518).
const USELESS: u32 = 1000;

const TOO_LARGE: Fault = Fault::flow("a window grows beyond the largest one");

impl Machine {
    /// Takes in what has come.
    pub(super) fn receive(&mut self, mut input: &[u8]) -> Result<(), Fault> {
        use super::parser::Piece;
        while let Some(piece) = self.parser.next(&mut input)? {
            match piece {
                Piece::DataBegins(head) => self.data_begins(head)?,
                Piece::Data { stream, bytes, more } => self.data(stream, bytes, more),
                Piece::DataEnds { stream, padded, last } => self.data_ends(stream, padded, last),
                Piece::Frame(head, payload) => self.frame(head, &payload)?,
            }
        }
        Ok(())
    }

    /// A DATA frame counts against the windows as a whole, its padding included (section 6.9.1).
    fn data_begins(&mut self, head: Head) -> Result<(), Fault> {
        let length = i64::try_from(head.length).unwrap_or(i64::MAX);
        if length > self.receive_window {
            return Err(Fault::flow("more DATA than the connection's window"));
        }
        self.receive_window -= length;
        self.owed += length;
        if self.owed >= CONNECTION_WINDOW / 4 {
            let owed = std::mem::take(&mut self.owed);
            self.receive_window += owed;
            let more = u32::try_from(owed).unwrap_or(0);
            put(&mut self.outgoing.control, WINDOW_UPDATE, 0, 0, &more.to_be_bytes());
        }
        if head.length > 0 || head.has(super::frame::END_STREAM) {
            self.useless = 0;
        } else {
            self.useless()?;
        }
        let Some(stream) = self.streams.get_mut(&head.stream) else {
            return self.must_be_known(head.stream);
        };
        match (stream.broken, stream.receiving) {
            (Some(_), _) => Ok(()),
            (None, Receiving::Ended) => self.offended(head.stream, Code::StreamClosed),
            (None, Receiving::Answer) => self.offended(head.stream, Code::Protocol),
            (None, Receiving::Data) if length > stream.receive_window => {
                self.offended(head.stream, Code::FlowControl)
            }
            (None, Receiving::Data) => {
                stream.receive_window -= length;
                Ok(())
            }
        }
    }

    fn data(&mut self, id: u32, bytes: &[u8], more: usize) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.broken.is_none()
            && stream.receiving == Receiving::Data
        {
            stream.inbox.push(bytes, more);
            stream.wake_reader();
        }
    }

    fn data_ends(&mut self, id: u32, padded: usize, last: bool) {
        if padded > 0 {
            self.release(id, padded);
        }
        if last {
            self.received_end(id);
        }
    }

    fn received_end(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.receiving = Receiving::Ended;
            stream.wake_reader();
            self.settle(id);
        }
    }

    fn frame(&mut self, head: Head, payload: &[u8]) -> Result<(), Fault> {
        match head.kind {
            HEADERS | CONTINUATION => {
                self.useless = 0;
                depends_on_another(head, payload)?;
                match self.decoder.read(head, payload)? {
                    Some(block) => self.block(head.stream, block),
                    None => Ok(()),
                }
            }
            RST_STREAM => self.received_reset(head.stream, number_of(payload)),
            SETTINGS if head.has(ACK) => Ok(()),
            SETTINGS => self.settings(payload),
            PING => self.ping(head, payload),
            GOAWAY => self.received_goaway(number(payload).unwrap_or(0)),
            WINDOW_UPDATE => self.window_update(head.stream, number(payload).unwrap_or(0)),
            PRIORITY => self.useless(),
            _ => Ok(()),
        }
    }

    fn block(&mut self, id: u32, block: Block) -> Result<(), Fault> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return match self.role {
                Role::Server(limit) if id > self.last => self.asked(id, block, limit),
                Role::Server(_) | Role::Client => self.must_be_known(id),
            };
        };
        match (stream.broken, stream.receiving, block.fields) {
            (Some(_), _, _) => Ok(()),
            (None, Receiving::Ended, _) => self.offended(id, Code::StreamClosed),
            (None, Receiving::Data, Fields::Trailers) if block.ends_stream => {
                self.received_end(id);
                Ok(())
            }
            (None, Receiving::Answer, Fields::Response(status)) => {
                self.answered(id, status, block.ends_stream)
            }
            _ => self.offended(id, Code::Protocol),
        }
    }

    /// An answer came. One that is not the last comes before another one (RFC 9110, section 15.2);
    /// 101 has no place in HTTP/2.
    fn answered(&mut self, id: u32, status: StatusCode, ends: bool) -> Result<(), Fault> {
        if status.is_informational() {
            if ends || status == StatusCode::SWITCHING_PROTOCOLS {
                return self.offended(id, Code::Protocol);
            }
            return self.useless();
        }
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.answered = Some(Answered::Status(status.as_u16()));
            stream.receiving = if ends { Receiving::Ended } else { Receiving::Data };
            stream.wake_reader();
            self.settle(id);
        }
        Ok(())
    }

    /// A request came.
    fn asked(&mut self, id: u32, block: Block, limit: u32) -> Result<(), Fault> {
        if id.is_multiple_of(2) {
            return Err(Fault::protocol("a client's stream has an even number"));
        }
        if self.leaving == Leaving::Final {
            // It was told that this one is not processed.
            return Ok(());
        }
        self.last = id;
        let request = match block.fields {
            Fields::Request(request) => request,
            Fields::TooLong => {
                let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
                let frame = (HEADERS, super::frame::END_HEADERS | super::frame::END_STREAM, id);
                self.outgoing.answer(frame, &hpack::response(status))?;
                return self.refuse(id, Code::Refused);
            }
            Fields::Response(_) | Fields::Trailers | Fields::Malformed => {
                return self.refuse(id, Code::Protocol);
            }
        };
        let most = usize::try_from(limit).unwrap_or(usize::MAX).saturating_add(LEFT_OVER);
        if self.counted >= limit || self.streams.len() >= most {
            return self.refuse(id, Code::Refused);
        }
        self.arrive(id, request, block.ends_stream);
        Ok(())
    }

    fn arrive(&mut self, id: u32, request: Request, ends: bool) {
        let mut stream = Stream::answering(self.theirs.initial_window);
        if ends {
            stream.receiving = Receiving::Ended;
        }
        self.streams.insert(id, Box::new(stream));
        self.counted += 1;
        self.arrived.push_back((id, request));
    }

    fn refuse(&mut self, id: u32, code: Code) -> Result<(), Fault> {
        self.outgoing.answer((RST_STREAM, 0, id), &(code as u32).to_be_bytes())
    }

    /// Breaks a stream off for what the other end did.
    fn offended(&mut self, id: u32, code: Code) -> Result<(), Fault> {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.break_off(Broken::Reset, Answered::Reset);
        }
        self.refuse(id, code)?;
        self.settle(id);
        Ok(())
    }

    fn received_reset(&mut self, id: u32, code: u32) -> Result<(), Fault> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return self.must_be_known(id);
        };
        if stream.broken.is_none() && stream.sending == Sending::Answer {
            self.given_up += 1;
            if self.given_up > GIVEN_UP {
                return Err(Fault::calm("requests are given up as soon as they are made"));
            }
        }
        let (broken, answered) = match code {
            _ if code == Code::Refused as u32 => (Broken::Reset, Answered::Refused),
            _ if code == Code::NoLongerPermitted as u32 => (Broken::Denied, Answered::Reset),
            _ => (Broken::Reset, Answered::Reset),
        };
        stream.break_off(broken, answered);
        self.settle(id);
        Ok(())
    }

    /// A frame of a stream that was never opened is an error; of one that is over it may have been on
    /// its way.
    fn must_be_known(&self, id: u32) -> Result<(), Fault> {
        // A server on its way out has not looked at what came last.
        let ignored = self.leaving == Leaving::Final && self.role != Role::Client;
        if id > self.last && !ignored || id.is_multiple_of(2) {
            return Err(Fault::protocol("a frame of a stream that nobody has opened"));
        }
        Ok(())
    }

    fn settings(&mut self, payload: &[u8]) -> Result<(), Fault> {
        for setting in payload.chunks_exact(6) {
            if let &[a, b, c, d, e, f] = setting {
                self.setting(u16::from_be_bytes([a, b]), u32::from_be_bytes([c, d, e, f]))?;
            }
        }
        self.waiting.drain(..).for_each(std::task::Waker::wake);
        self.outgoing.answer((SETTINGS, ACK, 0), &[])
    }

    fn setting(&mut self, name: u16, value: u32) -> Result<(), Fault> {
        match name {
            HEADER_TABLE_SIZE => self.outgoing.table_changed = true,
            ENABLE_PUSH if value > 1 || (value == 1 && self.role == Role::Client) => {
                return Err(Fault::protocol("ENABLE_PUSH has no meaning like that"));
            }
            MAX_CONCURRENT_STREAMS => self.theirs.max_streams = value,
            INITIAL_WINDOW_SIZE => return self.initial_window(i64::from(value)),
            MAX_FRAME_SIZE => {
                let size = usize::try_from(value).unwrap_or(usize::MAX);
                if !(LEAST_MAX_FRAME..1 << 24).contains(&size) {
                    return Err(Fault::protocol("MAX_FRAME_SIZE is out of its range"));
                }
                self.theirs.max_frame = size;
            }
            _ => {}
        }
        Ok(())
    }

    /// Changes the windows of all streams by the difference (section 6.9.2).
    fn initial_window(&mut self, window: i64) -> Result<(), Fault> {
        if window > LARGEST_WINDOW {
            return Err(Fault::flow("INITIAL_WINDOW_SIZE is too large"));
        }
        let by = window - std::mem::replace(&mut self.theirs.initial_window, window);
        for (id, stream) in &mut self.streams {
            let window = grown(stream.send_window, by);
            stream.send_window = window.ok_or(TOO_LARGE)?;
            self.outgoing.queue(*id, stream);
        }
        Ok(())
    }

    fn ping(&mut self, head: Head, payload: &[u8]) -> Result<(), Fault> {
        if !head.has(ACK) {
            return self.outgoing.answer((PING, ACK, 0), payload);
        }
        if payload == ALIVE_PING {
            self.pong.came = true;
            if let Some(waker) = self.pong.waker.take() {
                waker.wake();
            }
        } else if payload == DRAIN_PING && self.leaving == Leaving::Announced {
            self.leaving = Leaving::Final;
            self.put_goaway(self.last, Code::NoError);
        }
        Ok(())
    }

    /// The other end takes nothing above `last`: what is there was not processed.
    fn received_goaway(&mut self, last: u32) -> Result<(), Fault> {
        if self.theirs.going_away.is_some_and(|before| last > before) {
            return Err(Fault::protocol("GOAWAY takes back what the one before said"));
        }
        self.theirs.going_away = Some(last);
        self.waiting.drain(..).for_each(std::task::Waker::wake);
        if self.role == Role::Client {
            let ids: Vec<u32> =
                self.streams.range(last.saturating_add(1)..).map(|(id, _)| *id).collect();
            for id in ids {
                if let Some(stream) = self.streams.get_mut(&id) {
                    stream.break_off(Broken::Lost, Answered::GoingAway);
                }
                self.settle(id);
            }
        }
        Ok(())
    }

    fn window_update(&mut self, id: u32, by: u32) -> Result<(), Fault> {
        if id == 0 {
            if by == 0 {
                return Err(Fault::protocol("WINDOW_UPDATE by nothing"));
            }
            let window = grown(self.send_window, i64::from(by));
            self.send_window = window.ok_or(TOO_LARGE)?;
            return Ok(());
        }
        let Some(stream) = self.streams.get_mut(&id) else {
            return self.must_be_known(id);
        };
        if stream.broken.is_some() {
            return Ok(());
        }
        match grown(stream.send_window, i64::from(by)) {
            Some(window) if by > 0 => {
                stream.send_window = window;
                self.outgoing.queue(id, stream);
                Ok(())
            }
            Some(_) => self.offended(id, Code::Protocol),
            None => self.offended(id, Code::FlowControl),
        }
    }

    fn useless(&mut self) -> Result<(), Fault> {
        self.useless += 1;
        if self.useless > USELESS {
            return Err(Fault::calm("frame after frame says nothing"));
        }
        Ok(())
    }
}

/// A stream that depends on itself is an error of the stream (RFC 9113, section 5.3.1), but the codec
/// does not read the block then, after which no other can be read.
fn depends_on_another(head: Head, payload: &[u8]) -> Result<(), Fault> {
    let at = usize::from(head.has(PADDED));
    let depends = head.kind == HEADERS && head.has(PRIORITIZED);
    if depends && payload.get(at..).and_then(number) == Some(head.stream) {
        return Err(Fault::protocol("a stream depends on itself"));
    }
    Ok(())
}

/// An error's code, all 32 bits of it.
fn number_of(payload: &[u8]) -> u32 {
    payload.try_into().map_or(0, u32::from_be_bytes)
}
