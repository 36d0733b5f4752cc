//! An immutable snapshot of everything discovery knows. A change makes a new snapshot and says what
//! it touched; readers keep the one they loaded.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use crate::workload::{
    Endpoint, Namespace, NodeName, ObjectName, Phase, PodUid, Service, Workload,
};

/// The snapshot. Cloning it copies reference-counted pointers only.
#[derive(Debug, Clone, Default)]
pub struct World {
    namespaces: BTreeMap<Arc<str>, Arc<Namespace>>,
    workloads: BTreeMap<PodUid, Arc<Workload>>,
    services: BTreeMap<ObjectName, Arc<Service>>,
    endpoints: BTreeMap<ObjectName, Arc<[Endpoint]>>,
    by_address: HashMap<IpAddr, Vec<Arc<Workload>>>,
    by_vip: HashMap<IpAddr, Arc<Service>>,
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
}

impl World {
    /// The world after these changes, and what they touched. A delta that changes nothing touches
    /// nothing.
    #[must_use]
    pub fn apply(&self, deltas: impl IntoIterator<Item = Delta>) -> (Self, Changes) {
        let mut world = self.clone();
        let mut changes = Changes::default();
        for delta in deltas {
            world.apply_one(delta, &mut changes);
        }
        (world, changes)
    }

    fn apply_one(&mut self, delta: Delta, changes: &mut Changes) {
        match delta {
            Delta::Namespace(namespace) => {
                let name = Arc::clone(&namespace.name);
                if self.namespaces.get(&name).is_some_and(|old| **old == namespace) {
                    return;
                }
                self.namespaces.insert(Arc::clone(&name), Arc::new(namespace));
                self.touch_namespace(name, changes);
            }
            Delta::NamespaceGone(name) => {
                if self.namespaces.remove(&name).is_some() {
                    self.touch_namespace(name, changes);
                }
            }
            Delta::Workload(workload) => {
                let uid = workload.uid.clone();
                if self.workloads.get(&uid).is_some_and(|old| **old == workload) {
                    return;
                }
                self.forget_addresses(&uid);
                let workload = Arc::new(workload);
                self.learn_addresses(&workload);
                self.workloads.insert(uid.clone(), workload);
                changes.workloads.insert(uid);
            }
            Delta::WorkloadGone(uid) => {
                self.forget_addresses(&uid);
                if self.workloads.remove(&uid).is_some() {
                    changes.workloads.insert(uid);
                }
            }
            Delta::Service(service) => {
                let name = service.name.clone();
                if self.services.get(&name).is_some_and(|old| **old == service) {
                    return;
                }
                let service = Arc::new(service);
                self.services.insert(name.clone(), service);
                self.index_vips();
                changes.services.insert(name);
            }
            Delta::ServiceGone(name) => {
                self.endpoints.remove(&name);
                if self.services.remove(&name).is_some() {
                    self.index_vips();
                    changes.services.insert(name);
                }
            }
            Delta::Endpoints(name, endpoints) => {
                if self.endpoints(&name) == endpoints {
                    return;
                }
                self.endpoints.insert(name.clone(), Arc::from(endpoints));
                changes.services.insert(name);
            }
        }
    }

    fn touch_namespace(&self, name: Arc<str>, changes: &mut Changes) {
        let pods = self.workloads.values().filter(|pod| pod.name.namespace == name);
        changes.workloads.extend(pods.map(|pod| pod.uid.clone()));
        changes.namespaces.insert(name);
    }

    fn learn_addresses(&mut self, workload: &Arc<Workload>) {
        if workload.phase == Phase::Finished {
            return;
        }
        for address in &workload.addresses {
            self.by_address.entry(*address).or_default().push(Arc::clone(workload));
        }
    }

    fn forget_addresses(&mut self, uid: &PodUid) {
        let Some(old) = self.workloads.get(uid) else {
            return;
        };
        for address in &old.addresses {
            let Some(owners) = self.by_address.get_mut(address) else {
                continue;
            };
            owners.retain(|owner| owner.uid != *uid);
            if owners.is_empty() {
                self.by_address.remove(address);
            }
        }
    }

    /// Services change rarely; in name order the first claimant of an address keeps it.
    fn index_vips(&mut self) {
        self.by_vip.clear();
        for service in self.services.values() {
            for vip in &service.vips {
                self.by_vip.entry(*vip).or_insert_with(|| Arc::clone(service));
            }
        }
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
    /// seen to finish, the pod that was learned last.
    #[must_use]
    pub fn workload_at(&self, address: IpAddr) -> Option<&Arc<Workload>> {
        self.by_address
            .get(&address)?
            .iter()
            .rev()
            .find(|pod| !pod.host_network)
            .or_else(|| self.by_address.get(&address)?.last())
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
