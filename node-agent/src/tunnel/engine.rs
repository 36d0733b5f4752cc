//! The engines that carry streams, as one: which of them a tunnel uses is a setting, and the two ends of
//! a tunnel may differ in it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::StatusCode;
use tokio::sync::watch;

use super::{Activity, Broken, Budget, ConnectHead, ReadHalf, Settings, WriteHalf};
use super::{framing, h2};

/// How a tunnel's bytes become HTTP/2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// The `h2` crate.
    H2,
    /// This agent's own framing.
    #[default]
    Framing,
}

impl Engine {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::H2, Self::Framing];

    /// Its name in the configuration.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::H2 => "h2",
            Self::Framing => "framing",
        }
    }
}

/// The client's end of a tunnel.
#[derive(Clone)]
pub(crate) enum Client {
    H2(h2::Client),
    Framing(framing::Client),
}

/// The keep-alive's PING of a client.
pub(crate) enum Pinger {
    H2(h2::Pinger),
    Framing(framing::Pinger),
}

/// The receiving half of a stream.
pub(crate) enum Reader {
    H2(Box<h2::Reader>),
    Framing(framing::Reader),
}

/// The sending half of a stream.
pub(crate) enum Writer {
    H2(Box<h2::Writer>),
    Framing(framing::Writer),
}

/// The way to answer a request, once.
pub(crate) enum Responder {
    H2(Box<h2::Responder>),
    Framing(framing::Responder),
}

/// The answer of the other end to a CONNECT.
pub(crate) enum Answer {
    /// 200: the application accepted.
    Stream(Reader, Writer),
    /// Another status.
    Status(u16),
    /// The tunnel takes no more streams, and did not process this one.
    GoingAway,
    /// The tunnel takes fewer streams at a time than it has, and did not process this one.
    Full,
    /// The tunnel broke before anything was sent.
    Unsent,
    /// The tunnel broke before the answer came. The other end may have connected the stream.
    Lost,
}

/// A request that came in.
pub(crate) struct Incoming {
    /// The `:authority`, or `None` if the method is not CONNECT or it has none.
    pub(crate) authority: Option<String>,
    /// The `forwarded` header.
    pub(crate) forwarded: Option<String>,
    /// The way to answer.
    pub(crate) responder: Responder,
}

/// Why a tunnel that was served has ended.
#[derive(Debug)]
pub(crate) enum Served {
    /// The other end closed it, or this one after a drain.
    Closed,
    /// It broke, or the other end violated the protocol.
    Broken(io::Error),
    /// The other end answered no PING.
    Silent,
}

/// Drives a client's end until it ends.
pub(crate) type Driving = Pin<Box<dyn Future<Output = io::Result<()>>>>;

/// What carries a tunnel's bytes.
pub(crate) trait Carrier: tokio::io::AsyncBufRead + tokio::io::AsyncWrite + Unpin {}

impl<T: tokio::io::AsyncBufRead + tokio::io::AsyncWrite + Unpin> Carrier for T {}

/// Opens the client's end. What is returned last drives it and must be polled.
pub(crate) async fn connect(
    engine: Engine,
    io: impl Carrier + 'static,
    budget: Budget,
) -> io::Result<(Client, Pinger, Driving)> {
    match engine {
        Engine::H2 => {
            let (client, pinger, driving) = h2::connect(io, budget).await?;
            Ok((Client::H2(client), Pinger::H2(pinger), Box::pin(driving)))
        }
        Engine::Framing => {
            let (client, pinger, driving) = framing::connect(io, budget);
            Ok((Client::Framing(client), Pinger::Framing(pinger), Box::pin(driving)))
        }
    }
}

/// Serves a tunnel until it ends: each request goes to `accept`. When `drain` turns true no new one
/// is taken, and the tunnel ends with its last stream.
pub(crate) async fn serve(
    io: (impl Carrier, Activity),
    (settings, budget): (&Settings, &Budget),
    drain: watch::Receiver<bool>,
    accept: impl FnMut(Incoming),
) -> Served {
    match settings.engine {
        Engine::H2 => Box::pin(h2::serve(io, (settings, budget), drain, accept)).await,
        Engine::Framing => Box::pin(framing::serve(io, (settings, budget), drain, accept)).await,
    }
}

