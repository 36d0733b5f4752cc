//! `CreateCertificate`: who calls, what is asked, may they, sign.

use std::fmt;
use std::time::Duration;

use adit_core::identity::{SpiffeId, TrustDomain};
use adit_core::workload::{NodeName, Phase};
use dashmap::DashMap;
use prost_types::Struct;
use prost_types::value::Kind;
use tokio::time::Instant;
use tonic::{Code, Request, Response, Status};
use tracing::{error, info, warn};

use crate::discovery::Worlds;
use crate::identity::Clock;
use crate::pki::{Authority, Csr, CsrError, Issued, MAX_LIFETIME, PkiError, to_pem};
use crate::proto::istio_ca::istio_certificate_service_server::IstioCertificateService;
use crate::proto::istio_ca::{IstioCertificateRequest, IstioCertificateResponse};

use super::authn::{NoNode, Tokens};

/// Requests that a node may make at once; a node with this many identities starts unhindered.
const BURST: u32 = 200;
/// Requests a second that a node may make for long.
const RATE: u32 = 20;

/// The service.
pub(super) struct Service {
    pub(super) authority: Authority,
    pub(super) tokens: Tokens,
    pub(super) worlds: Worlds,
    pub(super) trust_domain: TrustDomain,
    pub(super) clock: Clock,
    pub(super) buckets: DashMap<NodeName, Bucket>,
}

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("{0}")]
    Caller(#[from] NoNode),
    #[error("this node asks too often")]
    TooOften,
    #[error("signing request: {0}")]
    Csr(#[from] CsrError),
    #[error(
        "give the identity as ImpersonatedIdentity, or as the one URI name of the signing request: spiffe://{0}/ns/NAMESPACE/sa/ACCOUNT"
    )]
    Identity(TrustDomain),
    #[error("this CA signs identities of the trust domain {0} only")]
    OtherTrustDomain(TrustDomain),
    #[error("no pod with this identity runs on node {0}")]
    NotHosted(NodeName),
    #[error("a negative validity cannot be")]
    Validity,
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
            Self::OtherTrustDomain(_) => "other_trust_domain",
            Self::NotHosted(_) => "not_hosted",
            Self::Validity => "validity",
            Self::Sign(_) => "cannot_sign",
        }
    }

    const fn code(&self) -> Code {
        match self {
            Self::Caller(_) => Code::Unauthenticated,
            Self::TooOften => Code::ResourceExhausted,
            Self::Csr(_) | Self::Identity(_) | Self::Validity => Code::InvalidArgument,
            Self::OtherTrustDomain(_) | Self::NotHosted(_) => Code::PermissionDenied,
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
        match self.answer(&request, &mut known) {
            Ok(issued) => {
                let lifetime = issued.not_after.duration_since(self.clock.now());
                let lifetime = lifetime.unwrap_or(Duration::ZERO).as_secs();
                info!(%known, serial = issued.serial, lifetime_s = lifetime, "certificate issued");
                let roots = self.authority.roots().certificates();
                let chain = issued.chain.iter().map(to_pem);
                let root = roots.iter().map(to_pem).collect::<String>();
                Ok(Response::new(IstioCertificateResponse {
                    cert_chain: chain.chain([root]).collect(),
                }))
            }
            Err(refused) => {
                let reason = refused.as_label();
                if let Refused::Sign(cause) = &refused {
                    error!(%known, reason, %cause, "certificate cannot be issued");
                } else {
                    warn!(%known, reason, "certificate refused");
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

impl fmt::Display for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { peer, node, identity } = self;
        write!(f, "peer={}", peer.as_deref().unwrap_or("-"))?;
        if let Some(node) = node {
            write!(f, " node={node}")?;
        }
        if let Some(identity) = identity {
            write!(f, " identity={identity}")?;
        }
        Ok(())
    }
}

impl Service {
    fn answer(
        &self,
        request: &Request<IstioCertificateRequest>,
        known: &mut Known,
    ) -> Result<Issued, Refused> {
        let header = request.metadata().get("authorization");
        let node = self.tokens.authenticate(header.map(|value| value.as_bytes()))?;
        known.node = Some(node.clone());
        self.pass(&node)?;

        let message = request.get_ref();
        let csr = Csr::parse(&message.csr)?;
        let identity = impersonated(message.metadata.as_ref())
            .or_else(|| csr.only_uri())
            .and_then(|text| SpiffeId::parse(text).ok())
            .ok_or_else(|| Refused::Identity(self.trust_domain.clone()))?;
        known.identity = Some(identity.clone());
        csr.admits(&identity)?;
        if *identity.trust_domain() != self.trust_domain {
            return Err(Refused::OtherTrustDomain(self.trust_domain.clone()));
        }
        if !self.hosts(&node, &identity) {
            return Err(Refused::NotHosted(node));
        }
        let lifetime = match message.validity_duration {
            0 => MAX_LIFETIME,
            seconds => u64::try_from(seconds)
                .map(Duration::from_secs)
                .map_err(|_negative| Refused::Validity)?,
        };
        Ok(self.authority.issue(&csr, &identity, lifetime, self.clock.now())?)
    }

    /// Whether a pod that has not finished runs on this node with this identity.
    fn hosts(&self, node: &NodeName, identity: &SpiffeId) -> bool {
        self.worlds
            .load()
            .workloads_on(node)
            .any(|pod| pod.phase == Phase::Active && pod.identity == *identity)
    }

    fn pass(&self, node: &NodeName) -> Result<(), Refused> {
        let now = Instant::now();
        let mut bucket = self.buckets.entry(node.clone()).or_insert_with(|| Bucket::new(now));
        if bucket.take(now) { Ok(()) } else { Err(Refused::TooOften) }
    }
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
