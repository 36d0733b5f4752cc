//! What is known of a flow, in the form in which rules ask for it.

use std::net::IpAddr;

use super::matcher::{IpBlock, masked};
use crate::flow::FlowContext;
use crate::identity::SpiffeId;

/// A flow's own side of every test.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    /// What TLS proved; nothing in plaintext.
    pub(super) identity: Option<&'a SpiffeId>,
    principal: Option<String>,
    /// The connection's source address.
    pub(super) source: IpAddr,
    /// The dialled address.
    pub(super) destination: IpAddr,
    /// The dialled port.
    pub(super) port: u16,
    keys: [Option<u64>; 5],
}

/// Something that a rule may need to be exactly so. It is only ever compared by its digest: whoever
/// finds a rule by one asks the rule itself.
pub(super) enum Key<'a> {
    Text(Attribute, &'a str),
    ServiceAccount(&'a str, &'a str),
    Port(u16),
}

/// A text that is known of an identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Attribute {
    Principal,
    Namespace,
    TrustDomain,
}

/// Keys of which a flow has at most one, and which are made only where a rule needs one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Shape {
    /// The range of source addresses of this length, of IPv4 or not.
    Block(u8, bool),
    /// So many bytes at the beginning of a text.
    Prefix(Attribute, usize),
    /// So many bytes at its end.
    Suffix(Attribute, usize),
}

impl<'a> Facts<'a> {
    pub(super) fn of(flow: &'a FlowContext) -> Self {
        let identity = flow.source_identity.as_ref();
        let principal = identity.map(SpiffeId::principal);
        let port = flow.destination_address.port();
        let keys = [
            Some(Key::Port(port)),
            principal.as_deref().map(|text| Key::Text(Attribute::Principal, text)),
            identity.map(|id| Key::Text(Attribute::Namespace, id.namespace())),
            identity.map(|id| Key::Text(Attribute::TrustDomain, id.trust_domain().as_str())),
            identity.map(|id| Key::ServiceAccount(id.namespace(), id.service_account())),
        ];
        let keys = keys.map(|key| key.map(|key| key.digest()));
        Self {
            identity,
            principal,
            source: flow.source_address.to_canonical(),
            destination: flow.destination_address.ip().to_canonical(),
            port,
            keys,
        }
    }

    /// The identity, as Istio writes it.
    pub(super) fn principal(&self) -> Option<&str> {
        self.principal.as_deref()
    }

    pub(super) fn namespace(&self) -> Option<&str> {
        self.identity.map(SpiffeId::namespace)
    }

    pub(super) fn trust_domain(&self) -> Option<&str> {
        self.identity.map(|identity| identity.trust_domain().as_str())
    }

    /// The digests of all keys that the flow has.
    pub(super) fn keys(&self) -> impl Iterator<Item = u64> {
        self.keys.iter().copied().flatten()
    }

    /// The digest of the flow's key of this shape, if it has one.
    pub(super) fn shaped(&self, shape: Shape) -> Option<u64> {
        match shape {
            Shape::Block(length, is_ipv4) => {
                let fits = self.source.is_ipv4() == is_ipv4;
                fits.then(|| mix(masked(self.source, length), length))
            }
            Shape::Prefix(attribute, length) => {
                let part = self.text(attribute)?.as_bytes().get(..length)?;
                Some(part_digest(shape, part))
            }
            Shape::Suffix(attribute, length) => {
                let text = self.text(attribute)?.as_bytes();
                let part = text.get(text.len().checked_sub(length)?..)?;
                Some(part_digest(shape, part))
            }
        }
    }

    fn text(&self, attribute: Attribute) -> Option<&str> {
        match attribute {
            Attribute::Principal => self.principal(),
            Attribute::Namespace => self.namespace(),
            Attribute::TrustDomain => self.trust_domain(),
        }
    }
}

impl Key<'_> {
    /// The digest; the same in every process, so that decisions are too.
    pub(super) fn digest(&self) -> u64 {
        match self {
            Self::Text(attribute, text) => digest(*attribute as u64, text.as_bytes()),
            Self::ServiceAccount(namespace, name) => {
                digest(digest(3, namespace.as_bytes()), name.as_bytes())
            }
            Self::Port(port) => finish(u64::from(*port) << 3 | 4),
        }
    }
}

/// The digest of a range of source addresses, as [`Key::digest`] is one of other keys.
pub(super) fn block_digest(block: &IpBlock) -> (Shape, u64) {
    let (length, is_ipv4) = block.shape();
    (Shape::Block(length, is_ipv4), mix(block.network(), length))
}

/// The digest of what stands at one end of a text.
pub(super) fn part_digest(shape: Shape, part: &[u8]) -> u64 {
    let seed = match shape {
        Shape::Prefix(attribute, _) => 5 + attribute as u64,
        Shape::Block(..) => 8,
        Shape::Suffix(attribute, _) => 9 + attribute as u64,
    };
    digest(seed, part)
}

/// Of eight bytes at a time; for indices only, whose entries are compared in full.
fn digest(seed: u64, bytes: &[u8]) -> u64 {
    let mut state = finish(seed ^ (bytes.len() as u64) << 8);
    let (words, rest) = bytes.as_chunks();
    for word in words {
        state = finish(state ^ u64::from_le_bytes(*word));
    }
    let mut last = [0; 8];
    last.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    finish(state ^ u64::from_le_bytes(last))
}

fn mix(network: IpAddr, length: u8) -> u64 {
    let (high, low) = match network {
        IpAddr::V4(v4) => (0, u64::from(v4.to_bits())),
        IpAddr::V6(v6) => {
            let [a, b, c, d, e, f, g, h] = v6.segments().map(u64::from);
            (a << 48 | b << 32 | c << 16 | d, e << 48 | f << 32 | g << 16 | h)
        }
    };
    finish((high.rotate_left(31) ^ low).wrapping_add(u64::from(length) << 56))
}

/// Splitmix64's finaliser (Steele, Lea, Flood 2014): every bit of the result depends on all.
const fn finish(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
