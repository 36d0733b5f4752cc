//! Signing requests (PKCS #10, RFC 2986): making them and reading those of others.

use adit_core::identity::SpiffeId;
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, KeyPair,
    PKCS_ECDSA_P256_SHA256, PublicKey, SanType,
};
use rustls::pki_types::CertificateSigningRequestDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::oid_registry::{OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY};
use x509_parser::prelude::FromDer;

use super::PkiError;

/// The longest request that is looked at. One with a P-256 key and a name has about 600 bytes.
const MAX_LEN: usize = 16 * 1024;

/// A request whose signature was verified: its sender has the private key.
#[derive(Debug)]
pub struct Csr {
    public_key: PublicKey,
    names: Vec<SanType>,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// Not PEM of PKCS #10, too long, or with extensions that have no place in a request.
    #[error("not a well-formed certificate signing request in PEM form")]
    Malformed,
    /// The signature does not fit the key: the sender does not have it.
    #[error("its signature is not valid")]
    Signature,
    /// Not an ECDSA key on P-256.
    #[error("its key is not ECDSA P-256")]
    KeyType,
    /// It asks for other names than the identity.
    #[error("it asks for other names than the identity")]
    Names,
}

impl CsrError {
    /// The spelling used by metrics, log lines and the command line.
    #[must_use]
    pub const fn as_label(self) -> &'static str {
        match self {
            Self::Malformed => "malformed_csr",
            Self::Signature => "csr_signature",
            Self::KeyType => "csr_key_type",
            Self::Names => "csr_names",
        }
    }
}

/// A new ECDSA P-256 key and a request, in PEM form, for a certificate of this identity.
///
/// # Errors
/// [`PkiError::Make`] if the library cannot make them.
pub fn request(identity: &SpiffeId) -> Result<(KeyPair, String), PkiError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![SanType::URI(identity.to_string().try_into()?)];
    let pem = params.serialize_request(&key)?.pem()?;
    Ok((key, pem))
}

impl Csr {
    /// Reads a request and verifies its signature.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(pem: &str) -> Result<Self, CsrError> {
        if pem.len() > MAX_LEN {
            return Err(CsrError::Malformed);
        }
        let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes())
            .map_err(|_broken| CsrError::Malformed)?;
        require_p256(&der)?;
        let CertificateSigningRequestParams { params, public_key } =
            CertificateSigningRequestParams::from_der(&der).map_err(|error| {
                if error == rcgen::Error::InvalidCertificationRequestSignature {
                    CsrError::Signature
                } else {
                    CsrError::Malformed
                }
            })?;
        if public_key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
            return Err(CsrError::KeyType);
        }
        Ok(Self { public_key, names: params.subject_alt_names })
    }

    /// The one name it asks for, if that is a URI.
    #[must_use]
    pub fn only_uri(&self) -> Option<&str> {
        match self.names.as_slice() {
            [SanType::URI(uri)] => Some(uri.as_str()),
            _ => None,
        }
    }

    /// Whether this request may be answered with a certificate of `identity`: it names nothing, or
    /// exactly that.
    ///
    /// # Errors
    /// [`CsrError::Names`].
    pub fn admits(&self, identity: &SpiffeId) -> Result<(), CsrError> {
        if self.names.is_empty() || self.only_uri() == Some(identity.to_string().as_str()) {
            return Ok(());
        }
        Err(CsrError::Names)
    }

    /// The key that is to be certified.
    pub(super) const fn public_key(&self) -> &PublicKey {
        &self.public_key
    }
}

/// The curve stands in the key's parameters (RFC 5480, section 2.1.1), not in the signature's
/// algorithm, and an uncompressed point on P-256 has 65 bytes (section 2.2).
fn require_p256(der: &[u8]) -> Result<(), CsrError> {
    let (rest, csr) =
        X509CertificationRequest::from_der(der).map_err(|_bad| CsrError::Malformed)?;
    if !rest.is_empty() {
        return Err(CsrError::Malformed);
    }
    let key = &csr.certification_request_info.subject_pki;
    let curve = key.algorithm.parameters.as_ref().and_then(|parameters| parameters.as_oid().ok());
    let point: &[u8] = &key.subject_public_key.data;
    let fits = key.algorithm.algorithm == OID_KEY_TYPE_EC_PUBLIC_KEY
        && curve.is_some_and(|curve| curve == OID_EC_P256)
        && point.len() == 65
        && point.first() == Some(&4);
    if fits { Ok(()) } else { Err(CsrError::KeyType) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::PKCS_ECDSA_P384_SHA384;

    #[test]
    fn a_request_admits_its_own_identity_and_no_other() {
        let (_key, pem) = request(&id("a")).unwrap();
        let csr = Csr::parse(&pem).unwrap();
        assert_eq!(csr.only_uri(), Some(id("a").to_string().as_str()));
        assert_eq!(csr.admits(&id("a")), Ok(()));
        assert_eq!(csr.admits(&id("b")), Err(CsrError::Names));
    }

    #[test]
    fn a_request_without_names_admits_any_identity() {
        let csr = Csr::parse(&signed(&[], &PKCS_ECDSA_P256_SHA256)).unwrap();
        assert_eq!(csr.admits(&id("b")), Ok(()));
    }

    #[test]
    fn a_request_for_a_second_name_admits_nothing() {
        let dns = SanType::DnsName("example.com".try_into().unwrap());
        let uri = SanType::URI(id("a").to_string().try_into().unwrap());
        for names in [&[uri, dns.clone()][..], &[dns][..]] {
            let csr = Csr::parse(&signed(names, &PKCS_ECDSA_P256_SHA256)).unwrap();
            assert_eq!(csr.admits(&id("a")), Err(CsrError::Names));
        }
    }

    #[test]
    fn other_keys_than_p256_are_refused() {
        let pem = signed(&[], &PKCS_ECDSA_P384_SHA384);
        assert_eq!(Csr::parse(&pem).unwrap_err(), CsrError::KeyType);
        let pem = signed(&[], &rcgen::PKCS_ED25519);
        assert_eq!(Csr::parse(&pem).unwrap_err(), CsrError::KeyType);
    }

    #[test]
    fn a_request_that_was_changed_after_signing_is_refused() {
        let (_key, pem) = request(&id("aaaaaaaa")).unwrap();
        let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).unwrap();
        let mut der = der.to_vec();
        let at = der.windows(8).position(|part| part == b"aaaaaaaa").unwrap();
        der[at] = b'b';
        let pem = crate::pki::to_pem(&der.into()).replace("CERTIFICATE", "CERTIFICATE REQUEST");
        assert_eq!(Csr::parse(&pem).unwrap_err(), CsrError::Signature);
    }

    #[test]
    fn garbage_is_malformed() {
        let long = "x".repeat(MAX_LEN + 1);
        let (_key, good) = request(&id("a")).unwrap();
        let half = &good[..good.len() / 2];
        for text in ["", "hello", "\0", half, &long] {
            assert_eq!(Csr::parse(text).unwrap_err(), CsrError::Malformed);
        }
    }

    fn id(name: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://cluster.local/ns/test/sa/{name}")).unwrap()
    }

    fn signed(names: &[SanType], algorithm: &'static rcgen::SignatureAlgorithm) -> String {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = names.to_vec();
        params.serialize_request(&key).unwrap().pem().unwrap()
    }
}
