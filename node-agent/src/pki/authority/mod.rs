//! The CA itself: a root, an intermediate that signs, and the certificates of workloads.
//!
//! The directory has the file names of Istio's `cacerts` secret, so that one made for Istio can be
//! used, and one made here by Istio. The root's key is needed for nothing but the next
//! intermediate: it can be taken away.

use std::path::Path;
use std::time::{Duration, SystemTime};

use adit_core::identity::{SpiffeId, TrustDomain};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
    SigningKey,
};
use rustls::pki_types::CertificateDer;
use zeroize::Zeroize as _;

use crate::pki::files::{make_private_directory, read, read_private, write_new};
use crate::pki::{Bundle, Csr, Facts, PkiError, read_certificates, to_pem};

/// The root's certificate.
pub const ROOT_CERT: &str = "root-cert.pem";
/// The root's private key.
pub const ROOT_KEY: &str = "root-key.pem";
/// The intermediate's certificate.
pub const CA_CERT: &str = "ca-cert.pem";
/// The intermediate's private key.
pub const CA_KEY: &str = "ca-key.pem";
/// From the intermediate up to the root.
pub const CERT_CHAIN: &str = "cert-chain.pem";

/// The longest life of a workload's certificate.
pub const MAX_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// How far certificates are dated back, for peers whose clock is behind.
pub const SKEW: Duration = Duration::from_secs(60);

const DAY: Duration = Duration::from_secs(24 * 3600);
const ROOT_LIFETIME: Duration = Duration::from_secs(3650 * 24 * 3600);
const INTERMEDIATE_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);

/// An intermediate that can sign, and what its certificates chain to.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    intermediates: Vec<CertificateDer<'static>>,
    roots: Bundle,
    not_before: SystemTime,
    not_after: SystemTime,
    /// The SPIFFE id of the signing certificate: a trust domain.
    domain: Option<String>,
}

/// What an authority is made of, each part with its name.
pub struct Material {
    /// Where it is from, for errors.
    pub origin: String,
    /// The signing key, PEM.
    pub key: (&'static str, Vec<u8>),
    /// Its certificate, and perhaps those above it, PEM.
    pub certificate: (&'static str, Vec<u8>),
    /// Certificates from the signing one to the root, PEM; may be empty.
    pub chain: Vec<u8>,
    /// The roots, PEM.
    pub roots: (&'static str, Vec<u8>),
}

/// A certificate that was just made.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The certificate and the intermediates above it, without the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// The serial number in hexadecimal digits.
    pub serial: String,
    /// The last moment of its life.
    pub not_after: SystemTime,
}

/// A new root and a new intermediate, each text with the name of its file.
pub type Made = [(&'static str, String); 5];

/// Makes a root and an intermediate.
///
/// # Errors
/// [`PkiError::Make`], or a time that cannot stand in a certificate.
pub fn make(domain: &TrustDomain, now: SystemTime) -> Result<Made, PkiError> {
    let root_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let root = signer_params(domain, "root", ROOT_LIFETIME, now)?;
    let root_cert = root.self_signed(&root_key)?;
    let root_pem = to_pem(root_cert.der());
    let root_key_pem = root_key.serialize_pem();
    let [ca_key, ca_pem] = intermediate(domain, &Issuer::from_params(&root, &root_key), now)?;
    let chain = format!("{ca_pem}{root_pem}");
    Ok([
        (ROOT_KEY, root_key_pem),
        (CA_KEY, ca_key),
        (ROOT_CERT, root_pem),
        (CA_CERT, ca_pem),
        (CERT_CHAIN, chain),
    ])
}

/// Makes the next intermediate below a root: its key, its certificate and its chain.
///
/// # Errors
/// [`PkiError::Invalid`] if the root cannot be read.
pub fn make_intermediate(
    root_cert: &[u8],
    root_key: &[u8],
    domain: &TrustDomain,
    now: SystemTime,
) -> Result<[(&'static str, String); 3], PkiError> {
    let origin = "the root";
    let invalid = |problem| PkiError::Invalid { origin: origin.to_owned(), problem };
    let key = std::str::from_utf8(root_key).ok().and_then(|pem| KeyPair::from_pem(pem).ok());
    let key = key.ok_or_else(|| invalid("has no private key in PEM form"))?;
    let roots = read_certificates(root_cert, origin)?;
    let root = roots.iter().find(|root| certifies(root, &key));
    let root = root.ok_or_else(|| invalid("has a key that is not of its certificate"))?;
    let issuer = Issuer::from_ca_cert_der(root, key)?;
    let [ca_key, ca_pem] = intermediate(domain, &issuer, now)?;
    let chain = format!("{ca_pem}{}", to_pem(root));
    Ok([(CA_KEY, ca_key), (CA_CERT, ca_pem), (CERT_CHAIN, chain)])
}

/// Its key and its certificate.
fn intermediate(
    domain: &TrustDomain,
    root: &Issuer<'_, impl SigningKey>,
    now: SystemTime,
) -> Result<[String; 2], PkiError> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = signer_params(domain, "intermediate", INTERMEDIATE_LIFETIME, now)?;
    // It signs workloads, never another CA (RFC 5280, section 4.2.1.9).
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.use_authority_key_identifier_extension = true;
    let certificate = params.signed_by(&key, root)?;
    Ok([key.serialize_pem(), to_pem(certificate.der())])
}

/// Makes a root and an intermediate in a directory, and fails if one is there already.
///
/// # Errors
/// [`PkiError`]; nothing that was there is changed.
pub fn init(directory: &Path, domain: &TrustDomain, now: SystemTime) -> Result<(), PkiError> {
    make_private_directory(directory)?;
    for name in [ROOT_CERT, ROOT_KEY, CA_CERT, CA_KEY, CERT_CHAIN] {
        let path = directory.join(name);
        if path.symlink_metadata().is_ok() {
            return Err(PkiError::Exists { path });
        }
    }
    for (name, text) in make(domain, now)? {
        let mode = if matches!(name, ROOT_KEY | CA_KEY) { 0o600 } else { 0o644 };
        write_new(&directory.join(name), &text, mode)?;
    }
    Ok(())
}

fn signer_params(
    domain: &TrustDomain,
    role: &str,
    lifetime: Duration,
    now: SystemTime,
) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, domain.as_str());
    // A path is found by the issuers' names: two roots of one mesh must differ in them.
    let number: u32 = rand::random();
    name.push(DnType::CommonName, format!("adit {role} CA {number:08x}"));
    params.distinguished_name = name;
    // A signing certificate's SPIFFE id has no path (X509-SVID specification, section 3.1).
    let uri = format!("spiffe://{domain}");
    params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(1));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(random_serial());
    set_validity(&mut params, now.checked_sub(DAY), now.checked_add(lifetime))?;
    Ok(params)
}

impl Authority {
    /// Opens a directory as [`init`] makes it. The root's key is not read.
    ///
    /// # Errors
    /// [`PkiError`], naming the file.
    pub fn load(directory: &Path) -> Result<Self, PkiError> {
        let at = |name| directory.join(name);
        let chain = at(CERT_CHAIN);
        let material = Material {
            origin: directory.display().to_string(),
            key: (CA_KEY, read_private(&at(CA_KEY))?),
            certificate: (CA_CERT, read(&at(CA_CERT))?),
            chain: if chain.exists() { read(&chain)? } else { Vec::new() },
            roots: (ROOT_CERT, read(&at(ROOT_CERT))?),
        };
        Self::try_new(material)
    }

