//! The world: who owns an address, what a change touches.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::identity::{SpiffeId, TrustDomain};
use crate::workload::{Affinity, Hints, InternalTraffic, MeshMode, Owner, ServicePort};

#[test]
fn a_node_is_in_the_zone_that_it_was_last_said_to_be_in() {
    let node = NodeName::new("n1");
    let zone = |zone: Option<&str>| Delta::Zone(node.clone(), zone.map(Arc::from));
    let (world, changes) = World::default().apply([zone(Some("a"))]);
    assert_eq!(world.zone(&node), Some("a"));
    assert_eq!(changes.nodes, BTreeSet::from([node.clone()]));
    let (_, same) = world.apply([zone(Some("a"))]);
    assert_eq!(same, Changes::default());
    let (world, changes) = world.apply([zone(None)]);
    assert_eq!(world.zone(&node), None);
    assert_eq!(changes.nodes.len(), 1);
}

#[test]
fn a_pod_owns_its_addresses_until_it_is_gone() {
    let (world, changes) = World::default().apply([pod("a", &["10.0.0.1", "fd00::1"])]);
    assert_eq!(owner(&world, "10.0.0.1"), Some("a"));
    assert_eq!(owner(&world, "fd00::1"), Some("a"));
    assert_eq!(changes.workloads, BTreeSet::from([uid("a")]));

    let (world, changes) = world.apply([Delta::WorkloadGone(uid("a"))]);
    assert_eq!(owner(&world, "10.0.0.1"), None);
    assert_eq!(owner(&world, "fd00::1"), None);
    assert_eq!(changes.workloads, BTreeSet::from([uid("a")]));
}

#[test]
fn a_pod_that_changes_its_address_gives_the_old_one_up() {
    let (world, _) = World::default().apply([pod("a", &["10.0.0.1"])]);
    let (world, _) = world.apply([pod("a", &["10.0.0.2"])]);
    assert_eq!(owner(&world, "10.0.0.1"), None);
    assert_eq!(owner(&world, "10.0.0.2"), Some("a"));
}

#[test]
fn a_reused_address_belongs_to_the_pod_that_was_learned_last() {
    let (world, _) = World::default().apply([pod("z", &["10.0.0.1"]), pod("a", &["10.0.0.1"])]);
    assert_eq!(owner(&world, "10.0.0.1"), Some("a"));
}

#[test]
fn a_change_to_the_former_owner_does_not_win_its_address_back() {
    let (world, _) = World::default().apply([pod("z", &["10.0.0.1"]), pod("a", &["10.0.0.1"])]);
    let relabelled = workload("z", &["10.0.0.1"], |pod| pod.mode = MeshMode::None);
    let (world, _) = world.apply([relabelled]);
    assert_eq!(owner(&world, "10.0.0.1"), Some("a"));

    let (world, _) = world.apply([Delta::WorkloadGone(uid("a"))]);
    assert_eq!(owner(&world, "10.0.0.1"), Some("z"));
    let now = world.workload_at(ip("10.0.0.1")).unwrap();
    assert_eq!(now.mode, MeshMode::None);
}

#[test]
fn the_end_of_the_former_owner_leaves_the_new_one_its_address() {
    let (world, _) = World::default().apply([pod("z", &["10.0.0.1"]), pod("a", &["10.0.0.1"])]);
    let (world, _) = world.apply([Delta::WorkloadGone(uid("z"))]);
    assert_eq!(owner(&world, "10.0.0.1"), Some("a"));
}

#[test]
fn a_finished_pod_owns_no_address() {
    let finished = || workload("a", &["10.0.0.1"], |pod| pod.phase = Phase::Finished);
    let (world, _) = World::default().apply([finished()]);
    assert_eq!(owner(&world, "10.0.0.1"), None);

    let (world, _) = World::default().apply([pod("a", &["10.0.0.1"])]);
    let (world, _) = world.apply([finished()]);
    assert_eq!(owner(&world, "10.0.0.1"), None);
    assert!(world.workload(&uid("a")).is_some());
}

#[test]
fn a_pod_on_the_hosts_network_never_hides_a_pod_with_an_address_of_its_own() {
    let host = || workload("host", &["10.0.0.1"], |pod| pod.host_network = true);
    let (world, _) = World::default().apply([pod("a", &["10.0.0.1"]), host()]);
    assert_eq!(owner(&world, "10.0.0.1"), Some("a"));

    let (world, _) = world.apply([Delta::WorkloadGone(uid("a"))]);
    assert_eq!(owner(&world, "10.0.0.1"), Some("host"));
}

