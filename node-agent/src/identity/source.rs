//! Where certificates come from: a CA service, or the CA's files on this very machine.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use adit_core::certificate::NoCertificate;
use adit_core::identity::SpiffeId;

use crate::pki::{Authority, Csr, PkiError, request};

use super::answer::{BadAnswer, Chain};
use super::client::CaClient;
use super::clock::Clock;
use super::settings::CaSettings;
use super::svid::Svid;

/// Something that makes certificates.
pub trait Source: Send + Sync + 'static {
    /// Makes a key, and has it certified for this identity. Dropping the future gives up.
    fn fetch(
        &self,
        identity: &SpiffeId,
        lifetime: Duration,
    ) -> impl Future<Output = Result<Svid, SourceError>> + Send;
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// No connection, or it broke, or TLS failed.
    #[error("the CA cannot be reached: {detail}")]
    Unreachable {
        /// What went wrong on the way.
        detail: String,
    },
    /// No answer in time.
    #[error("the CA did not answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// The CA does not know the token.
    #[error("the CA does not accept this node's token: {detail}")]
    Unauthenticated {
        /// What the CA said.
        detail: String,
    },
    /// The CA knows this node, and does not give it this identity.
    #[error("the CA refuses this identity: {detail}")]
    PermissionDenied {
        /// What the CA said.
        detail: String,
    },
    /// The CA answered with another error.
    #[error("the CA failed ({code:?}): {detail}")]
    Failed {
        /// The gRPC status.
        code: tonic::Code,
        /// What the CA said.
        detail: String,
    },
    /// The answer cannot be used.
    #[error("the CA's answer cannot be used")]
    BadAnswer(#[from] BadAnswer),
    /// A file of this node is missing or wrong, or no key could be made.
    #[error("this node cannot ask for a certificate")]
    Local(#[from] PkiError),
}

impl SourceError {
    /// The spelling used by metrics, log lines and the command line.
    #[must_use]
    pub const fn as_label(&self) -> &'static str {
        self.reason().as_label()
    }

    /// What it is to the flows that need the certificate.
    #[must_use]
    pub const fn reason(&self) -> NoCertificate {
        match self {
            Self::Unreachable { .. } => NoCertificate::Unreachable,
            Self::TimedOut(_) => NoCertificate::TimedOut,
            Self::Unauthenticated { .. } => NoCertificate::Unauthenticated,
            Self::PermissionDenied { .. } => NoCertificate::PermissionDenied,
            Self::Failed { .. } => NoCertificate::Failed,
            Self::BadAnswer(BadAnswer::NotValidNow) => NoCertificate::NotValidNow,
            Self::BadAnswer(BadAnswer::CaExpired) => NoCertificate::CaExpired,
            Self::BadAnswer(
                BadAnswer::Malformed
                | BadAnswer::OtherIdentity
                | BadAnswer::OtherKey
                | BadAnswer::Untrusted,
            ) => NoCertificate::BadAnswer,
            Self::Local(_) => NoCertificate::Local,
        }
    }
}

/// Signs with the CA's own files.
#[derive(Debug)]
pub struct LocalCa {
    directory: PathBuf,
    clock: Clock,
}

impl LocalCa {
    /// Will sign with the directory that `adit ca init` made. It is read at each request, so that a
    /// replaced CA is used without a restart.
    #[must_use]
    pub const fn new(directory: PathBuf, clock: Clock) -> Self {
        Self { directory, clock }
    }

    fn sign(&self, identity: &SpiffeId, lifetime: Duration) -> Result<Svid, SourceError> {
        let authority = Authority::load(&self.directory)?;
        authority.require_domain(identity.trust_domain())?;
        let (key, csr) = request(identity)?;
        let csr = Csr::parse(&csr).map_err(|error| PkiError::Invalid {
            origin: "the request just made".to_owned(),
            problem: error.as_label(),
        })?;
        let issued = authority.issue(&csr, identity, lifetime, self.clock.now())?;
        let chain = Chain { certificates: issued.chain, bundle: authority.roots().clone() };
        Ok(Svid::check(identity, key, chain, &self.clock)?)
    }
}

impl Source for LocalCa {
    async fn fetch(&self, identity: &SpiffeId, lifetime: Duration) -> Result<Svid, SourceError> {
        std::future::ready(self.sign(identity, lifetime)).await
    }
}

/// The source that the configuration names.
#[derive(Debug)]
pub enum Configured {
    /// A CA service.
    Remote(Box<CaClient>),
    /// This process.
    Local(LocalCa),
}

impl Configured {
    /// Takes the configuration. Nothing is read or connected yet: what is wrong shows in the state
    /// of the certificates, and is tried again.
    #[must_use]
    pub fn new(settings: CaSettings, clock: Clock) -> Self {
        match settings {
            CaSettings::Remote(remote) => Self::Remote(Box::new(CaClient::new(remote, clock))),
            CaSettings::File(directory) => Self::Local(LocalCa::new(directory, clock)),
        }
    }
}

impl Source for Configured {
    async fn fetch(&self, identity: &SpiffeId, lifetime: Duration) -> Result<Svid, SourceError> {
        match self {
            Self::Remote(client) => client.fetch(identity, lifetime).await,
            Self::Local(local) => local.fetch(identity, lifetime).await,
        }
    }
}
