//! What is known of a flow, in the form in which rules ask for it.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use crate::flow::FlowContext;
use crate::identity::SpiffeId;

/// A flow's own side of every match.
#[derive(Debug)]
pub(super) struct Facts<'a> {
    /// What TLS proved; nothing in plaintext.
    pub(super) identity: Option<&'a SpiffeId>,
    /// The same, as Istio writes it.
    principal: Option<String>,
    /// The connection's source address.
    pub(super) source: IpAddr,
    /// The dialled address.
    pub(super) destination: IpAddr,
    /// The dialled port.
    pub(super) port: u16,
}

/// Something that a rule may need to be exactly so. It is only ever compared by its hash: whoever
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
        Self {
            identity,
            principal: identity.map(SpiffeId::principal),
            source: flow.source_address.to_canonical(),
            destination: flow.destination_address.ip().to_canonical(),
            port: flow.destination_address.port(),
        }
    }

    pub(super) fn principal(&self) -> Option<&str> {
        self.principal.as_deref()
    }

    pub(super) fn namespace(&self) -> Option<&str> {
        self.identity.map(SpiffeId::namespace)
    }

    pub(super) fn trust_domain(&self) -> Option<&str> {
        self.identity.map(|identity| identity.trust_domain().as_str())
    }

    /// The hashes of all keys that this flow has.
    pub(super) fn keys(&self) -> Keys {
        let port = Some(Key::Port(self.port).digest());
        let (Some(identity), Some(principal)) = (self.identity, &self.principal) else {
            return Keys([port, None, None, None]);
        };
        let (namespace, account) = (identity.namespace(), identity.service_account());
        Keys([
            port,
            Some(Key::Principal(principal).digest()),
            Some(Key::Namespace(namespace).digest()),
            Some(Key::ServiceAccount(namespace, account).digest()),
        ])
    }
}

/// Hashes of the keys that a flow has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keys([Option<u64>; 4]);

impl Keys {
    pub(super) fn iter(&self) -> impl Iterator<Item = u64> {
        self.0.iter().copied().flatten()
    }
}

impl Key<'_> {
    /// The hash; the same in every process, so that decisions are too.
    pub(super) fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }
}
