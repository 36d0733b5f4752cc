//! Objects of a small cluster, as discovery would translate them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use adit_core::identity::{SpiffeId, TrustDomain};
use adit_core::workload::{
    MeshMode, Namespace, NodeName, ObjectName, Owner, Phase, PodUid, Workload,
};

/// A namespace.
#[must_use]
pub fn namespace(name: &str, mode: MeshMode) -> Namespace {
    Namespace { name: Arc::from(name), mode, labels: BTreeMap::new() }
}

/// A running pod whose UID is its name, with a service account of that name, and with a network
/// namespace.
///
/// # Panics
/// If `name` or `namespace` is not a Kubernetes name.
#[must_use]
#[expect(clippy::expect_used, reason = "a mistake in a test must end it")]
pub fn pod(namespace: &str, name: &str, node: &str, address: IpAddr) -> Workload {
    let domain = TrustDomain::parse("cluster.local").expect("a trust domain");
    Workload {
        uid: PodUid::parse(name).expect("a UID"),
        name: ObjectName::new(namespace, name),
        node: Some(NodeName::new(node)),
        identity: SpiffeId::try_new(domain, namespace, name).expect("an identity"),
        addresses: vec![address],
        mode: MeshMode::Unset,
        host_network: false,
        phase: Phase::Active,
        owner: Owner { kind: Arc::from("deployment"), name: Arc::from(name) },
        labels: BTreeMap::new(),
        probed: Vec::new(),
        tunnel_ports: Vec::new(),
        mirror_of: None,
        announced: None,
        netns: Some(Arc::from(format!("/run/netns/{name}"))),
    }
}
