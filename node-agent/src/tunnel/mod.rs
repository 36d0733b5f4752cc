//! HBONE tunnels: streams in them (`ReadHalf`, `WriteHalf`), the ones this node dials
//! (`Tunnels`) and the ones it accepts (`serve_accepted`).
//!
//! The proxy sees the traits and these entrances only. How bytes become HTTP/2 is the business of
//! an engine: `h2` on the crate of that name, `framing` of adit's own. `engine` makes one of them.

mod activity;
mod budget;
mod buffer;
mod engine;
mod framing;
mod h2;
mod handshake;
mod pool;
mod term;
mod tls;

use std::future::Future;
#[cfg(any(test, feature = "testing"))]
use std::future::poll_fn;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use adit_core::flow::TlsInfo;
use adit_core::identity::SpiffeId;
use bytes::Bytes;

pub(crate) use activity::Activity;
pub(crate) use budget::Budget;
pub use engine::Engine;
#[cfg(any(test, feature = "testing"))]
pub(crate) use engine::{Answer, Client, connect, serve};
pub(crate) use engine::{Incoming, Reader, Served, Writer};
pub(crate) use handshake::{AcceptedTunnel, Handshakes, serve_accepted};
pub(crate) use pool::{OpenError, Place, Tunnels};
#[cfg(any(test, feature = "testing"))]
pub(crate) use tls::walk as walk_records;

/// What can be set about tunnels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How this end's bytes become HTTP/2.
    pub engine: Engine,
    /// A tunnel without streams closes after this time.
    pub idle_timeout: Duration,
    /// A tunnel that was silent for this long is probed.
    pub ping_interval: Duration,
    /// A tunnel that does not answer a probe for this long is lost.
    pub ping_timeout: Duration,
    /// How long a flow waits for its connection: TCP, TLS and the other agent's answer.
    pub connect_timeout: Duration,
    /// Streams in one tunnel at a time.
    pub max_streams: u32,
    /// How long flows may go on in a tunnel whose certificates have expired.
    pub expired_grace: Duration,
    /// What applications that are slow to read may make this process hold, in bytes.
    pub unread_limit: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            engine: Engine::default(),
            idle_timeout: Duration::from_secs(300),
            ping_interval: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(10),
            max_streams: 100,
            expired_grace: Duration::from_secs(24 * 3600),
            unread_limit: 256 << 20,
        }
    }
}

/// What is known of a tunnel once its handshake is done.
#[derive(Debug, Clone)]
pub(crate) struct Ends {
    /// The identity of this node's pod.
    pub(crate) local: SpiffeId,
    /// The identity that the other end proved.
    pub(crate) peer: SpiffeId,
    /// The other end's address.
    pub(crate) peer_address: SocketAddr,
    /// What TLS agreed on.
    pub(crate) tls: TlsInfo,
}

/// Why a half of a flow cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Broken {
    /// The application at that end reset it.
    Reset,
    /// The agent at that end says that policy no longer permits it.
    Denied,
    /// What carried it broke: the tunnel, or this node's own socket.
    Lost,
    /// The host at that end no longer answers TCP.
    Silent,
    /// What waits for the other side, which does not take it, is needed by others.
    Evicted,
}

/// The half of a flow's end that bytes come from.
///
/// What a flow waits for as long as it is idle is polled, so that its task holds no futures for it.
pub(crate) trait ReadHalf {
    /// The next bytes; `None` when the other side has finished. What was returned before counts as
    /// dealt with, so that the sender may send more.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Broken>>;

    /// Completes when the sender breaks off, also while nothing is read because the other side is
    /// slow, or when what waits to be read must go. To be awaited only while the other side is slow.
    fn broken(&mut self) -> impl Future<Output = Broken>;

    /// Waits for the next bytes.
    #[cfg(any(test, feature = "testing"))]
    fn read(&mut self) -> impl Future<Output = Result<Option<Bytes>, Broken>> {
        poll_fn(|cx| self.poll_read(cx))
    }
}

/// The half of a flow's end that bytes go to.
pub(crate) trait WriteHalf {
    /// Writes what the receiver takes, and leaves the rest in `bytes`; completes when nothing is left.
    fn poll_write(&mut self, bytes: &mut Bytes, cx: &mut Context<'_>) -> Poll<Result<(), Broken>>;

    /// Says that nothing more will come.
    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>>;

    /// Breaks off, so that the application at that end sees a reset.
    fn reset(&mut self);

    /// The same, because policy no longer permits the flow: an agent at that end is told so.
    fn deny(&mut self) {
        self.reset();
    }

    /// Both directions have finished: what is on its way is delivered.
    fn close(&mut self) {}

    /// Completes when the receiver breaks off, also while nothing is written.
    fn poll_broken(&mut self, cx: &mut Context<'_>) -> Poll<Broken>;

    /// Writes all of it.
    #[cfg(any(test, feature = "testing"))]
    fn write(&mut self, mut bytes: Bytes) -> impl Future<Output = Result<(), Broken>> {
        poll_fn(move |cx| self.poll_write(&mut bytes, cx))
    }

    /// Says that nothing more will come.
    #[cfg(any(test, feature = "testing"))]
    fn finish(&mut self) -> impl Future<Output = Result<(), Broken>> {
        poll_fn(|cx| self.poll_finish(cx))
    }

    /// Waits until the receiver breaks off.
    #[cfg(test)]
    fn broken(&mut self) -> impl Future<Output = Broken> {
        poll_fn(|cx| self.poll_broken(cx))
    }
}

/// What a CONNECT request says (see [`adit_core::hbone`]).
#[derive(Debug, Clone)]
pub(crate) struct ConnectHead {
    pub(crate) authority: String,
    pub(crate) baggage: Option<String>,
    pub(crate) forwarded: Option<String>,
    pub(crate) traceparent: Option<String>,
}

#[cfg(test)]
mod tests;
