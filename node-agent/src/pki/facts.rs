//! What a certificate says, read strictly: nothing is trusted because it stands here.

use std::time::{Duration, SystemTime};

use x509_parser::prelude::{ASN1Time, FromDer, GeneralName, X509Certificate};

/// The certificate is not DER of X.509, or has an extension twice, or a name that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a well-formed X.509 certificate")]
pub struct Malformed;

/// The parts of a certificate that adit looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The first moment of its life.
    pub not_before: SystemTime,
    /// The last moment of its life.
    pub not_after: SystemTime,
    /// The serial number in hexadecimal digits.
    pub serial: String,
    /// All URI names, in order.
    pub uris: Vec<String>,
    /// Whether it may sign certificates.
    pub is_ca: bool,
    /// Whether subject and issuer are the same: the form of a root.
    pub self_issued: bool,
}

impl Facts {
    /// Reads a certificate.
    ///
    /// # Errors
    /// [`Malformed`], also for bytes after its end.
    pub fn read(der: &[u8]) -> Result<Self, Malformed> {
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_bad| Malformed)?;
        if !rest.is_empty() {
            return Err(Malformed);
        }
        let names = certificate.subject_alternative_name().map_err(|_twice| Malformed)?;
        let mut uris = Vec::new();
        for name in names.iter().flat_map(|names| &names.value.general_names) {
            match name {
                GeneralName::URI(uri) => uris.push((*uri).to_owned()),
                GeneralName::Invalid(..) => return Err(Malformed),
                GeneralName::OtherName(..)
                | GeneralName::RFC822Name(_)
                | GeneralName::DNSName(_)
                | GeneralName::X400Address(_)
                | GeneralName::DirectoryName(_)
                | GeneralName::EDIPartyName(_)
                | GeneralName::IPAddress(_)
                | GeneralName::RegisteredID(_) => {}
            }
        }
        let constraints = certificate.basic_constraints().map_err(|_twice| Malformed)?;
        Ok(Self {
            not_before: time(certificate.validity().not_before),
            not_after: time(certificate.validity().not_after),
            serial: hex(certificate.raw_serial()),
            uris,
            is_ca: constraints.is_some_and(|constraints| constraints.value.ca),
            self_issued: certificate.subject() == certificate.issuer(),
        })
    }
}

/// Dates before 1970 become 1970, which is as far in the past as needed.
fn time(at: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(at.timestamp()).unwrap_or(0);
    SystemTime::UNIX_EPOCH
        .checked_add(Duration::from_secs(seconds))
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn garbage_is_malformed_and_nothing_panics() {
        let authority = crate::pki::authority::tests::authority();
        let good = authority.roots().certificates()[0].to_vec();
        assert!(Facts::read(&good).unwrap().is_ca);
        for cut in 0..good.len() {
            assert_eq!(Facts::read(&good[..cut]), Err(Malformed));
        }
        let mut longer = good.clone();
        longer.push(0);
        assert_eq!(Facts::read(&longer), Err(Malformed));
        for at in 0..good.len() {
            let mut bent = good.clone();
            bent[at] ^= 0x55;
            let _either: Result<Facts, Malformed> = Facts::read(&bent);
        }
    }
}
