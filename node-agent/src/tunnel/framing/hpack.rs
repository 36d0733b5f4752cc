//! Header blocks (RFC 7541). They are read by the `h2` crate's own codec, fed with nothing but the
//! frames that carry them: its decoder bounds the list, the table and the CONTINUATION frames, and is
//! fuzzed by its keepers. What this end sends is literal and enters no table, so that nothing is to
//! be remembered of it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use ::h2::frame::{Frame, Headers};
use ::h2::{Codec, Reason};
use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::stream::Stream as _;
use http::{HeaderValue, Method, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frame::{Code, Fault, Head, LEAST_MAX_FRAME};
use crate::tunnel::ConnectHead;

/// The largest header list that is accepted, in bytes as SETTINGS_MAX_HEADER_LIST_SIZE counts them.
pub(super) const LIST: u32 = 16 << 10;

/// Entries of the static table (appendix A) that name what this end sends.
const AUTHORITY: u8 = 1;
const METHOD: u8 = 2;
const STATUS: u8 = 8;

/// Reads header blocks.
pub(super) struct Decoder {
    codec: Box<Codec<Fed, Bytes>>,
}

/// The frames that the codec has not read yet.
#[derive(Debug, Default)]
struct Fed(BytesMut);

/// A header block that has come whole.
#[derive(Debug)]
pub(super) struct Block {
    pub(super) ends_stream: bool,
    pub(super) fields: Fields,
}

/// What a block says.
#[derive(Debug)]
pub(super) enum Fields {
    Request(Request),
    Response(StatusCode),
    /// No pseudo-header: trailers.
    Trailers,
    /// Longer than is accepted.
    TooLong,
    /// Against RFC 9113, section 8.
    Malformed,
}

/// A request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    /// `None` if the method is not CONNECT, or it has none.
    pub(super) authority: Option<String>,
    pub(super) forwarded: Option<String>,
}

impl Decoder {
    pub(super) fn new() -> Self {
        let mut codec = Codec::with_max_recv_frame_size(Fed::default(), LEAST_MAX_FRAME);
        codec.set_max_recv_header_list_size(LIST as usize);
        Self { codec: Box::new(codec) }
    }

    /// Reads a HEADERS or CONTINUATION frame; `None` when more of the block must come.
    pub(super) fn read(&mut self, head: Head, payload: &[u8]) -> Result<Option<Block>, Fault> {
        let fed = self.codec.get_mut();
        fed.0.extend_from_slice(&head.bytes());
        fed.0.extend_from_slice(payload);
        let mut cx = Context::from_waker(Waker::noop());
        match Pin::new(&mut *self.codec).poll_next(&mut cx) {
            Poll::Pending => Ok(None),
            Poll::Ready(Some(Ok(Frame::Headers(headers)))) => Ok(Some(block(headers))),
            Poll::Ready(Some(Err(error))) => refused(&::h2::Error::from(error)),
            Poll::Ready(Some(Ok(_)) | None) => Err(Fault::protocol("not a header block")),
        }
    }
}

/// A block that was read to its end and is malformed ends its stream; any other error has left the
/// table in an unknown state.
fn refused(error: &::h2::Error) -> Result<Option<Block>, Fault> {
    if error.is_reset() {
        return Ok(Some(Block { ends_stream: false, fields: Fields::Malformed }));
    }
    Err(match error.reason() {
        Some(Reason::ENHANCE_YOUR_CALM) => Fault::calm("a header block is too long"),
        _ => Fault { code: Code::Compression, why: "a header block cannot be read" },
    })
}

fn block(headers: Headers) -> Block {
    let ends_stream = headers.is_end_stream();
    let fields = if headers.is_over_size() { Fields::TooLong } else { fields(headers) };
    Block { ends_stream, fields }
}

fn fields(headers: Headers) -> Fields {
    let (pseudo, fields) = headers.into_parts();
    let ::h2::frame::Pseudo { method, scheme, authority, path, protocol, status } = pseudo;
    let of_a_request = method.is_some()
        || scheme.is_some()
        || authority.is_some()
        || path.is_some()
        || protocol.is_some();
    match (method, status) {
        (None, None) if !of_a_request => Fields::Trailers,
        (None, Some(status)) if !of_a_request => Fields::Response(status),
        (Some(method), None) => {
            let is_connect = method == Method::CONNECT;
            // RFC 9113, sections 8.3.1 and 8.5.
            let target = (scheme.is_some(), path.is_some());
            if target != (!is_connect, !is_connect) || protocol.is_some() {
                return Fields::Malformed;
            }
            let Ok(authority) = authority.as_deref().map(str::parse).transpose() else {
                return Fields::Malformed;
            };
            let authority = authority.filter(|_| is_connect);
            let text = |value: &HeaderValue| value.to_str().ok().map(str::to_owned);
            Fields::Request(Request {
                authority: authority.map(|name: http::uri::Authority| name.to_string()),
                forwarded: fields.get("forwarded").and_then(text),
            })
        }
        _ => Fields::Malformed,
    }
}

/// The block of a CONNECT; `None` if a value may not stand in one.
pub(super) fn request(head: &ConnectHead) -> Option<Vec<u8>> {
    let ConnectHead { authority, baggage, forwarded, traceparent } = head;
    let _valid: http::uri::Authority = authority.parse().ok()?;
    let mut block = Vec::with_capacity(256);
    named(&mut block, METHOD, "CONNECT");
    named(&mut block, AUTHORITY, authority);
    let fields = [("baggage", baggage), ("forwarded", forwarded), ("traceparent", traceparent)];
    for (name, value) in fields {
        if let Some(value) = value {
            let _valid = HeaderValue::from_str(value).ok()?;
            block.push(0);
            string(&mut block, name);
            string(&mut block, value);
        }
    }
    Some(block)
}

/// The block of an answer.
pub(super) fn response(status: StatusCode) -> Vec<u8> {
    let mut block = Vec::with_capacity(8);
    named(&mut block, STATUS, status.as_str());
    block
}

/// Says that this end's table holds nothing (section 6.3): to stand before the next block when the
/// other end has said how large it may be (section 4.2).
pub(super) const EMPTY_TABLE: u8 = 0x20;

/// A literal that enters no table, its name from the static one (section 6.2.2).
fn named(block: &mut Vec<u8>, name: u8, value: &str) {
    block.push(name);
    string(block, value);
}

/// A string without Huffman coding (section 5.2).
fn string(block: &mut Vec<u8>, text: &str) {
    const PREFIX: usize = 0x7f;
    let mut length = text.len();
    if length < PREFIX {
        block.extend(u8::try_from(length));
    } else {
        block.push(0x7f);
        length -= PREFIX;
        while length >= 0x80 {
            block.extend(u8::try_from(length & 0x7f | 0x80));
            length >>= 7;
        }
        block.extend(u8::try_from(length));
    }
    block.extend_from_slice(text.as_bytes());
}

impl AsyncRead for Fed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.0.is_empty() {
            return Poll::Pending;
        }
        let n = buf.remaining().min(self.0.len());
        buf.put_slice(self.0.get(..n).unwrap_or_default());
        self.0.advance(n);
        if self.0.is_empty() {
            self.0 = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

/// The codec asks for it; nothing is written through it.
impl AsyncWrite for Fed {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(data.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
