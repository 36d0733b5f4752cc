//! HTTP/2 frames as they stand on the wire (RFC 9113, sections 4.1, 6 and 7).

use adit_core::hbone::NO_LONGER_PERMITTED;

/// A frame's header, in bytes.
pub(super) const HEADER: usize = 9;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PUSH_PROMISE: u8 = 5;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

pub(super) const END_STREAM: u8 = 1;
pub(super) const ACK: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;
pub(super) const PADDED: u8 = 8;
pub(super) const PRIORITIZED: u8 = 0x20;

pub(super) const HEADER_TABLE_SIZE: u16 = 1;
pub(super) const ENABLE_PUSH: u16 = 2;
pub(super) const MAX_CONCURRENT_STREAMS: u16 = 3;
pub(super) const INITIAL_WINDOW_SIZE: u16 = 4;
pub(super) const MAX_FRAME_SIZE: u16 = 5;
pub(super) const MAX_HEADER_LIST_SIZE: u16 = 6;

/// What a client begins with (RFC 9113, section 3.4).
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A window before anything was said of it, in bytes (section 6.9.2).
pub(super) const INITIAL_WINDOW: i64 = 65_535;

/// The largest window, in bytes (section 6.9.1).
pub(super) const LARGEST_WINDOW: i64 = (1 << 31) - 1;

/// What a frame's payload may be before the other end has said otherwise, in bytes (section 4.2).
pub(super) const LEAST_MAX_FRAME: usize = 16_384;

/// The largest number of a stream.
pub(super) const LARGEST_STREAM: u32 = (1 << 31) - 1;

/// Why a stream or a connection ends (section 7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Code {
    NoError = 0,
    Protocol = 1,
    FlowControl = 3,
    StreamClosed = 5,
    FrameSize = 6,
    Refused = 7,
    Cancel = 8,
    Compression = 9,
    EnhanceYourCalm = 11,
    /// Between agents: policy no longer permits the stream.
    NoLongerPermitted = NO_LONGER_PERMITTED,
}

/// What the other end did that ends the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{why} ({code:?})")]
pub(super) struct Fault {
    pub(super) code: Code,
    pub(super) why: &'static str,
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) length: usize,
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
}

impl Fault {
    pub(super) const fn protocol(why: &'static str) -> Self {
        Self { code: Code::Protocol, why }
    }

    pub(super) const fn size(why: &'static str) -> Self {
        Self { code: Code::FrameSize, why }
    }

    pub(super) const fn flow(why: &'static str) -> Self {
        Self { code: Code::FlowControl, why }
    }

    pub(super) const fn calm(why: &'static str) -> Self {
        Self { code: Code::EnhanceYourCalm, why }
    }
}

impl Head {
    pub(super) fn parse([a, b, c, kind, flags, s, t, u, v]: [u8; HEADER]) -> Self {
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        Self { length, kind, flags, stream: u32::from_be_bytes([s & 0x7f, t, u, v]) }
    }

    pub(super) fn bytes(self) -> [u8; HEADER] {
        let [.., a, b, c] = self.length.to_be_bytes();
        let [s, t, u, v] = self.stream.to_be_bytes();
        [a, b, c, self.kind, self.flags, s, t, u, v]
    }

    pub(super) const fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Appends a frame.
pub(super) fn put(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&Head { length: payload.len(), kind, flags, stream }.bytes());
    out.extend_from_slice(payload);
}

/// Appends a SETTINGS frame.
pub(super) fn put_settings(out: &mut Vec<u8>, settings: &[(u16, u32)]) {
    let mut payload = Vec::with_capacity(settings.len() * 6);
    for (name, value) in settings {
        payload.extend_from_slice(&name.to_be_bytes());
        payload.extend_from_slice(&value.to_be_bytes());
    }
    put(out, SETTINGS, 0, 0, &payload);
}

/// The 31-bit number that a payload begins with.
pub(super) fn number(payload: &[u8]) -> Option<u32> {
    let bytes: [u8; 4] = payload.get(..4)?.try_into().ok()?;
    Some(u32::from_be_bytes(bytes) & LARGEST_STREAM)
}
