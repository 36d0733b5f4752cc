//! The name in a peer's certificate, as text and as the certificate that holds it.

use adit_core::identity::{MAX_ID_LEN, SpiffeId};
use rustls::pki_types::CertificateDer;

use crate::identity;

/// Reads the bytes as a SPIFFE id, and as a certificate.
///
/// # Panics
/// If something is read as an identity that is written otherwise.
pub fn spiffe_id(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let read = SpiffeId::parse(text);
        assert_eq!(read.is_ok(), is_identity(text), "{text:?}: {read:?}");
        if let Ok(id) = read {
            // Two texts never mean one identity: nothing is decoded, folded or trimmed.
            assert_eq!(id.to_string(), text);
            assert_eq!(format!("spiffe://{}", id.principal()), text);
        }
    }
    if let Ok(id) = identity::peer_identity(&[CertificateDer::from(bytes)]) {
        assert!(is_identity(&id.to_string()), "{id}");
    }
}

/// The rule once more, by splitting.
fn is_identity(text: &str) -> bool {
    let parts: Vec<&str> = text.split('/').collect();
    let ["spiffe:", "", domain, "ns", namespace, "sa", account] = parts.as_slice() else {
        return false;
    };
    let of = |part: &str, extra: &[u8]| {
        part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || extra.contains(&b))
    };
    let is_name = |part: &str| {
        let ends = part.bytes().next().into_iter().chain(part.bytes().next_back());
        (1..=253).contains(&part.len())
            && of(part, b"-.")
            && ends.into_iter().all(|b| b.is_ascii_alphanumeric())
    };
    text.len() <= MAX_ID_LEN
        && (1..=255).contains(&domain.len())
        && of(domain, b".-_")
        && is_name(namespace)
        && is_name(account)
}
