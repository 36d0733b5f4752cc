//! Cuts what is received into frames. The payload of DATA is handed on as it comes, so that no frame
//! of it is ever put together here; other frames are short, or refused by their headers.

use std::borrow::Cow;

use super::frame::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, Fault, GOAWAY, HEADER, HEADERS, Head, PADDED,
    PING, PREFACE, PRIORITY, PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE,
};

/// The largest payload that is accepted, in bytes: told by SETTINGS_MAX_FRAME_SIZE.
pub(super) const FRAME: usize = 64 << 10;

/// The largest part of a header block in one frame, in bytes. One that is longer could not fit into
/// what SETTINGS_MAX_HEADER_LIST_SIZE says.
const BLOCK: usize = 16 << 10;

/// The longest SETTINGS, in bytes: a hundred of them. There are less than ten.
const LONGEST_SETTINGS: usize = 600;

/// The longest GOAWAY, in bytes. What follows the first eight is for people.
const LONGEST_GOAWAY: usize = 16 << 10;

/// What stands between the bytes that came and the next frame.
#[derive(Debug)]
pub(super) struct Parser {
    /// How much of the preface has come; a server expects it.
    preface: usize,
    head: [u8; HEADER],
    got: usize,
    within: Within,
    /// The stream whose header block has not ended: nothing else may come.
    block: Option<u32>,
    /// SETTINGS must come first.
    begun: bool,
}

/// What the next byte belongs to.
#[derive(Debug)]
enum Within {
    Head,
    Payload(Head, Vec<u8>),
    Data(Data),
    Ignored(usize),
}

/// A DATA frame that is coming.
#[derive(Debug, Clone, Copy)]
struct Data {
    head: Head,
    /// Payload that has not come yet, padding included.
    left: usize,
    padding: Padding,
}

#[derive(Debug, Clone, Copy)]
enum Padding {
    /// Its length comes next.
    Unknown,
    Bytes(usize),
}

/// A part of what was received.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// A DATA frame begins.
    DataBegins(Head),
    /// Data of a stream; so much follows in this frame.
    Data { stream: u32, bytes: &'a [u8], more: usize },
    /// A DATA frame has come whole; it was so much longer than its data.
    DataEnds { stream: u32, padded: usize, last: bool },
    /// Another frame.
    Frame(Head, Cow<'a, [u8]>),
}

impl Parser {
    pub(super) const fn new(expects_preface: bool) -> Self {
        Self {
            preface: if expects_preface { 0 } else { PREFACE.len() },
            head: [0; HEADER],
            got: 0,
            within: Within::Head,
            block: None,
            begun: false,
        }
    }

    /// Whether the other end has begun as it must.
    pub(super) const fn has_begun(&self) -> bool {
        self.begun
    }

    /// The next piece, taken from the front of the input; `None` when more must come first.
    pub(super) fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Piece<'a>>, Fault> {
        loop {
            match &mut self.within {
                Within::Head => {
                    self.expect_preface(input)?;
                    let Some(head) = self.take_head(input) else { return Ok(None) };
                    self.within = self.admit(head)?;
                    if let Within::Data(data) = &self.within {
                        return Ok(Some(Piece::DataBegins(data.head)));
                    }
                }
                Within::Ignored(left) => {
                    *left -= take(input, *left).len();
                    if *left > 0 {
                        return Ok(None);
                    }
                    self.within = Within::Head;
                }
                Within::Payload(head, held) => {
                    let (head, came) = (*head, take(input, head.length - held.len()));
                    if held.is_empty() && came.len() == head.length {
                        self.within = Within::Head;
                        return Ok(Some(Piece::Frame(head, Cow::Borrowed(came))));
                    }
                    held.extend_from_slice(came);
                    if held.len() < head.length {
                        return Ok(None);
                    }
                    let payload = Cow::Owned(std::mem::take(held));
                    self.within = Within::Head;
                    return Ok(Some(Piece::Frame(head, payload)));
                }
                Within::Data(data) => {
                    let piece = data.next(input)?;
                    if let Some(Piece::DataEnds { .. }) = piece {
                        self.within = Within::Head;
                    }
                    return Ok(piece);
                }
            }
        }
    }

    fn expect_preface(&mut self, input: &mut &[u8]) -> Result<(), Fault> {
        let expected = PREFACE.get(self.preface..).unwrap_or_default();
        let came = take(input, expected.len());
        if !expected.starts_with(came) {
            return Err(Fault::protocol("the other end does not begin as an HTTP/2 client"));
        }
        self.preface += came.len();
        Ok(())
    }

    fn take_head(&mut self, input: &mut &[u8]) -> Option<Head> {
        if self.preface < PREFACE.len() {
            return None;
        }
        for place in self.head.iter_mut().skip(self.got) {
            let (byte, rest) = input.split_first()?;
            (*place, *input) = (*byte, rest);
            self.got += 1;
        }
        self.got = 0;
        Some(Head::parse(self.head))
    }

    /// Decides by a frame's header what is done with it.
    fn admit(&mut self, head: Head) -> Result<Within, Fault> {
        if head.length > FRAME {
            return Err(Fault::size("a frame is longer than was allowed"));
        }
        if !self.begun && (head.kind != SETTINGS || head.flags != 0) {
            return Err(Fault::protocol("the first frame is not SETTINGS"));
        }
        self.begun = true;
        match (self.block, head.kind == CONTINUATION) {
            (None, false) => {}
            (Some(stream), true) if stream == head.stream => {}
            _ => {
                return Err(Fault::protocol(
                    "CONTINUATION where none belongs, or none where one does",
                ));
            }
        }
        if matches!(head.kind, HEADERS | CONTINUATION) {
            self.block = (!head.has(END_HEADERS)).then_some(head.stream);
        }
        check(head)?;
        Ok(match head.kind {
            DATA => Within::Data(Data::new(head)),
            HEADERS..=CONTINUATION => Within::Payload(head, Vec::new()),
            _ => Within::Ignored(head.length),
        })
    }
}