#[test]
fn an_address_that_is_listed_twice_is_given_up_once() {
    let (world, _) = World::default().apply([pod("a", &["10.0.0.1", "10.0.0.1"])]);
    let (world, _) = world.apply([Delta::WorkloadGone(uid("a"))]);
    assert_eq!(owner(&world, "10.0.0.1"), None);
}

#[test]
fn a_namespaces_change_touches_its_pods_and_no_others() {
    let other = workload("b", &["10.0.0.2"], |pod| {
        pod.name = ObjectName::new("other", "b");
    });
    let (world, _) = World::default().apply([pod("a", &["10.0.0.1"]), other]);

    let (world, changes) = world.apply([namespace(MeshMode::Ambient)]);
    assert_eq!(changes.namespaces, BTreeSet::from([Arc::from("shop")]));
    assert_eq!(changes.workloads, BTreeSet::from([uid("a")]));

    let (_, changes) = world.apply([Delta::NamespaceGone(Arc::from("shop"))]);
    assert_eq!(changes.workloads, BTreeSet::from([uid("a")]));
}

#[test]
fn a_delta_that_changes_nothing_touches_nothing() {
    let all = || {
        [
            namespace(MeshMode::Ambient),
            pod("a", &["10.0.0.1"]),
            service("web", &["10.96.0.1"]),
            endpoints("web", &["10.0.0.1"]),
        ]
    };
    let (world, _) = World::default().apply(all());
    let (_, changes) = world.apply(all());
    assert_eq!(changes, Changes::default());

    let (_, changes) = world.apply([
        Delta::NamespaceGone(Arc::from("unknown")),
        Delta::WorkloadGone(uid("unknown")),
        Delta::ServiceGone(ObjectName::new("shop", "unknown")),
        Delta::Endpoints(ObjectName::new("shop", "unknown"), Vec::new()),
    ]);
    assert_eq!(changes, Changes::default());
}

#[test]
fn a_virtual_address_belongs_to_the_first_service_by_name() {
    let (world, _) = World::default()
        .apply([service("web", &["10.96.0.1", "fd00:96::1"]), service("api", &["10.96.0.1"])]);
    assert_eq!(vip_owner(&world, "10.96.0.1"), Some("api"));
    assert_eq!(vip_owner(&world, "fd00:96::1"), Some("web"));

    let (world, _) = world.apply([Delta::ServiceGone(ObjectName::new("shop", "api"))]);
    assert_eq!(vip_owner(&world, "10.96.0.1"), Some("web"));

    let (world, _) = world.apply([service("web", &["10.96.0.2"])]);
    assert_eq!(vip_owner(&world, "10.96.0.1"), None);
    assert_eq!(vip_owner(&world, "10.96.0.2"), Some("web"));
}

#[test]
fn a_service_that_goes_takes_its_endpoints_along() {
    let (world, _) = World::default().apply([service("web", &[]), endpoints("web", &["10.0.0.1"])]);
    let name = ObjectName::new("shop", "web");
    assert_eq!(world.endpoints(&name).len(), 1);

    let (world, changes) = world.apply([Delta::ServiceGone(name.clone())]);
    assert!(world.endpoints(&name).is_empty());
    assert_eq!(changes.services, BTreeSet::from([name]));
}

#[test]
fn a_reader_keeps_the_world_it_loaded() {
    let (before, _) = World::default().apply([pod("a", &["10.0.0.1"])]);
    let (after, _) = before.apply([Delta::WorkloadGone(uid("a"))]);
    assert_eq!(owner(&before, "10.0.0.1"), Some("a"));
    assert_eq!(owner(&after, "10.0.0.1"), None);
}

