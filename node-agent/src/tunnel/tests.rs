//! A client and a server over a pipe in memory, each with either engine.

use std::cell::RefCell;
use std::rc::Rc;

use http::{Method, Request, StatusCode};
use tokio::io::{AsyncWriteExt as _, BufReader, duplex};
use tokio::sync::{mpsc, watch};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, sleep_until};

use super::*;

/// What a stream's receiver and its sender may hold together, in bytes.
const HELD: usize = (4 << 20) + (256 << 10) + (64 << 10);

/// More than a stream may send before its reader has taken something, in bytes.
const FIRST: usize = (64 << 10) + 1;

#[tokio::test]
async fn a_connect_carries_bytes_and_both_half_closes() {
    each(Settings::default(), async |mut pair: Pair| {
        let ((mut near_r, mut near_w), (mut far_r, mut far_w)) = pair.stream().await;
        near_w.write(Bytes::from_static(b"question")).await.unwrap();
        near_w.finish().await.unwrap();
        assert_eq!(far_r.read().await.unwrap().unwrap(), "question");
        assert_eq!(far_r.read().await.unwrap(), None);
        far_w.write(Bytes::from_static(b"answer")).await.unwrap();
        far_w.finish().await.unwrap();
        assert_eq!(near_r.read().await.unwrap().unwrap(), "answer");
        assert_eq!(near_r.read().await.unwrap(), None);
    })
    .await;
}