    /// An authority made of these parts.
    ///
    /// # Errors
    /// [`PkiError`], naming the part.
    pub fn try_new(mut material: Material) -> Result<Self, PkiError> {
        let origin = material.origin.clone();
        let named = |name: &str| format!("{origin}/{name}");
        let invalid = |name, problem| PkiError::Invalid { origin: named(name), problem };
        let (key_name, text) = &mut material.key;
        let key = std::str::from_utf8(text).ok().and_then(|pem| KeyPair::from_pem(pem).ok());
        text.zeroize();
        let key = key.ok_or_else(|| invalid(key_name, "is not a private key in PEM form"))?;
        let (name, pem) = &material.roots;
        let roots = Bundle::from_pem(pem, &named(name))?;

        let (name, pem) = &material.certificate;
        let certificates = read_certificates(pem, &named(name))?;
        let missing = || invalid(name, "holds no certificate in PEM form");
        let (ca, above) = certificates.split_first().ok_or_else(missing)?;
        let facts = Facts::read(ca).map_err(|_malformed| invalid(name, "is not well-formed"))?;
        if !facts.is_ca {
            return Err(invalid(name, "is not the certificate of a CA"));
        }
        if !certifies(ca, &key) {
            let problem = "is not the key of the certificate that signs";
            return Err(invalid(key_name, problem));
        }
        let mut chain = read_certificates(&material.chain, &named(CERT_CHAIN))?;
        if chain.is_empty() {
            chain.extend(above.iter().cloned());
        }
        Ok(Self {
            intermediates: intermediates(ca, chain, &roots),
            issuer: Issuer::from_ca_cert_der(ca, key)?,
            roots,
            not_before: facts.not_before,
            not_after: facts.not_after,
            domain: facts.uris.into_iter().next(),
        })
    }

