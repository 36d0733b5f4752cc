//! The machine, given what a peer may send byte for byte. The `h2` crate at the other end, in both
//! roles, is in `tunnel/tests.rs`.

use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::frame::{
    ACK, CONTINUATION, Code, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, Head, PADDED, PING,
    PREFACE, PRIORITY, PUSH_PROMISE, RST_STREAM, SETTINGS, WINDOW_UPDATE, put, put_settings,
};
use super::hpack::{self, Request};
use super::machine::{Machine, NoRoom, Role};
use super::parser::{Parser, Piece};
use super::stream::{Answered, FIRST_WINDOW, WINDOW};
use crate::tunnel::{Broken, ConnectHead};

const SERVER: Role = Role::Server(3);

#[test]
fn a_request_and_data_arrive_whole_however_they_are_cut() {
    let mut input = hello();
    put(&mut input, HEADERS, END_HEADERS, 1, &connect());
    put(&mut input, DATA, PADDED, 1, b"\x03first\0\0\0");
    put(&mut input, 0x77, 0xff, 1, b"unknown");
    put(&mut input, PRIORITY, 0, 5, &[0, 0, 0, 1, 9]);
    put(&mut input, DATA, END_STREAM, 1, b" and last");
    for size in 1..input.len() {
        let mut machine = Machine::new(SERVER);
        for part in input.chunks(size) {
            machine.receive(part).unwrap();
        }
        let (id, request) = machine.arrived.pop_front().unwrap();
        let expected = Request {
            authority: Some("10.0.0.2:80".to_owned()),
            forwarded: Some("for=10.0.0.1".to_owned()),
        };
        assert_eq!((id, request), (1, expected));
        assert_eq!(read_all(&mut machine, 1), b"first and last");
    }
}

#[test]
fn what_breaks_the_protocol_ends_the_connection_with_the_code_that_says_how() {
    let frame = |kind, flags, stream, payload: &[u8]| {
        let mut bytes = Vec::new();
        put(&mut bytes, kind, flags, stream, payload);
        bytes
    };
    let head = |length, kind, stream| Head { length, kind, flags: 0, stream }.bytes().to_vec();
    let setting = |name, value| {
        let mut bytes = Vec::new();
        put_settings(&mut bytes, &[(name, value)]);
        bytes
    };
    let opened = frame(HEADERS, END_HEADERS, 1, &connect());
    let cases = [
        (head((64 << 10) + 1, DATA, 1), Code::FrameSize),
        (frame(DATA, 0, 0, b"x"), Code::Protocol),
        (frame(DATA, 0, 1, b"x"), Code::Protocol),
        (frame(HEADERS, END_HEADERS, 0, &connect()), Code::Protocol),
        (frame(HEADERS, END_HEADERS, 2, &connect()), Code::Protocol),
        (frame(HEADERS, END_HEADERS, 1, &[0xff; 8]), Code::Compression),
        (frame(HEADERS, END_HEADERS | 0x20, 1, &[0, 0, 0, 1, 9, 0x82]), Code::Protocol),
        (head((16 << 10) + 1, HEADERS, 1), Code::EnhanceYourCalm),
        (frame(CONTINUATION, END_HEADERS, 1, &connect()), Code::Protocol),
        ([frame(HEADERS, 0, 1, &connect()), frame(PING, 0, 0, &[0; 8])].concat(), Code::Protocol),
        (
            [frame(HEADERS, 0, 1, &connect()), frame(CONTINUATION, 4, 3, &[])].concat(),
            Code::Protocol,
        ),
        (frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2]), Code::Protocol),
        (frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]), Code::Protocol),
        (frame(RST_STREAM, 0, 0, &[0, 0, 0, 8]), Code::Protocol),
        (frame(RST_STREAM, 0, 1, &[0]), Code::FrameSize),
        (frame(SETTINGS, 0, 0, &[0; 5]), Code::FrameSize),
        (frame(SETTINGS, ACK, 0, &[0; 6]), Code::FrameSize),
        (frame(SETTINGS, 0, 1, &[]), Code::Protocol),
        (setting(2, 2), Code::Protocol),
        (setting(4, 1 << 31), Code::FlowControl),
        (setting(5, 16_383), Code::Protocol),
        (setting(5, 1 << 24), Code::Protocol),
        (frame(PING, 0, 0, &[0; 7]), Code::FrameSize),
        (frame(PING, 0, 1, &[0; 8]), Code::Protocol),
        (frame(GOAWAY, 0, 0, &[0; 7]), Code::FrameSize),
        (frame(WINDOW_UPDATE, 0, 0, &[0; 4]), Code::Protocol),
        (frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]), Code::FlowControl),
        (frame(WINDOW_UPDATE, 0, 9, &[0, 0, 0, 1]), Code::Protocol),
        (frame(PRIORITY, 0, 1, &[0; 4]), Code::FrameSize),
        ([opened.clone(), frame(DATA, PADDED, 1, b"\x05abc")].concat(), Code::Protocol),
        ([opened.clone(), frame(DATA, PADDED, 1, b"")].concat(), Code::FrameSize),
        (
            [
                opened,
                setting(4, 1 << 20),
                frame(WINDOW_UPDATE, 0, 1, &[0x7f, 0, 0, 0]),
                setting(4, (1 << 31) - 1),
            ]
            .concat(),
            Code::FlowControl,
        ),
    ];
    for (bytes, code) in cases {
        let mut machine = Machine::new(SERVER);
        machine.receive(&hello()).unwrap();
        let fault = machine.receive(&bytes).expect_err(&format!("{bytes:?}"));
        assert_eq!(fault.code, code, "{fault} {bytes:?}");
    }
    for beginning in [&b"GET / HTTP/1.1\r\n"[..], &[PREFACE, &frame(PING, 0, 0, &[0; 8])].concat()]
    {
        let fault = Machine::new(SERVER).receive(beginning).unwrap_err();
        assert_eq!(fault.code, Code::Protocol);
    }
}

