//! Where connections go. The world: the service `shop/web` with two ports and endpoints of both
//! families, an enrolled namespace `shop`, another one that is not, and an external endpoint.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use super::*;
use crate::identity::TrustDomain;
use crate::recheck::has_strayed;
use crate::workload::{
    Affinity, Endpoint, Hints, InternalTraffic, MeshMode, Namespace, NodeName, Owner, Phase,
    PodUid, Service, ServicePort,
};
use crate::world::{Changes, Delta};

#[test]
fn every_destination_has_one_plan() {
    let cases = [
        ("10.96.0.1:80", "tunnel to 10.0.0.1:8080 for shop/web"),
        ("10.96.0.1:9090", "tunnel to 10.0.0.1:9191 for shop/web"),
        ("[fd00:96::1]:80", "tunnel to [fd00::1]:8080 for shop/web"),
        ("[::ffff:10.96.0.1]:80", "tunnel to 10.0.0.1:8080 for shop/web"),
        ("10.96.0.1:81", "refused: no_such_service_port"),
        ("10.96.0.1:8080", "refused: no_such_service_port"),
        ("10.96.0.2:80", "refused: no_ready_endpoint"),
        ("10.96.0.3:80", "refused: no_ready_endpoint"),
        ("10.96.0.4:80", "refused: no_ready_endpoint"),
        ("10.96.0.5:80", "plaintext to 192.0.2.7:443 for shop/external: unknown_destination"),
        (
            "10.96.0.6:80",
            "plaintext to 10.0.9.1:80 for bare/db: destination_namespace_not_labelled",
        ),
        ("10.0.0.1:8080", "tunnel to 10.0.0.1:8080"),
        ("10.0.0.1:1", "tunnel to 10.0.0.1:1"),
        ("[::ffff:10.0.0.1]:5", "tunnel to 10.0.0.1:5"),
        ("[fd00::1]:8080", "tunnel to [fd00::1]:8080"),
        ("10.0.0.2:80", "plaintext to 10.0.0.2:80: destination_opted_out"),
        ("10.0.0.3:80", "plaintext to 10.0.0.3:80: destination_host_network"),
        ("10.0.9.1:80", "plaintext to 10.0.9.1:80: destination_namespace_not_labelled"),
        ("10.0.0.99:80", "plaintext to 10.0.0.99:80: unknown_destination"),
        ("192.0.2.7:443", "plaintext to 192.0.2.7:443: unknown_destination"),
        ("[2001:db8::1]:443", "plaintext to [2001:db8::1]:443: unknown_destination"),
    ];
    let world = shop();
    for (dialled, expected) in cases {
        let plan = plan(&world, &query(dialled, "10.0.0.9", 0));
        assert_eq!(described(&plan), expected, "{dialled}");
    }
}

#[test]
fn a_plaintext_arrival_is_explained_by_its_destination_first() {
    let world = shop();
    let pod = |address: &str| world.workload_at(address.parse().unwrap()).map(|pod| &**pod);
    let (enrolled, other, opted_out) = (pod("10.0.0.1"), pod("fd00::1"), pod("10.0.0.2"));
    let outside = pod("10.0.9.1");
    for (source, destination, expected) in [
        (other, enrolled, "source_bypassed"),
        (opted_out, enrolled, "source_opted_out"),
        (outside, enrolled, "source_namespace_not_labelled"),
        (None, enrolled, "unknown_source"),
        (enrolled, opted_out, "destination_opted_out"),
        (enrolled, outside, "destination_namespace_not_labelled"),
        (opted_out, outside, "destination_namespace_not_labelled"),
        (None, opted_out, "destination_opted_out"),
    ] {
        let reason = came_in_plaintext(&world, source, destination);
        assert_eq!(reason.as_label(), expected);
    }
}

