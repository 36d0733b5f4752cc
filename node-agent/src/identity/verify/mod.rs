//! Who is at the other end: the chain by webpki, then the one name that counts, the SPIFFE id
//! (X509-SVID specification, section 5.2). Failures are told apart for the flow record.

use std::io;
use std::sync::Arc;

use adit_core::flow::TlsFailure;
use adit_core::identity::{SpiffeId, TrustDomain};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{
    AlertDescription, CertificateError, DigitallySignedStruct, DistinguishedName, Error,
    OtherError, PeerIncompatible, RootCertStore, SignatureScheme,
};

use crate::pki::Facts;

use super::tls::provider;

/// A peer whose chain is good and whose name is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("peer refused ({}), it proved {}", .failure.as_label(), .proved.as_ref().map_or_else(|| "no identity".to_owned(), SpiffeId::to_string))]
pub struct PeerRejected {
    /// Why.
    pub failure: TlsFailure,
    /// The identity that the peer proved, if it is one.
    pub proved: Option<SpiffeId>,
}

/// The identity in a peer's certificate, the first of its chain. It is proved only if the chain
/// was verified: after a handshake.
///
/// # Errors
/// [`TlsFailure::NoPeerCertificate`] or [`TlsFailure::NotSpiffe`].
pub fn peer_identity(chain: &[CertificateDer<'_>]) -> Result<SpiffeId, TlsFailure> {
    let leaf = chain.first().ok_or(TlsFailure::NoPeerCertificate)?;
    let facts = Facts::read(leaf).map_err(|_malformed| TlsFailure::NotSpiffe)?;
    let [uri] = facts.uris.as_slice() else {
        return Err(TlsFailure::NotSpiffe);
    };
    SpiffeId::parse(uri).map_err(|_not_spiffe| TlsFailure::NotSpiffe)
}

/// Why a handshake failed.
#[must_use]
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "rustls's errors are not a closed list; what is not about certificates is protocol"
)]
pub fn classify(error: &Error) -> TlsFailure {
    match error {
        Error::NoCertificatesPresented => TlsFailure::NoPeerCertificate,
        Error::InvalidCertificate(error) => classify_certificate(error),
        Error::AlertReceived(
            AlertDescription::NoCertificate
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            | AlertDescription::AccessDenied
            | AlertDescription::CertificateRequired,
        ) => TlsFailure::RejectedByPeer,
        _ => TlsFailure::Protocol,
    }
}

/// Why a handshake failed, where a stream reports it as an I/O error.
#[must_use]
pub fn classify_io(error: &io::Error) -> TlsFailure {
    if error.kind() == io::ErrorKind::TimedOut {
        return TlsFailure::TimedOut;
    }
    tls_error(error).map_or(TlsFailure::Protocol, classify)
}

/// What is known of a peer that was refused for its name.
#[must_use]
pub fn rejected_peer(error: &io::Error) -> Option<&PeerRejected> {
    let Error::InvalidCertificate(error) = tls_error(error)? else {
        return None;
    };
    rejection(error)
}

/// A stream has no other way to say that TLS failed than within an `io::Error`.
fn tls_error(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "not a closed list; whatever else webpki finds, the chain did not convince"
)]
fn classify_certificate(error: &CertificateError) -> TlsFailure {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => TlsFailure::Expired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            TlsFailure::NotYetValid
        }
        CertificateError::BadEncoding => TlsFailure::NotSpiffe,
        _ => rejection(error).map_or(TlsFailure::UntrustedIssuer, |peer| peer.failure),
    }
}

/// rustls carries a verifier's own error behind a trait object, and nothing but a downcast gets it
/// back.
fn rejection(error: &CertificateError) -> Option<&PeerRejected> {
    let CertificateError::Other(OtherError(error)) = error else {
        return None;
    };
    error.downcast_ref()
}

/// What is checked beyond the chain.
#[derive(Debug, Clone)]
struct Names {
    trust_domain: TrustDomain,
    expected: Option<SpiffeId>,
}

impl Names {
    fn check(&self, leaf: &CertificateDer<'_>) -> Result<(), Error> {
        let proved = match peer_identity(std::slice::from_ref(leaf)) {
            Ok(proved) => proved,
            Err(failure) => return Err(rejected(failure, None)),
        };
        if *proved.trust_domain() != self.trust_domain {
            return Err(rejected(TlsFailure::OtherTrustDomain, Some(proved)));
        }
        if self.expected.as_ref().is_some_and(|id| *id != proved) {
            return Err(rejected(TlsFailure::WrongIdentity, Some(proved)));
        }
        Ok(())
    }
}

fn rejected(failure: TlsFailure, proved: Option<SpiffeId>) -> Error {
    let error = PeerRejected { failure, proved };
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
}

/// Checks the client of an accepted tunnel: any identity of our trust domain.
#[derive(Debug)]
pub(super) struct ClientCheck {
    chain: Arc<dyn ClientCertVerifier>,
    names: Names,
}

/// Checks the server of a dialled tunnel: exactly one identity. The dialled name means nothing.
#[derive(Debug)]
pub(super) struct ServerCheck {
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
    names: Names,
}

impl ClientCheck {
    pub(super) fn try_new(
        roots: Arc<RootCertStore>,
        trust_domain: TrustDomain,
    ) -> Result<Self, VerifierBuilderError> {
        let chain = WebPkiClientVerifier::builder_with_provider(roots, provider())
            // A list of roots would grow the handshake, and every client has one certificate only.
            .clear_root_hint_subjects()
            .build()?;
        let names = Names { trust_domain, expected: None };
        Ok(Self { chain, names })
    }
}

impl ServerCheck {
    pub(super) fn new(roots: Arc<RootCertStore>, expected: SpiffeId, domain: TrustDomain) -> Self {
        Self {
            roots,
            algorithms: provider().signature_verification_algorithms,
            names: Names { trust_domain: domain, expected: Some(expected) },
        }
    }
}

impl ClientCertVerifier for ClientCheck {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        self.names.check(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

impl ServerCertVerifier for ServerCheck {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(end_entity)?,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        self.names.check(end_entity)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
