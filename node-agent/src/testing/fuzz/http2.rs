//! The ends of a tunnel, driven by whatever frames a peer may send, over a pipe in memory and in
//! made-up time: the server's with either engine, the client's with adit's own.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use adit_core::hbone;
use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream, duplex, split};
use tokio::runtime;
use tokio::sync::watch;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{sleep, timeout};

use super::choices::Choices;
use crate::tunnel::{
    Activity, Answer, Budget, Client, ConnectHead, Engine, Incoming, ReadHalf, Settings, WriteHalf,
    connect as open, serve,
};

/// RFC 9113, section 3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
/// The payload of the PINGs that the h2 crate sends for its user.
const OPAQUE: [u8; 8] = [0x3b, 0x7c, 0xdb, 0x7a, 0x0b, 0x87, 0x16, 0xb4];
/// Requests that a peer may have going beyond the limit of streams: those that it has reset already
/// and that are on their way out.
const RESET: u32 = 64;

/// Takes frames and the passing of time from the bytes; the server uses the `h2` crate.
///
/// # Panics
/// If the server does not end in time once its peer is silent, or has more requests going than it
/// allows.
pub fn http2(bytes: &[u8]) {
    in_made_up_time(play(Choices::new(bytes), Engine::H2));
}

/// The same with adit's own framing, in the role that the first byte says.
///
/// # Panics
/// If the end does not end in time once its peer is silent or gone, or a server has more requests
/// going than it allows.
pub fn framing(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    if choices.byte().is_multiple_of(2) {
        in_made_up_time(play(choices, Engine::Framing));
    } else {
        in_made_up_time(play_server(choices));
    }
}

#[expect(clippy::expect_used, reason = "without a runtime there is nothing to try")]
fn in_made_up_time(play: impl Future<Output = ()>) {
    let runtime = runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    LocalSet::new().block_on(&runtime.expect("a runtime"), play);
}

async fn play(mut choices: Choices<'_>, engine: Engine) {
    let max_streams = 1 + u32::from(choices.byte() % 8);
    let settings = Settings { engine, max_streams, ..Settings::default() };
    let limit = settings.connect_timeout + settings.ping_interval + settings.ping_timeout;
    let most = settings.max_streams + RESET;
    let (near, far) = duplex(64 << 10);
    let (drain, draining) = watch::channel(false);
    let habits = Cell::new(choices.byte());
    let budget = Budget::new(settings.unread_limit);
    let server = spawn_local(async move {
        let going = Rc::new(Cell::new(0));
        serve((BufReader::new(far), Activity::new()), (&settings, &budget), draining, |request| {
            going.set(going.get() + 1);
            assert!(going.get() <= most, "{} requests at a time", going.get());
            habits.set(habits.get().rotate_left(1));
            spawn_local(application(request, habits.get(), Rc::clone(&going)));
        })
        .await
    });
    let peer = Peer::new(near, choices.below(2) == 0, Plays::Client);
    // A peer that nobody reads from any more cannot go on.
    let silent = tokio::select! {
        silent = peer.act(&mut choices, &drain) => silent,
        () = sleep(Duration::from_secs(24 * 3600)) => panic!("the peer cannot go on"),
    };
    let served = timeout(limit + Duration::from_secs(1), server).await;
    assert!(matches!(served, Ok(Ok(_))), "{served:?}");
    drop(silent);
}

/// Plays the server for a client with adit's own framing.
async fn play_server(mut choices: Choices<'_>) {
    let (near, far) = duplex(64 << 10);
    let opened = open(Engine::Framing, BufReader::new(far), Budget::new(1 << 30)).await;
    let Ok((client, _pinger, driving)) = opened else { return };
    let driving = spawn_local(driving);
    let asking: Vec<_> = (0..4_u8).map(|habit| spawn_local(ask(client.clone(), habit))).collect();
    drop(client);
    let peer = Peer::new(near, choices.below(2) == 0, Plays::Server);
    let (drain, _draining) = watch::channel(false);
    let mut peer = tokio::select! {
        peer = peer.act(&mut choices, &drain) => peer,
        () = sleep(Duration::from_secs(24 * 3600)) => panic!("the peer cannot go on"),
    };
    // Whoever reads keeps the pipe open.
    let _gone = peer.pipe.shutdown().await;
    drop(peer);
    for task in asking {
        let ended = timeout(Duration::from_secs(1), task).await;
        assert!(matches!(ended, Ok(Ok(()))), "a request outlives its tunnel: {ended:?}");
    }
    let ended = timeout(Duration::from_secs(1), driving).await;
    assert!(matches!(ended, Ok(Ok(_))), "{ended:?}");
}

