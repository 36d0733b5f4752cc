//! The HTTP/2 engine on the `h2` crate: both roles of HBONE.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ::h2::client::SendRequest;
use ::h2::server::SendResponse;
use ::h2::{Ping, PingPong, Reason, RecvStream, SendStream};
use adit_core::hbone::NO_LONGER_PERMITTED;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Uri, Version};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

use super::activity::{Activity, silence};
use super::budget::{Budget, Share};
use super::engine::{self, Answer, Incoming, Served};
use super::{Broken, ConnectHead, ReadHalf, Settings, WriteHalf};

/// What one stream may have in flight, in bytes.
const STREAM_WINDOW: u32 = 4 << 20;

/// What all streams of one tunnel may have in flight together, in bytes: the bound on what slow
/// readers make this node hold for one tunnel.
const CONNECTION_WINDOW: u32 = 16 << 20;

/// The largest DATA frame that is accepted, in bytes.
const FRAME: u32 = 1 << 20;

/// What a stream may queue for sending before its writer waits, in bytes.
const SEND_BUFFER: usize = 256 << 10;

/// The largest header block that is accepted, in bytes.
const HEADERS: u32 = 16 << 10;

/// What unread small DATA frames may cost in bookkeeping before h2 closes the tunnel, in bytes (256
/// a frame, less its payload). Its own default would cut all flows of a tunnel for one slow reader.
const DATA_FRAME_BUDGET: usize = 64 << 20;

/// Streams that this end has reset and that h2 remembers, and for how long: frames for one that it
/// has forgotten count as an attack, and after 1024 of them it closes the tunnel.
const REMEMBERED_RESETS: usize = 4096;
const REMEMBERED_FOR: Duration = Duration::from_secs(30);

/// Streams that a peer may reset before the tunnel is closed as abused (CVE-2023-44487).
const PENDING_RESETS: usize = 64;

/// What holding a chunk costs beside its bytes, and at least, in bytes: it keeps a peer that sends
/// many small frames within the budget.
const CHUNK_COST: usize = 256;

/// A chunk up to this size is copied before it is held: else it would keep the buffer alive that it
/// was received in, with what other streams got through it.
const COPIED: usize = 4096;

/// The receiving half of a stream.
pub(crate) struct Reader {
    stream: RecvStream,
    unreleased: usize,
    /// What arrived while the other side was slow to take what came before.
    held: VecDeque<Bytes>,
    share: Share,
    ended: bool,
}

/// The sending half of a stream.
pub(crate) struct Writer {
    stream: SendStream<Bytes>,
}

/// The client's end of a tunnel.
#[derive(Clone)]
pub(crate) struct Client {
    requests: SendRequest<Bytes>,
    budget: Budget,
}

/// The keep-alive's PING.
pub(crate) struct Pinger(PingPong);

/// The way to answer a request, once.
pub(crate) struct Responder {
    respond: SendResponse<Bytes>,
    body: RecvStream,
    budget: Budget,
}

/// Opens the client's end. The future that is returned drives it and must be spawned.
pub(super) async fn connect<T>(
    io: T,
    budget: Budget,
) -> io::Result<(Client, Pinger, impl Future<Output = io::Result<()>>)>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let (requests, mut connection) = ::h2::client::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_header_list_size(HEADERS)
        .max_send_buffer_size(SEND_BUFFER)
        .data_frame_budget(DATA_FRAME_BUDGET)
        .max_concurrent_reset_streams(REMEMBERED_RESETS)
        .reset_stream_duration(REMEMBERED_FOR)
        .enable_push(false)
        .handshake(io)
        .await
        .map_err(io::Error::other)?;
    let ping = connection.ping_pong().ok_or_else(no_ping)?;
    let driving = async { connection.await.map_err(io::Error::other) };
    Ok((Client { requests, budget }, Pinger(ping), driving))
}

fn no_ping() -> io::Error {
    io::Error::other("h2 gave no handle for PING")
}

impl Pinger {
    /// Sends one, if none is on its way.
    pub(super) fn send(&mut self) -> bool {
        self.0.send_ping(Ping::opaque()).is_ok()
    }

    /// Completes when it is answered; with false if the connection is gone.
    pub(super) async fn answered(&mut self) -> bool {
        poll_fn(|cx| self.0.poll_pong(cx)).await.is_ok()
    }
}

impl Client {
    /// How many streams at a time the other end takes, as far as it has said.
    pub(super) fn takes(&self) -> u32 {
        u32::try_from(self.requests.current_max_send_streams()).unwrap_or(u32::MAX)
    }

