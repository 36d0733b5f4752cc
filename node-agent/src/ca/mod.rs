//! `adit ca`: a certificate authority that agents and Istio's clients can use. It signs an identity
//! only for a node that hosts a pod with it, so that a stolen node can mint its own pods' identities
//! and no others.

mod authn;
pub mod init;
pub mod kubernetes;
mod service;
mod serving;
mod signing;
#[cfg(test)]
mod tests;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use adit_core::identity::TrustDomain;
use adit_core::issuance::Rules;
use adit_core::workload::ObjectName;
use dashmap::DashMap;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::Server;
use tracing::{debug, info, warn};

use crate::discovery::Worlds;
use crate::identity::Clock;
use crate::pki::{Authority, PkiError};
use crate::proto::istio_ca::istio_certificate_service_server::IstioCertificateServiceServer;
use crate::shutdown::{Phase, Shutdown};

use authn::{Callers, Tokens};
use service::Service;
use serving::Serving;
use signing::Signing;

/// A TLS handshake must be over within this time.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes at one time; further connections wait in the kernel's queue.
const HANDSHAKES: usize = 256;
/// The longest message that is read. A request has about a kilobyte.
const MAX_REQUEST: usize = 64 * 1024;
/// Connections are renewed after this time, so that idle ones of strangers do not pile up.
const CONNECTION_AGE: Duration = Duration::from_secs(600);
/// Requests that are open when the end is asked for have this long.
const DRAIN: Duration = Duration::from_secs(5);
/// How often the serving certificate is looked at.
const RENEWAL_LOOK: Duration = Duration::from_secs(60);
/// When the end of the CA's certificate is this near, somebody should know.
const EXPIRES_SOON: Duration = Duration::from_secs(30 * 24 * 3600);

/// What `adit ca serve` needs to know. Which pods run where comes from a [`Worlds`].
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// Where to listen.
    pub listen: SocketAddr,
    /// The trust domain whose identities are signed.
    pub trust_domain: TrustDomain,
    /// The DNS names of this service in its TLS certificate.
    pub names: Vec<String>,
    /// Addresses for it.
    pub addresses: Vec<IpAddr>,
    /// Where the keys are, and how callers are told apart.
    pub backing: Backing,
}

/// Where the CA's keys are, and how callers are told apart.
#[derive(Debug, Clone)]
pub enum Backing {
    /// Files of this machine.
    Files {
        /// The directory that `adit ca init` made.
        directory: PathBuf,
        /// The file of node tokens.
        tokens: PathBuf,
    },
    /// A cluster.
    Kubernetes(kubernetes::Options),
}

