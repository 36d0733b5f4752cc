//! Kubernetes objects → the values of [`adit_core::workload`]. Pure: whichever source the objects
//! come from, this is what they mean. One object at a time ([`namespace`], [`pod`], [`service`],
//! [`endpoint_slice`]), then all of them together ([`Snapshot`]), because the endpoints of a service
//! are spread over several objects.
//!
//! Nothing is taken on trust that the API server would have checked: names end up in identities,
//! headers and metrics.

mod endpoints;
mod ledger;
mod network_policy;
mod pod;
mod policy;
mod probes;
mod read;
mod service;
mod snapshot;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use adit_core::network_policy::NetworkPolicy;
use adit_core::policy::{AuthorizationPolicy, PeerAuthentication, PolicyId, PolicyKind};
use adit_core::workload::{MeshMode, Namespace, NodeName, ObjectName};
use k8s_openapi::api::core::v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub use endpoints::{Address, SliceFacts, endpoint_slice};
pub use ledger::Ledger;
pub use network_policy::network_policy;
pub use pod::{NETNS_ANNOTATION, PodFacts, netns, pod};
pub use policy::{
    authorization_policy, closed_authorization_policy, closed_peer_authentication,
    peer_authentication,
};
pub use read::{Unreadable, read};
pub use service::{PortTarget, ServiceFacts, Target, service};
pub use snapshot::{Problem, Snapshot};

/// The label that opts namespaces and pods in and out.
pub const MODE_LABEL: &str = "adit.dev/mode";

/// The group of Istio's policies.
const ISTIO_SECURITY: &str = "security.istio.io/";

/// The label that is a namespace's name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// The label that names a node's zone.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";

/// A node, as far as it matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFacts {
    /// Its name.
    pub name: NodeName,
    /// The zone that it is in.
    pub zone: Option<Arc<str>>,
}

/// An object that the world is made of.
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    /// A Namespace.
    Namespace(Namespace),
    /// A Node.
    Node(NodeFacts),
    /// A Pod.
    Pod(Box<PodFacts>),
    /// A Service that is no alias.
    Service(Box<ServiceFacts>),
    /// An EndpointSlice of a service.
    Slice(Box<SliceFacts>),
    /// A PeerAuthentication.
    PeerAuthentication(Box<PeerAuthentication>),
    /// An AuthorizationPolicy.
    AuthorizationPolicy(Box<AuthorizationPolicy>),
    /// A NetworkPolicy.
    NetworkPolicy(Box<NetworkPolicy>),
}

/// The kinds of [`Object`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `v1` Namespace.
    Namespace,
    /// `v1` Node.
    Node,
    /// `v1` Pod.
    Pod,
    /// `v1` Service.
    Service,
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice,
    /// `security.istio.io` PeerAuthentication.
    PeerAuthentication,
    /// `security.istio.io` AuthorizationPolicy.
    AuthorizationPolicy,
    /// `networking.k8s.io/v1` NetworkPolicy.
    NetworkPolicy,
}

/// What an object is known by. The namespace of a namespace, or of a node, is empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace and name.
    pub name: ObjectName,
}

/// A field that does not hold what it must.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {value}: {why}")]
pub struct Invalid {
    /// The path of the field, as Kubernetes writes it.
    pub field: String,
    /// The value, shortened and quoted.
    pub value: String,
    /// What it should have been.
    pub why: String,
}

impl Object {
    /// What it is known by.
    #[must_use]
    pub fn key(&self) -> Key {
        let (kind, name) = match self {
            Self::Namespace(namespace) => (Kind::Namespace, ObjectName::new("", &namespace.name)),
            Self::Node(node) => (Kind::Node, ObjectName::new("", node.name.as_str())),
            Self::Pod(pod) => (Kind::Pod, pod.workload.name.clone()),
            Self::Service(service) => (Kind::Service, service.service.name.clone()),
            Self::Slice(slice) => (Kind::EndpointSlice, slice.name.clone()),
            Self::PeerAuthentication(policy) => {
                (Kind::PeerAuthentication, policy.id().name.clone())
            }
            Self::AuthorizationPolicy(policy) => {
                (Kind::AuthorizationPolicy, policy.id().name.clone())
            }
            Self::NetworkPolicy(policy) => (Kind::NetworkPolicy, policy.name.clone()),
        };
        Key { kind, name }
    }
}

