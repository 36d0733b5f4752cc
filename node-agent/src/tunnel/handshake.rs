//! TLS handshakes, off the workers: a post-quantum key exchange and two signatures would hold up
//! every flow of the worker that did them.

use std::sync::Arc;
use std::time::Duration;

use adit_core::flow::{CloseReason, TlsFailure};
use adit_core::identity::SpiffeId;
use adit_core::term::Standing;
use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use tokio::net::TcpStream;
use tokio::runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::engine::{Incoming, Served, serve};
use super::term::Tenure;
use super::tls::{Detached, HandshakeError, Session, Shaken};
use super::{Budget, Ends, Settings};
use crate::datapath::EnrolledPod;
use crate::identity::{self, Certificates, Role, Svid};

/// Handshakes of peers that are under way at a time on one worker. A peer that opens connections and
/// says nothing holds one place each until the time limit; dials need none.
const AT_ONCE: usize = 1024;

/// Shakes hands on the control runtime. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Handshakes {
    runtime: runtime::Handle,
    certificates: Certificates,
    places: Arc<Semaphore>,
    settings: Arc<Settings>,
}

/// A tunnel that a peer dialled, after its handshake, on its way to a worker.
pub(crate) struct AcceptedTunnel {
    /// The pod that was dialled.
    pub(crate) pod: Arc<EnrolledPod>,
    /// Who is at its ends.
    pub(crate) ends: Ends,
    pub(super) tenure: Tenure,
    pub(super) stream: Detached,
}

/// A tunnel that this node dialled, after its handshake.
pub(super) struct DialledTunnel {
    pub(super) ends: Ends,
    pub(super) tenure: Tenure,
    pub(super) stream: Detached,
}

impl Handshakes {
    /// Handshakes on `runtime`, each within the time limit of connecting.
    pub(crate) fn new(
        runtime: runtime::Handle,
        certificates: Certificates,
        settings: Settings,
    ) -> Self {
        let (places, settings) = (Arc::new(Semaphore::new(AT_ONCE)), Arc::new(settings));
        Self { runtime, certificates, places, settings }
    }

    /// A place for a peer's handshake, if there is one.
    pub(crate) fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    /// Answers a peer that dialled `pod`. Any identity of the trust domain is accepted; policy
    /// decides later what it may reach.
    pub(crate) async fn accept(
        &self,
        tcp: std::net::TcpStream,
        pod: Arc<EnrolledPod>,
        place: OwnedSemaphorePermit,
    ) -> Result<AcceptedTunnel, CloseReason> {
        let svid = self.certificates.usable(&pod.identity).map_err(CloseReason::NoCertificate)?;
        let session = UnbufferedServerConnection::new(svid.server_config()).map_err(failed)?;
        let shaken = self.shake_hands(tcp, session, svid).await;
        drop(place);
        let (ends, tenure, stream) = shaken?;
        Ok(AcceptedTunnel { pod, ends, tenure, stream })
    }

    /// Opens a tunnel as `pod`. Only `expected` is accepted at the other end.
    pub(super) async fn dial(
        &self,
        tcp: std::net::TcpStream,
        pod: &EnrolledPod,
        expected: &SpiffeId,
    ) -> Result<DialledTunnel, CloseReason> {
        let svid = self.certificates.usable(&pod.identity).map_err(CloseReason::NoCertificate)?;
        let address = tcp.peer_addr().map_err(|_gone| CloseReason::Tls(TlsFailure::Protocol))?;
        // Required by rustls, never sent: no SNI, and an address is none.
        let name = ServerName::IpAddress(address.ip().into());
        let config = svid.client_config(expected).map_err(failed)?;
        let session = UnbufferedClientConnection::new(config, name).map_err(failed)?;
        let (ends, tenure, stream) = self.shake_hands(tcp, session, svid).await?;
        Ok(DialledTunnel { ends, tenure, stream })
    }

    async fn shake_hands<S: Session>(
        &self,
        tcp: std::net::TcpStream,
        session: S,
        own: Arc<Svid>,
    ) -> Result<(Ends, Tenure, Detached), CloseReason> {
        let timed_out = CloseReason::Tls(TlsFailure::TimedOut);
        let limit = self.settings.connect_timeout;
        let of = (self.certificates.clone(), self.settings.expired_grace);
        let task = self.runtime.spawn(tokio::time::timeout(limit, async move {
            let tcp = TcpStream::from_std(tcp).map_err(|error| lost(&error))?;
            let shaken = Shaken::shake(tcp, session).await.map_err(unshaken)?;
            let tenure = tenure(&shaken, (&of.0, of.1), &own)?;
            let ends = ends(&shaken, &own, &tenure)?;
            Ok((ends, tenure, shaken.detach().map_err(unshaken)?))
        }));
        match task.await {
            Ok(Ok(shaken)) => shaken,
            Ok(Err(_elapsed)) => Err(timed_out),
            // The control runtime is shutting down.
            Err(_ended) => Err(CloseReason::Drained),
        }
    }
}

fn unshaken(error: HandshakeError) -> CloseReason {
    match error {
        HandshakeError::Tls(error) => failed(error),
        HandshakeError::Socket(error) => lost(&error),
    }
}

fn lost(error: &std::io::Error) -> CloseReason {
    tracing::debug!(%error, "connection lost during the TLS handshake");
    CloseReason::Tls(TlsFailure::Protocol)
}

#[expect(clippy::needless_pass_by_value, reason = "the shape map_err wants")]
fn failed(error: rustls::Error) -> CloseReason {
    tracing::debug!(%error, "TLS handshake failed");
    CloseReason::Tls(identity::classify(&error))
}

fn tenure<S: Session>(
    stream: &Shaken<S>,
    of: (&Certificates, Duration),
    own: &Svid,
) -> Result<Tenure, CloseReason> {
    let chain = stream.state().peer_certificates().unwrap_or_default();
    let role = if S::FACES_SERVER { Role::Server } else { Role::Client };
    Tenure::begin(of, own, (chain, role)).map_err(CloseReason::Tls)
}

fn ends<S: Session>(stream: &Shaken<S>, own: &Svid, tenure: &Tenure) -> Result<Ends, CloseReason> {
    let (local, peer) = (own.identity().clone(), tenure.peer().clone());
    let tls = identity::tls_info(stream.state());
    let tls = tls.ok_or(CloseReason::Tls(TlsFailure::Protocol))?;
    let peer_address =
        stream.peer_addr().map_err(|_gone| CloseReason::Tls(TlsFailure::Protocol))?;
    let peer_address = (peer_address.ip().to_canonical(), peer_address.port()).into();
    Ok(Ends { local, peer, peer_address, tls })
}

/// Serves a tunnel that was accepted, on this thread's runtime, until it ends; its standing is told
/// to `stands`.
pub(crate) async fn serve_accepted(
    tunnel: AcceptedTunnel,
    settings: (&Settings, &Budget),
    drain: watch::Receiver<bool>,
    (accept, stands): (impl FnMut(Incoming), impl FnMut(Standing)),
) -> Served {
    match tunnel.stream.attach() {
        Ok(stream) => {
            let activity = stream.activity();
            tokio::select! {
                served = serve((stream, activity), settings, drain, accept) => served,
                () = tunnel.tenure.keep(stands) => Served::Closed,
            }
        }
        Err(error) => Served::Broken(error),
    }
}