#[tokio::test]
async fn the_request_says_what_it_was_given_and_no_more() {
    each(Settings::default(), async |mut pair: Pair| {
        let client = pair.client.clone();
        let asked = spawn_local(async move { drop(client.request(&head()).await) });
        let request = pair.requests.recv().await.unwrap();
        assert_eq!(request.authority.as_deref(), Some("10.0.0.2:80"));
        assert_eq!(request.forwarded.as_deref(), Some("for=10.0.0.1"));
        request.responder.reject(StatusCode::SERVICE_UNAVAILABLE);
        asked.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn another_status_than_200_reaches_the_client() {
    for code in [400, 401, 503] {
        each(Settings::default(), async |mut pair: Pair| {
            let client = pair.client.clone();
            let asked = spawn_local(async move { client.request(&head()).await });
            let request = pair.requests.recv().await.unwrap();
            request.responder.reject(StatusCode::from_u16(code).unwrap());
            assert!(matches!(asked.await.unwrap(), Answer::Status(got) if got == code));
        })
        .await;
    }
}

#[tokio::test]
async fn a_reset_of_either_side_is_a_reset_at_the_other() {
    each(Settings::default(), async |mut pair: Pair| {
        let ((_near_r, mut near_w), (mut far_r, mut far_w)) = pair.stream().await;
        near_w.reset();
        assert_eq!(far_r.read().await.unwrap_err(), Broken::Reset);
        assert_eq!(far_w.broken().await, Broken::Reset);
        let ((mut near_r, _near_w), (_far_r, mut far_w)) = pair.stream().await;
        far_w.reset();
        assert_eq!(near_r.read().await.unwrap_err(), Broken::Reset);
        let ((mut near_r, mut near_w), (_far_r, mut far_w)) = pair.stream().await;
        far_w.deny();
        assert_eq!(near_r.read().await.unwrap_err(), Broken::Denied);
        assert_eq!(near_w.broken().await, Broken::Denied);
    })
    .await;
}

#[tokio::test]
async fn a_slow_reader_stops_the_writer_within_one_window() {
    each(Settings::default(), async |mut pair: Pair| {
        let ((_near_r, mut near_w), (mut far_r, _far_w)) = pair.stream().await;
        let written = Rc::new(RefCell::new(0));
        let count = Rc::clone(&written);
        let writing = spawn_local(async move {
            for _ in 0..1024 {
                near_w.write(Bytes::from(vec![1; 64 << 10])).await.unwrap();
                *count.borrow_mut() += 64 << 10;
            }
            near_w.finish().await.unwrap();
        });
        // Everything that can move without a reader has moved when nothing moves for a while.
        let mut before = usize::MAX;
        while before != *written.borrow() {
            before = *written.borrow();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // The writer may hold one chunk more.
        let bound = HELD + (64 << 10);
        assert!(before <= bound, "{before} bytes were taken from the sender, {bound} allowed");
        let mut read = 0;
        while let Some(bytes) = far_r.read().await.unwrap() {
            read += bytes.len();
        }
        assert_eq!(read, 1024 * (64 << 10));
        writing.await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn of_several_slow_readers_the_one_that_holds_most_is_ended_when_there_is_too_much() {
    let settings = Settings { unread_limit: 2 << 20, ..Settings::default() };
    each(settings, async |mut pair: Pair| {
        let ((_r1, mut large), (mut slow, _w1)) = pair.stream().await;
        let ((_r2, mut small), (mut slower, _w2)) = pair.stream().await;
        // Each write waits until the window takes it.
        spawn_local(async move {
            let _evicted = large.write(Bytes::from(vec![1; 5 << 19])).await;
        });
        spawn_local(async move {
            small.write(Bytes::from(vec![2; 1 << 20])).await.unwrap();
            small.finish().await.unwrap();
        });
        let mut got = take(&mut slower, FIRST).await;
        take(&mut slow, FIRST).await;

        tokio::select! {
            broken = slow.broken() => assert_eq!(broken, Broken::Evicted),
            broken = slower.broken() => panic!("the smaller one ended: {broken:?}"),
        }
        drop(slow);

        // The other one loses nothing.
        while let Some(bytes) = slower.read().await.unwrap() {
            assert!(bytes.iter().all(|byte| *byte == 2));
            got += bytes.len();
        }
        assert_eq!(got, 1 << 20);
    })
    .await;
}

#[tokio::test]
async fn what_came_while_the_other_side_was_slow_is_read_in_order_and_then_the_end() {
    each(Settings::default(), async |mut pair: Pair| {
        let ((_r, mut near_w), (mut far_r, _w)) = pair.stream().await;
        let sent: Vec<Vec<u8>> = (0..200_u8).map(|n| vec![n; usize::from(n) * 50]).collect();
        let chunks = sent.clone();
        spawn_local(async move {
            for chunk in chunks {
                near_w.write(Bytes::from(chunk)).await.unwrap();
            }
            near_w.finish().await.unwrap();
        });
        let slow = tokio::time::timeout(Duration::from_millis(100), far_r.broken()).await;
        assert!(slow.is_err(), "nothing is broken: {slow:?}");
        let mut got = Vec::new();
        while let Some(bytes) = far_r.read().await.unwrap() {
            got.extend_from_slice(&bytes);
        }
        assert_eq!(got, sent.concat());
    })
    .await;
}

#[tokio::test]
async fn a_drain_lets_streams_finish_and_refuses_new_ones_without_processing_them() {
    each(Settings::default(), async |mut pair: Pair| {
        let ((mut near_r, mut near_w), (mut far_r, mut far_w)) = pair.stream().await;
        pair.drain.send_replace(true);
        near_w.write(Bytes::from_static(b"still here")).await.unwrap();
        assert_eq!(far_r.read().await.unwrap().unwrap(), "still here");
        // The GOAWAY is under way; what is asked until it arrives may still be served.
        let refused =
            async { while !matches!(pair.client.request(&head()).await, Answer::GoingAway) {} };
        let served = async {
            while let Some(request) = pair.requests.recv().await {
                request.responder.reject(StatusCode::SERVICE_UNAVAILABLE);
            }
        };
        tokio::select! { () = refused => {}, () = served => panic!("the server ended first") }
        far_w.finish().await.unwrap();
        near_w.finish().await.unwrap();
        assert_eq!(near_r.read().await.unwrap(), None);
        assert_eq!(far_r.read().await.unwrap(), None);
        assert!(matches!(pair.served.await.unwrap(), Served::Closed));
    })
    .await;
}

#[tokio::test]
async fn a_request_that_the_other_end_refused_unprocessed_is_told_from_one_it_may_have_processed() {
    each(Settings::default(), async |mut pair: Pair| {
        let client = pair.client.clone();
        let asked = spawn_local(async move { client.request(&head()).await });
        let request = pair.requests.recv().await.unwrap();
        request.responder.refuse();
        assert!(matches!(asked.await.unwrap(), Answer::Full));

        // Taken by the other end, whose end then breaks.
        let client = pair.client.clone();
        let asked = spawn_local(async move { client.request(&head()).await });
        let request = pair.requests.recv().await.unwrap();
        pair.served.abort();
        drop(request);
        assert!(matches!(asked.await.unwrap(), Answer::Lost));

        let answer = pair.client.request(&head()).await;
        assert!(matches!(answer, Answer::Unsent));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_answers_no_ping_is_given_up() {
    for engine in Engine::ALL {
        let settings = Settings { engine, ..Settings::default() };
        // The other end of the pipe is open and never read.
        let (_silent, io) = duplex(1 << 20);
        let (_drain, watch) = watch::channel(false);
        let budget = Budget::new(1 << 30);
        let io = (BufReader::new(io), Activity::new());
        let served = serve(io, (&settings, &budget), watch, |_| {}).await;
        assert!(matches!(served, Served::Silent), "{engine:?}: {served:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_whose_bytes_come_is_alive_though_its_answer_to_the_ping_waits_behind_them() {
    for engine in Engine::ALL {
        let settings = Settings { engine, ..Settings::default() };
        let (mut peer, io) = duplex(1 << 20);
        // The preface and empty SETTINGS (RFC 9113, section 3.4); no PING is answered.
        peer.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        peer.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        let (activity, began) = (Activity::new(), Instant::now());
        let (_drain, watch) = watch::channel(false);
        let budget = Budget::new(1 << 30);
        let io = (BufReader::new(io), activity.clone());
        let served = serve(io, (&settings, &budget), watch, |_| {});
        let mut served = Box::pin(served);
        let served = tokio::select! {
            served = &mut served => served,
            () = async {
                mark_for_a_minute(activity, began).await;
                std::future::pending().await
            } => unreachable!(),
        };
        assert!(matches!(served, Served::Silent), "{engine:?}: {served:?}");
        let lived = began.elapsed().as_secs();
        assert!((61..=80).contains(&lived), "{engine:?}: {lived}");
        drop(peer);
    }
}

async fn mark_for_a_minute(coming: Activity, began: Instant) {
    for second in (12..=60).step_by(8) {
        sleep_until(began + Duration::from_secs(second)).await;
        coming.mark();
    }
}

#[tokio::test]
async fn the_other_ends_limit_of_streams_is_known_once_it_has_said_it() {
    let settings = Settings { max_streams: 3, ..Settings::default() };
    each(settings, async |mut pair: Pair| {
        let _stream = pair.stream().await;
        assert_eq!(pair.client.takes(), 3);
    })
    .await;
}

#[tokio::test]
async fn other_methods_have_no_authority_and_strange_headers_do_no_harm() {
    for engine in Engine::ALL {
        let settings = Settings { engine, ..Settings::default() };
        let (near, far) = duplex(1 << 20);
        LocalSet::new()
            .run_until(async move {
                let (_drain, mut requests, _served) = server(far, settings);
                let (mut client, connection) = ::h2::client::handshake(near).await.unwrap();
                spawn_local(async move { drop(connection.await) });
                let get = Request::builder().uri("https://10.0.0.2:80/").body(()).unwrap();
                let mut connect = Request::builder().method(Method::CONNECT).uri("10.0.0.2:80");
                for n in 0..50 {
                    let strange = "\u{7f}é".as_bytes().get(1..).unwrap();
                    connect = connect.header(format!("x-unknown-{n}"), strange);
                }
                let connect = connect.body(()).unwrap();
                for (request, authority) in [(get, None), (connect, Some("10.0.0.2:80"))] {
                    let (response, _send) = client.send_request(request, true).unwrap();
                    let request = requests.recv().await.unwrap();
                    assert_eq!(request.authority.as_deref(), authority);
                    request.responder.reject(StatusCode::BAD_REQUEST);
                    assert_eq!(response.await.unwrap().status(), 400);
                }
            })
            .await;
    }
}

#[tokio::test]
async fn four_streams_that_nobody_reads_do_not_stop_a_fifth() {
    let settings = Settings { engine: Engine::Framing, ..Settings::default() };
    scene((Engine::Framing, settings), &async |mut pair: Pair| {
        let mut stalled = Vec::new();
        for _ in 0..4 {
            let ((_near_r, near_w), mut far) = pair.stream().await;
            spawn_local(write_for_ever(near_w));
            take(&mut far.0, FIRST).await;
            stalled.push(far);
        }
        let ((mut near_r, mut near_w), (mut far_r, mut far_w)) = pair.stream().await;
        for _ in 0..500 {
            near_w.write(Bytes::from(vec![2; 64 << 10])).await.unwrap();
            let mut got = 0;
            while got < 64 << 10 {
                got += far_r.read().await.unwrap().unwrap().len();
            }
            far_w.write(Bytes::from_static(b"got it")).await.unwrap();
            assert_eq!(near_r.read().await.unwrap().unwrap(), "got it");
        }
        drop(stalled);
    })
    .await;
}

#[tokio::test]
async fn many_streams_carry_data_both_ways_at_once() {
    each(Settings::default(), async |mut pair: Pair| {
        let mut going = Vec::new();
        for n in 0..20_u8 {
            let ((near_r, near_w), (far_r, far_w)) = pair.stream().await;
            going.push(spawn_local(pour(near_w, n)));
            going.push(spawn_local(pour(far_w, n.wrapping_add(100))));
            going.push(spawn_local(drain(far_r, n)));
            going.push(spawn_local(drain(near_r, n.wrapping_add(100))));
        }
        for going in going {
            going.await.unwrap();
        }
    })
    .await;
}

/// Reads at least so many bytes, and says how many it were.
async fn take(reader: &mut Reader, least: usize) -> usize {
    let mut got = 0;
    while got < least {
        got += reader.read().await.unwrap().unwrap().len();
    }
    got
}

async fn write_for_ever(mut writer: Writer) {
    while writer.write(Bytes::from(vec![1; 64 << 10])).await.is_ok() {}
}

/// 335 kB in pieces of uneven size.
async fn pour(mut writer: Writer, seed: u8) {
    for n in 0..100_usize {
        let bytes: Vec<u8> = (0..n * 67).map(|at| seed.wrapping_add(byte(at))).collect();
        writer.write(Bytes::from(bytes)).await.unwrap();
    }
    writer.finish().await.unwrap();
}

fn byte(at: usize) -> u8 {
    u8::try_from(at % 251).unwrap()
}

async fn drain(mut reader: Reader, seed: u8) {
    let expected = (0..100_usize).flat_map(|n| (0..n * 67).map(byte));
    let mut expected = expected.map(|byte| seed.wrapping_add(byte));
    while let Some(bytes) = reader.read().await.unwrap() {
        for byte in bytes {
            assert_eq!(Some(byte), expected.next());
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(expected.next(), None);
}

/// A client, and what comes out at the server.
struct Pair {
    client: Client,
    requests: mpsc::UnboundedReceiver<Incoming>,
    drain: watch::Sender<bool>,
    served: tokio::task::JoinHandle<Served>,
}

impl Pair {
    /// A stream that was accepted: its halves at the client and at the server.
    async fn stream(&mut self) -> ((Reader, Writer), (Reader, Writer)) {
        let client = self.client.clone();
        let asked = spawn_local(async move { client.request(&head()).await });
        let far = self.requests.recv().await.unwrap().responder.accept().unwrap();
        match asked.await.unwrap() {
            Answer::Stream(reader, writer) => ((reader, writer), far),
            Answer::Status(_)
            | Answer::GoingAway
            | Answer::Full
            | Answer::Unsent
            | Answer::Lost => {
                panic!("refused")
            }
        }
    }
}

/// Plays with every pair of engines.
async fn each(settings: Settings, play: impl AsyncFn(Pair)) {
    for near in Engine::ALL {
        for engine in Engine::ALL {
            scene((near, Settings { engine, ..settings.clone() }), &play).await;
        }
    }
}

async fn scene((near, settings): (Engine, Settings), play: &impl AsyncFn(Pair)) {
    let (client, far) = duplex(1 << 20);
    LocalSet::new()
        .run_until(async move {
            let budget = Budget::new(settings.unread_limit);
            let (drain, requests, served) = server(far, settings);
            let io = BufReader::with_capacity(64 << 10, client);
            let (client, _ping, connection) = connect(near, io, budget).await.unwrap();
            spawn_local(async move { drop(connection.await) });
            play(Pair { client, requests, drain, served }).await;
        })
        .await;
}

type Serving =
    (watch::Sender<bool>, mpsc::UnboundedReceiver<Incoming>, tokio::task::JoinHandle<Served>);

/// A server at the end of a pipe.
fn server(io: tokio::io::DuplexStream, settings: Settings) -> Serving {
    let (drain, watch) = watch::channel(false);
    let (sender, requests) = mpsc::unbounded_channel();
    let budget = Budget::new(settings.unread_limit);
    let served = spawn_local(async move {
        let io = (BufReader::with_capacity(64 << 10, io), Activity::new());
        let accept = |request| drop(sender.send(request));
        serve(io, (&settings, &budget), watch, accept).await
    });
    (drain, requests, served)
}

fn head() -> ConnectHead {
    ConnectHead {
        authority: "10.0.0.2:80".to_owned(),
        baggage: None,
        forwarded: Some("for=10.0.0.1".to_owned()),
        traceparent: None,
    }
}