/// What an agent does with a tunnel.
async fn ask(client: Client, habit: u8) {
    for _ in 0..8 {
        let head = ConnectHead {
            authority: "10.0.0.2:80".to_owned(),
            baggage: Some("k8s.cluster.name=c".repeat(usize::from(habit) * 500)),
            forwarded: None,
            traceparent: None,
        };
        match client.request(&head).await {
            Answer::Stream(mut reader, mut writer) => {
                let mut written = writer.write(vec![habit; usize::from(habit) << 16].into()).await;
                while written.is_ok() {
                    match reader.read().await {
                        Ok(Some(bytes)) => written = writer.write(bytes).await,
                        Ok(None) => break,
                        Err(_broken) => return,
                    }
                }
                if habit == 2 {
                    writer.reset();
                }
                let _gone = writer.finish().await;
            }
            Answer::Status(_) | Answer::Full => {}
            Answer::GoingAway | Answer::Unsent | Answer::Lost => return,
        }
    }
}

/// What the pod behind the tunnel does with a request.
async fn application(request: Incoming, habit: u8, going: Rc<Cell<u32>>) {
    let authority = request.authority.as_deref().map(hbone::parse_authority);
    let _service = request.forwarded.as_deref().and_then(hbone::parse_forwarded_host);
    let mut responder = request.responder;
    match (authority, habit % 5) {
        (Some(Ok(_)), 0) => drop(responder.given_up().await),
        (Some(Ok(_)), 1) => responder.reject(StatusCode::SERVICE_UNAVAILABLE),
        (Some(Ok(_)), habit) => {
            if let Ok((mut reader, mut writer)) = responder.accept() {
                while let Ok(Some(bytes)) = reader.read().await {
                    if writer.write(bytes).await.is_err() {
                        break;
                    }
                    if habit == 2 {
                        writer.reset();
                        break;
                    }
                }
                let _gone = writer.finish().await;
            }
        }
        (Some(Err(_)) | None, _) => responder.reject(StatusCode::BAD_REQUEST),
    }
    going.set(going.get() - 1);
}

/// Which role the peer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plays {
    Client,
    Server,
}

/// The other end of the pipe.
struct Peer {
    plays: Plays,
    pipe: tokio::io::WriteHalf<DuplexStream>,
    /// Open, so that the server finds no end.
    _unread: Option<tokio::io::ReadHalf<DuplexStream>>,
    next_stream: u32,
    last: Vec<u8>,
}

impl Peer {
    /// `reads`: it takes what it is sent.
    fn new(pipe: DuplexStream, reads: bool, plays: Plays) -> Self {
        let (mut read, pipe) = split(pipe);
        let unread = if reads {
            spawn_local(async move {
                let mut scratch = [0; 4096];
                while read.read(&mut scratch).await.is_ok_and(|count| count > 0) {}
            });
            None
        } else {
            Some(read)
        };
        Self { plays, pipe, _unread: unread, next_stream: 1, last: Vec::new() }
    }

    /// Does as the bytes say and is silent then: what it returns keeps the pipe open.
    async fn act(mut self, choices: &mut Choices<'_>, drain: &watch::Sender<bool>) -> Self {
        if choices.below(8) > 0 {
            if self.plays == Plays::Client {
                self.send(PREFACE.to_vec()).await;
            }
            self.send(frame(SETTINGS, 0, 0, &[])).await;
        }
        while !choices.is_empty() {
            match choices.below(17) {
                0 => self.send(choices.bytes().to_vec()).await,
                11 => sleep(choices.seconds() / 8).await,
                12 => drop(drain.send_replace(true)),
                13 => {
                    let again = self.last.clone();
                    for _ in 0..choices.byte() {
                        self.send(again.clone()).await;
                    }
                }
                14 => drop(self.pipe.shutdown().await),
                15 => {
                    for _ in 0..choices.byte() {
                        self.rapid_reset().await;
                    }
                }
                what => {
                    let bytes = self.frame(what, choices);
                    self.send(bytes).await;
                }
            }
        }
        self
    }