impl Kind {
    /// The kind of an `apiVersion` and a `kind`; `None` where adit does not read it. A policy of a version
    /// of Istio's group that is not known is one all the same: not to read it is an error.
    #[must_use]
    pub fn from_type(api_version: &str, kind: &str) -> Option<Self> {
        match (api_version, kind) {
            ("v1", "Namespace") => Some(Self::Namespace),
            ("v1", "Node") => Some(Self::Node),
            ("v1", "Pod") => Some(Self::Pod),
            ("v1", "Service") => Some(Self::Service),
            ("discovery.k8s.io/v1", "EndpointSlice") => Some(Self::EndpointSlice),
            ("networking.k8s.io/v1", "NetworkPolicy") => Some(Self::NetworkPolicy),
            (version, "PeerAuthentication") if version.starts_with(ISTIO_SECURITY) => {
                Some(Self::PeerAuthentication)
            }
            (version, "AuthorizationPolicy") if version.starts_with(ISTIO_SECURITY) => {
                Some(Self::AuthorizationPolicy)
            }
            _ => None,
        }
    }

    /// As Kubernetes writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::Pod => "Pod",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::PeerAuthentication => "PeerAuthentication",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::NetworkPolicy => "NetworkPolicy",
        }
    }

    /// Whether nothing is decided by objects of this kind: they are only told of.
    #[must_use]
    pub const fn is_advisory(self) -> bool {
        matches!(self, Self::NetworkPolicy)
    }
}

impl Key {
    /// What an object of these metadata is known by; `None` if they name no object. A namespaced
    /// object without a namespace is in `default`, as kubectl has it.
    #[must_use]
    pub fn of(kind: Kind, namespace: Option<&str>, name: Option<&str>) -> Option<Self> {
        let name = name.filter(|name| is_name(name))?;
        let namespace = match kind {
            Kind::Namespace | Kind::Node => "",
            Kind::Pod
            | Kind::Service
            | Kind::EndpointSlice
            | Kind::PeerAuthentication
            | Kind::AuthorizationPolicy
            | Kind::NetworkPolicy => {
                let namespace = namespace.filter(|text| !text.is_empty());
                namespace.map_or(Some("default"), |text| is_name(text).then_some(text))?
            }
        };
        let name = ObjectName::new(namespace, name);
        Some(Self { kind, name })
    }

    /// The policy that this is the key of.
    #[must_use]
    pub fn policy(&self) -> Option<PolicyId> {
        let kind = match self.kind {
            Kind::PeerAuthentication => PolicyKind::PeerAuthentication,
            Kind::AuthorizationPolicy => PolicyKind::AuthorizationPolicy,
            Kind::Namespace
            | Kind::Node
            | Kind::Pod
            | Kind::Service
            | Kind::EndpointSlice
            | Kind::NetworkPolicy => return None,
        };
        Some(PolicyId { kind, name: self.name.clone() })
    }
}

impl From<&PolicyId> for Key {
    fn from(id: &PolicyId) -> Self {
        let kind = match id.kind {
            PolicyKind::PeerAuthentication => Kind::PeerAuthentication,
            PolicyKind::AuthorizationPolicy => Kind::AuthorizationPolicy,
        };
        Self { kind, name: id.name.clone() }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ObjectName { namespace, name } = &self.name;
        match self.kind {
            Kind::Namespace | Kind::Node => write!(f, "{} {name}", self.kind.as_str()),
            Kind::Pod
            | Kind::Service
            | Kind::EndpointSlice
            | Kind::PeerAuthentication
            | Kind::AuthorizationPolicy
            | Kind::NetworkPolicy => {
                write!(f, "{} {namespace}/{name}", self.kind.as_str())
            }
        }
    }
}

impl Invalid {
    fn new(field: impl Into<String>, value: &str, why: impl Into<String>) -> Self {
        let mut shown: String = value.chars().take(80).collect();
        if shown.len() < value.len() {
            shown.push('…');
        }
        Self { field: field.into(), value: format!("{shown:?}"), why: why.into() }
    }

    fn missing(field: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            value: "missing".to_owned(),
            why: "this field is required".to_owned(),
        }
    }
}

/// A namespace.
///
/// # Errors
/// The field that is invalid.
pub fn namespace(object: &v1::Namespace) -> Result<Namespace, Invalid> {
    let metadata = &object.metadata;
    let name = required_name("metadata.name", metadata.name.as_deref())?;
    let name: Arc<str> = Arc::from(name);
    let mut labels = labels("metadata.labels", metadata)?;
    // The API server sees to it that every namespace has it.
    labels.insert(Arc::from(NAME_LABEL), Arc::clone(&name));
    let mode = MeshMode::from_label(labels.get(MODE_LABEL).map(|value| &**value));
    Ok(Namespace { name, mode, labels })
}

