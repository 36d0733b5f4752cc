//! An immutable snapshot of everything discovery knows. A change makes a new snapshot and says what
//! it touched; readers keep the one they loaded.
//!
//! Each table stands behind its own reference count: a new snapshot shares the tables that a change
//! leaves alone and copies the pointers of the others, once for a whole batch.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use crate::network_policy::NetworkPolicy;
use crate::policy::{AuthorizationPolicy, PeerAuthentication, PolicyId, PolicySet, Touched};
use crate::workload::{
    Endpoint, Namespace, NodeName, ObjectName, Phase, PodUid, Service, Workload,
};

/// The snapshot. Cloning it costs twelve reference counts.
#[derive(Debug, Clone, Default)]
pub struct World {
    namespaces: Arc<BTreeMap<Arc<str>, Arc<Namespace>>>,
    workloads: Arc<BTreeMap<PodUid, Arc<Workload>>>,
    services: Arc<BTreeMap<ObjectName, Arc<Service>>>,
    endpoints: Arc<BTreeMap<ObjectName, Arc<[Endpoint]>>>,
    /// Who claims an address, in the order in which the claims were learned.
    by_address: Arc<HashMap<IpAddr, Vec<Arc<Workload>>>>,
    /// Who claimed an address last that nobody claims now.
    vacated: Arc<HashMap<IpAddr, Vacated>>,
    by_vip: Arc<HashMap<IpAddr, Arc<Service>>>,
    /// Node → its zone.
    zones: Arc<BTreeMap<NodeName, Arc<str>>>,
    policies: PolicySet,
    network_policies: Arc<BTreeMap<ObjectName, Arc<NetworkPolicy>>>,
}

/// A claim to an address that was given up.
#[derive(Debug, Clone)]
struct Vacated {
    by: Arc<Workload>,
    /// Before the last [`Delta::Lapse`].
    long_ago: bool,
}

/// One change to the world, from a discovery source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delta {
    /// A namespace is new or changed.
    Namespace(Namespace),
    /// A namespace is gone.
    NamespaceGone(Arc<str>),
    /// A pod is new or changed.
    Workload(Workload),
    /// A pod is gone.
    WorkloadGone(PodUid),
    /// A service is new or changed.
    Service(Service),
    /// A service is gone, and its endpoints with it.
    ServiceGone(ObjectName),
    /// The endpoints of a service, all of them.
    Endpoints(ObjectName, Vec<Endpoint>),
    /// The zone of a node; `None` if it is in none, or gone.
    Zone(NodeName, Option<Arc<str>>),
    /// A PeerAuthentication is new or changed.
    PeerAuthentication(PeerAuthentication),
    /// An AuthorizationPolicy is new or changed.
    AuthorizationPolicy(AuthorizationPolicy),
    /// A policy is gone.
    PolicyGone(PolicyId),
    /// A NetworkPolicy is new or changed.
    NetworkPolicy(NetworkPolicy),
    /// A NetworkPolicy is gone.
    NetworkPolicyGone(ObjectName),
    /// Time has passed: a source says so at even intervals. What was given up before the last time
    /// that it did is forgotten ([`World::last_owner`]).
    Lapse,
}

/// What an [`World::apply`] touched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Namespaces that came, changed or went.
    pub namespaces: BTreeSet<Arc<str>>,
    /// Pods that came, changed or went, and all pods of a changed namespace.
    pub workloads: BTreeSet<PodUid>,
    /// Services that came, changed or went, or whose endpoints did.
    pub services: BTreeSet<ObjectName>,
    /// Nodes that are in another zone now.
    pub nodes: BTreeSet<NodeName>,
    /// Policies that came, changed or went.
    pub policies: BTreeSet<Arc<PolicyId>>,
    /// Pods that one of those policies was for, or is for now. A pod whose own change (a new
    /// label) puts it under other policies is in `workloads`.
    pub governed: BTreeSet<PodUid>,
    /// NetworkPolicies that came, changed or went. Nothing is decided by them.
    pub network_policies: BTreeSet<ObjectName>,
    /// Whether time has passed that matters.
    pub lapsed: bool,
}

impl Changes {
    /// Whether a decision on a flow to this pod may come out differently now.
    #[must_use]
    pub fn touch(&self, destination: &PodUid) -> bool {
        self.workloads.contains(destination) || self.governed.contains(destination)
    }
}