    fn frame(&mut self, what: usize, choices: &mut Choices<'_>) -> Vec<u8> {
        match what {
            1 => frame(choices.byte(), choices.byte(), choices.u32(), choices.bytes()),
            2 if self.plays == Plays::Server => {
                let block = answer(choices);
                frame(HEADERS, END_HEADERS | (choices.byte() & END_STREAM), stream(choices), &block)
            }
            2 => self.request(&connect(choices)),
            3 => {
                let id = stream(choices);
                frame(DATA, choices.byte() & 9, id, choices.bytes())
            }
            4 => frame(RST_STREAM, 0, stream(choices), &choices.u32().to_be_bytes()),
            5 => frame(WINDOW_UPDATE, 0, stream(choices), &choices.u32().to_be_bytes()),
            6 => {
                let mut payload = vec![0, choices.byte() % 10];
                payload.extend(choices.u32().to_be_bytes());
                frame(SETTINGS, 0, 0, &payload)
            }
            7 => frame(PING, choices.byte() & ACK, 0, &[choices.byte(); 8]),
            8 => frame(PING, ACK, 0, &OPAQUE),
            9 => {
                let last = choices.u32().to_be_bytes();
                frame(GOAWAY, 0, 0, &[last, choices.u32().to_be_bytes()].concat())
            }
            10 => {
                let id = self.next_stream;
                let mut bytes = frame(HEADERS, 0, id, choices.bytes());
                bytes.extend(frame(
                    CONTINUATION,
                    choices.byte() & END_HEADERS,
                    id,
                    choices.bytes(),
                ));
                bytes
            }
            _ => frame(SETTINGS, ACK, 0, &[]),
        }
    }

    /// HEADERS of the next stream.
    fn request(&mut self, block: &[u8]) -> Vec<u8> {
        let id = self.next_stream;
        self.next_stream = id.wrapping_add(2);
        let flags = END_HEADERS | (block.last().copied().unwrap_or_default() & END_STREAM);
        frame(HEADERS, flags, id, block)
    }

    /// A request that is given up at once (CVE-2023-44487).
    async fn rapid_reset(&mut self) {
        let id = self.next_stream;
        let mut bytes = self.request(&block(b"CONNECT", b"10.0.0.2:80"));
        bytes.extend(frame(RST_STREAM, 0, id, &[0, 0, 0, 8]));
        self.send(bytes).await;
    }

    /// The server may be gone already.
    async fn send(&mut self, bytes: Vec<u8>) {
        let _gone = self.pipe.write_all(&bytes).await;
        self.last = bytes;
    }
}

/// One of the first streams, or the connection.
fn stream(choices: &mut Choices<'_>) -> u32 {
    u32::from(choices.byte() % 16)
}

/// A header block: a CONNECT, mostly.
fn connect(choices: &mut Choices<'_>) -> Vec<u8> {
    match choices.below(4) {
        0 => block(b"CONNECT", b"10.0.0.2:80"),
        1 => block(b"CONNECT", choices.bytes()),
        2 => block(choices.bytes(), b"[fd00::1]:80"),
        _ => {
            let mut block = block(b"CONNECT", b"10.0.0.2:80");
            // A literal with a new name: forwarded.
            block.push(0);
            string(&mut block, b"forwarded");
            string(&mut block, choices.bytes());
            block
        }
    }
}

/// The block of an answer: 200, mostly.
fn answer(choices: &mut Choices<'_>) -> Vec<u8> {
    match choices.below(4) {
        // Entries 8 and 13 of the static table: 200 and 404.
        0 | 1 => vec![0x88],
        2 => vec![0x8d],
        _ => choices.bytes().to_vec(),
    }
}

/// RFC 7541, section 6.2.2: literals without indexing, named by entries 2 (`:method`) and 1
/// (`:authority`) of the static table.
fn block(method: &[u8], authority: &[u8]) -> Vec<u8> {
    let mut block = vec![2];
    string(&mut block, method);
    block.push(1);
    string(&mut block, authority);
    block
}

/// RFC 7541, section 5.2, without Huffman coding; lengths of 127 and more take a second byte.
fn string(block: &mut Vec<u8>, text: &[u8]) {
    let length = text.len().min(254);
    match u8::try_from(length) {
        Ok(short @ 0..127) => block.push(short),
        Ok(long) => block.extend([127, long - 127]),
        Err(_) => block.push(0),
    }
    block.extend(text.iter().take(length));
}

/// RFC 9113, section 4.1.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    let mut bytes = length.to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}
