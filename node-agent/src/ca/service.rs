//! `CreateCertificate`: who calls, what is asked, may they, sign.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use adit_core::identity::{SpiffeId, TrustDomain};
use adit_core::issuance;
use adit_core::issuance::{Caller, Denied, Grant, Rules};
use adit_core::workload::NodeName;
use dashmap::DashMap;
use prost_types::Struct;
use prost_types::value::Kind;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, timeout_at};
use tonic::{Code, Request, Response, Status};
use tracing::{error, info, warn};

use crate::discovery::Worlds;
use crate::identity::Clock;
use crate::pki::{Authority, Csr, CsrError, Issued, MAX_LIFETIME, PkiError, to_pem};
use crate::proto::istio_ca::istio_certificate_service_server::IstioCertificateService;
use crate::proto::istio_ca::{IstioCertificateRequest, IstioCertificateResponse};

use super::authn::{Callers, NoCaller};
use super::signing::{Signing, Unread};

/// Requests that a node may make at once; a node with this many identities starts unhindered.
const BURST: u32 = 200;
/// Requests a second that a node may make for long.
const RATE: u32 = 20;

/// How long the CA's watch may lag behind a caller's.
const CATCH_UP: Duration = Duration::from_secs(1);

/// The service.
pub(super) struct Service {
    pub(super) signing: Arc<Signing>,
    pub(super) callers: Callers,
    pub(super) worlds: Worlds,
    pub(super) rules: Rules,
    pub(super) clock: Clock,
    pub(super) buckets: DashMap<NodeName, Bucket>,
}

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("{0}")]
    Caller(#[from] NoCaller),
    #[error("{0}")]
    Denied(#[from] Denied),
    #[error("this node asks too often")]
    TooOften,
    #[error("signing request: {0}")]
    Csr(#[from] CsrError),
    #[error(
        "give the identity as ImpersonatedIdentity, or as the one URI name of the signing request: spiffe://{0}/ns/NAMESPACE/sa/ACCOUNT"
    )]
    Identity(TrustDomain),
    #[error("a negative validity cannot be")]
    Validity,
    #[error(transparent)]
    Unread(#[from] Unread),
    #[error("the CA cannot sign")]
    Sign(#[from] PkiError),
}

impl Refused {
    const fn as_label(&self) -> &'static str {
        match self {
            Self::Caller(why) => why.as_label(),
            Self::TooOften => "too_often",
            Self::Csr(why) => why.as_label(),
            Self::Identity(_) => "no_identity",
            Self::Denied(why) => why.as_label(),
            Self::Validity => "validity",
            Self::Unread(_) => "keys_not_read",
            Self::Sign(_) => "cannot_sign",
        }
    }

    const fn code(&self) -> Code {
        match self {
            Self::Caller(NoCaller::Unreviewed(_)) | Self::Unread(_) => Code::Unavailable,
            Self::Caller(_) => Code::Unauthenticated,
            Self::Denied(why) if why.is_of_caller() => Code::Unauthenticated,
            Self::Denied(_) => Code::PermissionDenied,
            Self::TooOften => Code::ResourceExhausted,
            Self::Csr(_) | Self::Identity(_) | Self::Validity => Code::InvalidArgument,
            Self::Sign(_) => Code::Internal,
        }
    }
}

#[tonic::async_trait]
impl IstioCertificateService for Service {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let mut known =
            Known { peer: request.remote_addr().map(|peer| peer.to_string()), ..Known::default() };
        match self.answer(&request, &mut known).await {
            Ok((grant, issued, authority)) => {
                let Known { peer, identity, .. } = &known;
                info!(
                    identity = identity.as_ref().map(tracing::field::display),
                    node = %grant.node,
                    pod = %grant.pod,
                    serial = issued.serial,
                    expires = rfc3339(issued.not_after),
                    peer,
                    "certificate issued"
                );
                let roots = authority.roots().certificates();
                let chain = issued.chain.iter().map(to_pem);
                let root = roots.iter().map(to_pem).collect::<String>();
                Ok(Response::new(IstioCertificateResponse {
                    cert_chain: chain.chain([root]).collect(),
                }))
            }
            Err(refused) => {
                let reason = refused.as_label();
                let Known { peer, node, identity } = &known;
                let identity = identity.as_ref().map(tracing::field::display);
                let node = node.as_ref().map(tracing::field::display);
                if let Refused::Sign(cause) = &refused {
                    error!(identity, node, peer, reason, %cause, "certificate cannot be issued");
                } else {
                    warn!(identity, node, peer, reason, detail = %refused, "certificate refused");
                }
                Err(Status::new(refused.code(), refused.to_string()))
            }
        }
    }
}