impl World {
    /// An empty world in which the policies of these namespaces are for the whole mesh. The default
    /// world has those of [`ROOT_NAMESPACES`](crate::policy::ROOT_NAMESPACES).
    #[must_use]
    pub fn with_root_namespaces(roots: impl IntoIterator<Item = Arc<str>>) -> Self {
        Self { policies: PolicySet::new(roots), ..Self::default() }
    }

    /// The world after these changes, and what they touched. A delta that changes nothing touches
    /// nothing.
    #[must_use]
    pub fn apply(&self, deltas: impl IntoIterator<Item = Delta>) -> (Self, Changes) {
        let mut world = self.clone();
        let mut changes = Changes::default();
        let mut vips_changed = false;
        let mut touched = Touched::default();
        for delta in deltas {
            match delta {
                Delta::Namespace(namespace) => world.put_namespace(namespace, &mut changes),
                Delta::NamespaceGone(name) => {
                    if world.namespaces.contains_key(&name) {
                        Arc::make_mut(&mut world.namespaces).remove(&name);
                        changes.namespaces.insert(name);
                    }
                }
                Delta::Workload(workload) => world.put_workload(workload, &mut changes),
                Delta::WorkloadGone(uid) => world.remove_workload(uid, &mut changes),
                Delta::Service(service) => {
                    vips_changed |= world.put_service(service, &mut changes);
                }
                Delta::ServiceGone(name) => {
                    vips_changed |= world.remove_service(name, &mut changes);
                }
                Delta::Endpoints(name, endpoints) => {
                    world.put_endpoints(name, endpoints, &mut changes);
                }
                Delta::Zone(node, zone) => world.put_zone(node, zone, &mut changes),
                Delta::PeerAuthentication(policy) => {
                    let id = Arc::clone(policy.id());
                    world.change_policy(&id, &mut touched, &mut changes, |policies| {
                        policies.put_peer(policy)
                    });
                }
                Delta::AuthorizationPolicy(policy) => {
                    let id = Arc::clone(policy.id());
                    world.change_policy(&id, &mut touched, &mut changes, |policies| {
                        policies.put_authorization(policy)
                    });
                }
                Delta::NetworkPolicy(policy) => world.put_network_policy(policy, &mut changes),
                Delta::NetworkPolicyGone(name) => {
                    if world.network_policies.contains_key(&name) {
                        Arc::make_mut(&mut world.network_policies).remove(&name);
                        changes.network_policies.insert(name);
                    }
                }
                Delta::Lapse => world.lapse(&mut changes),
                Delta::PolicyGone(id) => {
                    let id = Arc::new(id);
                    world.change_policy(&id, &mut touched, &mut changes, |policies| {
                        policies.remove(&id)
                    });
                }
            }
        }
        // These walk a whole table, so they come once for the batch.
        if vips_changed {
            world.index_vips();
        }
        if !changes.namespaces.is_empty() {
            world.touch_pods_of_changed_namespaces(&mut changes);
        }
        if !changes.policies.is_empty() {
            world.policies.index(&changes.policies);
            let governed = world.workloads.values().filter(|pod| touched.covers(pod));
            changes.governed.extend(governed.map(|pod| pod.uid.clone()));
        }
        (world, changes)
    }

    fn change_policy(
        &mut self,
        id: &Arc<PolicyId>,
        touched: &mut Touched,
        changes: &mut Changes,
        change: impl FnOnce(&mut PolicySet) -> bool,
    ) {
        let before = self.policies.reach(id);
        if !change(&mut self.policies) {
            return;
        }
        touched.add(before);
        touched.add(self.policies.reach(id));
        changes.policies.insert(Arc::clone(id));
    }

    fn put_namespace(&mut self, namespace: Namespace, changes: &mut Changes) {
        if self.namespace(&namespace.name).map(|old| &**old) == Some(&namespace) {
            return;
        }
        let name = Arc::clone(&namespace.name);
        let namespaces = Arc::make_mut(&mut self.namespaces);
        namespaces.insert(Arc::clone(&name), Arc::new(namespace));
        changes.namespaces.insert(name);
    }

