//! What is known of a flow, in the form in which rules ask for it.

use std::hash::{DefaultHasher, Hash, Hasher};
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
    keys: [Option<u64>; 4],
}

/// Something that a rule may need to be exactly so. It is only ever compared by its digest: whoever
/// finds a rule by one asks the rule itself.
#[derive(Hash)]
pub(super) enum Key<'a> {
    Principal(&'a str),
    Namespace(&'a str),
    ServiceAccount(&'a str, &'a str),
    Port(u16),
}

impl<'a> Facts<'a> {
    pub(super) fn of(flow: &'a FlowContext) -> Self {
        let identity = flow.source_identity.as_ref();
        let principal = identity.map(SpiffeId::principal);
        let port = flow.destination_address.port();
        let keys = [
            Some(Key::Port(port)),
            principal.as_deref().map(Key::Principal),
            identity.map(|id| Key::Namespace(id.namespace())),
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

    /// The digest of the range of this shape that the flow comes from, if there is one.
    pub(super) fn block(&self, (length, is_ipv4): (u8, bool)) -> Option<u64> {
        let fits = self.source.is_ipv4() == is_ipv4;
        fits.then(|| mix(masked(self.source, length), length))
    }
}

impl Key<'_> {
    /// The digest; the same in every process, so that decisions are too.
    pub(super) fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }
}

/// The digest of a range of source addresses, as [`Key::digest`] is one of other keys.
pub(super) fn block_digest(block: &IpBlock) -> u64 {
    mix(block.network(), block.shape().0)
}

/// Splitmix64's finaliser (Steele, Lea, Flood 2014): every bit of the result depends on all.
fn mix(network: IpAddr, length: u8) -> u64 {
    let (high, low) = match network {
        IpAddr::V4(v4) => (0, u64::from(v4.to_bits())),
        IpAddr::V6(v6) => {
            let [a, b, c, d, e, f, g, h] = v6.segments().map(u64::from);
            (a << 48 | b << 32 | c << 16 | d, e << 48 | f << 32 | g << 16 | h)
        }
    };
    let mut z = (high.rotate_left(31) ^ low).wrapping_add(u64::from(length) << 56);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
