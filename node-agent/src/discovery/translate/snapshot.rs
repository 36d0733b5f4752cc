//! All objects of a source together, as one state of the world, and the way from one state to the
//! next.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::IpAddr;
use std::sync::Arc;

use adit_core::network_policy::NetworkPolicy;
use adit_core::policy::{AuthorizationPolicy, PeerAuthentication, PolicyId, PolicyKind};
use adit_core::workload::{
    Endpoint, Namespace, NodeName, ObjectName, Phase, PodUid, Service, Workload,
};
use adit_core::world::Delta;

use crate::discovery::translate::{Object, PodFacts, ServiceFacts, SliceFacts, endpoints};

/// A state of the world.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    namespaces: BTreeMap<Arc<str>, Namespace>,
    /// The zones of nodes that are in one.
    zones: BTreeMap<NodeName, Arc<str>>,
    workloads: BTreeMap<PodUid, Workload>,
    services: BTreeMap<ObjectName, (Service, Vec<Endpoint>)>,
    peer_authentications: BTreeMap<ObjectName, PeerAuthentication>,
    authorization_policies: BTreeMap<ObjectName, AuthorizationPolicy>,
    network_policies: BTreeMap<ObjectName, NetworkPolicy>,
}

/// Objects that contradict each other: both claim the same …
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Problem {
    /// Two pods with one UID.
    #[error("Pod {second} has the UID {uid} of Pod {first}; it is ignored")]
    Uid {
        /// The UID.
        uid: PodUid,
        /// The pod that keeps it.
        first: ObjectName,
        /// The pod that is left out.
        second: ObjectName,
    },
    /// Two pods with one address, neither of them on the host's network.
    #[error(
        "Pod {first} and Pod {second} both have the address {address}; the one that was seen \
         last is taken for its owner"
    )]
    Address {
        /// The address.
        address: IpAddr,
        /// One pod.
        first: ObjectName,
        /// The other one.
        second: ObjectName,
    },
    /// Two services with one virtual address.
    #[error("Service {second} has the address {address} of Service {first}, which keeps it")]
    Vip {
        /// The address.
        address: IpAddr,
        /// The service that keeps it.
        first: ObjectName,
        /// The service that does not get it.
        second: ObjectName,
    },
}