    fn put_workload(&mut self, workload: Workload, changes: &mut Changes) {
        let old = self.workload(&workload.uid).map(Arc::clone);
        if old.as_deref() == Some(&workload) {
            return;
        }
        let uid = workload.uid.clone();
        let workload = Arc::new(workload);
        self.move_claims(old.as_ref(), Some(&workload));
        Arc::make_mut(&mut self.workloads).insert(uid.clone(), workload);
        changes.workloads.insert(uid);
    }

    fn remove_workload(&mut self, uid: PodUid, changes: &mut Changes) {
        let Some(old) = self.workload(&uid).map(Arc::clone) else {
            return;
        };
        self.move_claims(Some(&old), None);
        Arc::make_mut(&mut self.workloads).remove(&uid);
        changes.workloads.insert(uid);
    }

    /// Whether the index of virtual addresses is out of date.
    fn put_service(&mut self, service: Service, changes: &mut Changes) -> bool {
        if self.service(&service.name).map(|old| &**old) == Some(&service) {
            return false;
        }
        let name = service.name.clone();
        Arc::make_mut(&mut self.services).insert(name.clone(), Arc::new(service));
        changes.services.insert(name);
        true
    }

    /// Whether the index of virtual addresses is out of date.
    fn remove_service(&mut self, name: ObjectName, changes: &mut Changes) -> bool {
        if self.endpoints.contains_key(&name) {
            Arc::make_mut(&mut self.endpoints).remove(&name);
        }
        if !self.services.contains_key(&name) {
            return false;
        }
        Arc::make_mut(&mut self.services).remove(&name);
        changes.services.insert(name);
        true
    }

    fn put_endpoints(&mut self, name: ObjectName, new: Vec<Endpoint>, changes: &mut Changes) {
        if self.endpoints(&name) == new {
            return;
        }
        Arc::make_mut(&mut self.endpoints).insert(name.clone(), Arc::from(new));
        changes.services.insert(name);
    }

    fn put_zone(&mut self, node: NodeName, zone: Option<Arc<str>>, changes: &mut Changes) {
        if self.zones.get(&node) == zone.as_ref() {
            return;
        }
        let zones = Arc::make_mut(&mut self.zones);
        match zone {
            Some(zone) => zones.insert(node.clone(), zone),
            None => zones.remove(&node),
        };
        changes.nodes.insert(node);
    }

    fn put_network_policy(&mut self, policy: NetworkPolicy, changes: &mut Changes) {
        if self.network_policies.get(&policy.name).map(|old| &**old) == Some(&policy) {
            return;
        }
        let name = policy.name.clone();
        Arc::make_mut(&mut self.network_policies).insert(name.clone(), Arc::new(policy));
        changes.network_policies.insert(name);
    }

    fn touch_pods_of_changed_namespaces(&self, changes: &mut Changes) {
        for pod in self.workloads.values() {
            if changes.namespaces.contains(&pod.name.namespace) {
                changes.workloads.insert(pod.uid.clone());
            }
        }
    }

    /// Moves the claims to addresses from a pod's old version to its new one. A claim that both
    /// have keeps its place: a pod that is only relabelled must not win back an address that a
    /// newer pod has taken over.
    fn move_claims(&mut self, old: Option<&Arc<Workload>>, new: Option<&Arc<Workload>>) {
        let by_address = Arc::make_mut(&mut self.by_address);
        for address in old.map_or(&[][..], |pod| claims(pod)) {
            let Some(owners) = by_address.get_mut(address) else {
                continue;
            };
            let keeps = new.filter(|pod| claims(pod).contains(address));
            if let Some(new) = keeps {
                for owner in owners.iter_mut().filter(|owner| owner.uid == new.uid) {
                    *owner = Arc::clone(new);
                }
                continue;
            }
            owners.retain(|owner| old.is_none_or(|old| owner.uid != old.uid));
            if owners.is_empty() {
                by_address.remove(address);
                let vacated = old.map(|by| Vacated { by: Arc::clone(by), long_ago: false });
                let vacated = vacated.map(|vacated| (*address, vacated));
                Arc::make_mut(&mut self.vacated).extend(vacated);
            }
        }
        let Some(new) = new else { return };
        for address in claims(new) {
            if self.vacated.contains_key(address) {
                Arc::make_mut(&mut self.vacated).remove(address);
            }
            let owners = by_address.entry(*address).or_default();
            if !owners.iter().any(|owner| owner.uid == new.uid) {
                owners.push(Arc::clone(new));
            }
        }
    }