#[test]
fn what_breaks_a_stream_resets_it_and_no_other() {
    type Act<'a> = &'a dyn Fn(&mut Vec<u8>);
    let cases: [(Act<'_>, Code); 5] = [
        (&|bytes| put(bytes, HEADERS, END_HEADERS, 1, &connect()), Code::Protocol),
        (&|bytes| put(bytes, WINDOW_UPDATE, 0, 1, &[0; 4]), Code::Protocol),
        (&|bytes| put(bytes, WINDOW_UPDATE, 0, 1, &[0x7f, 0xff, 0xff, 0xff]), Code::FlowControl),
        (
            &|bytes| {
                put(bytes, DATA, END_STREAM, 1, &[]);
                put(bytes, DATA, 0, 1, b"more");
            },
            Code::StreamClosed,
        ),
        (&|bytes| put(bytes, HEADERS, END_HEADERS, 5, &[0x82]), Code::Protocol),
    ];
    for (act, code) in cases {
        let mut machine = Machine::new(SERVER);
        let mut input = hello();
        put(&mut input, HEADERS, END_HEADERS, 1, &connect());
        put(&mut input, HEADERS, END_HEADERS, 3, &connect());
        act(&mut input);
        put(&mut input, DATA, END_STREAM, 3, b"whole");
        machine.receive(&input).unwrap();
        let resets = resets(&sent(&mut machine));
        assert!(matches!(resets.as_slice(), [(1 | 5, got)] if *got == code as u32), "{resets:?}");
        assert_eq!(read_all(&mut machine, 3), b"whole");
    }
}

#[test]
fn a_peer_that_sends_beyond_the_window_of_a_stream_is_stopped() {
    let mut machine = served();
    let mut chunk = Vec::new();
    put(&mut chunk, DATA, 0, 1, &[7; 32 << 10]);
    let chunks = |window: i64| window / (32 << 10);
    // Nothing was read yet.
    for _ in 0..chunks(FIRST_WINDOW) {
        machine.receive(&chunk).unwrap();
    }
    // All was, and the window is opened.
    while let Poll::Ready(Ok(Some(bytes))) = machine.poll_read(1, &mut cx()) {
        machine.release(1, bytes.len());
    }
    for _ in 0..chunks(WINDOW) {
        machine.receive(&chunk).unwrap();
    }
    assert!(resets(&sent(&mut machine)).is_empty());
    machine.receive(&chunk).unwrap();
    assert_eq!(resets(&sent(&mut machine)), [(1, Code::FlowControl as u32)]);
}

#[test]
fn floods_are_ended() {
    let flood = |frames: &dyn Fn(u32, &mut Vec<u8>)| {
        let mut machine = Machine::new(SERVER);
        machine.receive(&hello()).unwrap();
        for n in 0..100_000 {
            let mut bytes = Vec::new();
            frames(n, &mut bytes);
            if let Err(fault) = machine.receive(&bytes) {
                return fault.code;
            }
            // Requests are forgotten as soon as they are given up.
            while let Some((id, _)) = machine.arrived.pop_front() {
                machine.let_go(id);
            }
        }
        Code::NoError
    };
    let calm = Code::EnhanceYourCalm;
    assert_eq!(flood(&|_, bytes| put(bytes, PING, 0, 0, &[1; 8])), calm);
    assert_eq!(flood(&|_, bytes| put(bytes, SETTINGS, 0, 0, &[])), calm);
    assert_eq!(flood(&|_, bytes| put(bytes, PRIORITY, 0, 1, &[0, 0, 0, 3, 1])), calm);
    let rapid_reset = |n: u32, bytes: &mut Vec<u8>| {
        put(bytes, HEADERS, END_HEADERS, n * 2 + 1, &connect());
        put(bytes, RST_STREAM, 0, n * 2 + 1, &[0, 0, 0, 8]);
    };
    assert_eq!(flood(&rapid_reset), calm);
    let refused =
        |n: u32, bytes: &mut Vec<u8>| put(bytes, HEADERS, END_HEADERS, n * 2 + 1, &[0x82]);
    assert_eq!(flood(&refused), calm);
    let continuation = |n: u32, bytes: &mut Vec<u8>| {
        put(bytes, if n == 0 { HEADERS } else { CONTINUATION }, 0, 1, &[]);
    };
    assert_eq!(flood(&continuation), calm);
    let empty = |n: u32, bytes: &mut Vec<u8>| {
        if n == 0 {
            put(bytes, HEADERS, END_HEADERS, 1, &connect());
        }
        put(bytes, DATA, 0, 1, &[]);
    };
    assert_eq!(flood(&empty), calm);
}

#[test]
fn a_header_list_that_unpacks_to_too_much_is_not_kept() {
    let mut machine = Machine::new(SERVER);
    machine.receive(&hello()).unwrap();
    // One entry of 4,000 bytes in the table, then named again and again (an HPACK bomb).
    let mut block = vec![0x40, 1, b'x', 0x7f, 0xa1, 0x1e];
    block.extend([b'y'; 4000]);
    block.extend([0xbe; 8000]);
    let mut bytes = Vec::new();
    put(&mut bytes, HEADERS, END_HEADERS, 1, &block);
    let ended = machine.receive(&bytes);
    assert!(machine.arrived.is_empty());
    assert!(ended.is_err_and(|fault| fault.code == Code::EnhanceYourCalm));
}

#[test]
fn more_streams_than_were_allowed_are_refused_unprocessed() {
    let mut machine = Machine::new(SERVER);
    let mut input = hello();
    for id in [1, 3, 5, 7] {
        put(&mut input, HEADERS, END_HEADERS, id, &connect());
    }
    machine.receive(&input).unwrap();
    assert_eq!(machine.arrived.len(), 3);
    assert_eq!(resets(&sent(&mut machine)), [(7, Code::Refused as u32)]);
    // One that is over makes room.
    machine.let_go(1);
    let mut more = Vec::new();
    put(&mut more, HEADERS, END_HEADERS, 9, &connect());
    machine.receive(&more).unwrap();
    assert_eq!(machine.arrived.len(), 4);
}

#[test]
fn a_smaller_window_in_the_middle_holds_a_stream_until_it_has_grown_again() {
    let (mut machine, id) = asked();
    let mut written = Bytes::from(vec![9; 50_000]);
    assert!(machine.poll_write(id, &mut written, &mut cx()).is_ready());
    assert_eq!(data_length(&sent(&mut machine)), 50_000);
    // 65,535 less 50,000, less 60,000: below zero.
    let mut less = Vec::new();
    put_settings(&mut less, &[(4, 5_535)]);
    machine.receive(&less).unwrap();
    let mut written = Bytes::from(vec![9; 10_000]);
    assert!(machine.poll_write(id, &mut written, &mut cx()).is_ready());
    assert_eq!(data_length(&sent(&mut machine)), 0);
    let mut more = Vec::new();
    put(&mut more, WINDOW_UPDATE, 0, id, &50_000_u32.to_be_bytes());
    machine.receive(&more).unwrap();
    assert_eq!(data_length(&sent(&mut machine)), 5_535);
    machine.receive(&more).unwrap();
    assert_eq!(data_length(&sent(&mut machine)), 4_465);
}

#[test]
fn a_goaway_tells_what_was_not_processed_from_what_may_have_been() {
    let (mut machine, first) = asked();
    let second = machine.open(&connect()).unwrap();
    let mut bytes = Vec::new();
    put(&mut bytes, GOAWAY, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]);
    machine.receive(&bytes).unwrap();
    assert_eq!(machine.poll_answer(second, &mut cx()), Poll::Ready(Answered::GoingAway));
    assert_eq!(machine.open(&connect()), Err(NoRoom::GoingAway));
    assert!(machine.poll_answer(first, &mut cx()).is_pending());
    machine.end();
    assert_eq!(machine.poll_answer(first, &mut cx()), Poll::Ready(Answered::Lost));
    assert_eq!(machine.open(&connect()), Err(NoRoom::Ended));
}

