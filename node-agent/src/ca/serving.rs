//! The CA's own certificate for TLS: made by itself, and renewed by itself.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;

use crate::ca::CaError;
use crate::identity::{ALPN, provider};
use crate::pki::Authority;

/// How long a serving certificate is valid. It is renewed at half of that.
const LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// The certificate that is shown to clients now.
pub(super) struct Serving {
    names: Vec<String>,
    current: ArcSwapOption<Current>,
}

struct Current {
    key: Arc<CertifiedKey>,
    renewal: SystemTime,
}

impl Serving {
    /// With a certificate for these DNS names and addresses.
    pub(super) fn try_new(
        names: Vec<String>,
        authority: &Authority,
        now: SystemTime,
    ) -> Result<Arc<Self>, CaError> {
        let serving = Arc::new(Self { names, current: ArcSwapOption::empty() });
        serving.renew(authority, now)?;
        Ok(serving)
    }

    pub(super) fn is_due(&self, now: SystemTime) -> bool {
        self.current.load().as_ref().is_none_or(|current| current.renewal <= now)
    }

    /// Connections that stand keep the certificate that they were opened with.
    pub(super) fn renew(&self, authority: &Authority, now: SystemTime) -> Result<(), CaError> {
        let (key, issued) = authority.issue_server(&self.names, LIFETIME, now)?;
        let renewal = now + issued.not_after.duration_since(now).unwrap_or_default() / 2;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let key = CertifiedKey::from_der(issued.chain, key, &provider())?;
        self.current.store(Some(Arc::new(Current { key: Arc::new(key), renewal })));
        Ok(())
    }

    /// TLS 1.3 with that certificate. It is signed by the intermediate, so that the root's key can be
    /// kept elsewhere.
    pub(super) fn tls(self: &Arc<Self>) -> Result<Arc<ServerConfig>, CaError> {
        let resolver: Arc<dyn ResolvesServerCert> = Arc::<Self>::clone(self);
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])?
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current.load().as_ref()?.key))
    }
}

impl std::fmt::Debug for Serving {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Serving").field("names", &self.names).finish_non_exhaustive()
    }
}
