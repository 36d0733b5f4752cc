//! SPIFFE identities in the form Istio gives them:
//! `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`
//! (SPIFFE-ID specification, sections 2 and 2.1). Nothing else is an identity to adit.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The longest SPIFFE id that is accepted, in bytes (SPIFFE-ID specification, section 2.3).
pub const MAX_ID_LEN: usize = 2048;

/// The authority part of a SPIFFE id: lower-case letters, digits, `.`, `-` and `_`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

/// The identity of a workload. Equality is equality of all three parts.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    trust_domain: TrustDomain,
    namespace: Arc<str>,
    service_account: Arc<str>,
}

/// Why a text is not an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Longer than [`MAX_ID_LEN`].
    #[error("longer than {MAX_ID_LEN} bytes")]
    TooLong,
    /// Does not start with `spiffe://`.
    #[error("does not start with spiffe://")]
    Scheme,
    /// The trust domain is empty, too long, or has a character outside `[a-z0-9._-]`.
    #[error("the trust domain is not of [a-z0-9._-]{{1,255}}")]
    TrustDomain,
    /// The path is not `/ns/<namespace>/sa/<service account>`.
    #[error("the path is not /ns/<namespace>/sa/<service account>")]
    Path,
    /// A namespace or service account is not a Kubernetes name.
    #[error("a path segment is not of [a-z0-9.-]{{1,253}}")]
    Segment,
}

impl ParseError {
    /// The spelling used by metrics, log lines and the command line.
    #[must_use]
    pub const fn as_label(self) -> &'static str {
        match self {
            Self::TooLong => "too_long",
            Self::Scheme => "scheme",
            Self::TrustDomain => "trust_domain",
            Self::Path => "path",
            Self::Segment => "segment",
        }
    }
}

impl TrustDomain {
    /// Accepts a trust domain.
    ///
    /// # Errors
    /// [`ParseError::TrustDomain`] if it is empty, longer than 255 bytes or has other characters
    /// than lower-case letters, digits, `.`, `-` and `_`.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let ok = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
        if text.is_empty() || text.len() > 255 || !text.bytes().all(ok) {
            return Err(ParseError::TrustDomain);
        }
        Ok(Self(Arc::from(text)))
    }

    /// The trust domain as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl SpiffeId {
    /// Puts an identity together from its parts.
    ///
    /// # Errors
    /// [`ParseError::Segment`] if `namespace` or `service_account` is not a Kubernetes name.
    pub fn try_new(
        trust_domain: TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, ParseError> {
        if !is_kubernetes_name(namespace) || !is_kubernetes_name(service_account) {
            return Err(ParseError::Segment);
        }
        Ok(Self {
            trust_domain,
            namespace: Arc::from(namespace),
            service_account: Arc::from(service_account),
        })
    }

    /// Reads the text of a URI SAN.
    ///
    /// # Errors
    /// The first thing that is wrong with it; see [`ParseError`].
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        if text.len() > MAX_ID_LEN {
            return Err(ParseError::TooLong);
        }
        let rest = text.strip_prefix("spiffe://").ok_or(ParseError::Scheme)?;
        let (domain, path) = rest.split_once('/').ok_or(ParseError::Path)?;
        let trust_domain = TrustDomain::parse(domain)?;
        let path = path.strip_prefix("ns/").ok_or(ParseError::Path)?;
        let (namespace, path) = path.split_once('/').ok_or(ParseError::Path)?;
        let service_account = path.strip_prefix("sa/").ok_or(ParseError::Path)?;
        Self::try_new(trust_domain, namespace, service_account)
    }

    /// The mesh this identity belongs to.
    #[must_use]
    pub const fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The Kubernetes namespace.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The Kubernetes service account.
    #[must_use]
    pub fn service_account(&self) -> &str {
        &self.service_account
    }

    /// The form without scheme, `<trust domain>/ns/<namespace>/sa/<service account>`, that Istio
    /// calls a principal.
    #[must_use]
    pub fn principal(&self) -> String {
        let parts =
            [self.trust_domain.as_str(), "/ns/", &self.namespace, "/sa/", &self.service_account];
        parts.concat()
    }
}

/// A DNS-1123 subdomain as Kubernetes uses it for names: RFC 1123 characters, at most 253 of them.
fn is_kubernetes_name(text: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    bytes.len() <= 253
        && alnum(first)
        && alnum(last)
        && bytes.iter().all(|&b| alnum(b) || b == b'-' || b == b'.')
}

impl FromStr for SpiffeId {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Self::parse(text)
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { trust_domain, namespace, service_account } = self;
        write!(f, "spiffe://{trust_domain}/ns/{namespace}/sa/{service_account}")
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_prints_the_same_identity() {
        let text = "spiffe://cluster.local/ns/shop/sa/cart.v2";
        let id = SpiffeId::parse(text).unwrap();
        assert_eq!(id.to_string(), text);
        assert_eq!(id.namespace(), "shop");
        assert_eq!(id.service_account(), "cart.v2");
        assert_eq!(id.principal(), "cluster.local/ns/shop/sa/cart.v2");
    }

    #[test]
    fn names_what_is_wrong_with_a_text_that_is_no_identity() {
        let cases = [
            ("", ParseError::Scheme),
            ("https://cluster.local/ns/a/sa/b", ParseError::Scheme),
            ("SPIFFE://cluster.local/ns/a/sa/b", ParseError::Scheme),
            ("spiffe://cluster.local", ParseError::Path),
            ("spiffe:///ns/a/sa/b", ParseError::TrustDomain),
            ("spiffe://Cluster.local/ns/a/sa/b", ParseError::TrustDomain),
            ("spiffe://cluster.local:80/ns/a/sa/b", ParseError::TrustDomain),
            ("spiffe://user@cluster.local/ns/a/sa/b", ParseError::TrustDomain),
            ("spiffe://cluster.local/sa/b/ns/a", ParseError::Path),
            ("spiffe://cluster.local/ns/a", ParseError::Path),
            ("spiffe://cluster.local/ns/a/sa/", ParseError::Segment),
            ("spiffe://cluster.local/ns//sa/b", ParseError::Segment),
            ("spiffe://cluster.local/ns/a/sa/b/c", ParseError::Segment),
            ("spiffe://cluster.local/ns/a/sa/b?x=1", ParseError::Segment),
            ("spiffe://cluster.local/ns/a/sa/..", ParseError::Segment),
            ("spiffe://cluster.local/ns/a/sa/b\0", ParseError::Segment),
        ];
        for (text, expected) in cases {
            assert_eq!(SpiffeId::parse(text), Err(expected), "{text:?}");
        }
        let long = format!("spiffe://a/ns/b/sa/{}", "c".repeat(MAX_ID_LEN));
        assert_eq!(SpiffeId::parse(&long), Err(ParseError::TooLong));
    }
}
