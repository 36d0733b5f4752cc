//! All objects of a source that tells of each change, and what each change does to the world. What
//! it costs depends on the object that changed, not on how many there are.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use adit_core::workload::ObjectName;
use adit_core::world::Delta;

use crate::discovery::translate::{Key, Kind, Object, SliceFacts, endpoints};

/// The objects that are in force. The endpoints of a service are those that its EndpointSlices list,
/// and no others: where there is an API server, a controller writes them.
#[derive(Debug, Default)]
pub struct Ledger {
    objects: BTreeMap<Key, Object>,
    /// Service → its slices.
    slices: BTreeMap<ObjectName, BTreeSet<ObjectName>>,
}

impl Ledger {
    /// How many objects there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// The objects of one kind that are known.
    pub fn keys(&self, kind: Kind) -> impl Iterator<Item = &Key> {
        let first = Key { kind, name: ObjectName::new("", "") };
        self.objects.range(first..).map(|(key, _)| key).take_while(move |key| key.kind == kind)
    }

    /// Whether this object is known.
    #[must_use]
    pub fn contains(&self, key: &Key) -> bool {
        self.objects.contains_key(key)
    }

    /// An object is new or changed.
    pub fn put(&mut self, object: Object, deltas: &mut Vec<Delta>) {
        let key = object.key();
        let before = match self.objects.entry(key.clone()) {
            Entry::Occupied(mut place) => {
                if *place.get() == object {
                    return;
                }
                Some(place.insert(object.clone()))
            }
            Entry::Vacant(place) => {
                place.insert(object.clone());
                None
            }
        };
        match object {
            Object::Namespace(namespace) => deltas.push(Delta::Namespace(namespace)),
            Object::Node(node) => deltas.push(Delta::Zone(node.name, node.zone)),
            Object::Pod(pod) => {
                // Another pod of that name: the one before it is gone, and its addresses are free.
                if let Some(Object::Pod(old)) = &before
                    && old.workload.uid != pod.workload.uid
                {
                    deltas.push(Delta::WorkloadGone(old.workload.uid.clone()));
                }
                deltas.push(Delta::Workload(pod.workload));
            }
            Object::Service(service) => {
                deltas.push(Delta::Service(service.service));
                // Its slices may have come first.
                if before.is_none() {
                    self.list_endpoints(&key.name, deltas);
                }
            }
            Object::Slice(slice) => {
                if let Some(Object::Slice(old)) = &before
                    && old.service != slice.service
                {
                    self.unlink(old, deltas);
                }
                let slices = self.slices.entry(slice.service.clone()).or_default();
                slices.insert(slice.name);
                self.list_endpoints(&slice.service, deltas);
            }
            Object::PeerAuthentication(policy) => {
                deltas.push(Delta::PeerAuthentication(*policy));
            }
            Object::AuthorizationPolicy(policy) => {
                deltas.push(Delta::AuthorizationPolicy(*policy));
            }
            Object::NetworkPolicy(policy) => deltas.push(Delta::NetworkPolicy(*policy)),
        }
    }

    /// An object is gone.
    pub fn remove(&mut self, key: &Key, deltas: &mut Vec<Delta>) {
        let Some(object) = self.objects.remove(key) else {
            return;
        };
        match object {
            Object::Namespace(namespace) => deltas.push(Delta::NamespaceGone(namespace.name)),
            Object::Node(node) => deltas.push(Delta::Zone(node.name, None)),
            Object::Pod(pod) => deltas.push(Delta::WorkloadGone(pod.workload.uid)),
            Object::Service(service) => deltas.push(Delta::ServiceGone(service.service.name)),
            Object::Slice(slice) => self.unlink(&slice, deltas),
            Object::PeerAuthentication(_) | Object::AuthorizationPolicy(_) => {
                deltas.extend(key.policy().map(Delta::PolicyGone));
            }
            Object::NetworkPolicy(policy) => deltas.push(Delta::NetworkPolicyGone(policy.name)),
        }
    }

    fn unlink(&mut self, slice: &SliceFacts, deltas: &mut Vec<Delta>) {
        if let Entry::Occupied(mut slices) = self.slices.entry(slice.service.clone()) {
            slices.get_mut().remove(&slice.name);
            if slices.get().is_empty() {
                slices.remove();
            }
        }
        self.list_endpoints(&slice.service, deltas);
    }

