//! What Kubernetes objects mean, and which of their fields can be wrong.

mod invalid;

use std::fmt::Write;

use adit_core::identity::TrustDomain;
use adit_core::workload::{Endpoint, Hints, InternalTraffic};
use adit_core::world::{Delta, World};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::de::DeserializeOwned;

use super::*;

#[test]
fn a_pod_becomes_a_workload() {
    let pod = read_pod(
        r#"{"metadata": {"name": "web-1", "namespace": "shop", "uid": "1b2c",
             "labels": {"app": "web", "adit.dev/mode": "none"}},
            "spec": {"nodeName": "node-a", "serviceAccountName": "frontend", "containers": []},
            "status": {"podIP": "10.0.0.9", "phase": "Running",
             "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}, {"ip": "::ffff:10.0.0.1"}]}}"#,
    )
    .unwrap();
    let workload = &pod.workload;
    assert_eq!(workload.uid.as_str(), "1b2c");
    assert_eq!(workload.name, ObjectName::new("shop", "web-1"));
    assert_eq!(workload.node.as_ref().unwrap().as_str(), "node-a");
    let identity = workload.identity.to_string();
    assert_eq!(identity, "spiffe://cluster.local/ns/shop/sa/frontend");
    assert_eq!(workload.addresses, [ip("10.0.0.1"), ip("fd00::1")]);
    assert_eq!(workload.mode, MeshMode::None);
    assert_eq!(workload.phase, adit_core::workload::Phase::Active);
    assert_eq!(&*workload.labels["app"], "web");
    assert_eq!(workload.netns, None);
    assert!(!workload.host_network);
    assert!(pod.ready);
}