/// A node.
///
/// # Errors
/// The field that is invalid.
pub fn node(object: &v1::Node) -> Result<NodeFacts, Invalid> {
    let metadata = &object.metadata;
    let name = required_name("metadata.name", metadata.name.as_deref())?;
    let zone = labels("metadata.labels", metadata)?.remove(ZONE_LABEL);
    Ok(NodeFacts { name: NodeName::new(name), zone: zone.filter(|zone| !zone.is_empty()) })
}

fn object_name(metadata: &ObjectMeta) -> Result<ObjectName, Invalid> {
    let name = required_name("metadata.name", metadata.name.as_deref())?;
    let namespace = match metadata.namespace.as_deref() {
        None | Some("") => "default",
        given => required_name("metadata.namespace", given)?,
    };
    Ok(ObjectName::new(namespace, name))
}

fn required_name<'a>(field: &str, value: Option<&'a str>) -> Result<&'a str, Invalid> {
    let value = value.ok_or_else(|| Invalid::missing(field))?;
    if !is_name(value) {
        let why = "not a Kubernetes name: lower-case letters, digits, '-' and '.', at most 253";
        return Err(Invalid::new(field, value, why));
    }
    Ok(value)
}

/// An RFC 1123 subdomain.
fn is_name(text: &str) -> bool {
    let alnum = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.len() <= 253
        && bytes.first().is_some_and(alnum)
        && bytes.last().is_some_and(alnum)
        && bytes.iter().all(|b| alnum(b) || matches!(b, b'-' | b'.'))
}

/// Labels, checked: their values become parts of headers and metrics.
fn labels(field: &str, metadata: &ObjectMeta) -> Result<BTreeMap<Arc<str>, Arc<str>>, Invalid> {
    let mut checked = BTreeMap::new();
    for (key, value) in metadata.labels.iter().flatten() {
        let alnum = |b: &u8| b.is_ascii_alphanumeric();
        let bytes = value.as_bytes();
        let ends = bytes.first().is_none_or(alnum) && bytes.last().is_none_or(alnum);
        let inner = bytes.iter().all(|b| alnum(b) || matches!(b, b'-' | b'_' | b'.'));
        if bytes.len() > 63 || !ends || !inner {
            let why = "not a label value: at most 63 letters, digits, '-', '_' and '.'";
            return Err(Invalid::new(format!("{field}[{key:?}]"), value, why));
        }
        let legal = |b: u8| b.is_ascii_alphanumeric() || b"-_./".contains(&b);
        if key.is_empty() || key.len() > 317 || !key.bytes().all(legal) {
            return Err(Invalid::new(field, key, "not a label key"));
        }
        checked.insert(Arc::from(key.as_str()), Arc::from(value.as_str()));
    }
    Ok(checked)
}

/// An address that a pod, a service or an endpoint can have: one of a single host, and not of
/// every host's own.
fn host_address(field: impl Into<String>, text: &str) -> Result<IpAddr, Invalid> {
    let Ok(address) = text.parse::<IpAddr>() else {
        return Err(Invalid::new(field, text, "not an IP address"));
    };
    let address = address.to_canonical();
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    if address.is_unspecified() || address.is_loopback() || address.is_multicast() || broadcast {
        let why = "an unspecified, loopback, multicast or broadcast address is nobody's own";
        return Err(Invalid::new(field, text, why));
    }
    Ok(address)
}

fn port_number(field: impl Into<String>, number: i32) -> Result<u16, Invalid> {
    match u16::try_from(number) {
        Ok(port) if port != 0 => Ok(port),
        Ok(_) | Err(_) => {
            let why = "not a port number: 1 to 65535";
            Err(Invalid::new(field, &number.to_string(), why))
        }
    }
}

/// The name of a port: RFC 1123 label characters, at most 63; empty for a single unnamed one.
fn port_name(field: impl Into<String>, name: Option<&str>) -> Result<Arc<str>, Invalid> {
    let name = name.unwrap_or_default();
    if !name.is_empty() && (name.len() > 63 || !is_name(name) || name.contains('.')) {
        let why = "not a port name: at most 63 lower-case letters, digits and '-'";
        return Err(Invalid::new(field, name, why));
    }
    Ok(Arc::from(name))
}

/// Whether a port is one of TCP, which is also what no protocol means.
fn is_tcp(field: impl Into<String>, protocol: Option<&str>) -> Result<bool, Invalid> {
    match protocol {
        None | Some("TCP" | "") => Ok(true),
        Some("UDP" | "SCTP") => Ok(false),
        Some(other) => Err(Invalid::new(field, other, "not TCP, UDP or SCTP")),
    }
}

#[cfg(test)]
mod tests;