    /// Endpoints of a service that is not there would outlive it.
    fn list_endpoints(&self, service: &ObjectName, deltas: &mut Vec<Delta>) {
        let key = Key { kind: Kind::Service, name: service.clone() };
        if !self.objects.contains_key(&key) {
            return;
        }
        let slices = self.slices.get(service).into_iter().flatten();
        let slices = slices.filter_map(|name| {
            let key = Key { kind: Kind::EndpointSlice, name: name.clone() };
            match self.objects.get(&key)? {
                Object::Slice(slice) => Some(&**slice),
                Object::Namespace(_)
                | Object::Node(_)
                | Object::Pod(_)
                | Object::Service(_)
                | Object::PeerAuthentication(_)
                | Object::AuthorizationPolicy(_)
                | Object::NetworkPolicy(_) => None,
            }
        });
        let slices: Vec<&SliceFacts> = slices.collect();
        deltas.push(Delta::Endpoints(service.clone(), endpoints::listed(&slices)));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use adit_core::policy::{PolicyId, PolicyKind};
    use adit_core::world::World;
    use serde_json::json;

    use super::*;
    use crate::discovery::translate::{self, Snapshot};

    #[test]
    fn slices_and_services_may_come_in_any_order_and_go_in_any_order() {
        let (mut ledger, mut world) = (Ledger::default(), World::default());
        put(&mut ledger, &mut world, slice("web-1", "web", &["10.0.0.1"]));
        assert_eq!(addresses(&world, "web"), [""; 0]);
        put(&mut ledger, &mut world, service("web"));
        assert_eq!(addresses(&world, "web"), ["10.0.0.1"]);
        put(&mut ledger, &mut world, slice("web-2", "web", &["10.0.0.2"]));
        assert_eq!(addresses(&world, "web"), ["10.0.0.1", "10.0.0.2"]);
        put(&mut ledger, &mut world, slice("web-1", "other", &["10.0.0.1"]));
        assert_eq!(addresses(&world, "web"), ["10.0.0.2"]);
        remove(&mut ledger, &mut world, Kind::Service, "web");
        assert_eq!(addresses(&world, "web"), [""; 0]);
        put(&mut ledger, &mut world, service("web"));
        assert_eq!(addresses(&world, "web"), ["10.0.0.2"]);
        remove(&mut ledger, &mut world, Kind::EndpointSlice, "web-2");
        assert_eq!(addresses(&world, "web"), [""; 0]);
        assert!(world.service(&ObjectName::new("shop", "web")).is_some());
    }

    #[test]
    fn a_pod_that_takes_the_place_of_one_of_its_name_takes_its_address_over() {
        let (mut ledger, mut world) = (Ledger::default(), World::default());
        put(&mut ledger, &mut world, pod("db-0", "u-1", "10.0.0.1", "Running"));
        put(&mut ledger, &mut world, pod("db-0", "u-2", "10.0.0.1", "Running"));
        let owner = world.workload_at("10.0.0.1".parse().unwrap()).unwrap();
        assert_eq!(owner.uid.as_str(), "u-2");
        assert_eq!(world.workloads().count(), 1);
    }

    #[test]
    fn an_address_that_is_used_again_belongs_to_the_pod_that_came_last() {
        let (mut ledger, mut world) = (Ledger::default(), World::default());
        let owner = |world: &World| {
            world.workload_at("10.0.0.1".parse().unwrap()).map(|pod| pod.uid.to_string())
        };
        put(&mut ledger, &mut world, pod("old", "u-1", "10.0.0.1", "Running"));
        put(&mut ledger, &mut world, pod("new", "u-2", "10.0.0.1", "Running"));
        assert_eq!(owner(&world).as_deref(), Some("u-2"));
        put(&mut ledger, &mut world, pod("old", "u-1", "10.0.0.1", "Succeeded"));
        assert_eq!(owner(&world).as_deref(), Some("u-2"));
        remove(&mut ledger, &mut world, Kind::Pod, "new");
        assert_eq!(owner(&world), None, "a finished pod has no address");
    }

    #[test]
    fn change_by_change_it_comes_to_the_same_as_all_at_once() {
        let objects = [
            namespace("shop"),
            service("web"),
            slice("web-1", "web", &["10.0.0.1", "10.0.0.2"]),
            pod("web-a", "u-1", "10.0.0.1", "Running"),
            pod("web-b", "u-2", "10.0.0.2", "Failed"),
            policy("deny"),
            network_policy("closed"),
        ];
        let (snapshot, _) = Snapshot::assemble(&objects);
        let (expected, _) = World::default().apply(Snapshot::default().deltas_to(&snapshot));
        let (mut ledger, mut world) = (Ledger::default(), World::default());
        for object in objects.into_iter().rev() {
            put(&mut ledger, &mut world, object);
        }
        assert_eq!(shown(&world), shown(&expected));
        let keys: Vec<Key> = ledger.objects.keys().cloned().collect();
        for key in keys {
            let mut deltas = Vec::new();
            ledger.remove(&key, &mut deltas);
            world = world.apply(deltas).0;
        }
        assert!(ledger.is_empty() && ledger.slices.is_empty(), "{ledger:?}");
        assert_eq!(shown(&world), shown(&World::default()));
    }

    #[test]
    fn what_does_not_change_says_nothing() {
        let (mut ledger, mut deltas) = (Ledger::default(), Vec::new());
        ledger.put(service("web"), &mut deltas);
        deltas.clear();
        ledger.put(service("web"), &mut deltas);
        ledger.remove(&key(Kind::Pod, "web"), &mut deltas);
        assert_eq!(deltas, []);
        assert_eq!(ledger.keys(Kind::Service).count(), 1);
        assert_eq!(ledger.keys(Kind::Pod).count(), 0);
    }

    fn put(ledger: &mut Ledger, world: &mut World, object: Object) {
        let mut deltas = Vec::new();
        ledger.put(object, &mut deltas);
        *world = world.apply(deltas).0;
    }

    fn remove(ledger: &mut Ledger, world: &mut World, kind: Kind, name: &str) {
        let mut deltas = Vec::new();
        ledger.remove(&key(kind, name), &mut deltas);
        *world = world.apply(deltas).0;
    }

    fn key(kind: Kind, name: &str) -> Key {
        Key::of(kind, Some("shop"), Some(name)).unwrap()
    }

    fn addresses(world: &World, service: &str) -> Vec<String> {
        let endpoints = world.endpoints(&ObjectName::new("shop", service)).iter();
        endpoints.map(|endpoint| endpoint.address.to_string()).collect()
    }

    /// Everything of it, for comparison.
    fn shown(world: &World) -> String {
        let namespaces: Vec<_> = world.namespaces().collect();
        let pods: Vec<_> = world.workloads().collect();
        let services: Vec<_> = world.services().collect();
        let endpoints: Vec<_> = services.iter().map(|one| world.endpoints(&one.name)).collect();
        let address = world.workload_at("10.0.0.1".parse().unwrap());
        let kind = PolicyKind::AuthorizationPolicy;
        let id = PolicyId { kind, name: ObjectName::new("shop", "deny") };
        let policy = world.policies().contains(&id);
        let network: Vec<_> = world.network_policies("shop").collect();
        format!(
            "{namespaces:?} {pods:?} {services:?} {endpoints:?} {address:?} {policy} {network:?}"
        )
    }

    fn read(kind: Kind, value: serde_json::Value) -> Object {
        let domain = adit_core::identity::TrustDomain::parse("cluster.local").unwrap();
        translate::read(kind, value, &domain).unwrap().unwrap()
    }

    fn namespace(name: &str) -> Object {
        let mut labels = BTreeMap::new();
        labels.insert(translate::MODE_LABEL, "ambient");
        read(Kind::Namespace, json!({"metadata": {"name": name, "labels": labels}}))
    }

    fn service(name: &str) -> Object {
        read(
            Kind::Service,
            json!({
                "metadata": {"name": name, "namespace": "shop"},
                "spec": {"clusterIP": "10.96.0.9", "selector": {"app": name}, "ports": [{"port": 80}]},
            }),
        )
    }

    fn slice(name: &str, service: &str, addresses: &[&str]) -> Object {
        let endpoints: Vec<_> =
            addresses.iter().map(|address| json!({"addresses": [address]})).collect();
        read(
            Kind::EndpointSlice,
            json!({
                "metadata": {
                    "name": name, "namespace": "shop",
                    "labels": {"kubernetes.io/service-name": service},
                },
                "addressType": "IPv4",
                "endpoints": endpoints,
                "ports": [{"port": 8080}],
            }),
        )
    }

    fn pod(name: &str, uid: &str, address: &str, phase: &str) -> Object {
        read(
            Kind::Pod,
            json!({
                "metadata": {"name": name, "namespace": "shop", "uid": uid},
                "spec": {"nodeName": "n1", "containers": []},
                "status": {"phase": phase, "podIPs": [{"ip": address}]},
            }),
        )
    }

    fn network_policy(name: &str) -> Object {
        let metadata = json!({"name": name, "namespace": "shop"});
        read(Kind::NetworkPolicy, json!({"metadata": metadata, "spec": {"podSelector": {}}}))
    }

    fn policy(name: &str) -> Object {
        let value = json!({
            "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": {"name": name, "namespace": "shop"}, "spec": {"action": "DENY", "rules": [{}]},
        });
        let object = read(Kind::AuthorizationPolicy, value);
        let Object::AuthorizationPolicy(policy) = &object else { panic!("{object:?}") };
        let id = Arc::clone(policy.id());
        assert_eq!(&*id.name.name, name);
        object
    }
}