    /// Asks for a stream and waits for the answer.
    pub(super) async fn request(&self, head: &ConnectHead) -> Answer {
        let Some(request) = connect_request(head) else {
            return Answer::Status(400);
        };
        let mut requests = match self.requests.clone().ready().await {
            Ok(requests) => requests,
            Err(error) => return unsent(&error),
        };
        let (response, send) = match requests.send_request(request, false) {
            Ok(sent) => sent,
            Err(error) => return unsent(&error),
        };
        match response.await {
            Ok(response) if response.status() == StatusCode::OK => {
                let reader = Reader::new(response.into_body(), &self.budget);
                let writer = Writer { stream: send };
                Answer::Stream(
                    engine::Reader::H2(Box::new(reader)),
                    engine::Writer::H2(Box::new(writer)),
                )
            }
            Ok(response) => Answer::Status(response.status().as_u16()),
            Err(error) => refused(&error),
        }
    }
}

fn connect_request(head: &ConnectHead) -> Option<Request<()>> {
    let uri = Uri::builder().authority(head.authority.as_str()).build().ok()?;
    let mut request = Request::builder().method(Method::CONNECT).version(Version::HTTP_2).uri(uri);
    let ConnectHead { authority: _, baggage, forwarded, traceparent } = head;
    let headers = [("baggage", baggage), ("forwarded", forwarded), ("traceparent", traceparent)];
    for (name, value) in headers {
        if let Some(value) = value {
            request = request.header(name, value);
        }
    }
    request.body(()).ok()
}

fn unsent(error: &::h2::Error) -> Answer {
    if error.is_go_away() { Answer::GoingAway } else { Answer::Unsent }
}

/// A stream above the GOAWAY's last one, or one reset with REFUSED_STREAM, was not processed
/// (RFC 9113, sections 6.8 and 8.7): it may be tried again elsewhere. All else may have been, and a
/// CONNECT that is sent twice may be two connections to the application (RFC 9110, section 9.2.2).
fn refused(error: &::h2::Error) -> Answer {
    if error.is_remote() && error.is_go_away() {
        Answer::GoingAway
    } else if error.is_remote() && error.reason() == Some(Reason::REFUSED_STREAM) {
        Answer::Full
    } else if error.is_reset() {
        // The other end gave up on the request without a status.
        Answer::Status(StatusCode::SERVICE_UNAVAILABLE.as_u16())
    } else {
        Answer::Lost
    }
}

/// Serves a tunnel until it ends: each request goes to `accept`. When `drain` turns true no new one
/// is taken, and the tunnel ends with its last stream.
pub(super) async fn serve<T>(
    (io, activity): (T, Activity),
    (settings, budget): (&Settings, &Budget),
    mut drain: watch::Receiver<bool>,
    mut accept: impl FnMut(Incoming),
) -> Served
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = ::h2::server::Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME)
        .max_header_list_size(HEADERS)
        .max_send_buffer_size(SEND_BUFFER)
        .data_frame_budget(DATA_FRAME_BUDGET)
        .max_concurrent_reset_streams(REMEMBERED_RESETS)
        .reset_stream_duration(REMEMBERED_FOR)
        .max_concurrent_streams(settings.max_streams)
        .max_pending_accept_reset_streams(PENDING_RESETS)
        .handshake::<_, Bytes>(io);
    let mut connection = match tokio::time::timeout(settings.connect_timeout, handshake).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return Served::Broken(io::Error::other(error)),
        Err(_elapsed) => return Served::Silent,
    };
    let Some(ping) = connection.ping_pong() else {
        return Served::Broken(no_ping());
    };
    let mut pinger = Pinger(ping);
    let probe = async || pinger.send() && pinger.answered().await;
    let limits = (settings.ping_interval, settings.ping_timeout);
    let mut silent = std::pin::pin!(silence(probe, &activity, limits));
    let mut draining = false;
    loop {
        tokio::select! {
            biased;
            request = connection.accept() => match request {
                Some(Ok((request, respond))) => accept(incoming(request, respond, budget)),
                Some(Err(error)) => return Served::Broken(io::Error::other(error)),
                None => return Served::Closed,
            },
            _turned = drain.wait_for(|drain| *drain), if !draining => {
                draining = true;
                connection.graceful_shutdown();
            }
            () = &mut silent => return Served::Silent,
        }
    }
}

fn incoming(
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    budget: &Budget,
) -> Incoming {
    let (parts, body) = request.into_parts();
    let text = |name| {
        let value: Option<&http::HeaderValue> = parts.headers.get(name);
        value.and_then(|value| value.to_str().ok()).map(str::to_owned)
    };
    let is_connect = parts.method == Method::CONNECT;
    let responder = Responder { respond, body, budget: budget.clone() };
    Incoming {
        authority: parts.uri.authority().filter(|_| is_connect).map(|name| name.to_string()),
        forwarded: text("forwarded"),
        responder: engine::Responder::H2(Box::new(responder)),
    }
}

