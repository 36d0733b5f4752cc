//! A CA's answer, believed in nothing: it must fit the key, the identity and the time, and convince
//! a peer that trusts the bundle.

use std::sync::Arc;
use std::time::SystemTime;

use adit_core::flow::TlsFailure;
use adit_core::identity::SpiffeId;
use adit_core::rotation::Validity;
use rcgen::KeyPair;
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::aws_lc_rs::sign::any_ecdsa_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::ParsedCertificate;
use rustls::server::danger::ClientCertVerifier as _;
use rustls::sign::CertifiedKey;
use rustls::time_provider::TimeProvider as _;
use zeroize::Zeroize as _;

use crate::pki::{Bundle, Facts, PkiError, read_certificates};

use super::clock::Clock;
use super::svid::Svid;
use super::tls::{provider, server_config};
use super::verify::{ClientCheck, classify, peer_identity};

/// Why a CA's answer is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadAnswer {
    /// It holds no certificates that can be read.
    #[error("it is not a chain of certificates in PEM form")]
    Malformed,
    /// The certificate has not exactly the name that was asked for.
    #[error("the certificate is not for the identity that was asked for")]
    OtherIdentity,
    /// The certificate is of another key.
    #[error("the certificate is for another key")]
    OtherKey,
    /// The certificate cannot be used at this time by this node's clock.
    #[error(
        "the certificate is not valid at this time; compare the clocks of this node and the CA"
    )]
    NotValidNow,
    /// A certificate above it has expired by this node's clock.
    #[error("a certificate of the CA, the root or an intermediate, has expired")]
    CaExpired,
    /// The chain ends in none of the roots, or may not be used for both ends of TLS.
    #[error("the certificate does not chain to a root for TLS client and server use")]
    Untrusted,
}

impl BadAnswer {
    /// The spelling used by metrics, log lines and the command line.
    #[must_use]
    pub const fn as_label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::OtherIdentity => "other_identity",
            Self::OtherKey => "other_key",
            Self::NotValidNow => "not_valid_now",
            Self::CaExpired => "ca_expired",
            Self::Untrusted => "untrusted",
        }
    }
}

/// A chain as a CA answers with it: the certificate, the intermediates, the roots.
pub(super) struct Chain {
    /// Without roots.
    pub(super) certificates: Vec<CertificateDer<'static>>,
    /// The configured roots, and those at the end of the answer.
    pub(super) bundle: Bundle,
}

impl Chain {
    /// Takes an answer apart. Roots are what issued itself, in the last element only: an answer
    /// that ends in an intermediate brings no root.
    pub(super) fn parse(answer: &[String], configured: &Bundle) -> Result<Self, BadAnswer> {
        let malformed = |_broken: PkiError| BadAnswer::Malformed;
        let mut certificates = Vec::new();
        let mut roots = configured.certificates().to_vec();
        for (at, element) in answer.iter().enumerate() {
            let last = at + 1 == answer.len();
            for certificate in read_certificates(element.as_bytes(), "").map_err(malformed)? {
                let facts = Facts::read(&certificate).map_err(|_bad| BadAnswer::Malformed)?;
                if last && facts.is_ca && facts.self_issued {
                    roots.push(certificate);
                } else {
                    certificates.push(certificate);
                }
            }
        }
        let bundle = Bundle::try_new(roots, "").map_err(malformed)?;
        Ok(Self { certificates, bundle })
    }
}