/// What can be said against a frame by its header alone.
fn check(head: Head) -> Result<(), Fault> {
    let of_a_stream = match head.kind {
        DATA | HEADERS | PRIORITY | RST_STREAM | CONTINUATION => Some(true),
        SETTINGS | PING | GOAWAY => Some(false),
        _ => None,
    };
    if of_a_stream.is_some_and(|expected| expected != (head.stream != 0)) {
        return Err(Fault::protocol(
            "a frame of a stream names none, or one of the connection does",
        ));
    }
    let fits = match head.kind {
        PRIORITY => head.length == 5,
        RST_STREAM | WINDOW_UPDATE => head.length == 4,
        PING => head.length == 8,
        SETTINGS if head.has(super::frame::ACK) => head.length == 0,
        SETTINGS => head.length.is_multiple_of(6),
        GOAWAY => head.length >= 8,
        _ => true,
    };
    if !fits {
        return Err(Fault::size("a frame has not the length of its kind"));
    }
    match head.kind {
        PUSH_PROMISE => Err(Fault::protocol("PUSH_PROMISE was not allowed")),
        HEADERS | CONTINUATION if head.length > BLOCK => {
            Err(Fault::calm("a header block is too long"))
        }
        SETTINGS if head.length > LONGEST_SETTINGS => Err(Fault::calm("SETTINGS are too many")),
        GOAWAY if head.length > LONGEST_GOAWAY => Err(Fault::calm("GOAWAY is too long")),
        _ => Ok(()),
    }
}

impl Data {
    fn new(head: Head) -> Self {
        let padding = if head.has(PADDED) { Padding::Unknown } else { Padding::Bytes(0) };
        Self { head, left: head.length, padding }
    }

    fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Piece<'a>>, Fault> {
        let stream = self.head.stream;
        let padding = match self.padding {
            Padding::Bytes(padding) => padding,
            Padding::Unknown if self.left == 0 => {
                return Err(Fault::size("padded DATA has no padding's length"));
            }
            Padding::Unknown => {
                let &[padding] = take(input, 1) else { return Ok(None) };
                self.left -= 1;
                if usize::from(padding) > self.left {
                    return Err(Fault::protocol("DATA is padded beyond its end"));
                }
                self.padding = Padding::Bytes(usize::from(padding));
                usize::from(padding)
            }
        };
        if self.left > padding {
            let bytes = take(input, self.left - padding);
            if bytes.is_empty() {
                return Ok(None);
            }
            self.left -= bytes.len();
            return Ok(Some(Piece::Data { stream, bytes, more: self.left - padding }));
        }
        self.left -= take(input, self.left).len();
        if self.left > 0 {
            return Ok(None);
        }
        let padded = if self.head.has(PADDED) { padding + 1 } else { 0 };
        Ok(Some(Piece::DataEnds { stream, padded, last: self.head.has(END_STREAM) }))
    }
}

/// Takes up to so many bytes from the front.
fn take<'a>(input: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (taken, rest) = input.split_at(most.min(input.len()));
    *input = rest;
    taken
}