impl Snapshot {
    /// The state that these objects, each of another key, describe; and in what they contradict
    /// each other.
    #[must_use]
    pub fn assemble<'a>(objects: impl IntoIterator<Item = &'a Object>) -> (Self, Vec<Problem>) {
        let mut snapshot = Self::default();
        let mut problems = Vec::new();
        let mut pods: BTreeMap<&str, Vec<&PodFacts>> = BTreeMap::new();
        let mut services: Vec<&ServiceFacts> = Vec::new();
        let mut slices: BTreeMap<&ObjectName, Vec<&SliceFacts>> = BTreeMap::new();
        for object in objects {
            match object {
                Object::Namespace(namespace) => {
                    let name = Arc::clone(&namespace.name);
                    snapshot.namespaces.insert(name, namespace.clone());
                }
                Object::Node(node) => {
                    let zone = node.zone.clone().map(|zone| (node.name.clone(), zone));
                    snapshot.zones.extend(zone);
                }
                Object::Pod(pod) => match snapshot.workloads.entry(pod.workload.uid.clone()) {
                    Entry::Vacant(place) => {
                        place.insert(pod.workload.clone());
                        let namespace: &str = &pod.workload.name.namespace;
                        pods.entry(namespace).or_default().push(pod);
                    }
                    Entry::Occupied(place) => problems.push(Problem::Uid {
                        uid: place.key().clone(),
                        first: place.get().name.clone(),
                        second: pod.workload.name.clone(),
                    }),
                },
                Object::Service(service) => services.push(service),
                Object::Slice(slice) => slices.entry(&slice.service).or_default().push(slice),
                Object::PeerAuthentication(policy) => {
                    let name = policy.id().name.clone();
                    snapshot.peer_authentications.insert(name, (**policy).clone());
                }
                Object::AuthorizationPolicy(policy) => {
                    let name = policy.id().name.clone();
                    snapshot.authorization_policies.insert(name, (**policy).clone());
                }
                Object::NetworkPolicy(policy) => {
                    let name = policy.name.clone();
                    snapshot.network_policies.insert(name, (**policy).clone());
                }
            }
        }
        for service in services {
            let name = &service.service.name;
            let endpoints = match slices.get(name) {
                Some(slices) => endpoints::listed(slices),
                None if service.selector.is_empty() => Vec::new(),
                None => {
                    let namespace: &str = &name.namespace;
                    let pods = pods.get(namespace).into_iter().flatten();
                    endpoints::derived(service, pods.copied())
                }
            };
            let value = (service.service.clone(), endpoints);
            snapshot.services.insert(name.clone(), value);
        }
        snapshot.find_shared_addresses(&mut problems);
        (snapshot, problems)
    }

    fn find_shared_addresses(&self, problems: &mut Vec<Problem>) {
        let mut owners: BTreeMap<IpAddr, &ObjectName> = BTreeMap::new();
        let own = |pod: &&Workload| pod.phase != Phase::Finished && !pod.host_network;
        for pod in self.workloads.values().filter(own) {
            for address in &pod.addresses {
                if let Some(first) = owners.insert(*address, &pod.name) {
                    problems.push(Problem::Address {
                        address: *address,
                        first: first.clone(),
                        second: pod.name.clone(),
                    });
                }
            }
        }
        let mut owners: BTreeMap<IpAddr, &ObjectName> = BTreeMap::new();
        for (service, _) in self.services.values() {
            for vip in &service.vips {
                let first = *owners.entry(*vip).or_insert(&service.name);
                if *first != service.name {
                    problems.push(Problem::Vip {
                        address: *vip,
                        first: first.clone(),
                        second: service.name.clone(),
                    });
                }
            }
        }
    }

    /// The changes that lead from this state to `next`.
    #[must_use]
    pub fn deltas_to(&self, next: &Self) -> Vec<Delta> {
        let mut deltas = Vec::new();
        // What goes comes first, so that an address is free before its next owner claims it.
        let gone = self.workloads.keys();
        let gone = gone.filter(|uid| !next.workloads.contains_key(*uid));
        deltas.extend(gone.map(|uid| Delta::WorkloadGone(uid.clone())));
        let gone = self.services.keys();
        let gone = gone.filter(|name| !next.services.contains_key(*name));
        deltas.extend(gone.map(|name| Delta::ServiceGone(name.clone())));
        let gone = self.namespaces.keys();
        let gone = gone.filter(|name| !next.namespaces.contains_key(*name));
        deltas.extend(gone.map(|name| Delta::NamespaceGone(Arc::clone(name))));

        let gone = self.zones.keys();
        let gone = gone.filter(|node| !next.zones.contains_key(*node));
        deltas.extend(gone.map(|node| Delta::Zone(node.clone(), None)));

        for (name, namespace) in &next.namespaces {
            if self.namespaces.get(name) != Some(namespace) {
                deltas.push(Delta::Namespace(namespace.clone()));
            }
        }
        for (node, zone) in &next.zones {
            if self.zones.get(node) != Some(zone) {
                deltas.push(Delta::Zone(node.clone(), Some(Arc::clone(zone))));
            }
        }
        for (uid, pod) in &next.workloads {
            if self.workloads.get(uid) != Some(pod) {
                deltas.push(Delta::Workload(pod.clone()));
            }
        }
        for (name, (service, endpoints)) in &next.services {
            let before = self.services.get(name);
            if before.map(|(service, _)| service) != Some(service) {
                deltas.push(Delta::Service(service.clone()));
            }
            if before.map_or(&[][..], |(_, endpoints)| endpoints) != endpoints {
                deltas.push(Delta::Endpoints(name.clone(), endpoints.clone()));
            }
        }
        self.policy_deltas_to(next, &mut deltas);
        deltas
    }

    fn policy_deltas_to(&self, next: &Self, deltas: &mut Vec<Delta>) {
        let gone =
            |kind, name: &ObjectName| Delta::PolicyGone(PolicyId { kind, name: name.clone() });
        let names = self.peer_authentications.keys();
        let names = names.filter(|name| !next.peer_authentications.contains_key(*name));
        deltas.extend(names.map(|name| gone(PolicyKind::PeerAuthentication, name)));
        let names = self.authorization_policies.keys();
        let names = names.filter(|name| !next.authorization_policies.contains_key(*name));
        deltas.extend(names.map(|name| gone(PolicyKind::AuthorizationPolicy, name)));
        for (name, policy) in &next.peer_authentications {
            if self.peer_authentications.get(name) != Some(policy) {
                deltas.push(Delta::PeerAuthentication(policy.clone()));
            }
        }
        for (name, policy) in &next.authorization_policies {
            if self.authorization_policies.get(name) != Some(policy) {
                deltas.push(Delta::AuthorizationPolicy(policy.clone()));
            }
        }
        let names = self.network_policies.keys();
        let names = names.filter(|name| !next.network_policies.contains_key(*name));
        deltas.extend(names.map(|name| Delta::NetworkPolicyGone(name.clone())));
        for (name, policy) in &next.network_policies {
            if self.network_policies.get(name) != Some(policy) {
                deltas.push(Delta::NetworkPolicy(policy.clone()));
            }
        }
    }
}