    fn lapse(&mut self, changes: &mut Changes) {
        if self.vacated.is_empty() {
            return;
        }
        Arc::make_mut(&mut self.vacated)
            .retain(|_, vacated| !std::mem::replace(&mut vacated.long_ago, true));
        changes.lapsed = true;
    }

    /// Services change rarely; in name order the first claimant of an address keeps it.
    fn index_vips(&mut self) {
        let mut by_vip = HashMap::new();
        for service in self.services.values() {
            for vip in &service.vips {
                by_vip.entry(*vip).or_insert_with(|| Arc::clone(service));
            }
        }
        self.by_vip = Arc::new(by_vip);
    }

    /// The namespace of this name.
    #[must_use]
    pub fn namespace(&self, name: &str) -> Option<&Arc<Namespace>> {
        self.namespaces.get(name)
    }

    /// The pod of this UID.
    #[must_use]
    pub fn workload(&self, uid: &PodUid) -> Option<&Arc<Workload>> {
        self.workloads.get(uid)
    }

    /// The pod that owns this address now. Where an address was reused before its last owner was
    /// seen to finish: one that is not being deleted, and of several the pod that was learned last. (A
    /// first list is in no order of time, and on a node that is lost a pod is being deleted for as long
    /// as the node is.) A mirror of a static pod, which its node makes as it likes, takes no address from
    /// another pod. A node's address belongs to all pods that share the node's network; any one of them
    /// stands for it, and never for a pod of its own.
    #[must_use]
    pub fn workload_at(&self, address: IpAddr) -> Option<&Arc<Workload>> {
        let right = |pod: &&Arc<Workload>| {
            (!pod.host_network, pod.mirror_of.is_none(), pod.phase == Phase::Active)
        };
        self.by_address.get(&address)?.iter().max_by_key(right)
    }

    /// The pod that owned this address last, where nobody does now, as it was then. It is known for one
    /// [`Delta::Lapse`] and until the next one.
    #[must_use]
    pub fn last_owner(&self, address: IpAddr) -> Option<&Arc<Workload>> {
        self.vacated.get(&address).map(|vacated| &vacated.by)
    }

    /// The service with this virtual address.
    #[must_use]
    pub fn service_at(&self, vip: IpAddr) -> Option<&Arc<Service>> {
        self.by_vip.get(&vip)
    }

    /// The service of this name.
    #[must_use]
    pub fn service(&self, name: &ObjectName) -> Option<&Arc<Service>> {
        self.services.get(name)
    }

    /// The endpoints of a service; empty where it has none or is not known.
    #[must_use]
    pub fn endpoints(&self, service: &ObjectName) -> &[Endpoint] {
        self.endpoints.get(service).map_or(&[], |endpoints| endpoints)
    }

    /// The zone that a node is in.
    #[must_use]
    pub fn zone(&self, node: &NodeName) -> Option<&str> {
        self.zones.get(node).map(|zone| &**zone)
    }

    /// The policies.
    #[must_use]
    pub const fn policies(&self) -> &PolicySet {
        &self.policies
    }

    /// The NetworkPolicies of a namespace, by name.
    pub fn network_policies<'a>(
        &'a self,
        namespace: &str,
    ) -> impl Iterator<Item = &'a Arc<NetworkPolicy>> {
        let own = self.network_policies.range(ObjectName::new(namespace, "")..);
        own.take_while(move |(name, _)| &*name.namespace == namespace).map(|(_, policy)| policy)
    }

    /// All namespaces, by name.
    pub fn namespaces(&self) -> impl Iterator<Item = &Arc<Namespace>> {
        self.namespaces.values()
    }

    /// All pods, by UID.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.workloads.values()
    }

    /// The pods of one node, by UID.
    pub fn workloads_on<'a>(
        &'a self,
        node: &'a NodeName,
    ) -> impl Iterator<Item = &'a Arc<Workload>> {
        self.workloads.values().filter(move |pod| pod.node.as_ref() == Some(node))
    }

    /// All services, by namespace and name.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }
}

/// The addresses that are a pod's own: none once it has finished.
fn claims(pod: &Workload) -> &[IpAddr] {
    match pod.phase {
        Phase::Active | Phase::Terminating => &pod.addresses,
        Phase::Finished => &[],
    }
}

#[cfg(test)]
mod tests;
