//! The single matches that rules are made of: texts, service accounts, address ranges, ports.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use super::invalid::Why;
use crate::identity::SpiffeId;

/// A match on a text, as Istio writes it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TextMatch {
    /// The very text. A `*` anywhere but at one end is a character like any other.
    Exact(Arc<str>),
    /// `text*`.
    Prefix(Arc<str>),
    /// `*text`.
    Suffix(Arc<str>),
    /// `*`: any text but the empty one.
    Present,
}

/// A service account of a namespace, in whatever trust domain.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServiceAccount {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name within the namespace.
    pub name: Arc<str>,
}

/// A range of addresses. IPv4-mapped IPv6 ranges are the IPv4 ranges that they stand for, and host
/// bits are zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct IpBlock {
    network: IpAddr,
    length: u8,
}

/// What must match and what must not, of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Match<T> {
    /// One of these, unless there are none.
    pub any_of: Box<[T]>,
    /// None of these.
    pub none_of: Box<[T]>,
}

impl TextMatch {
    /// Reads a match.
    ///
    /// # Errors
    /// [`Why::Empty`].
    pub fn parse(text: &str) -> Result<Self, Why> {
        if text.is_empty() {
            return Err(Why::Empty);
        }
        Ok(match (text.strip_prefix('*'), text.strip_suffix('*')) {
            (Some(""), _) => Self::Present,
            (Some(suffix), _) => Self::Suffix(Arc::from(suffix)),
            (None, Some(prefix)) => Self::Prefix(Arc::from(prefix)),
            (None, None) => Self::Exact(Arc::from(text)),
        })
    }

    /// Whether a text matches. A text that is not there matches nothing.
    #[must_use]
    pub fn matches(&self, text: Option<&str>) -> bool {
        text.is_some_and(|text| match self {
            Self::Exact(exact) => **exact == *text,
            Self::Prefix(prefix) => text.starts_with(&**prefix),
            Self::Suffix(suffix) => text.ends_with(&**suffix),
            Self::Present => !text.is_empty(),
        })
    }

    /// The text without its star.
    pub(super) fn literal(&self) -> &str {
        match self {
            Self::Exact(text) | Self::Prefix(text) | Self::Suffix(text) => text,
            Self::Present => "",
        }
    }
}

impl ServiceAccount {
    /// Reads `<namespace>/<name>`, or `<name>` in `namespace`. There are no stars.
    ///
    /// # Errors
    /// [`Why::ServiceAccount`].
    pub fn parse(text: &str, namespace: &Arc<str>) -> Result<Self, Why> {
        let (namespace, name) = match text.split_once('/') {
            Some((namespace, name)) => (Arc::from(namespace), name),
            None => (Arc::clone(namespace), text),
        };
        if namespace.is_empty() || name.is_empty() || name.contains('/') || text.contains('*') {
            return Err(Why::ServiceAccount);
        }
        Ok(Self { namespace, name: Arc::from(name) })
    }

    /// Whether it is this identity's.
    #[must_use]
    pub fn matches(&self, identity: Option<&SpiffeId>) -> bool {
        identity.is_some_and(|identity| {
            identity.service_account() == &*self.name && identity.namespace() == &*self.namespace
        })
    }
}

impl IpBlock {
    /// Reads an address or a CIDR range.
    ///
    /// # Errors
    /// [`Why::Address`] or [`Why::PrefixLength`].
    pub fn parse(text: &str) -> Result<Self, Why> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let network: IpAddr = address.parse().map_err(|_text| Why::Address)?;
        let widest: u8 = if network.is_ipv4() { 32 } else { 128 };
        let length = match length {
            None => widest,
            Some(length) => decimal(length).ok_or(Why::PrefixLength)?,
        };
        if length > widest {
            return Err(Why::PrefixLength);
        }
        // A mapped range of fewer than 96 bits holds more than mapped addresses, and those are
        // never seen: an address is unmapped before it is matched.
        let (network, length) = match (network.to_canonical(), length.checked_sub(96)) {
            (unmapped @ IpAddr::V4(_), Some(length)) if network.is_ipv6() => (unmapped, length),
            _ => (network, length),
        };
        Ok(Self { network: masked(network, length), length })
    }

    /// Its length, and whether it is of IPv4 addresses.
    pub(super) const fn shape(&self) -> (u8, bool) {
        (self.length, self.network.is_ipv4())
    }

    /// Its first address.
    pub(super) const fn network(&self) -> IpAddr {
        self.network
    }

    /// Whether an address lies in the range. An IPv4 range has no IPv6 address, and the other way
    /// round, not even a range of length 0.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.network, address.to_canonical()) {
            (IpAddr::V4(_), address @ IpAddr::V4(_)) | (IpAddr::V6(_), address @ IpAddr::V6(_)) => {
                masked(address, self.length) == self.network
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// Reads a port, which Istio writes as text.
///
/// # Errors
/// [`Why::Port`].
pub(super) fn port(text: &str) -> Result<u16, Why> {
    decimal(text).ok_or(Why::Port)
}

/// Digits only: no sign, no space.
fn decimal<N: std::str::FromStr>(text: &str) -> Option<N> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

/// An address without what comes after its first bits. The length is at most the address's own.
pub(super) fn masked(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            IpAddr::V4((v4.to_bits() & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
        }
    }
}

impl<T> Match<T> {
    /// Whether something holds for one of those that must match, and for none of those that must
    /// not.
    #[must_use]
    pub fn matches(&self, mut holds: impl FnMut(&T) -> bool) -> bool {
        (self.any_of.is_empty() || self.any_of.iter().any(&mut holds))
            && !self.none_of.iter().any(holds)
    }

    /// Itself, unless it says nothing.
    pub(super) fn said(self) -> Option<Self> {
        (!self.any_of.is_empty() || !self.none_of.is_empty()).then_some(self)
    }
}

impl fmt::Display for TextMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => f.write_str(text),
            Self::Prefix(text) => write!(f, "{text}*"),
            Self::Suffix(text) => write!(f, "*{text}"),
            Self::Present => f.write_str("*"),
        }
    }
}