#[test]
fn what_a_client_sent_before_it_knew_of_the_drain_is_ignored() {
    let mut machine = served();
    machine.leave();
    let mut bytes = Vec::new();
    put(&mut bytes, PING, ACK, 0, &super::machine::DRAIN_PING);
    machine.receive(&bytes).unwrap();
    let mut late = Vec::new();
    put(&mut late, HEADERS, END_HEADERS, 3, &connect());
    put(&mut late, DATA, 0, 3, b"late");
    put(&mut late, RST_STREAM, 0, 3, &[0, 0, 0, 8]);
    put(&mut late, DATA, END_STREAM, 1, b"in time");
    machine.receive(&late).unwrap();
    assert_eq!(machine.arrived.len(), 1);
    assert_eq!(read_all(&mut machine, 1), b"in time");
    machine.finish(1).unwrap();
    machine.let_go(1);
    sent(&mut machine);
    assert!(machine.is_done());
}

#[test]
fn a_reset_reaches_both_halves_after_what_came_before_it() {
    let mut machine = served();
    let mut bytes = Vec::new();
    put(&mut bytes, DATA, 0, 1, b"before");
    put(&mut bytes, RST_STREAM, 0, 1, &[0, 0, 0, 8]);
    put(&mut bytes, DATA, 0, 1, b"after");
    machine.receive(&bytes).unwrap();
    let read = machine.poll_read(1, &mut cx());
    assert_eq!(read, Poll::Ready(Ok(Some(Bytes::from_static(b"before")))));
    assert_eq!(machine.poll_read(1, &mut cx()), Poll::Ready(Err(Broken::Reset)));
    assert_eq!(machine.poll_broken(1, &mut cx()), Poll::Ready(Broken::Reset));
    machine.let_go(1);
    assert!(machine.streams.is_empty());
}

