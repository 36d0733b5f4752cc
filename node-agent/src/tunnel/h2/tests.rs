//! A client and a server over a pipe in memory.

use std::cell::RefCell;
use std::rc::Rc;

use tokio::io::{AsyncWriteExt as _, duplex};
use tokio::sync::mpsc;
use tokio::task::{LocalSet, spawn_local};

use super::*;

#[tokio::test]
async fn a_connect_carries_bytes_and_both_half_closes() {
    scene(Settings::default(), async |mut pair: Pair| {
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
    scene(Settings::default(), async |mut pair: Pair| {
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
        scene(Settings::default(), async |mut pair: Pair| {
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
    scene(Settings::default(), async |mut pair: Pair| {
        let ((_near_r, mut near_w), (mut far_r, mut far_w)) = pair.stream().await;
        near_w.reset();
        assert_eq!(far_r.read().await.unwrap_err(), Broken::Reset);
        assert_eq!(far_w.broken().await, Broken::Reset);
        let ((mut near_r, _near_w), (_far_r, mut far_w)) = pair.stream().await;
        far_w.reset();
        assert_eq!(near_r.read().await.unwrap_err(), Broken::Reset);
    })
    .await;
}

#[tokio::test]
async fn a_slow_reader_stops_the_writer_within_one_window() {
    scene(Settings::default(), async |mut pair: Pair| {
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
        let bound = STREAM_WINDOW as usize + SEND_BUFFER + (64 << 10);
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
    let settings = Settings { unread_limit: 3 << 20, ..Settings::default() };
    scene(settings, async |mut pair: Pair| {
        let ((_r1, mut large), (mut slow, _w1)) = pair.stream().await;
        let ((_r2, mut small), (mut slower, _w2)) = pair.stream().await;
        small.write(Bytes::from(vec![2; 1 << 20])).await.unwrap();
        large.write(Bytes::from(vec![1; 5 << 19])).await.unwrap();

        tokio::select! {
            broken = slow.broken() => assert_eq!(broken, Broken::Evicted),
            broken = slower.broken() => panic!("the smaller one ended: {broken:?}"),
        }
        drop(slow);

        // The other one loses nothing.
        small.finish().await.unwrap();
        let mut got = 0;
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
    scene(Settings::default(), async |mut pair: Pair| {
        let ((_r, mut near_w), (mut far_r, _w)) = pair.stream().await;
        let sent: Vec<Vec<u8>> = (0..200_u8).map(|n| vec![n; usize::from(n) * 50]).collect();
        for chunk in &sent {
            near_w.write(Bytes::from(chunk.clone())).await.unwrap();
        }
        near_w.finish().await.unwrap();
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
    scene(Settings::default(), async |mut pair: Pair| {
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
    scene(Settings::default(), async |mut pair: Pair| {
        let client = pair.client.clone();
        let asked = spawn_local(async move { client.request(&head()).await });
        let mut request = pair.requests.recv().await.unwrap();
        request.responder.respond.send_reset(Reason::REFUSED_STREAM);
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
    let settings = Settings::default();
    LocalSet::new()
        .run_until(async move {
            // The other end of the pipe is open and never read.
            let (_silent, io) = duplex(1 << 20);
            let (_drain, watch) = watch::channel(false);
            let budget = Budget::new(1 << 30);
            let io = (io, Activity::new());
            let served = serve(io, (&settings, &budget), watch, |_| {}).await;
            assert!(matches!(served, Served::Silent), "{served:?}");
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_client_whose_bytes_come_is_alive_though_its_answer_to_the_ping_waits_behind_them() {
    let settings = Settings::default();
    LocalSet::new()
        .run_until(async move {
            let (mut peer, io) = duplex(1 << 20);
            // The preface and empty SETTINGS (RFC 9113, section 3.4); no PING is answered.
            peer.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
            peer.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
            let (activity, began) = (Activity::new(), Instant::now());
            spawn_local(mark_for_a_minute(activity.clone(), began));
            let (_drain, watch) = watch::channel(false);
            let budget = Budget::new(1 << 30);
            let served = serve((io, activity), (&settings, &budget), watch, |_| {});
            let served = Box::pin(served).await;
            assert!(matches!(served, Served::Silent), "{served:?}");
            let lived = began.elapsed().as_secs();
            assert!((61..=80).contains(&lived), "{lived}");
            drop(peer);
        })
        .await;
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
    scene(settings, async |mut pair: Pair| {
        let _stream = pair.stream().await;
        assert_eq!(pair.client.takes(), 3);
    })
    .await;
}

#[tokio::test]
async fn other_methods_have_no_authority_and_strange_headers_do_no_harm() {
    scene(Settings::default(), async |mut pair: Pair| {
        let mut requests = pair.client.requests.clone();
        let get = Request::builder().uri("https://10.0.0.2:80/").body(()).unwrap();
        let mut connect = Request::builder().method(Method::CONNECT).uri("10.0.0.2:80");
        for n in 0..50 {
            connect =
                connect.header(format!("x-unknown-{n}"), "\u{7f}é".as_bytes().get(1..).unwrap());
        }
        for (request, authority) in [(get, None), (connect.body(()).unwrap(), Some("10.0.0.2:80"))]
        {
            let (response, _send) = requests.send_request(request, true).unwrap();
            let request = pair.requests.recv().await.unwrap();
            assert_eq!(request.authority.as_deref(), authority);
            request.responder.reject(StatusCode::BAD_REQUEST);
            assert_eq!(response.await.unwrap().status(), 400);
        }
    })
    .await;
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

async fn scene(settings: Settings, play: impl AsyncFnOnce(Pair)) {
    let (near, far) = duplex(1 << 20);
    LocalSet::new()
        .run_until(async move {
            let (drain, watch) = watch::channel(false);
            let (sender, requests) = mpsc::unbounded_channel();
            let budget = Budget::new(settings.unread_limit);
            let near_budget = budget.clone();
            let served = spawn_local(async move {
                let io = (far, Activity::new());
                let accept = |request| drop(sender.send(request));
                serve(io, (&settings, &budget), watch, accept).await
            });
            let (client, _ping, connection) = connect(near, near_budget).await.unwrap();
            spawn_local(async move { drop(connection.await) });
            play(Pair { client, requests, drain, served }).await;
        })
        .await;
}

fn head() -> ConnectHead {
    ConnectHead {
        authority: "10.0.0.2:80".to_owned(),
        baggage: None,
        forwarded: Some("for=10.0.0.1".to_owned()),
        traceparent: None,
    }
}
