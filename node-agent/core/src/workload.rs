//! What discovery knows of pods, namespaces, services and their endpoints, as plain values. They are
//! made by `discovery::translate` from Kubernetes objects and read by every decision.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::identity::SpiffeId;

/// A pod's UID: unique over time, unlike its name and its address. Only `[A-Za-z0-9-]`, at most 63
/// characters, so that it can stand in a file name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodUid(Arc<str>);

/// The name of a Kubernetes node.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeName(Arc<str>);

/// A namespaced object's name, printed as `namespace/name`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectName {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The name within the namespace.
    pub name: Arc<str>,
}

/// The label `adit.dev/mode` of a namespace or a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MeshMode {
    /// No label: a namespace is not opted in; a pod follows its namespace.
    #[default]
    Unset,
    /// `ambient`: opted in.
    Ambient,
    /// `none`, or a value that adit does not know: opted out.
    None,
}

/// A Kubernetes namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: Arc<str>,
    /// Its `adit.dev/mode` label.
    pub mode: MeshMode,
    /// Its labels.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
}

/// The controller a workload is known by, as baggage and metrics name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Lower-case kind, such as `deployment`, `statefulset`, `job`, `pod`.
    pub kind: Arc<str>,
    /// The controller's name, without the hash of a ReplicaSet.
    pub name: Arc<str>,
}

/// The phase of a pod, as far as it matters: whether its addresses are its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Pending or Running: holds its addresses.
    Active,
    /// Being deleted: holds its addresses until it is gone, and gets nothing new.
    Terminating,
    /// Succeeded or Failed: its addresses may belong to another pod by now.
    Finished,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workload {
    /// Its UID.
    pub uid: PodUid,
    /// Its namespace and name.
    pub name: ObjectName,
    /// The node it runs on, if it is scheduled.
    pub node: Option<NodeName>,
    /// Its identity, from its namespace and service account.
    pub identity: SpiffeId,
    /// `status.podIPs`, IPv4-mapped IPv6 addresses already unmapped.
    pub addresses: Vec<IpAddr>,
    /// Its own `adit.dev/mode` label.
    pub mode: MeshMode,
    /// Shares the node's network namespace: never enrolled.
    pub host_network: bool,
    /// Whether it still owns its addresses.
    pub phase: Phase,
    /// The controller it is known by.
    pub owner: Owner,
    /// Its labels.
    pub labels: BTreeMap<Arc<str>, Arc<str>>,
    /// The ports that its kubelet connects to, for probes and lifecycle hooks.
    pub probed: Vec<u16>,
    /// The names that its containers have for TCP port 15008, by which a NetworkPolicy may allow it.
    pub tunnel_ports: Vec<Arc<str>>,
    /// Of a static pod, of which the API server holds only a mirror that its node has made: the UID that
    /// its kubelet runs it under (annotation `kubernetes.io/config.mirror`), empty where that is none.
    pub mirror_of: Option<Arc<str>>,
    /// The annotation [`adit.dev/status`](crate::announce::ANNOTATION), as the pod carries it. Whoever may
    /// write the pod may have written it: nothing is decided by it but whether it must be mended.
    pub announced: Option<Arc<str>>,
    /// The annotation `adit.dev/netns`: the path of its network namespace, where the manifests
    /// source names one.
    pub netns: Option<Arc<str>>,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its namespace and name.
    pub name: ObjectName,
    /// `spec.clusterIPs`; empty for a headless service.
    pub vips: Vec<IpAddr>,
    /// Its TCP ports.
    pub ports: Vec<ServicePort>,
    /// `spec.sessionAffinity`.
    pub affinity: Affinity,
    /// `spec.internalTrafficPolicy`.
    pub internal_traffic: InternalTraffic,
}

/// One TCP port of a service. Endpoints carry the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; empty where a service has a single, unnamed port.
    pub name: Arc<str>,
    /// The port on the virtual address.
    pub port: u16,
}

/// Where repeated connections of one client go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Affinity {
    /// Anywhere.
    None,
    /// To the endpoint they went to last, at least while they come within this time.
    ClientIp(Duration),
}

/// Which endpoints connections from inside the cluster may go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum InternalTraffic {
    /// All of them.
    #[default]
    Cluster,
    /// Those on the caller's node, and nowhere if there is none.
    Local,
}

/// For whom an endpoint is meant first. A controller writes it as the service's
/// `trafficDistribution` or topology annotation says; empty where it says nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hints {
    /// Callers on these nodes.
    pub nodes: Vec<NodeName>,
    /// Callers in these zones.
    pub zones: Vec<Arc<str>>,
}

/// One endpoint of a service, as an EndpointSlice lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The address of the pod or external host behind it.
    pub address: IpAddr,
    /// The pod that has this address, where the slice names one.
    pub pod: Option<PodUid>,
    /// Port name → number, TCP only.
    pub ports: BTreeMap<Arc<str>, u16>,
    /// Whether new connections may go there.
    pub ready: bool,
    /// The node that it is on, where that is known.
    pub node: Option<NodeName>,
    /// For whom it is meant first.
    pub hints: Hints,
}

impl PodUid {
    /// Accepts a UID; `None` if it is empty, longer than 63 characters or has others than
    /// `[A-Za-z0-9-]`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let ok = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        let valid = !text.is_empty() && text.len() <= 63 && text.bytes().all(ok);
        valid.then(|| Self(Arc::from(text)))
    }

    /// The UID as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl NodeName {
    /// Takes a node's name as it stands.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(Arc::from(text))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ObjectName {
    /// Takes a namespace and a name as they stand.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: Arc::from(namespace), name: Arc::from(name) }
    }
}

impl MeshMode {
    /// The meaning of the label's value; absent is [`MeshMode::Unset`]. An unknown value opts out,
    /// because it was meant as something else than `ambient`.
    #[must_use]
    pub fn from_label(value: Option<&str>) -> Self {
        match value {
            None => Self::Unset,
            Some("ambient") => Self::Ambient,
            Some(_) => Self::None,
        }
    }
}

impl Workload {
    /// The name metrics and baggage use for the service version: label `version`, else
    /// `app.kubernetes.io/version`, else `latest` (Istio's canonical revision).
    #[must_use]
    pub fn canonical_revision(&self) -> &str {
        self.first_label(&[
            "service.istio.io/canonical-revision",
            "app.kubernetes.io/version",
            "version",
        ])
        .unwrap_or("latest")
    }

    /// Istio's canonical service: a label, else the controller's name.
    #[must_use]
    pub fn canonical_name(&self) -> &str {
        self.first_label(&["service.istio.io/canonical-name", "app.kubernetes.io/name", "app"])
            .unwrap_or(&self.owner.name)
    }

    fn first_label(&self, keys: &[&str]) -> Option<&str> {
        keys.iter().find_map(|key| self.labels.get(*key)).map(|value| &**value)
    }
}

impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { namespace, name } = self;
        write!(f, "{namespace}/{name}")
    }
}

impl fmt::Debug for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
