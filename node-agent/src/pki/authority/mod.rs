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
    let root_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let root = signer_params(domain, "root", ROOT_LIFETIME, now)?;
    let root_cert = root.self_signed(&root_key)?;
    let root_issuer = Issuer::from_params(&root, &root_key);

    let ca_key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut ca = signer_params(domain, "intermediate", INTERMEDIATE_LIFETIME, now)?;
    // It signs workloads, never another CA (RFC 5280, section 4.2.1.9).
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.use_authority_key_identifier_extension = true;
    let ca_cert = ca.signed_by(&ca_key, &root_issuer)?;

    let [root_pem, ca_pem] = [to_pem(root_cert.der()), to_pem(ca_cert.der())];
    let file = |name, text: &str, mode| write_new(&directory.join(name), text, mode);
    file(ROOT_KEY, &root_key.serialize_pem(), 0o600)?;
    file(CA_KEY, &ca_key.serialize_pem(), 0o600)?;
    file(ROOT_CERT, &root_pem, 0o644)?;
    file(CA_CERT, &ca_pem, 0o644)?;
    file(CERT_CHAIN, &format!("{ca_pem}{root_pem}"), 0o644)?;
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
        let invalid =
            |name, problem| PkiError::Invalid { origin: at(name).display().to_string(), problem };
        let mut text = read_private(&at(CA_KEY))?;
        let key = std::str::from_utf8(&text).ok().and_then(|pem| KeyPair::from_pem(pem).ok());
        text.zeroize();
        let key = key.ok_or_else(|| invalid(CA_KEY, "is not a private key in PEM form"))?;
        let root_path = at(ROOT_CERT).display().to_string();
        let roots = Bundle::from_pem(&read(&at(ROOT_CERT))?, &root_path)?;

        let ca_path = at(CA_CERT).display().to_string();
        let ca = read_certificates(&read(&at(CA_CERT))?, &ca_path)?;
        let ca = ca.first().ok_or_else(|| invalid(CA_CERT, "holds no certificate in PEM form"))?;
        let facts = Facts::read(ca).map_err(|_malformed| invalid(CA_CERT, "is not well-formed"))?;
        if !facts.is_ca {
            return Err(invalid(CA_CERT, "is not the certificate of a CA"));
        }
        if !certifies(ca, &key) {
            return Err(invalid(CA_KEY, "is not the key of the certificate in ca-cert.pem"));
        }
        Ok(Self {
            intermediates: intermediates(directory, ca, &roots)?,
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

    /// Issues a certificate for a TLS server with these DNS names and addresses, for as long as
    /// this CA lasts, and makes its key.
    ///
    /// # Errors
    /// [`PkiError::IssuerNotValid`] or [`PkiError::Make`].
    pub fn issue_server(
        &self,
        names: &[String],
        now: SystemTime,
    ) -> Result<(KeyPair, Issued), PkiError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let names = CertificateParams::new(names)?.subject_alt_names;
        let usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let issued = self.sign(&key, names, usages, (now, Some(self.not_after)))?;
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

/// What a peer needs between a workload's certificate and the root: `cert-chain.pem` without
/// roots, or the signing certificate alone. Nothing if the root itself signs.
fn intermediates(
    directory: &Path,
    ca: &CertificateDer<'static>,
    roots: &Bundle,
) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    let path = directory.join(CERT_CHAIN);
    let mut chain = if path.exists() {
        read_certificates(&read(&path)?, &path.display().to_string())?
    } else {
        Vec::new()
    };
    if chain.first() != Some(ca) {
        chain.insert(0, ca.clone());
    }
    chain.retain(|certificate| !roots.certificates().contains(certificate));
    Ok(chain)
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