#[test]
fn a_mirror_names_the_pod_that_its_kubelet_runs_and_is_one_whatever_it_names() {
    let mirror_of = |annotations: &str| {
        let metadata = format!(r#"{{"name": "a", "annotations": {{{annotations}}}}}"#);
        let pod = read_pod(&format!(r#"{{"metadata": {metadata}}}"#)).unwrap();
        pod.workload.mirror_of
    };
    assert_eq!(mirror_of(r#""kubernetes.io/config.hash": "0a1b""#), None);
    let named = mirror_of(r#""kubernetes.io/config.mirror": "0a1b""#);
    assert_eq!(named.as_deref(), Some("0a1b"));
    let long = format!(r#""kubernetes.io/config.mirror": "{}""#, "a".repeat(64));
    for odd in
        [r#""kubernetes.io/config.mirror": """#, r#""kubernetes.io/config.mirror": "a/b""#, &long]
    {
        assert_eq!(mirror_of(odd).as_deref(), Some(""), "{odd}");
    }
}

#[test]
fn a_namespace_has_its_name_for_a_label_as_the_api_server_gives_it() {
    let object = serde_json::json!({"metadata": {"name": "shop", "labels": {"team": "a"}}});
    let read = namespace(&serde_json::from_value(object).unwrap()).unwrap();
    let labels: Vec<_> = read.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
    assert_eq!(labels, ["kubernetes.io/metadata.name=shop", "team=a"]);
}

#[test]
fn the_names_that_a_pod_has_for_the_tunnels_port_are_kept() {
    let pod = read_pod(
        r#"{"metadata": {"name": "a"}, "spec": {"containers": [{"name": "c", "ports": [
             {"name": "http", "containerPort": 80}, {"name": "hbone", "containerPort": 15008},
             {"name": "quic", "containerPort": 15008, "protocol": "UDP"}]}]}}"#,
    );
    assert_eq!(pod.unwrap().workload.tunnel_ports, [Arc::from("hbone")]);
}

#[test]
fn what_a_pod_leaves_out_has_a_default() {
    let pod = read_pod(r#"{"metadata": {"name": "lonely"}}"#).unwrap();
    assert_eq!(pod.workload.name, ObjectName::new("default", "lonely"));
    let identity = pod.workload.identity.to_string();
    assert_eq!(identity, "spiffe://cluster.local/ns/default/sa/default");
    assert_eq!(pod.workload.node, None);
    assert!(pod.workload.addresses.is_empty());
    assert_eq!(pod.workload.mode, MeshMode::Unset);
    assert_eq!(&*pod.workload.owner.kind, "pod");
    assert_eq!(&*pod.workload.owner.name, "lonely");

    let pod = r#"{"metadata": {"name": "a"}, "status": {"podIP": "10.0.0.1", "phase": "Failed"}}"#;
    let pod = read_pod(pod).unwrap();
    assert_eq!(pod.workload.addresses, [ip("10.0.0.1")]);
    assert_eq!(pod.workload.phase, adit_core::workload::Phase::Finished);
}

#[test]
fn a_pod_without_a_uid_gets_one_that_is_always_the_same_and_its_own() {
    let uid = |namespace: &str, name: &str| {
        let text = format!(r#"{{"metadata": {{"name": "{name}", "namespace": "{namespace}"}}}}"#);
        read_pod(&text).unwrap().workload.uid.as_str().to_owned()
    };
    assert_eq!(uid("shop", "web"), "derived-ef99632bf7659baf2b7bab017a06c274");
    assert_eq!(uid("shop", "web"), uid("shop", "web"));
    assert_ne!(uid("shop", "web"), uid("shop", "web-1"));
    assert_ne!(uid("a-b", "c"), uid("a", "b-c"));
}

#[test]
fn a_pod_is_known_by_its_controller() {
    let cases = [
        (r#"{"kind": "ReplicaSet", "name": "web-7d4f"}"#, "deployment web"),
        (r#"{"kind": "ReplicaSet", "name": "web-2-7d4f"}"#, "deployment web-2"),
        (r#"{"kind": "ReplicaSet", "name": "web"}"#, "replicaset web"),
        (r#"{"kind": "ReplicaSet", "name": "web7d4f"}"#, "replicaset web7d4f"),
        (r#"{"kind": "StatefulSet", "name": "db"}"#, "statefulset db"),
        (r#"{"kind": "DaemonSet", "name": "log"}"#, "daemonset log"),
        (r#"{"kind": "Job", "name": "backup-28921"}"#, "job backup-28921"),
        (
            r#"{"kind": "Node", "name": "n"}, {"kind": "Job", "name": "j", "controller": true}"#,
            "job j",
        ),
        ("", "pod web-7d4f-abcde"),
    ];
    for (references, expected) in cases {
        // The other required fields of a reference.
        let references = references.replace("{", r#"{"apiVersion": "v1", "uid": "u", "#);
        let pod = read_pod(&format!(
            r#"{{"metadata": {{"name": "web-7d4f-abcde", "ownerReferences": [{references}],
                 "labels": {{"pod-template-hash": "7d4f"}}}}}}"#
        ));
        let owner = pod.unwrap().workload.owner;
        assert_eq!(format!("{} {}", owner.kind, owner.name), expected);
    }
}

#[test]
fn an_annotation_names_the_network_namespace_and_only_on_request() {
    let object: v1::Pod =
        json(r#"{"metadata": {"name": "a", "annotations": {"adit.dev/netns": "/run/netns/a"}}}"#);
    assert_eq!(pod(&object, &domain()).unwrap().workload.netns, None);
    assert_eq!(netns(Some("/run/netns/a")).unwrap().as_deref(), Some("/run/netns/a"));
    assert_eq!(netns(None), Ok(None));

    let error = netns(Some("a")).unwrap_err().to_string();
    let expected = r#"metadata.annotations["adit.dev/netns"]: "a": not an absolute path"#;
    assert_eq!(error, expected);
}

#[test]
fn a_service_has_its_tcp_ports_and_addresses() {
    let facts = read_service(
        r#"{"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00:96::1"],
            "selector": {"app": "web"}, "sessionAffinity": "ClientIP",
            "ports": [{"name": "http", "port": 80, "targetPort": "web", "protocol": "TCP"},
                      {"name": "dns", "port": 80, "protocol": "UDP"},
                      {"name": "metrics", "port": 9090}]}"#,
    )
    .unwrap()
    .unwrap();
    let service = &facts.service;
    assert_eq!(service.name, ObjectName::new("shop", "web"));
    assert_eq!(service.vips, [ip("10.96.0.1"), ip("fd00:96::1")]);
    let ports: Vec<_> = service.ports.iter().map(|port| (&*port.name, port.port)).collect();
    assert_eq!(ports, [("http", 80), ("metrics", 9090)]);
    let seconds = std::time::Duration::from_secs(10_800);
    assert_eq!(service.affinity, adit_core::workload::Affinity::ClientIp(seconds));
    let targets: Vec<_> = facts.targets.iter().map(|target| &target.target).collect();
    assert_eq!(targets, [&Target::Name(Arc::from("web")), &Target::Number(9090)]);
}

#[test]
fn a_headless_service_has_no_address_and_an_alias_is_no_service() {
    for headless in [r#"{"clusterIP": "None"}"#, r#"{"clusterIPs": ["None"]}"#, "{}"] {
        let facts = read_service(headless).unwrap().unwrap();
        assert!(facts.service.vips.is_empty(), "{headless}");
    }
    let alias = r#"{"type": "ExternalName", "externalName": "example.com"}"#;
    assert_eq!(read_service(alias), Ok(None));
}

#[test]
fn an_endpoint_is_ready_by_kubernetes_rule() {
    let cases = [
        ("", "ready"),
        (r#", "conditions": {}"#, "ready"),
        (r#", "conditions": {"ready": true}"#, "ready"),
        (r#", "conditions": {"ready": false}"#, "not ready"),
        (r#", "conditions": {"ready": false, "serving": true}"#, "not ready"),
        // Nothing else is left, and this one still answers.
        (r#", "conditions": {"ready": false, "serving": true, "terminating": true}"#, "ready"),
        (r#", "conditions": {"ready": false, "terminating": true}"#, "ready"),
        (r#", "conditions": {"ready": false, "serving": false, "terminating": true}"#, "not ready"),
    ];
    for (conditions, expected) in cases {
        let slice = read_slice(&format!(
            r#"{{"addressType": "IPv4", "ports": [{{"name": "http", "port": 8080}}],
                 "endpoints": [{{"addresses": ["10.0.0.1"]{conditions}}}]}}"#
        ));
        let slice = slice.unwrap().unwrap();
        assert_eq!(
            shown(&endpoints::listed(&[&slice])),
            format!("10.0.0.1 http=8080 {expected}\n")
        );
    }
}

#[test]
fn an_endpoint_that_is_ending_serves_only_while_none_of_its_family_is_ready() {
    let ending = r#""conditions": {"ready": false, "serving": true, "terminating": true}"#;
    let ipv4 = read_slice(&format!(
        r#"{{"addressType": "IPv4", "ports": [{{"port": 80}}], "endpoints": [
             {{"addresses": ["10.0.0.1"], {ending}}}, {{"addresses": ["10.0.0.2"]}}]}}"#
    ));
    let ipv6 = read_slice(&format!(
        r#"{{"addressType": "IPv6", "ports": [{{"port": 80}}], "endpoints": [
             {{"addresses": ["fd00::1"], {ending}}}]}}"#
    ));
    let (ipv4, ipv6) = (ipv4.unwrap().unwrap(), ipv6.unwrap().unwrap());
    assert_eq!(
        shown(&endpoints::listed(&[&ipv4, &ipv6])),
        "10.0.0.1 =80 not ready\n10.0.0.2 =80 ready\nfd00::1 =80 ready\n"
    );
}

#[test]
fn an_endpoint_says_where_it_is_and_for_whom_it_is_meant() {
    let slice = read_slice(
        r#"{"addressType": "IPv4", "ports": [{"port": 80}], "endpoints": [
             {"addresses": ["10.0.0.1"], "nodeName": "n1", "zone": "a",
              "hints": {"forZones": [{"name": "a"}, {"name": "b"}], "forNodes": [{"name": "n1"}]}},
             {"addresses": ["10.0.0.2"]}]}"#,
    );
    let slice = slice.unwrap().unwrap();
    let [near, plain] = &*endpoints::listed(&[&slice]) else { panic!("{slice:?}") };
    assert_eq!(near.node.as_ref().unwrap().as_str(), "n1");
    assert_eq!(near.hints.nodes.len(), 1);
    assert_eq!(near.hints.zones, [Arc::from("a"), Arc::from("b")]);
    assert_eq!((plain.node.as_ref(), &plain.hints), (None, &Hints::default()));
}

#[test]
fn an_endpoint_stands_for_the_pod_that_its_slice_names() {
    let slice = |target: &str| {
        let text = format!(
            r#"{{"addressType": "IPv4", "ports": [{{"port": 80}}],
                 "endpoints": [{{"addresses": ["10.0.0.1"]{target}}}]}}"#
        );
        read_slice(&text).map(Option::unwrap)
    };
    let pod = |uid: &str| format!(r#", "targetRef": {{"kind": "Pod", "uid": "{uid}"}}"#);
    let pods = |slices: &[&SliceFacts]| -> Vec<_> {
        let named = endpoints::listed(slices).into_iter().map(|endpoint| endpoint.pod);
        named.map(|pod| pod.map_or_else(String::new, |pod| pod.to_string())).collect()
    };
    let (old, new) = (slice(&pod("a-1")).unwrap(), slice(&pod("b-2")).unwrap());
    // Of an address that is used again both are known, and the world says whose it is.
    assert_eq!(pods(&[&new, &old, &old]), ["a-1", "b-2"]);
    for no_pod in ["", r#", "targetRef": {"kind": "Node", "uid": "a-1"}"#, &pod("")] {
        assert_eq!(pods(&[&slice(no_pod).unwrap()]), [""], "{no_pod}");
    }
    let error = slice(&pod("a/b")).unwrap_err().to_string();
    let why = "not a UID: at most 63 letters, digits and '-'";
    assert_eq!(error, format!(r#"endpoints[0].targetRef.uid: "a/b": {why}"#));
}

#[test]
fn a_service_keeps_internal_traffic_on_the_node_if_it_says_so() {
    let policy = |spec: &str| read_service(spec).map(|one| one.unwrap().service.internal_traffic);
    assert_eq!(policy("{}"), Ok(InternalTraffic::Cluster));
    assert_eq!(policy(r#"{"internalTrafficPolicy": "Cluster"}"#), Ok(InternalTraffic::Cluster));
    assert_eq!(policy(r#"{"internalTrafficPolicy": "Local"}"#), Ok(InternalTraffic::Local));
    let error = policy(r#"{"internalTrafficPolicy": "local"}"#).unwrap_err().to_string();
    assert_eq!(error, r#"spec.internalTrafficPolicy: "local": not Cluster or Local"#);
}

#[test]
fn a_node_is_in_the_zone_of_its_label_and_a_pod_that_is_being_deleted_is_terminating() {
    let node: v1::Node =
        json(r#"{"metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "a"}}}"#);
    let facts = super::node(&node).unwrap();
    assert_eq!((facts.name.as_str(), facts.zone.as_deref()), ("n1", Some("a")));
    let node: v1::Node = json(r#"{"metadata": {"name": "n1"}}"#);
    assert_eq!(super::node(&node).unwrap().zone, None);

    let deleted = r#""deletionTimestamp": "2026-11-25T20:00:00Z""#;
    let pod = |status: &str| {
        let text = format!(r#"{{"metadata": {{"name": "a", {deleted}}}, "status": {status}}}"#);
        read_pod(&text).unwrap().workload.phase
    };
    assert_eq!(pod(r#"{"phase": "Running"}"#), adit_core::workload::Phase::Terminating);
    assert_eq!(pod(r#"{"phase": "Failed"}"#), adit_core::workload::Phase::Finished);
}

#[test]
fn slices_of_names_or_of_no_service_are_left_out() {
    let fqdn = r#"{"addressType": "FQDN", "endpoints": [{"addresses": ["example.com"]}]}"#;
    assert_eq!(read_slice(fqdn), Ok(None));
    let object: EndpointSlice =
        json(r#"{"metadata": {"name": "a"}, "addressType": "IPv4", "endpoints": []}"#);
    assert_eq!(endpoint_slice(&object), Ok(None));
}

#[test]
fn several_slices_of_a_service_are_joined() {
    let slice = |port: &str, address: &str| {
        let text = format!(
            r#"{{"addressType": "IPv4", "ports": [{port}],
                 "endpoints": [{{"addresses": ["{address}", "10.9.9.9"]}}]}}"#
        );
        read_slice(&text).unwrap().unwrap()
    };
    let one = slice(r#"{"name": "http", "port": 8080}"#, "10.0.0.2");
    let two = slice(r#"{"name": "http", "port": 8081}"#, "10.0.0.1");
    let again = slice(r#"{"name": "http", "port": 8080}"#, "10.0.0.2");
    let udp = slice(r#"{"name": "dns", "port": 53, "protocol": "UDP"}"#, "10.0.0.3");
    assert_eq!(
        shown(&endpoints::listed(&[&one, &two, &again, &udp])),
        "10.0.0.1 http=8081 ready\n10.0.0.2 http=8080 ready\n10.0.0.3 ready\n"
    );
}

#[test]
fn a_selector_without_a_slice_finds_its_pods() {
    let service = r#"{"selector": {"app": "web"}, "ports": [
        {"name": "http", "port": 80, "targetPort": "web"},
        {"name": "metrics", "port": 9090, "targetPort": 9191}]}"#;
    let container = r#""spec": {"containers": [{"name": "c", "ports": [
        {"name": "web", "containerPort": 8080}, {"name": "web", "containerPort": 1}]}]}"#;
    let meta = |name: &str, more: &str| {
        format!(
            r#""metadata": {{"name": "{name}", "namespace": "shop",
                 "labels": {{"app": "web", "tier": "x"}}{more}}}"#
        )
    };
    let unready = r#""conditions": [{"type": "Ready", "status": "False"}]"#;
    let deleted = r#", "deletionTimestamp": "2025-01-01T00:00:00Z""#;
    let pods = [
        format!(r#"{{{}, {container}, "status": {{"podIP": "10.0.0.1"}}}}"#, meta("one", "")),
        format!(r#"{{{}, "status": {{"podIP": "10.0.0.2"}}}}"#, meta("no-port", "")),
        format!(
            r#"{{{}, {container}, "status": {{"podIP": "10.0.0.3", {unready}}}}}"#,
            meta("unready", "")
        ),
        format!(
            r#"{{{}, {container}, "status": {{"podIP": "10.0.0.4"}}}}"#,
            meta("deleted", deleted)
        ),
        format!(
            r#"{{{}, {container}, "status": {{"podIP": "10.0.0.5", "phase": "Succeeded"}}}}"#,
            meta("finished", "")
        ),
        meta("no-labels", "").replace(r#""app": "web", "#, ""),
        meta("elsewhere", "").replace("shop", "other"),
    ];
    let mut objects: Vec<Object> = pods
        .iter()
        .map(|text| {
            let text = if text.starts_with('{') {
                text.clone()
            } else {
                format!(r#"{{{text}, {container}, "status": {{"podIP": "10.0.0.6"}}}}"#)
            };
            Object::Pod(Box::new(read_pod(&text).unwrap()))
        })
        .collect();
    let facts = read_service(service).unwrap().unwrap();
    objects.push(Object::Service(Box::new(facts.clone())));
    assert_eq!(
        shown(world(&objects).endpoints(&facts.service.name)),
        "10.0.0.1 http=8080 metrics=9191 ready\n\
         10.0.0.2 metrics=9191 ready\n\
         10.0.0.3 http=8080 metrics=9191 not ready\n\
         10.0.0.4 http=8080 metrics=9191 not ready\n"
    );

    let eager =
        service.replace("{\"selector\"", "{\"publishNotReadyAddresses\": true, \"selector\"");
    let eager = read_service(&eager).unwrap().unwrap();
    *objects.last_mut().unwrap() = Object::Service(Box::new(eager));
    assert!(!shown(world(&objects).endpoints(&facts.service.name)).contains("not ready"));

    let slice = read_slice(
        r#"{"addressType": "IPv4", "ports": [{"name": "http", "port": 8080}],
            "endpoints": [{"addresses": ["192.0.2.1"]}]}"#,
    );
    objects.push(Object::Slice(Box::new(slice.unwrap().unwrap())));
    let endpoints = shown(world(&objects).endpoints(&facts.service.name));
    assert_eq!(endpoints, "192.0.2.1 http=8080 ready\n");
}

#[test]
fn objects_that_contradict_each_other_are_reported() {
    let pod = |name: &str, uid: &str, address: &str| {
        let text = format!(
            r#"{{"metadata": {{"name": "{name}", "uid": "{uid}"}},
                 "status": {{"podIP": "{address}"}}}}"#
        );
        Object::Pod(Box::new(read_pod(&text).unwrap()))
    };
    let claimant = |name: &str| {
        let text = format!(
            r#"{{"metadata": {{"name": "{name}"}}, "spec": {{"clusterIP": "10.96.0.1"}}}}"#
        );
        Object::Service(Box::new(service(&json(&text)).unwrap().unwrap()))
    };
    let objects = [
        pod("a", "1", "10.0.0.1"),
        pod("b", "1", "10.0.0.2"),
        pod("c", "3", "10.0.0.1"),
        claimant("x"),
        claimant("y"),
    ];
    let (_, problems) = Snapshot::assemble(&objects);
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(
        problems,
        [
            "Pod default/b has the UID 1 of Pod default/a; it is ignored",
            "Pod default/a and Pod default/c both have the address 10.0.0.1; the one that was \
             seen last is taken for its owner",
            "Service default/y has the address 10.96.0.1 of Service default/x, which keeps it",
        ]
    );
}

#[test]
fn the_way_from_one_state_to_the_next_holds_only_what_changed() {
    let shop = |mode: &str| {
        let text = format!(
            r#"{{"metadata": {{"name": "shop", "labels": {{"adit.dev/mode": "{mode}"}}}}}}"#
        );
        Object::Namespace(namespace(&json(&text)).unwrap())
    };
    let pod = Object::Pod(Box::new(read_pod(r#"{"metadata": {"name": "a"}}"#).unwrap()));
    let (before, _) = Snapshot::assemble(&[shop("ambient"), pod.clone()]);
    let (after, _) = Snapshot::assemble(&[shop("none"), pod]);
    let deltas = before.deltas_to(&after);
    assert!(matches!(&*deltas, [Delta::Namespace(shop)] if shop.mode == MeshMode::None));
    assert!(after.deltas_to(&after).is_empty());
    assert_eq!(after.deltas_to(&Snapshot::default()).len(), 2);
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn domain() -> TrustDomain {
    TrustDomain::parse("cluster.local").unwrap()
}

fn json<T: DeserializeOwned>(text: &str) -> T {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn read_pod(text: &str) -> Result<PodFacts, Invalid> {
    pod(&json(text), &domain())
}

fn read_service(spec: &str) -> Result<Option<ServiceFacts>, Invalid> {
    let metadata = r#"{"name": "web", "namespace": "shop"}"#;
    service(&json(&format!(r#"{{"metadata": {metadata}, "spec": {spec}}}"#)))
}

/// The fields of a slice of the service `shop/web`.
fn read_slice(fields: &str) -> Result<Option<SliceFacts>, Invalid> {
    let mut object: EndpointSlice = json(fields);
    object.metadata = json(
        r#"{"name": "web-1", "namespace": "shop",
            "labels": {"kubernetes.io/service-name": "web"}}"#,
    );
    endpoint_slice(&object)
}

fn world(objects: &[Object]) -> World {
    let (snapshot, _) = Snapshot::assemble(objects);
    World::default().apply(Snapshot::default().deltas_to(&snapshot)).0
}

fn shown(endpoints: &[Endpoint]) -> String {
    endpoints.iter().fold(String::new(), |mut text, endpoint| {
        write!(text, "{}", endpoint.address).unwrap();
        for (name, port) in &endpoint.ports {
            write!(text, " {name}={port}").unwrap();
        }
        let ready = if endpoint.ready { "ready" } else { "not ready" };
        writeln!(text, " {ready}").unwrap();
        text
    })
}