#[test]
fn a_change_shares_the_tables_it_leaves_alone() {
    let pods = (0..5000).map(|n| {
        let address = format!("10.{}.{}.{}", n >> 16, (n >> 8) & 255, n & 255);
        pod(&format!("pod-{n}"), &[&address])
    });
    let (world, _) = World::default().apply(pods);

    let (after, _) = world.apply([service("web", &["10.96.0.1"])]);
    assert!(Arc::ptr_eq(&world.workloads, &after.workloads));
    assert!(Arc::ptr_eq(&world.by_address, &after.by_address));

    let (after, changes) = world.apply([pod("pod-7", &["10.200.0.1"])]);
    assert_eq!(changes.workloads.len(), 1);
    let shared = world
        .workloads()
        .filter(|pod| after.workload(&pod.uid).is_some_and(|now| Arc::ptr_eq(pod, now)));
    assert_eq!(shared.count(), 4999);
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn uid(text: &str) -> PodUid {
    PodUid::parse(text).unwrap()
}

#[test]
fn a_mirror_that_a_node_has_made_takes_no_address_from_another_pod() {
    let mirror = |pod: &mut Workload| pod.mirror_of = Some(Arc::from("h"));
    let on_the_host = |pod: &mut Workload| pod.host_network = true;
    let deltas = [
        pod("web", &["10.0.0.1"]),
        workload("static", &["10.0.0.1", "10.0.0.2"], mirror),
        workload("kubelets", &["10.0.0.2"], on_the_host),
    ];
    let (world, _) = World::default().apply(deltas);
    assert_eq!(owner(&world, "10.0.0.1"), Some("web"));
    assert_eq!(owner(&world, "10.0.0.2"), Some("static"));
}

#[test]
fn a_pod_that_is_being_deleted_keeps_no_address_from_one_that_is_not() {
    let leaving = |pod: &mut Workload| pod.phase = Phase::Terminating;
    let stuck = || workload("stuck", &["10.0.0.1"], leaving);
    for deltas in [[pod("web", &["10.0.0.1"]), stuck()], [stuck(), pod("web", &["10.0.0.1"])]] {
        let (world, _) = World::default().apply(deltas);
        assert_eq!(owner(&world, "10.0.0.1"), Some("web"));
        let (world, _) = world.apply([Delta::WorkloadGone(uid("web"))]);
        assert_eq!(owner(&world, "10.0.0.1"), Some("stuck"), "until it is gone it has it");
    }
}

fn owner<'a>(world: &'a World, address: &str) -> Option<&'a str> {
    let pod = world.workload_at(ip(address))?;
    Some(pod.uid.as_str())
}

fn vip_owner<'a>(world: &'a World, vip: &str) -> Option<&'a str> {
    let service = world.service_at(ip(vip))?;
    Some(&service.name.name)
}

fn namespace(mode: MeshMode) -> Delta {
    let name = Arc::from("shop");
    Delta::Namespace(Namespace { name, mode, labels: BTreeMap::new() })
}

fn pod(name: &str, addresses: &[&str]) -> Delta {
    workload(name, addresses, |_| ())
}

fn workload(name: &str, addresses: &[&str], change: impl FnOnce(&mut Workload)) -> Delta {
    let domain = TrustDomain::parse("cluster.local").unwrap();
    let mut pod = Workload {
        uid: uid(name),
        name: ObjectName::new("shop", name),
        node: None,
        identity: SpiffeId::try_new(domain, "shop", "default").unwrap(),
        addresses: addresses.iter().map(|text| ip(text)).collect(),
        mode: MeshMode::Unset,
        host_network: false,
        phase: Phase::Active,
        owner: Owner { kind: Arc::from("pod"), name: Arc::from(name) },
        labels: BTreeMap::new(),
        probed: Vec::new(),
        tunnel_ports: Vec::new(),
        mirror_of: None,
        announced: None,
        netns: None,
    };
    change(&mut pod);
    Delta::Workload(pod)
}

fn service(name: &str, vips: &[&str]) -> Delta {
    Delta::Service(Service {
        name: ObjectName::new("shop", name),
        vips: vips.iter().map(|text| ip(text)).collect(),
        ports: vec![ServicePort { name: Arc::from("http"), port: 80 }],
        affinity: Affinity::ClientIp(Duration::from_secs(1)),
        internal_traffic: InternalTraffic::Cluster,
    })
}

fn endpoints(service: &str, addresses: &[&str]) -> Delta {
    let endpoint = |text: &&str| Endpoint {
        address: ip(text),
        pod: None,
        ports: BTreeMap::from([(Arc::from("http"), 8080)]),
        ready: true,
        node: None,
        hints: Hints::default(),
    };
    Delta::Endpoints(ObjectName::new("shop", service), addresses.iter().map(endpoint).collect())
}
