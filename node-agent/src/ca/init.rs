//! `adit ca init`.

use std::path::PathBuf;
use std::time::SystemTime;

use adit_core::identity::TrustDomain;
use serde::Serialize;

use crate::pki;

/// What to make, and where.
#[derive(Debug, Clone)]
pub struct InitOptions {
    /// The directory; it is made if it does not exist.
    pub directory: PathBuf,
    /// The trust domain of the identities that will be signed.
    pub trust_domain: TrustDomain,
}

/// A file that was made, and what it is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MadeFile {
    /// Where it is.
    pub path: PathBuf,
    /// What it is for, in words.
    pub purpose: &'static str,
}

/// Makes a root and an intermediate CA.
///
/// # Errors
/// [`pki::PkiError`]; a directory that holds a CA already is left as it is.
pub fn run(options: &InitOptions) -> Result<Vec<MadeFile>, pki::PkiError> {
    pki::init(&options.directory, &options.trust_domain, SystemTime::now())?;
    let made = [
        (pki::ROOT_CERT, "the root's certificate: give it to the agents"),
        (pki::ROOT_KEY, "the root's key: only the next intermediate needs it, keep it elsewhere"),
        (pki::CA_CERT, "the certificate of the intermediate that signs, for one year"),
        (pki::CA_KEY, "the key of the intermediate"),
        (pki::CERT_CHAIN, "from the intermediate to the root"),
    ];
    let made = made.map(|(name, purpose)| MadeFile { path: options.directory.join(name), purpose });
    Ok(made.into())
}