#[test]
fn a_small_message_does_not_wait_behind_more_than_one_turn_of_a_large_one() {
    let (mut machine, large) = asked();
    let small = machine.open(&connect()).unwrap();
    let mut bytes = Vec::new();
    put_settings(&mut bytes, &[(4, 1 << 20), (5, 1 << 20)]);
    put(&mut bytes, WINDOW_UPDATE, 0, 0, &(1_u32 << 20).to_be_bytes());
    machine.receive(&bytes).unwrap();
    sent(&mut machine);
    let mut written = Bytes::from(vec![1; 1 << 19]);
    assert!(machine.poll_write(large, &mut written, &mut cx()).is_ready());
    let mut written = Bytes::from_static(b"small");
    assert!(machine.poll_write(small, &mut written, &mut cx()).is_ready());
    let order: Vec<u32> = data(&sent(&mut machine)).iter().map(|(stream, _)| *stream).collect();
    assert!(order.iter().position(|id| *id == small) <= Some(1), "{order:?}");
    assert_eq!(order.len(), 9, "{order:?}");
}

#[test]
fn the_end_of_a_stream_is_sent_though_no_window_is_left() {
    let (mut machine, id) = asked();
    let mut written = Bytes::from(vec![1; 65_535]);
    assert!(machine.poll_write(id, &mut written, &mut cx()).is_ready());
    sent(&mut machine);
    machine.finish(id).unwrap();
    assert_eq!(data(&sent(&mut machine)), [(id, 0)]);
}