/// Why the CA cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// Its files, or the tokens.
    #[error(transparent)]
    Files(#[from] PkiError),
    /// TLS does not take its certificate.
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
    /// The address.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The Secret with the keys, or the ConfigMap with the roots.
    #[error("{0}")]
    Kubernetes(String),
    /// The server broke.
    #[error("the gRPC server failed")]
    Serve(#[from] tonic::transport::Error),
}

/// A CA that listens.
pub struct Bound {
    service: Service,
    listener: TcpListener,
    serving: Arc<Serving>,
    keeper: Option<kubernetes::Keeper>,
    address: SocketAddr,
}

/// Serves until the shutdown begins to drain.
///
/// # Errors
/// [`CaError`].
pub async fn serve(
    options: ServeOptions,
    worlds: Worlds,
    shutdown: Shutdown,
) -> Result<(), CaError> {
    let mut ending = shutdown.clone();
    let bound = tokio::select! {
        bound = Box::pin(Bound::bind(options, worlds)) => bound?,
        () = ending.reached(Phase::Draining) => return Ok(()),
    };
    Box::pin(bound.run(shutdown)).await
}

impl Bound {
    /// Gets the keys, makes a serving certificate and listens. On Kubernetes it waits for all of it and
    /// for the first list of pods: a CA that listens can answer.
    ///
    /// # Errors
    /// [`CaError`].
    pub async fn bind(options: ServeOptions, worlds: Worlds) -> Result<Self, CaError> {
        let clock = Clock::system();
        let (signing, callers, agent, keeper) = match &options.backing {
            Backing::Files { directory, tokens } => {
                let authority = Authority::load(directory)?;
                authority.require_domain(&options.trust_domain)?;
                let callers = Callers::Tokens(Tokens::open(tokens)?);
                (Signing::fixed(authority), callers, ObjectName::new("", ""), None)
            }
            Backing::Kubernetes(settings) => {
                let opened = Box::pin(kubernetes::open(settings, &options.trust_domain, &clock));
                let (reviews, authority, keeper) = opened.await;
                // A source that is gone lists nothing: then nobody is granted anything.
                let _listed = worlds.synced().wait_for(|synced| *synced).await.is_ok();
                let signing = Signing::shared(authority);
                (signing, Callers::Reviews(reviews), settings.agent.clone(), Some(keeper))
            }
        };
        let authority = signing.load();
        let left = authority.not_after().duration_since(clock.now());
        if left.is_ok_and(|left| left < EXPIRES_SOON) {
            warn!("the CA's certificate expires within 30 days; make a new intermediate");
        }
        let mut names = options.names;
        names.extend(options.addresses.iter().map(IpAddr::to_string));
        let serving = Serving::try_new(names, &authority, clock.now())?;
        let failed = |source| CaError::Listen { address: options.listen, source };
        let listener = TcpListener::bind(options.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let service = Service {
            signing: Arc::new(signing),
            callers,
            worlds,
            rules: Rules { trust_domain: options.trust_domain, agent },
            clock,
            buckets: DashMap::new(),
        };
        Ok(Self { service, listener, serving, keeper, address })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the shutdown begins to drain; open requests are then finished.
    ///
    /// # Errors
    /// [`CaError::Serve`].
    pub async fn run(self, shutdown: Shutdown) -> Result<(), CaError> {
        let Self { service, listener, serving, keeper, address } = self;
        let acceptor = TlsAcceptor::from(serving.tls()?);
        info!(%address, trust_domain = %service.rules.trust_domain, "CA is serving");
        let (sender, mut receiver) = mpsc::channel(16);
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, acceptor, sender, shutdown.clone()));
        let signing = Arc::clone(&service.signing);
        tasks.spawn(renew(Arc::clone(&signing), Arc::clone(&serving), service.clock.clone()));
        if let Some(keeper) = keeper {
            tasks.spawn(keeper.run(signing, serving));
        }
        let incoming = futures_util::stream::poll_fn(move |context| receiver.poll_recv(context));
        let grpc =
            IstioCertificateServiceServer::new(service).max_decoding_message_size(MAX_REQUEST);
        let mut draining = shutdown.clone();
        let server = Server::builder()
            .timeout(HANDSHAKE)
            .concurrency_limit_per_connection(32)
            .max_concurrent_streams(64)
            .http2_keepalive_interval(Some(Duration::from_secs(30)))
            .http2_keepalive_timeout(Some(Duration::from_secs(10)))
            .max_connection_age(CONNECTION_AGE)
            .serve_with_incoming_shutdown(grpc, incoming, async move {
                draining.reached(Phase::Draining).await;
            });
        let mut shutdown = shutdown;
        let overdue = async {
            shutdown.reached(Phase::Draining).await;
            let _forced: Result<(), _> = timeout(DRAIN, shutdown.reached(Phase::Forced)).await;
        };
        let ended = tokio::select! {
            ended = server => ended,
            () = overdue => Ok(()),
        };
        tasks.shutdown().await;
        info!("CA has ended");
        Ok(ended?)
    }
}

/// Renews the serving certificate in time.
async fn renew(signing: Arc<Signing>, serving: Arc<Serving>, clock: Clock) {
    loop {
        sleep(RENEWAL_LOOK).await;
        if serving.is_due(clock.now())
            && let Err(error) = serving.renew(&signing.load(), clock.now())
        {
            warn!(%error, "CA keeps the serving certificate that it has");
        }
    }
}

type Accepted = Result<TlsStream<TcpStream>, io::Error>;

/// Accepts connections, each handshake in a task of its own, so that a slow one holds up nobody.
async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    ready: mpsc::Sender<Accepted>,
    mut shutdown: Shutdown,
) {
    let places = Arc::new(Semaphore::new(HANDSHAKES));
    let mut handshakes = JoinSet::new();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            () = shutdown.reached(Phase::Draining) => return,
            accepted = listener.accept() => accepted,
        };
        while handshakes.try_join_next().is_some() {}
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of file descriptors, most likely: waiting is all that helps.
                warn!(%error, "CA cannot accept a connection");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (acceptor, ready) = (acceptor.clone(), ready.clone());
        handshakes.spawn(async move {
            let _place = place;
            match timeout(HANDSHAKE, acceptor.accept(stream)).await {
                // Nobody receives any more only when the server has ended.
                Ok(Ok(stream)) => drop(ready.send(Ok(stream)).await),
                Ok(Err(error)) => debug!(%peer, %error, "TLS handshake with the CA failed"),
                Err(_elapsed) => debug!(%peer, "TLS handshake with the CA timed out"),
            }
        });
    }
}