    /// Whether it was made for this trust domain, or for none in particular.
    ///
    /// # Errors
    /// [`PkiError::Invalid`] if it was made for another one.
    pub fn require_domain(&self, domain: &TrustDomain) -> Result<(), PkiError> {
        let Some(own) = &self.domain else {
            return Ok(());
        };
        if *own == format!("spiffe://{domain}") {
            return Ok(());
        }
        Err(PkiError::Invalid {
            origin: format!("the CA of {own}"),
            problem: "is not of the trust domain that is configured",
        })
    }

    /// The beginning of its own certificate.
    #[must_use]
    pub const fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// What its certificates chain to.
    #[must_use]
    pub const fn roots(&self) -> &Bundle {
        &self.roots
    }

    /// The end of its own certificate, and with it of everything it can issue.
    #[must_use]
    pub const fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Issues the certificate of a workload: for both ends of TLS, with the identity as its one
    /// name (X509-SVID specification, sections 2 and 4), for at most [`MAX_LIFETIME`].
    ///
    /// # Errors
    /// [`PkiError::IssuerNotValid`] or [`PkiError::Make`].
    pub fn issue(
        &self,
        csr: &Csr,
        identity: &SpiffeId,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Issued, PkiError> {
        let names = vec![SanType::URI(identity.to_string().try_into()?)];
        let usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let end = now.checked_add(lifetime.min(MAX_LIFETIME));
        self.sign(csr.public_key(), names, usages, (now, end))
    }

    /// Issues a certificate for a TLS server with these DNS names and addresses, for this long or as
    /// long as this CA lasts, and makes its key.
    ///
    /// # Errors
    /// [`PkiError::IssuerNotValid`] or [`PkiError::Make`].
    pub fn issue_server(
        &self,
        names: &[String],
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<(KeyPair, Issued), PkiError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let names = CertificateParams::new(names)?.subject_alt_names;
        let usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let end = now.checked_add(lifetime);
        let issued = self.sign(&key, names, usages, (now, end))?;
        Ok((key, issued))
    }

    fn sign(
        &self,
        key: &impl PublicKeyData,
        names: Vec<SanType>,
        usages: Vec<ExtendedKeyUsagePurpose>,
        (now, end): (SystemTime, Option<SystemTime>),
    ) -> Result<Issued, PkiError> {
        if now < self.not_before || self.not_after <= now {
            return Err(PkiError::IssuerNotValid);
        }
        let mut params = CertificateParams::default();
        // With an empty subject the names are critical (RFC 5280, section 4.1.2.6).
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = names;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages;
        params.use_authority_key_identifier_extension = true;
        let serial = random_serial();
        params.serial_number = Some(serial.clone());
        let start = now.checked_sub(SKEW).map(|at| at.max(self.not_before));
        let end = end.map(|at| at.min(self.not_after));
        set_validity(&mut params, start, end)?;
        let certificate = params.signed_by(key, &self.issuer)?;
        let mut chain = vec![certificate.der().clone()];
        chain.extend(self.intermediates.iter().cloned());
        Ok(Issued {
            chain,
            serial: serial.to_string().replace(':', ""),
            not_after: end.unwrap_or(self.not_after),
        })
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("roots", &self.roots)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// What a peer needs between a workload's certificate and the root: the chain without roots, from the
/// signing certificate on. Nothing if the root itself signs.
fn intermediates(
    ca: &CertificateDer<'static>,
    mut chain: Vec<CertificateDer<'static>>,
    roots: &Bundle,
) -> Vec<CertificateDer<'static>> {
    if chain.first() != Some(ca) {
        chain.insert(0, ca.clone());
    }
    chain.retain(|certificate| !roots.certificates().contains(certificate));
    chain
}

/// Whether the certificate is of this key.
fn certifies(certificate: &CertificateDer<'_>, key: &KeyPair) -> bool {
    let spki = key.subject_public_key_info();
    rustls::server::ParsedCertificate::try_from(certificate)
        .is_ok_and(|parsed| parsed.subject_public_key_info().as_ref() == spki)
}

/// 126 random bits: unique without a register, positive and of fixed length (RFC 5280, section
/// 4.1.2.2).
fn random_serial() -> SerialNumber {
    let [first, rest @ ..]: [u8; 16] = rand::random();
    let mut bytes = vec![(first & 0x7f) | 0x40];
    bytes.extend(rest);
    SerialNumber::from(bytes)
}

fn set_validity(
    params: &mut CertificateParams,
    start: Option<SystemTime>,
    end: Option<SystemTime>,
) -> Result<(), PkiError> {
    // Dates that the clock cannot count cannot stand in a certificate either.
    let (Some(start), Some(end)) = (start, end) else {
        return Err(PkiError::IssuerNotValid);
    };
    params.not_before = start.into();
    params.not_after = end.into();
    Ok(())
}

#[cfg(test)]
pub(super) mod tests;
