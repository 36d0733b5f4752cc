//! Trust bundles: the roots that a chain may end in.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::{Facts, PkiError};

/// One or more roots. Cheap to clone.
#[derive(Clone)]
pub struct Bundle {
    certificates: Arc<[CertificateDer<'static>]>,
    store: Arc<RootCertStore>,
}

impl Bundle {
    /// Makes a bundle of root certificates. The same one twice counts once.
    ///
    /// # Errors
    /// [`PkiError::Invalid`], naming `origin`, if there is none or one is no CA certificate.
    pub fn try_new(
        certificates: impl IntoIterator<Item = CertificateDer<'static>>,
        origin: &str,
    ) -> Result<Self, PkiError> {
        let invalid = |problem| PkiError::Invalid { origin: origin.to_owned(), problem };
        let mut kept: Vec<CertificateDer<'static>> = Vec::new();
        let mut store = RootCertStore::empty();
        for certificate in certificates {
            if kept.contains(&certificate) {
                continue;
            }
            let facts = Facts::read(&certificate)
                .map_err(|_malformed| invalid("holds a malformed certificate"))?;
            if !facts.is_ca {
                return Err(invalid("holds a certificate that is not of a CA"));
            }
            store
                .add(certificate.clone())
                .map_err(|_refused| invalid("holds a certificate that cannot be a root"))?;
            kept.push(certificate);
        }
        if kept.is_empty() {
            return Err(invalid("holds no certificate in PEM form"));
        }
        Ok(Self { certificates: Arc::from(kept), store: Arc::new(store) })
    }

    /// Reads a bundle in PEM form.
    ///
    /// # Errors
    /// [`PkiError::Invalid`], naming `origin`.
    pub fn from_pem(pem: &[u8], origin: &str) -> Result<Self, PkiError> {
        Self::try_new(read_certificates(pem, origin)?, origin)
    }

    /// Without the roots that have expired; `None` if all have.
    #[must_use]
    pub fn unexpired(&self, now: SystemTime) -> Option<Self> {
        let valid = |root: &&CertificateDer<'_>| {
            Facts::read(root).is_ok_and(|facts| now <= facts.not_after)
        };
        let kept: Vec<_> = self.certificates.iter().filter(valid).cloned().collect();
        if kept.len() == self.certificates.len() {
            return Some(self.clone());
        }
        Self::try_new(kept, "").ok()
    }

    /// The roots themselves.
    #[must_use]
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// The roots in the form that verifiers take.
    #[must_use]
    pub fn store(&self) -> Arc<RootCertStore> {
        Arc::clone(&self.store)
    }
}

impl std::fmt::Debug for Bundle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Bundle({} roots)", self.certificates.len())
    }
}

/// Reads all certificates of a PEM text, in order.
///
/// # Errors
/// [`PkiError::Invalid`], naming `origin`, if the PEM is broken. No certificate at all is no error.
pub fn read_certificates(
    pem: &[u8],
    origin: &str,
) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|_broken| {
        PkiError::Invalid { origin: origin.to_owned(), problem: "is not well-formed PEM" }
    })
}

/// One certificate as PEM.
#[must_use]
pub fn to_pem(certificate: &CertificateDer<'_>) -> String {
    let block = pem::Pem::new("CERTIFICATE", certificate.as_ref());
    let lines = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&block, lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_as_pem_is_read_back() {
        for length in [1usize, 2, 3, 47, 48, 49, 500] {
            let der: Vec<u8> = (0..=u8::MAX).cycle().take(length).collect();
            let pem = to_pem(&CertificateDer::from(der.clone()));
            assert!(pem.lines().all(|line| line.len() <= 64), "{pem}");
            let read = read_certificates(pem.as_bytes(), "test").unwrap();
            assert_eq!(read, [CertificateDer::from(der)], "{length}");
        }
    }

    #[test]
    fn a_bundle_without_a_root_is_refused_with_the_name_of_its_origin() {
        let error = Bundle::from_pem(b"hello", "/etc/root.pem").unwrap_err();
        assert_eq!(error.to_string(), "/etc/root.pem: holds no certificate in PEM form");
        let broken = b"-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n";
        let error = Bundle::from_pem(broken, "x").unwrap_err();
        assert_eq!(error.to_string(), "x: is not well-formed PEM");
        let pem = to_pem(&CertificateDer::from(vec![1, 2, 3]));
        let error = Bundle::from_pem(pem.as_bytes(), "x").unwrap_err();
        assert_eq!(error.to_string(), "x: holds a malformed certificate");
    }

    #[test]
    fn a_root_that_is_listed_twice_counts_once() {
        let authority = crate::pki::authority::tests::authority();
        let root = &authority.roots().certificates()[0];
        let pem = [to_pem(root), to_pem(root)].concat();
        let bundle = Bundle::from_pem(pem.as_bytes(), "x").unwrap();
        assert_eq!(bundle.certificates(), std::slice::from_ref(root));
    }
}
