//! The certificates of this node's identities: fetched from a CA, renewed, swapped, and turned into
//! TLS configurations that accept exactly the right peers. Keys exist in memory only.
//!
//! Which identities are needed is for `enrol` to say, when to renew for [`adit_core::rotation`];
//! what a CA may sign is for `ca`.

mod answer;
mod client;
mod clock;
mod proof;
mod settings;
mod source;
mod store;
mod svid;
mod tls;
mod verify;

#[cfg(test)]
pub(crate) mod mint;

use std::error::Error;
use std::fmt::Write as _;

pub use answer::BadAnswer;
pub use client::CaClient;
pub use clock::Clock;
pub use proof::{Proof, Role};
pub use settings::{CaSettings, RawCa, RawSettings, RemoteCa, Settings, SettingsError};
pub use source::{Configured, LocalCa, Source, SourceError};
pub use store::{CertificateStatus, Certificates, LastError, Rotating, Stopped};
pub use svid::Svid;
pub use tls::{ALPN, provider, tls_info};
pub use verify::{PeerRejected, classify, classify_io, peer_identity, rejected_peer};

/// An error with all its causes, on one line.
fn report(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Many wrappers print what they wrap; saying it twice helps nobody.
        if !text.ends_with(&next) && write!(text, ": {next}").is_err() {
            break;
        }
        cause = error.source();
    }
    text
}