impl Svid {
    /// Puts an answer and the key that was made for it together, if they fit.
    pub(super) fn check(
        identity: &SpiffeId,
        mut key: KeyPair,
        chain: Chain,
        clock: &Clock,
    ) -> Result<Self, BadAnswer> {
        let Chain { certificates, bundle } = chain;
        let leaf = certificates.first().ok_or(BadAnswer::Malformed)?;
        let facts = Facts::read(leaf).map_err(|_bad| BadAnswer::Malformed)?;
        if peer_identity(&certificates).as_ref() != Ok(identity) {
            return Err(BadAnswer::OtherIdentity);
        }
        let mut validity = Validity { not_before: facts.not_before, not_after: facts.not_after };
        if !validity.contains(clock.now()) {
            return Err(BadAnswer::NotValidNow);
        }
        // webpki takes a root for what it is trusted as and does not look at its dates.
        let end = end_of_roots(&certificates, &bundle, identity, clock)?;
        let bundle = bundle.unexpired(clock.now()).ok_or(BadAnswer::CaExpired)?;
        validity.not_after = validity.not_after.min(end);

        let mut secret = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let signer = any_ecdsa_type(&secret);
        secret.zeroize();
        key.zeroize();
        let own = CertifiedKey::new(certificates, signer.map_err(|_bad| BadAnswer::OtherKey)?);
        own.keys_match().map_err(|_other| BadAnswer::OtherKey)?;
        let own = Arc::new(own);
        let domain = identity.trust_domain().clone();
        let server =
            server_config(&own, &bundle, domain, clock).map_err(|_refused| BadAnswer::Untrusted)?;
        Ok(Self {
            identity: identity.clone(),
            validity,
            serial: facts.serial,
            own,
            bundle,
            server: Arc::new(server),
            clock: clock.clone(),
        })
    }
}

/// The last moment at which a root that the chain ends in is valid.
fn end_of_roots(
    chain: &[CertificateDer<'static>],
    bundle: &Bundle,
    identity: &SpiffeId,
    clock: &Clock,
) -> Result<SystemTime, BadAnswer> {
    let mut latest = Err(BadAnswer::Untrusted);
    for root in bundle.certificates() {
        let Ok(alone) = Bundle::try_new([root.clone()], "") else { continue };
        match (convinces(chain, &alone, identity, clock), Facts::read(root)) {
            (Ok(()), Ok(facts)) => {
                latest = Ok(facts.not_after.max(latest.unwrap_or(facts.not_after)))
            }
            (Err(BadAnswer::CaExpired), _) if latest.is_err() => latest = Err(BadAnswer::CaExpired),
            (Err(_), _) | (_, Err(_)) => {}
        }
    }
    latest.and_then(|end| if end < clock.now() { Err(BadAnswer::CaExpired) } else { Ok(end) })
}

/// Looks at the chain as a peer will, in both roles.
fn convinces(
    chain: &[CertificateDer<'static>],
    bundle: &Bundle,
    identity: &SpiffeId,
    clock: &Clock,
) -> Result<(), BadAnswer> {
    // The certificate's own dates were looked at before.
    let untrusted = |why: rustls::Error| match classify(&why) {
        TlsFailure::Expired => BadAnswer::CaExpired,
        TlsFailure::UntrustedIssuer
        | TlsFailure::NotYetValid
        | TlsFailure::NoPeerCertificate
        | TlsFailure::NotSpiffe
        | TlsFailure::OtherTrustDomain
        | TlsFailure::WrongIdentity
        | TlsFailure::RejectedByPeer
        | TlsFailure::Protocol
        | TlsFailure::TimedOut => BadAnswer::Untrusted,
    };
    let (leaf, intermediates) = chain.split_first().ok_or(BadAnswer::Malformed)?;
    let now = clock.current_time().ok_or(BadAnswer::NotValidNow)?;
    let as_client = ClientCheck::try_new(bundle.store(), identity.trust_domain().clone())
        .map_err(|_no_root| BadAnswer::Untrusted)?;
    as_client.verify_client_cert(leaf, intermediates, now).map_err(untrusted)?;
    verify_server_cert_signed_by_trust_anchor(
        &ParsedCertificate::try_from(leaf).map_err(untrusted)?,
        &bundle.store(),
        intermediates,
        now,
        provider().signature_verification_algorithms.all,
    )
    .map_err(untrusted)
}
