//! For tests: a root that signs whatever it is told to, so that peers can be wrong in one way each.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use adit_core::identity::{SpiffeId, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig};

use crate::pki::Bundle;

use super::answer::{BadAnswer, Chain};
use super::clock::Clock;
use super::svid::Svid;
use super::tls;

pub(crate) const HOUR: Duration = Duration::from_secs(3600);

/// A root.
pub(crate) struct Mint {
    root: CertifiedIssuer<'static, KeyPair>,
}

impl Mint {
    pub(crate) fn new() -> Self {
        Self::with(CertificateParams::default())
    }

    /// A root that is valid until then.
    pub(crate) fn expiring(at: SystemTime) -> Self {
        let mut params = CertificateParams::default();
        params.not_after = at.into();
        Self::with(params)
    }

    fn with(mut params: CertificateParams) -> Self {
        let mut name = DistinguishedName::new();
        name.push(DnType::CommonName, format!("root {}", rand::random::<u64>()));
        params.distinguished_name = name;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let root = CertifiedIssuer::self_signed(params, key).unwrap();
        Self { root }
    }

    pub(crate) fn bundle(&self) -> Bundle {
        Bundle::try_new([self.root.der().clone()], "mint").unwrap()
    }

    /// A certificate as it should be, but for what `change` does to it.
    pub(crate) fn leaf(
        &self,
        identity: &SpiffeId,
        change: impl FnOnce(&mut CertificateParams),
    ) -> (CertificateDer<'static>, KeyPair) {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![uri(identity)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.not_before = (now() - HOUR).into();
        params.not_after = (now() + HOUR).into();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.root).unwrap();
        (certificate.der().clone(), key)
    }

    /// A certificate that passed the checks of an answer.
    pub(crate) fn svid(
        &self,
        identity: &SpiffeId,
        lifetime: Duration,
        clock: &Clock,
    ) -> Result<Svid, BadAnswer> {
        let from = clock.now();
        let (leaf, key) = self.leaf(identity, |params| {
            params.not_before = (from - Duration::from_secs(2)).into();
            params.not_after = (from + lifetime).into();
        });
        let chain = Chain { certificates: vec![leaf], bundle: self.bundle() };
        Svid::check(identity, key, chain, clock)
    }

    /// A peer that trusts this mint, with whatever certificate.
    pub(crate) fn peer(
        &self,
        identity: &SpiffeId,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Peer {
        let (certificate, key) = self.leaf(identity, change);
        let secret = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let own = CertifiedKey::from_der(vec![certificate], secret, &tls::provider()).unwrap();
        Peer {
            own: Arc::new(own),
            bundle: self.bundle(),
            trust_domain: identity.trust_domain().clone(),
        }
    }
}

/// One end of a handshake whose certificate nobody checked before.
pub(crate) struct Peer {
    own: Arc<CertifiedKey>,
    bundle: Bundle,
    trust_domain: TrustDomain,
}

impl Peer {
    pub(crate) fn trusting(mut self, mint: &Mint) -> Self {
        self.bundle = mint.bundle();
        self
    }

    /// Its certificate and key, for a configuration of another kind.
    pub(crate) fn own(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.own)
    }

    pub(crate) fn server(&self) -> ServerConfig {
        let domain = self.trust_domain.clone();
        tls::server_config(&self.own, &self.bundle, domain, &clock()).unwrap()
    }

    pub(crate) fn client(&self, expected: &SpiffeId) -> ClientConfig {
        let domain = expected.trust_domain().clone();
        tls::client_config(&self.own, &self.bundle, expected, (domain, &clock())).unwrap()
    }
}

pub(crate) fn id(name: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://cluster.local/ns/test/sa/{name}")).unwrap()
}

pub(crate) fn uri(identity: &SpiffeId) -> SanType {
    SanType::URI(identity.to_string().try_into().unwrap())
}

pub(crate) fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

/// A clock that stands still.
pub(crate) fn clock() -> Clock {
    Clock::new(now)
}