#[test]
fn a_stream_holds_next_to_nothing_while_it_is_idle() {
    let machine = served();
    let size = machine.streams.get(&1).map(|stream| size_of_val(&**stream));
    assert!(size.is_some_and(|size| size <= 256), "{size:?}");
}

/// What a client begins with.
fn hello() -> Vec<u8> {
    let mut bytes = PREFACE.to_vec();
    put_settings(&mut bytes, &[]);
    bytes
}

fn connect() -> Vec<u8> {
    let head = ConnectHead {
        authority: "10.0.0.2:80".to_owned(),
        baggage: None,
        forwarded: Some("for=10.0.0.1".to_owned()),
        traceparent: None,
    };
    hpack::request(&head).unwrap()
}

/// A server with one stream, answered.
fn served() -> Machine {
    let mut machine = Machine::new(SERVER);
    let mut input = hello();
    put(&mut input, HEADERS, END_HEADERS, 1, &connect());
    machine.receive(&input).unwrap();
    machine.answer(1, &hpack::response(http::StatusCode::OK), false).unwrap();
    sent(&mut machine);
    machine
}

/// A client with one stream, asked for.
fn asked() -> (Machine, u32) {
    let mut machine = Machine::new(Role::Client);
    let mut input = Vec::new();
    put_settings(&mut input, &[]);
    machine.receive(&input).unwrap();
    let id = machine.open(&connect()).unwrap();
    (machine, id)
}

fn cx() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

fn read_all(machine: &mut Machine, id: u32) -> Vec<u8> {
    let mut all = Vec::new();
    while let Poll::Ready(Ok(Some(bytes))) = machine.poll_read(id, &mut cx()) {
        all.extend_from_slice(&bytes);
    }
    assert_eq!(machine.poll_read(id, &mut cx()), Poll::Ready(Ok(None)));
    all
}

/// What the machine has to send.
fn sent(machine: &mut Machine) -> Vec<u8> {
    let mut bytes = Vec::new();
    while machine.prepare() {
        let n: usize = machine.outgoing.slices().iter().map(|slice| slice.len()).sum();
        machine.outgoing.slices().iter().for_each(|slice| bytes.extend_from_slice(slice));
        machine.outgoing.wrote(n);
    }
    bytes
}

fn resets(sent: &[u8]) -> Vec<(u32, u32)> {
    let mut resets = Vec::new();
    each_piece(sent, |piece| {
        if let Piece::Frame(Head { kind: RST_STREAM, stream, .. }, payload) = piece {
            resets.push((stream, u32::from_be_bytes((*payload).try_into().unwrap())));
        }
    });
    resets
}

/// The DATA frames: their streams and lengths.
fn data(sent: &[u8]) -> Vec<(u32, usize)> {
    let mut frames = Vec::new();
    each_piece(sent, |piece| {
        if let Piece::DataBegins(head) = piece {
            frames.push((head.stream, head.length));
        }
    });
    frames
}

fn data_length(sent: &[u8]) -> usize {
    data(sent).iter().map(|(_, length)| length).sum()
}

fn each_piece(mut sent: &[u8], mut act: impl FnMut(Piece<'_>)) {
    let client = sent.starts_with(PREFACE);
    let mut parser = Parser::new(client);
    if !client {
        // What was sent before began as it must.
        let mut settings = Vec::new();
        put_settings(&mut settings, &[]);
        while parser.next(&mut settings.as_slice()).unwrap().is_none() {}
    }
    while let Some(piece) = parser.next(&mut sent).unwrap() {
        act(piece);
    }
}