impl Client {
    /// How many streams at a time the other end takes, as far as it has said.
    pub(super) fn takes(&self) -> u32 {
        match self {
            Self::H2(client) => client.takes(),
            Self::Framing(client) => client.takes(),
        }
    }

    /// Asks for a stream and waits for the answer.
    pub(crate) async fn request(&self, head: &ConnectHead) -> Answer {
        match self {
            Self::H2(client) => client.request(head).await,
            Self::Framing(client) => client.request(head).await,
        }
    }
}

impl Pinger {
    /// Sends a PING, if none is on its way; false if that cannot be.
    pub(super) fn send(&mut self) -> bool {
        match self {
            Self::H2(pinger) => pinger.send(),
            Self::Framing(pinger) => {
                pinger.send();
                true
            }
        }
    }

    /// Completes when it is answered; with false if the tunnel is gone.
    pub(super) async fn answered(&mut self) -> bool {
        match self {
            Self::H2(pinger) => pinger.answered().await,
            Self::Framing(pinger) => pinger.answered().await,
        }
    }
}

impl Responder {
    /// Answers 200.
    pub(crate) fn accept(self) -> Result<(Reader, Writer), Broken> {
        match self {
            Self::H2(responder) => {
                let (reader, writer) = responder.accept()?;
                Ok((Reader::H2(Box::new(reader)), Writer::H2(Box::new(writer))))
            }
            Self::Framing(responder) => {
                let (reader, writer) = responder.accept()?;
                Ok((Reader::Framing(reader), Writer::Framing(writer)))
            }
        }
    }

    /// Answers another status, and with it the whole stream.
    pub(crate) fn reject(self, code: StatusCode) {
        match self {
            Self::H2(responder) => responder.reject(code),
            Self::Framing(responder) => responder.reject(code),
        }
    }

    /// Completes when the other end gives the request up before it is answered, or is gone.
    pub(crate) async fn given_up(&mut self) -> Broken {
        match self {
            Self::H2(responder) => responder.given_up().await,
            Self::Framing(responder) => responder.given_up().await,
        }
    }

    /// Says that the request was not processed.
    #[cfg(test)]
    pub(crate) fn refuse(self) {
        match self {
            Self::H2(responder) => responder.refuse(),
            Self::Framing(responder) => responder.refuse(),
        }
    }
}

impl ReadHalf for Reader {
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Broken>> {
        match self {
            Self::H2(reader) => reader.poll_read(cx),
            Self::Framing(reader) => reader.poll_read(cx),
        }
    }

    async fn broken(&mut self) -> Broken {
        match self {
            Self::H2(reader) => reader.broken().await,
            Self::Framing(reader) => reader.broken().await,
        }
    }
}

impl WriteHalf for Writer {
    fn poll_write(&mut self, bytes: &mut Bytes, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        match self {
            Self::H2(writer) => writer.poll_write(bytes, cx),
            Self::Framing(writer) => writer.poll_write(bytes, cx),
        }
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        match self {
            Self::H2(writer) => writer.poll_finish(cx),
            Self::Framing(writer) => writer.poll_finish(cx),
        }
    }

    fn reset(&mut self) {
        match self {
            Self::H2(writer) => writer.reset(),
            Self::Framing(writer) => writer.reset(),
        }
    }

    fn deny(&mut self) {
        match self {
            Self::H2(writer) => writer.deny(),
            Self::Framing(writer) => writer.deny(),
        }
    }

    fn close(&mut self) {
        match self {
            Self::H2(writer) => writer.close(),
            Self::Framing(writer) => writer.close(),
        }
    }

    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        match self {
            Self::H2(writer) => writer.poll_broken(cx),
            Self::Framing(writer) => writer.poll_broken(cx),
        }
    }
}