#[test]
fn a_tunnel_expects_the_identity_of_the_pod_behind_the_endpoint() {
    let Plan::Tunnel(hop) = plan(&shop(), &query("10.96.0.1:80", "10.0.0.9", 0)) else {
        panic!("no tunnel");
    };
    assert_eq!(hop.identity.to_string(), "spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!(hop.workload.uid.as_str(), "web-1");
}

#[test]
fn a_pod_that_is_its_services_endpoint_reaches_itself_without_a_tunnel() {
    let web = PodUid::parse("web-1");
    let itself = Query { caller: web.as_ref(), ..query("10.96.0.1:80", "10.0.0.1", 0) };
    let plan = plan(&shop(), &itself);
    assert_eq!(described(&plan), "plaintext to 10.0.0.1:8080 for shop/web: same_pod");
}

#[test]
fn no_other_pod_is_taken_for_the_caller_whatever_addresses_are_known_of_both() {
    // A caller without an address of the family that it dials, and one whose address another pod had.
    for source in ["fd00::1", "10.0.0.1"] {
        let plan = plan(&shop(), &query("[fd00::1]:8080", source, 0));
        assert_eq!(described(&plan), "tunnel to [fd00::1]:8080", "{source}");
    }
}

#[test]
fn without_affinity_connections_spread_over_the_ready_endpoints_evenly() {
    let world = farm(Affinity::None, &[(1, true), (2, false), (3, true), (4, true)]);
    let mut hits = BTreeMap::new();
    for random in 0..300 {
        let plan = plan(&world, &query("10.96.0.1:80", "10.0.0.9", random));
        *hits.entry(chosen(&plan)).or_insert(0) += 1;
    }
    assert_eq!(hits, BTreeMap::from([(1, 100), (3, 100), (4, 100)]));
}

#[test]
fn an_endpoint_without_the_dialled_port_is_not_chosen() {
    let (world, _) = farm(Affinity::None, &[(1, true)]).apply([Delta::Endpoints(
        ObjectName::new("shop", "web"),
        vec![
            endpoint("10.1.0.1", &[("metrics", 9)], true),
            endpoint("10.1.0.2", &[("http", 8)], true),
        ],
    )]);
    for random in 0..8 {
        let plan = plan(&world, &query("10.96.0.1:80", "10.0.0.9", random));
        assert_eq!(chosen(&plan), 2);
    }
}

#[test]
fn an_endpoint_leads_nowhere_else_than_to_the_pod_that_it_stands_for() {
    let of = |pod: &str, address: &str| Endpoint {
        pod: PodUid::parse(pod),
        ..endpoint(address, &[("http", 8080)], true)
    };
    let refused = "refused: destination_out_of_date";
    let to_bare = "plaintext to 10.0.9.1:8080 for shop/web: destination_namespace_not_labelled";
    for (endpoints, expected, why) in [
        (vec![of("web-1", "10.0.0.1")], "tunnel to 10.0.0.1:8080 for shop/web", "has the address"),
        (vec![of("web-1", "10.0.0.98")], refused, "has another address by now"),
        (vec![of("web-1", "10.0.9.1")], refused, "has given its address to a pod outside"),
        (vec![of("gone", "10.0.0.98")], refused, "is gone, or not heard of yet"),
        (vec![of("done", "10.0.0.99")], refused, "has finished"),
        (vec![of("db-1", "10.0.9.1")], to_bare, "is outside of the mesh"),
        (
            vec![of("db-1", "10.9.9.9")],
            "plaintext to 10.9.9.9:8080 for shop/web: unknown_destination",
            "is outside of the mesh and reached in another network",
        ),
        (
            vec![of("gone", "10.0.0.97"), of("web-1", "10.0.0.1"), of("web-1", "10.0.0.98")],
            "tunnel to 10.0.0.1:8080 for shop/web",
            "is one of three, of which two are out of date",
        ),
    ] {
        let name = ObjectName::new("shop", "web");
        for affinity in [Affinity::None, CLIENT_IP] {
            let web = service("shop", "web", &["10.96.0.1"], &[("http", 80)], affinity);
            let (world, _) = shop().apply([web, Delta::Endpoints(name.clone(), endpoints.clone())]);
            for random in 0..6 {
                let plan = plan(&world, &query("10.96.0.1:80", "10.0.0.9", random));
                assert_eq!(described(&plan), expected, "its pod {why}");
            }
        }
    }
}

#[test]
fn an_address_that_an_enrolled_pod_had_is_not_dialled_in_plaintext_until_it_is_somebody_elses() {
    let to = |world: &World, address: &str| {
        described(&plan(world, &query(&format!("{address}:80"), "10.0.0.9", 0)))
    };
    let gone = |name| Delta::WorkloadGone(PodUid::parse(name).unwrap());
    let refused = "refused: destination_out_of_date";
    let unknown = "plaintext to 10.0.0.1:80: unknown_destination";

    let (away, _) = shop().apply([gone("web-1")]);
    assert_eq!(to(&away, "10.0.0.1"), refused);
    assert_eq!(to(&away, "[fd00::1]"), refused);
    let elsewhere = [&[][..], &["10.0.0.77"]].map(|new| pod("shop", "web-1", new, |_| ()));
    let ended = pod("shop", "web-1", &["10.0.0.1"], |pod| pod.phase = Phase::Finished);
    for moved in elsewhere.into_iter().chain([ended]) {
        assert_eq!(to(&shop().apply([moved.clone()]).0, "10.0.0.1"), refused, "{moved:?}");
    }
    for (next, expected) in [
        (pod("shop", "web-2", &["10.0.0.1"], |_| ()), "tunnel to 10.0.0.1:80"),
        (
            pod("bare", "db-2", &["10.0.0.1"], |_| ()),
            "plaintext to 10.0.0.1:80: destination_namespace_not_labelled",
        ),
    ] {
        let (taken, _) = away.apply([next.clone()]);
        assert_eq!(to(&taken, "10.0.0.1"), expected);
        // Whichever of the two is heard of first.
        let (taken, _) = shop().apply([next, gone("web-1")]);
        assert_eq!(to(&taken, "10.0.0.1"), expected);
    }
    let (bare, _) = shop().apply([gone("out"), gone("db-1"), gone("host")]);
    for address in ["10.0.0.2", "10.0.0.3", "10.0.9.1"] {
        let unknown = format!("plaintext to {address}:80: unknown_destination");
        assert_eq!(to(&bare, address), unknown, "was not enrolled");
    }

    // It is remembered from one lapse to the one after the next at most.
    let (later, changes) = away.apply([Delta::Lapse]);
    assert!(changes.lapsed);
    assert_eq!(to(&later, "10.0.0.1"), refused);
    let (forgotten, changes) = later.apply([Delta::Lapse]);
    assert!(changes.lapsed);
    assert_eq!(to(&forgotten, "10.0.0.1"), unknown);
    assert!(!forgotten.apply([Delta::Lapse]).1.lapsed);
}

#[test]
fn a_plaintext_flow_ends_when_its_address_turns_out_to_be_another_pods_that_is_enrolled() {
    let late = || pod("shop", "late", &["10.0.0.42"], |_| ());
    let unlabelled = || pod("bare", "late", &["10.0.0.42"], |_| ());
    let to_late = endpoint("10.0.0.42", &[("http", 8080)], true);
    let late_service = || {
        let name = ObjectName::new("shop", "late");
        let service = service("shop", "late", &["10.96.0.42"], &[("http", 80)], Affinity::None);
        [service, Delta::Endpoints(name, vec![to_late.clone()])]
    };
    let opt_in = || namespace("bare", MeshMode::Ambient);
    let gone = || Delta::WorkloadGone(PodUid::parse("db-1").unwrap());
    let reused = || pod("shop", "new", &["10.0.9.1"], |_| ());
    let (late_twice, [a, b]) = (late(), late_service());
    for (dialled, opened_to, deltas, strayed) in [
        ("10.0.0.42:80", None, vec![late()], true),
        ("10.0.0.42:80", None, vec![unlabelled()], false),
        ("10.0.0.43:80", None, vec![late()], false),
        ("192.0.2.7:443", None, vec![late()], false),
        ("10.96.0.42:80", None, vec![late_twice, a, b], true),
        ("10.0.9.1:80", Some("db-1"), vec![opt_in()], false),
        ("10.0.9.1:80", Some("db-1"), vec![gone()], false),
        ("10.0.9.1:80", Some("db-1"), vec![gone(), reused()], true),
        ("10.0.9.1:80", Some("db-1"), vec![reused()], true),
    ] {
        let (world, changes) = shop().apply(deltas.clone());
        let opened_to = opened_to.and_then(PodUid::parse);
        let query = query(dialled, "10.0.0.9", 0);
        for changes in [Some(&changes), None] {
            let found = has_strayed(&world, changes, &query, opened_to.as_ref());
            assert_eq!(found, strayed, "{dialled} after {deltas:?}");
        }
        let of_time = Changes { lapsed: true, ..Changes::default() };
        assert!(!has_strayed(&world, Some(&of_time), &query, opened_to.as_ref()));
    }
}

#[test]
fn one_clients_connections_all_go_to_the_same_endpoint_when_the_service_asks_for_it() {
    let world = farm(CLIENT_IP, &[(1, true), (2, true), (3, true), (4, true)]);
    for client in clients() {
        let first = chosen(&plan(&world, &query("10.96.0.1:80", &client, 0)));
        for random in 1..20 {
            let plan = plan(&world, &query("10.96.0.1:80", &client, random));
            assert_eq!(chosen(&plan), first, "{client}");
        }
    }
}

#[test]
fn affinity_holds_for_an_ipv4_client_on_an_ipv6_socket() {
    let world = farm(CLIENT_IP, &[(1, true), (2, true), (3, true), (4, true)]);
    for client in clients() {
        let plain = plan(&world, &query("10.96.0.1:80", &client, 0));
        let mapped = query("[::ffff:10.96.0.1]:80", &format!("::ffff:{client}"), 0);
        assert_eq!(plan(&world, &mapped), plain);
    }
}

#[test]
fn affinity_still_spreads_clients() {
    let world = farm(CLIENT_IP, &[(1, true), (2, true), (3, true), (4, true)]);
    let mut hits = BTreeMap::new();
    for client in clients() {
        let plan = plan(&world, &query("10.96.0.1:80", &client, 0));
        *hits.entry(chosen(&plan)).or_insert(0) += 1;
    }
    assert_eq!(hits.len(), 4);
    for (endpoint, clients) in hits {
        assert!((150..350).contains(&clients), "{endpoint}: {clients} of 1000");
    }
}

#[test]
fn an_endpoint_that_goes_away_moves_only_its_own_clients_and_they_come_back_with_it() {
    let all = farm(CLIENT_IP, &[(1, true), (2, true), (3, true), (4, true)]);
    let without = farm(CLIENT_IP, &[(1, true), (2, false), (3, true), (4, true)]);
    for client in clients() {
        let query = query("10.96.0.1:80", &client, 0);
        let before = chosen(&plan(&all, &query));
        let after = chosen(&plan(&without, &query));
        assert_ne!(after, 2, "{client}");
        assert!(before == 2 || before == after, "{client}");
    }
}

#[test]
fn a_new_endpoint_takes_over_its_share_of_the_clients_and_moves_no_other() {
    let before = farm(CLIENT_IP, &[(1, true), (2, true), (3, true)]);
    let after = farm(CLIENT_IP, &[(1, true), (2, true), (3, true), (4, true)]);
    let mut moved = 0;
    for client in clients() {
        let query = query("10.96.0.1:80", &client, 0);
        let (from, to) = (chosen(&plan(&before, &query)), chosen(&plan(&after, &query)));
        assert!(from == to || to == 4, "{client}");
        moved += i32::from(from != to);
    }
    assert!((150..350).contains(&moved), "{moved} of 1000");
}

#[test]
fn the_affinity_of_a_client_is_the_same_in_every_release() {
    let world = farm(CLIENT_IP, &[(1, true), (2, true), (3, true), (4, true)]);
    let choice = |n: &u8| {
        let client = format!("10.0.0.{n}");
        chosen(&plan(&world, &query("10.96.0.1:80", &client, 0)))
    };
    let choices: Vec<u8> = (1..=12).collect::<Vec<u8>>().iter().map(choice).collect();
    assert_eq!(choices, RELEASED_CHOICES);
}

/// Changing these breaks the affinity of every client of an upgraded node for once.
const RELEASED_CHOICES: [u8; 12] = [3, 3, 2, 2, 4, 1, 4, 4, 2, 4, 2, 1];

const CLIENT_IP: Affinity = Affinity::ClientIp(Duration::from_secs(10_800));

fn clients() -> impl Iterator<Item = String> {
    (0..1000).map(|n| format!("10.0.{}.{}", n / 250, n % 250))
}

/// A connection of the pod `caller`.
fn query(dialled: &str, source: &str, random: u64) -> Query<'static> {
    static CALLER: LazyLock<PodUid> = LazyLock::new(|| PodUid::parse("caller").unwrap());
    let (dialled, source) = (dialled.parse().unwrap(), source.parse().unwrap());
    Query { caller: Some(&CALLER), dialled, source, random }
}