/// What is known of a request so far, for its log line. Never a token.
#[derive(Debug, Default)]
struct Known {
    peer: Option<String>,
    node: Option<NodeName>,
    identity: Option<SpiffeId>,
}

impl Service {
    async fn answer(
        &self,
        request: &Request<IstioCertificateRequest>,
        known: &mut Known,
    ) -> Result<(Grant, Issued, Arc<Authority>), Refused> {
        let header = request.metadata().get("authorization");
        let header = header.map(|value| value.as_bytes());
        let caller = self.callers.authenticate(header, self.clock.now()).await?;
        known.node = claimed_node(&caller);
        let ask = || issuance::caller(&self.worlds.load(), &self.rules, &caller);
        let node = self.wait_for(ask).await?;
        self.pass(&node)?;

        let message = request.get_ref();
        let csr = Csr::parse(&message.csr)?;
        let identity = impersonated(message.metadata.as_ref())
            .or_else(|| csr.only_uri())
            .and_then(|text| SpiffeId::parse(text).ok())
            .ok_or_else(|| Refused::Identity(self.rules.trust_domain.clone()))?;
        known.identity = Some(identity.clone());
        csr.admits(&identity)?;
        let ask = || issuance::decide(&self.worlds.load(), &self.rules, &caller, &identity);
        let grant = self.wait_for(ask).await?;
        let lifetime = match message.validity_duration {
            0 => MAX_LIFETIME,
            seconds => u64::try_from(seconds)
                .map(Duration::from_secs)
                .map_err(|_negative| Refused::Validity)?,
        };
        let authority = self.signing.current()?;
        let issued = authority.issue(&csr, &identity, lifetime, self.clock.now())?;
        Ok((grant, issued, authority))
    }

    /// Asks again, for a short time, as the world changes: an agent may hear of a new pod a moment
    /// before the CA does.
    async fn wait_for<T>(&self, ask: impl Fn() -> Result<T, Denied>) -> Result<T, Denied> {
        let mut changes = self.worlds.subscribe();
        let until = Instant::now() + CATCH_UP;
        loop {
            let denied = match ask() {
                Err(denied) if denied.may_pass() => denied,
                answer => return answer,
            };
            match timeout_at(until, changes.recv()).await {
                Ok(Ok(_) | Err(RecvError::Lagged(_))) => {}
                Ok(Err(RecvError::Closed)) | Err(_) => return Err(denied),
            }
        }
    }

    fn pass(&self, node: &NodeName) -> Result<(), Refused> {
        let now = Instant::now();
        let mut bucket = self.buckets.entry(node.clone()).or_insert_with(|| Bucket::new(now));
        if bucket.take(now) { Ok(()) } else { Err(Refused::TooOften) }
    }
}

/// As the token says, checked or not.
fn claimed_node(caller: &Caller) -> Option<NodeName> {
    match caller {
        Caller::Node(node) => Some(node.clone()),
        Caller::Pod(claims) => claims.node.clone(),
    }
}

fn rfc3339(time: SystemTime) -> String {
    // Only years beyond 9999 cannot be written.
    OffsetDateTime::from(time).format(&Rfc3339).unwrap_or_default()
}

fn impersonated(metadata: Option<&Struct>) -> Option<&str> {
    match &metadata?.fields.get("ImpersonatedIdentity")?.kind {
        Some(Kind::StringValue(identity)) => Some(identity),
        _ => None,
    }
}

/// A token bucket.
#[derive(Debug)]
pub(super) struct Bucket {
    left: u32,
    since: Instant,
}

impl Bucket {
    const fn new(now: Instant) -> Self {
        Self { left: BURST, since: now }
    }

    fn take(&mut self, now: Instant) -> bool {
        let ticks = now.duration_since(self.since).as_millis() * u128::from(RATE) / 1000;
        if ticks > 0 {
            let ticks = u32::try_from(ticks).unwrap_or(BURST);
            self.left = self.left.saturating_add(ticks).min(BURST);
            self.since = now;
        }
        let some = self.left > 0;
        self.left = self.left.saturating_sub(1);
        some
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_node_may_burst_and_then_goes_at_the_rate() {
        let mut bucket = Bucket::new(Instant::now());
        let mut taken = 0;
        while bucket.take(Instant::now()) {
            taken += 1;
        }
        assert_eq!(taken, BURST);
        tokio::time::advance(Duration::from_secs(1)).await;
        let taken = (0..100).filter(|_| bucket.take(Instant::now())).count();
        assert_eq!(taken, usize::try_from(RATE).unwrap());
        tokio::time::advance(Duration::from_secs(1000)).await;
        let taken = (0..1000).filter(|_| bucket.take(Instant::now())).count();
        assert_eq!(taken, usize::try_from(BURST).unwrap());
    }
}
