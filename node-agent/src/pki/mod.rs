//! X.509: keys, signing requests, issuing, bundles, and what a certificate says. No network, no
//! policy: who may have which certificate is for `ca` and `identity` to decide.

mod authority;
mod bundle;
mod csr;
mod facts;
mod files;

use std::io;
use std::path::PathBuf;

pub use authority::{
    Authority, CA_CERT, CA_KEY, CERT_CHAIN, Issued, MAX_LIFETIME, Made, Material, ROOT_CERT,
    ROOT_KEY, SKEW, init, make, make_intermediate,
};
pub use bundle::{Bundle, read_certificates, to_pem};
pub use csr::{Csr, CsrError, request};
pub use facts::{Facts, Malformed};
pub use files::{read, read_private};

/// Why something of this module failed.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file or directory cannot be read or written.
    #[error("cannot {action} {path}")]
    File {
        /// `read`, `create` …
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// A file that would be written is there already.
    #[error("{path} exists already; give an empty directory, or remove the old CA first")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// Others than the owner can get at a secret.
    #[error(
        "{path} has mode {mode:03o}, so that others than its owner can use it: chmod go= {path}"
    )]
    Exposed {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file does not hold what it should.
    #[error("{origin}: {problem}")]
    Invalid {
        /// The file, or what else was read.
        origin: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The issuer's own certificate has ended.
    #[error(
        "the CA's certificate is not valid at this time, so that nothing can be issued with it"
    )]
    IssuerNotValid,
    /// The library refused to make a key or a certificate.
    #[error("cannot make a key or a certificate")]
    Make(#[from] rcgen::Error),
}