impl Responder {
    /// Answers 200.
    pub(crate) fn accept(mut self) -> Result<(Reader, Writer), Broken> {
        let stream = self.respond.send_response(status(StatusCode::OK), false).map_err(broken)?;
        Ok((Reader::new(self.body, &self.budget), Writer { stream }))
    }

    /// Answers another status, and with it the whole stream.
    pub(crate) fn reject(mut self, code: StatusCode) {
        // If the other end is gone, nobody is left to be told.
        let _gone: Result<_, ::h2::Error> = self.respond.send_response(status(code), true);
    }

    /// Says that the request was not processed.
    #[cfg(test)]
    pub(crate) fn refuse(mut self) {
        self.respond.send_reset(Reason::REFUSED_STREAM);
    }

    /// Completes when the other end gives the request up before it is answered, or is gone.
    pub(crate) async fn given_up(&mut self) -> Broken {
        match poll_fn(|cx| self.respond.poll_reset(cx)).await {
            Ok(reason) => reset(reason),
            Err(error) => broken(error),
        }
    }
}

fn status(code: StatusCode) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = code;
    response
}

/// A stream that the other end reset means that its application did, unless it says otherwise; all else
/// is the tunnel's.
#[expect(clippy::needless_pass_by_value, reason = "the shape map_err wants")]
fn broken(error: ::h2::Error) -> Broken {
    if !error.is_reset() {
        return Broken::Lost;
    }
    error.reason().map_or(Broken::Reset, reset)
}

fn reset(reason: Reason) -> Broken {
    if u32::from(reason) == NO_LONGER_PERMITTED { Broken::Denied } else { Broken::Reset }
}

impl Reader {
    fn new(stream: RecvStream, budget: &Budget) -> Self {
        let (held, share) = (VecDeque::new(), budget.share());
        Self { stream, unreleased: 0, held, share, ended: false }
    }

    /// Keeps a chunk, out of h2, where nobody could tell how much there is.
    fn hold(&mut self, chunk: Bytes) {
        let chunk = if chunk.len() > COPIED { chunk } else { Bytes::copy_from_slice(&chunk) };
        self.share.grow(cost(&chunk));
        self.held.push_back(chunk);
    }
}

fn cost(chunk: &Bytes) -> usize {
    chunk.len() + CHUNK_COST
}

impl ReadHalf for Reader {
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Broken>> {
        let released = std::mem::take(&mut self.unreleased);
        if released > 0 {
            self.stream.flow_control().release_capacity(released).map_err(broken)?;
        }
        while let Some(bytes) = self.held.pop_front() {
            self.share.shrink(cost(&bytes));
            if !bytes.is_empty() {
                self.unreleased = bytes.len();
                return Poll::Ready(Ok(Some(bytes)));
            }
        }
        while !self.ended {
            match ready!(self.stream.poll_data(cx)) {
                // An END_STREAM on its own frame: the end follows.
                Some(Ok(bytes)) if bytes.is_empty() => {}
                Some(Ok(bytes)) => {
                    self.unreleased = bytes.len();
                    return Poll::Ready(Ok(Some(bytes)));
                }
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => self.ended = true,
            }
        }
        Poll::Ready(Ok(None))
    }

    async fn broken(&mut self) -> Broken {
        while !self.ended {
            let data = tokio::select! {
                biased;
                () = self.share.evicted() => return Broken::Evicted,
                data = self.stream.data() => data,
            };
            match data {
                Some(Ok(chunk)) => self.hold(chunk),
                Some(Err(error)) => return broken(error),
                None => self.ended = true,
            }
        }
        self.share.evicted().await;
        Broken::Evicted
    }
}

impl WriteHalf for Writer {
    fn poll_write(&mut self, bytes: &mut Bytes, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        while !bytes.is_empty() {
            self.stream.reserve_capacity(bytes.len());
            let mut free = self.stream.capacity();
            while free == 0 {
                free = match ready!(self.stream.poll_capacity(cx)) {
                    Some(Ok(free)) => free,
                    Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                    None => return self.poll_broken(cx).map(Err),
                };
            }
            let part = bytes.split_to(free.min(bytes.len()));
            self.stream.send_data(part, false).map_err(broken)?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_finish(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        Poll::Ready(self.stream.send_data(Bytes::new(), true).map_err(broken))
    }

    fn reset(&mut self) {
        self.stream.send_reset(Reason::CANCEL);
    }

    fn deny(&mut self) {
        self.stream.send_reset(Reason::from(NO_LONGER_PERMITTED));
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        Poll::Ready(match ready!(self.stream.poll_reset(cx)) {
            Ok(reason) => reset(reason),
            Err(error) => broken(error),
        })
    }
}