impl fmt::Display for ServiceAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Display for IpBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.length)
    }
}

impl fmt::Debug for IpBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_texts_as_istio_writes_them() {
        let cases = [
            ("shop", "shop", true),
            ("shop", "shops", false),
            ("shop*", "shop", true),
            ("shop*", "shops", true),
            ("shop*", "sho", false),
            ("*-v1", "shop-v1", true),
            ("*-v1", "-v1", true),
            ("*-v1", "shop-v2", false),
            ("*", "anything", true),
            ("*", "", false),
            // Only one star, at one end, is a star.
            ("a*b", "axb", false),
            ("a*b", "a*b", true),
            ("*a*", "xa*", true),
            ("*a*", "xax", false),
        ];
        for (pattern, text, expected) in cases {
            let pattern = TextMatch::parse(pattern).unwrap();
            assert_eq!(pattern.matches(Some(text)), expected, "{pattern} against {text:?}");
            assert!(!pattern.matches(None), "{pattern} against nothing");
        }
        assert_eq!(TextMatch::parse(""), Err(Why::Empty));
    }

    #[test]
    fn matches_a_service_account_of_the_policys_namespace_unless_another_is_named() {
        let own = Arc::from("shop");
        let id = |text: &str| SpiffeId::parse(text).unwrap();
        let cart = id("spiffe://cluster.local/ns/shop/sa/cart");
        let elsewhere = id("spiffe://other.domain/ns/bank/sa/cart");
        let short = ServiceAccount::parse("cart", &own).unwrap();
        let long = ServiceAccount::parse("bank/cart", &own).unwrap();
        assert!(short.matches(Some(&cart)) && !short.matches(Some(&elsewhere)));
        assert!(!long.matches(Some(&cart)) && long.matches(Some(&elsewhere)));
        assert!(!short.matches(None));
        for bad in ["", "/", "shop/", "/cart", "a/b/c", "*", "shop/*", "ca*"] {
            assert_eq!(ServiceAccount::parse(bad, &own), Err(Why::ServiceAccount), "{bad:?}");
        }
    }

    #[test]
    fn holds_the_addresses_of_a_range_and_no_others() {
        let cases = [
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.1.2.3/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.0.0.0/31", "10.0.0.1", true),
            ("10.0.0.0/31", "10.0.0.2", false),
            ("0.0.0.0/0", "192.0.2.1", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("::/0", "2001:db8::1", true),
            ("::/0", "192.0.2.1", false),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("2001:db8::1", "2001:db8::1", true),
            // Mapped addresses are IPv4 addresses, on either side.
            ("10.0.0.0/8", "::ffff:10.0.0.1", true),
            ("::ffff:10.0.0.0/104", "10.9.9.9", true),
            ("::ffff:10.0.0.1", "10.0.0.1", true),
            ("::ffff:0:0/96", "192.0.2.1", true),
            ("::ffff:0:0/90", "192.0.2.1", false),
            ("::/0", "::ffff:10.0.0.1", false),
        ];
        for (block, address, expected) in cases {
            let parsed = IpBlock::parse(block).unwrap();
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(parsed.contains(address), expected, "{address} in {block}");
        }
    }

    #[test]
    fn refuses_what_is_no_range() {
        let cases = [
            ("", Why::Address),
            ("10.0.0", Why::Address),
            ("10.0.0.0.0", Why::Address),
            ("fe80::1%eth0", Why::Address),
            ("shop", Why::Address),
            ("10.0.0.0/33", Why::PrefixLength),
            ("10.0.0.0/", Why::PrefixLength),
            ("10.0.0.0/+8", Why::PrefixLength),
            ("10.0.0.0/8/8", Why::PrefixLength),
            ("2001:db8::/129", Why::PrefixLength),
            ("10.0.0.0/300", Why::PrefixLength),
        ];
        for (text, expected) in cases {
            assert_eq!(IpBlock::parse(text), Err(expected), "{text:?}");
        }
    }

    #[test]
    fn reads_a_port_and_nothing_else() {
        assert_eq!(port("8080"), Ok(8080));
        for bad in ["", "http", "-1", "+80", "65536", "80.0", " 80"] {
            assert_eq!(port(bad), Err(Why::Port), "{bad:?}");
        }
    }
}
