//! The client of Istio's certificate service: TLS 1.3 to a name that is configured, a bearer token,
//! and the identity that is asked for in the metadata, as ztunnel asks.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use adit_core::identity::SpiffeId;
use http::Uri;
use hyper_util::rt::TokioIo;
use prost_types::value::Kind;
use prost_types::{Struct, Value};
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::version::TLS13;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tower::Service;

use crate::pki::{Bundle, PkiError, read, read_private, request};
use crate::proto::istio_ca::IstioCertificateRequest;
use crate::proto::istio_ca::istio_certificate_service_client::IstioCertificateServiceClient;

use super::answer::Chain;
use super::clock::Clock;
use super::report;
use super::settings::RemoteCa;
use super::source::{Source, SourceError};
use super::svid::Svid;
use super::tls::{ALPN, provider};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// From the request to the answer, the connection included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// An idle connection is kept for this long; renewals are hours apart.
const IDLE_PING: Duration = Duration::from_secs(20);
const MAX_ANSWER: usize = 1024 * 1024;

/// A CA service. One connection is kept while it works, and made anew when it does not, or when
/// the roots have changed.
#[derive(Debug)]
pub struct CaClient {
    settings: RemoteCa,
    clock: Clock,
    connection: Mutex<Option<(Bundle, Channel)>>,
}

impl CaClient {
    /// A client that has not connected yet.
    #[must_use]
    pub const fn new(settings: RemoteCa, clock: Clock) -> Self {
        Self { settings, clock, connection: Mutex::new(None) }
    }

    async fn ask(&self, identity: &SpiffeId, lifetime: Duration) -> Result<Svid, SourceError> {
        let roots = self.roots()?;
        let token = self.token()?;
        let (key, csr) = request(identity)?;
        let mut message = Request::new(IstioCertificateRequest {
            csr,
            validity_duration: i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX),
            metadata: Some(impersonate(identity)),
        });
        message.metadata_mut().insert("authorization", token);
        let channel = self.channel(&roots)?;
        let answer = IstioCertificateServiceClient::with_origin(channel, self.origin()?)
            .max_decoding_message_size(MAX_ANSWER)
            .create_certificate(message)
            .await
            .map_err(|status| refused(&status))?
            .into_inner();
        let chain = Chain::parse(&answer.cert_chain, &roots)?;
        Ok(Svid::check(identity, key, chain, &self.clock)?)
    }

    // The files are small and local, and read once in hours: not worth a thread.
    fn roots(&self) -> Result<Bundle, PkiError> {
        let path = &self.settings.root;
        Bundle::from_pem(&read(path)?, &path.display().to_string())
    }

    fn token(&self) -> Result<MetadataValue<Ascii>, PkiError> {
        let path = &self.settings.token;
        let bytes = read_private(path)?;
        let token = bytes.trim_ascii();
        let header = [b"Bearer ", token].concat();
        let value = MetadataValue::try_from(header.as_slice()).ok();
        let Some(mut value) = value.filter(|_| !token.is_empty()) else {
            return Err(PkiError::Invalid {
                origin: path.display().to_string(),
                problem: "holds no token: one line of printable characters is wanted",
            });
        };
        value.set_sensitive(true);
        Ok(value)
    }

    fn channel(&self, roots: &Bundle) -> Result<Channel, SourceError> {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((with, channel)) = &*connection
            && with.certificates() == roots.certificates()
        {
            return Ok(channel.clone());
        }
        let channel = connect(&self.settings, roots)?;
        *connection = Some((roots.clone(), channel.clone()));
        Ok(channel)
    }

    fn origin(&self) -> Result<Uri, SourceError> {
        let mut parts = self.settings.address.clone().into_parts();
        parts.path_and_query = Some(http::uri::PathAndQuery::from_static("/"));
        Uri::from_parts(parts).map_err(|error| unreachable(&error))
    }

    fn forget_connection(&self) {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        *connection = None;
    }
}

impl Source for CaClient {
    async fn fetch(&self, identity: &SpiffeId, lifetime: Duration) -> Result<Svid, SourceError> {
        let answer = tokio::time::timeout(REQUEST_TIMEOUT, self.ask(identity, lifetime));
        let result = answer.await.unwrap_or(Err(SourceError::TimedOut(REQUEST_TIMEOUT)));
        if let Err(SourceError::Unreachable { .. } | SourceError::TimedOut(_)) = result {
            self.forget_connection();
        }
        result
    }
}

/// Istio's name for "a certificate for somebody else, who runs on my node".
fn impersonate(identity: &SpiffeId) -> Struct {
    let value = Value { kind: Some(Kind::StringValue(identity.to_string())) };
    Struct { fields: [("ImpersonatedIdentity".to_owned(), value)].into() }
}

fn refused(status: &Status) -> SourceError {
    let detail = status.message().to_owned();
    match status.code() {
        // tonic says Unknown where the connection broke in the middle of an answer.
        Code::Unavailable | Code::Unknown if timed_out(status) => {
            SourceError::TimedOut(CONNECT_TIMEOUT)
        }
        Code::Unavailable | Code::Unknown => unreachable(status),
        Code::DeadlineExceeded | Code::Cancelled => SourceError::TimedOut(REQUEST_TIMEOUT),
        Code::Unauthenticated => SourceError::Unauthenticated { detail },
        Code::PermissionDenied => SourceError::PermissionDenied { detail },
        code @ (Code::Ok
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Internal
        | Code::DataLoss) => SourceError::Failed { code, detail },
    }
}

/// Whether a time limit is behind it: the transport says so in an I/O error only.
fn timed_out(error: &(dyn std::error::Error + 'static)) -> bool {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let mut io = causes.filter_map(|cause| cause.downcast_ref::<std::io::Error>());
    io.any(|error| error.kind() == std::io::ErrorKind::TimedOut)
}

fn unreachable(error: &dyn std::error::Error) -> SourceError {
    // What tonic itself says around the cause is only that there was an error.
    let detail = error.source().map_or_else(|| report(error), report);
    SourceError::Unreachable { detail }
}

/// A channel that connects when it is used, and again after a failure.
fn connect(settings: &RemoteCa, roots: &Bundle) -> Result<Channel, SourceError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| unreachable(&error))?
        .with_root_certificates(roots.store())
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    let (Some(host), Some(port)) = (settings.address.host(), settings.address.port_u16()) else {
        return Err(SourceError::Unreachable {
            detail: "its address has no host or no port".to_owned(),
        });
    };
    let connector = Connector {
        target: format!("{host}:{port}"),
        name: settings.server_name.clone(),
        tls: TlsConnector::from(Arc::new(config)),
    };
    // tonic would add its own TLS to an address with `https`; the connector below has ours.
    let endpoint = Endpoint::from_shared(format!("http://{host}:{port}"))
        .map_err(|error| unreachable(&error))?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(IDLE_PING)
        .keep_alive_timeout(CONNECT_TIMEOUT)
        .keep_alive_while_idle(true);
    Ok(endpoint.connect_with_connector_lazy(connector))
}

/// Opens TCP and TLS to one place, whatever the URI says.
#[derive(Clone)]
struct Connector {
    target: String,
    name: ServerName<'static>,
    tls: TlsConnector,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, std::io::Error>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), std::io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        let Self { target, name, tls } = self.clone();
        Box::pin(async move {
            let stream = TcpStream::connect(target).await?;
            stream.set_nodelay(true)?;
            Ok(TokioIo::new(tls.connect(name, stream).await?))
        })
    }
}