/// Endpoint → its node, and the nodes and zones that it is meant for.
type Spread<'a> = (u8, &'a str, &'a [&'a str], &'a [&'a str]);

#[test]
fn hints_lead_to_the_node_then_to_the_zone_then_anywhere() {
    // As kube-proxy's topologyModeFromHints: all must have hints, and one must be for the caller.
    let cases: [(&str, &[Spread<'_>], &[u8]); 8] = [
        ("no hints", &[(1, "n1", &[], &[]), (2, "n2", &[], &[])], &[1, 2]),
        ("its zone", &[(1, "n1", &[], &["a"]), (2, "n2", &[], &["b"])], &[1]),
        ("several for its zone", &[(1, "n3", &[], &["a", "b"]), (2, "n2", &[], &["a"])], &[1, 2]),
        ("none for its zone", &[(1, "n3", &[], &["b"]), (2, "n2", &[], &["c"])], &[1, 2]),
        ("one without a hint", &[(1, "n1", &[], &["a"]), (2, "n2", &[], &[])], &[1, 2]),
        ("its node", &[(1, "n1", &["n1"], &["a"]), (2, "n2", &["n2"], &["a"])], &[1]),
        ("none for its node", &[(1, "n3", &["n3"], &["b"]), (2, "n2", &["n2"], &["a"])], &[2]),
        ("some without a node", &[(1, "n1", &["n1"], &["a"]), (2, "n2", &[], &["a"])], &[1, 2]),
    ];
    for (what, spread, expected) in cases {
        let world = spread_farm(InternalTraffic::Cluster, spread);
        assert_eq!(chosen_from(&world), expected, "{what}");
    }
}

#[test]
fn hints_count_among_ready_endpoints_only() {
    let mut deltas =
        spread_deltas(InternalTraffic::Cluster, &[(1, "n1", &[], &["a"]), (2, "n2", &[], &["b"])]);
    if let Some(Delta::Endpoints(_, endpoints)) = deltas.last_mut() {
        endpoints[0].ready = false;
    }
    assert_eq!(chosen_from(&World::default().apply(deltas).0), [2]);
}

#[test]
fn local_traffic_stays_on_the_node_or_goes_nowhere() {
    let spread: &[Spread<'_>] = &[(1, "n1", &[], &["b"]), (2, "n2", &[], &["a"])];
    assert_eq!(chosen_from(&spread_farm(InternalTraffic::Local, spread)), [1]);
    let elsewhere = spread_farm(InternalTraffic::Local, &spread[1..]);
    let refused = plan(&elsewhere, &query("10.96.0.1:80", "10.0.0.9", 0));
    assert_eq!(refused, Plan::Refuse(Refused::NoReadyEndpoint));
    // A caller that is not known is on no node.
    let world = spread_farm(InternalTraffic::Local, spread);
    let unknown = Query { caller: None, ..query("10.96.0.1:80", "10.0.0.9", 0) };
    let refused = plan(&world, &unknown);
    assert_eq!(refused, Plan::Refuse(Refused::NoReadyEndpoint));
}

#[test]
fn affinity_holds_among_the_endpoints_that_are_near() {
    let mut deltas = spread_deltas(
        InternalTraffic::Cluster,
        &[(1, "n1", &[], &["a"]), (2, "n2", &[], &["b"]), (3, "n1", &[], &["a"])],
    );
    for delta in &mut deltas {
        if let Delta::Service(service) = delta {
            service.affinity = Affinity::ClientIp(Duration::from_secs(10));
        }
    }
    let world = World::default().apply(deltas).0;
    let first = chosen_from(&world);
    assert_eq!(first.len(), 1);
    assert_ne!(first, [2]);
}

/// A service whose endpoints are spread over nodes, and a caller on n1 in zone a.
fn spread_farm(internal_traffic: InternalTraffic, spread: &[Spread<'_>]) -> World {
    World::default().apply(spread_deltas(internal_traffic, spread)).0
}

fn spread_deltas(internal_traffic: InternalTraffic, spread: &[Spread<'_>]) -> Vec<Delta> {
    let mut service = service("shop", "web", &["10.96.0.1"], &[("http", 80)], Affinity::None);
    if let Delta::Service(service) = &mut service {
        service.internal_traffic = internal_traffic;
    }
    let endpoints = spread.iter().map(|(n, node, nodes, zones)| Endpoint {
        node: Some(NodeName::new(node)),
        hints: Hints {
            nodes: nodes.iter().map(|node| NodeName::new(node)).collect(),
            zones: zones.iter().map(|zone| Arc::from(*zone)).collect(),
        },
        ..endpoint(&format!("10.1.0.{n}"), &[("http", 8080)], true)
    });
    let caller = |pod: &mut Workload| pod.node = Some(NodeName::new("n1"));
    vec![
        Delta::Zone(NodeName::new("n1"), Some(Arc::from("a"))),
        pod("shop", "caller", &["10.0.0.9"], caller),
        service,
        Delta::Endpoints(ObjectName::new("shop", "web"), endpoints.collect()),
    ]
}

/// Every endpoint that the caller may come to.
fn chosen_from(world: &World) -> Vec<u8> {
    let plans = (0..16).map(|random| plan(world, &query("10.96.0.1:80", "10.0.0.9", random)));
    let chosen: std::collections::BTreeSet<u8> = plans.map(|plan| chosen(&plan)).collect();
    chosen.into_iter().collect()
}

/// The last byte of the chosen endpoint's address.
#[track_caller]
fn chosen(plan: &Plan) -> u8 {
    let Plan::Plaintext(direct) = plan else {
        panic!("{plan:?}");
    };
    let IpAddr::V4(address) = direct.destination.ip() else {
        panic!("{plan:?}");
    };
    address.octets()[3]
}

fn described(plan: &Plan) -> String {
    let service = |service: &Option<ObjectName>| {
        let name = service.as_ref();
        name.map_or_else(String::new, |name| format!(" for {name}"))
    };
    match plan {
        Plan::Tunnel(hop) => format!("tunnel to {}{}", hop.destination, service(&hop.service)),
        Plan::Plaintext(direct) => {
            let known = direct.workload.is_some();
            let unknown = direct.reason == PlaintextReason::UnknownDestination;
            assert_ne!(known, unknown, "{direct:?}");
            format!(
                "plaintext to {}{}: {}",
                direct.destination,
                service(&direct.service),
                direct.reason.as_label()
            )
        }
        Plan::Refuse(why) => format!("refused: {}", why.as_label()),
    }
}

/// A service of endpoints that are no pods, with these last bytes and readiness.
fn farm(affinity: Affinity, endpoints: &[(u8, bool)]) -> World {
    let endpoints = endpoints
        .iter()
        .map(|(n, ready)| endpoint(&format!("10.1.0.{n}"), &[("http", 8080)], *ready));
    let deltas = [
        service("shop", "web", &["10.96.0.1"], &[("http", 80)], affinity),
        Delta::Endpoints(ObjectName::new("shop", "web"), endpoints.collect()),
    ];
    World::default().apply(deltas).0
}

fn shop() -> World {
    let mut deltas = vec![
        namespace("shop", MeshMode::Ambient),
        namespace("bare", MeshMode::Unset),
        pod("shop", "web-1", &["10.0.0.1", "fd00::1"], |_| ()),
        pod("shop", "out", &["10.0.0.2"], |pod| pod.mode = MeshMode::None),
        pod("shop", "host", &["10.0.0.3"], |pod| pod.host_network = true),
        pod("bare", "db-1", &["10.0.9.1"], |_| ()),
        pod("shop", "done", &["10.0.0.99"], |pod| pod.phase = Phase::Finished),
    ];
    let mut add = |namespace, name, vips: &[&str], ports: &[(&str, u16)], endpoints| {
        deltas.push(service(namespace, name, vips, ports, Affinity::None));
        deltas.push(Delta::Endpoints(ObjectName::new(namespace, name), endpoints));
    };
    let both: &[(&str, u16)] = &[("http", 8080), ("metrics", 9191)];
    add(
        "shop",
        "web",
        &["10.96.0.1", "fd00:96::1"],
        &[("http", 80), ("metrics", 9090)],
        vec![
            endpoint("fd00::1", both, true),
            endpoint("10.0.0.1", both, true),
            endpoint("10.0.0.50", both, false),
        ],
    );
    let http: &[(&str, u16)] = &[("http", 80)];
    let unready = vec![endpoint("10.0.0.1", http, false)];
    add("shop", "unready", &["10.96.0.2"], http, unready);
    add("shop", "empty", &["10.96.0.3"], http, Vec::new());
    let wrong_family = vec![endpoint("fd00::1", http, true)];
    add("shop", "ipv6-only", &["10.96.0.4"], http, wrong_family);
    let external = vec![endpoint("192.0.2.7", &[("http", 443)], true)];
    add("shop", "external", &["10.96.0.5"], http, external);
    let outside = vec![endpoint("10.0.9.1", http, true)];
    add("bare", "db", &["10.96.0.6"], http, outside);
    World::default().apply(deltas).0
}

fn namespace(name: &str, mode: MeshMode) -> Delta {
    let name = Arc::from(name);
    Delta::Namespace(Namespace { name, mode, labels: BTreeMap::new() })
}

fn pod(
    namespace: &str,
    name: &str,
    addresses: &[&str],
    change: impl FnOnce(&mut Workload),
) -> Delta {
    let domain = TrustDomain::parse("cluster.local").unwrap();
    let mut pod = Workload {
        uid: PodUid::parse(name).unwrap(),
        name: ObjectName::new(namespace, name),
        node: None,
        identity: SpiffeId::try_new(domain, namespace, "web").unwrap(),
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
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

fn service(
    namespace: &str,
    name: &str,
    vips: &[&str],
    ports: &[(&str, u16)],
    affinity: Affinity,
) -> Delta {
    let ports =
        ports.iter().map(|(name, port)| ServicePort { name: Arc::from(*name), port: *port });
    Delta::Service(Service {
        name: ObjectName::new(namespace, name),
        vips: vips.iter().map(|text| text.parse().unwrap()).collect(),
        ports: ports.collect(),
        affinity,
        internal_traffic: InternalTraffic::Cluster,
    })
}

fn endpoint(address: &str, ports: &[(&str, u16)], ready: bool) -> Endpoint {
    let port = |(name, port): &(&str, u16)| (Arc::from(*name), *port);
    Endpoint {
        address: address.parse().unwrap(),
        pod: None,
        ports: ports.iter().map(port).collect(),
        ready,
        node: None,
        hints: Hints::default(),
    }
}
