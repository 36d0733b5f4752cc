//! What NetworkPolicies let pass, by the words of the Kubernetes API reference.

use std::collections::BTreeMap;

use super::*;
use crate::enrolment;
use crate::identity::{SpiffeId, TrustDomain};
use crate::workload::{MeshMode, Namespace, NodeName, Owner, Phase, PodUid};
use crate::world::Delta;

/// The rules of one policy of `shop`, and whether a tunnel from `shop/client` (10.0.1.1, app=client, in a
/// namespace with team=a) to `shop/web` (10.0.1.2, app=web) passes.
type Case = (&'static str, fn() -> Rule, bool);

const OPEN: bool = true;
const SHUT: bool = false;

#[test]
fn a_rule_admits_the_peers_and_ports_that_it_names() {
    let cases: &[Case] = &[
        ("no from, no ports: everything", || rule(vec![], None), OPEN),
        ("no from, the port", || rule(vec![], Some(vec![port(15008)])), OPEN),
        ("no from, another port", || rule(vec![], Some(vec![port(8080)])), SHUT),
        ("one of several ports", || rule(vec![], Some(vec![port(8080), port(15008)])), OPEN),
        ("every port of TCP", || rule(vec![], Some(vec![Ports::All])), OPEN),
        ("ports of UDP alone", || rule(vec![], Some(vec![])), SHUT),
        ("a range around it", || rule(vec![], Some(vec![Ports::Range(15000, 15008)])), OPEN),
        ("a range below it", || rule(vec![], Some(vec![Ports::Range(15000, 15007)])), SHUT),
        ("a range above it", || rule(vec![], Some(vec![Ports::Range(15009, 16000)])), SHUT),
        ("a name the pod has for it", || rule(vec![], Some(vec![named("tunnel")])), OPEN),
        ("a name the pod has not", || rule(vec![], Some(vec![named("http")])), SHUT),
        ("podSelector of the peer", || from(pods(None, is("app", "client"))), OPEN),
        ("podSelector of another", || from(pods(None, is("app", "web"))), SHUT),
        ("an empty podSelector: the namespace", || from(pods(None, all())), OPEN),
        ("namespaceSelector", || from(pods(Some(is("team", "a")), all())), OPEN),
        ("another namespace's", || from(pods(Some(is("team", "b")), all())), SHUT),
        ("an empty namespaceSelector: all", || from(pods(Some(all()), all())), OPEN),
        ("both, and both match", || from(pods(Some(is("team", "a")), is("app", "client"))), OPEN),
        ("both, and the pod differs", || from(pods(Some(is("team", "a")), is("app", "x"))), SHUT),
        ("both, and the namespace differs", || from(pods(Some(is("t", "b")), all())), SHUT),
        ("ipBlock", || from(block("10.0.0.0/16", &[])), OPEN),
        ("ipBlock elsewhere", || from(block("10.1.0.0/16", &[])), SHUT),
        ("ipBlock of the other family", || from(block("::/0", &[])), SHUT),
        ("ipBlock but for the peer", || from(block("10.0.0.0/16", &["10.0.1.0/24"])), SHUT),
        ("ipBlock but for others", || from(block("10.0.0.0/16", &["10.0.2.0/24"])), OPEN),
        (
            "one of several peers",
            || rule(vec![pods(None, is("app", "x")), block("10.0.1.1/32", &[])], None),
            OPEN,
        ),
        (
            "the right peer on another port",
            || rule(vec![pods(None, is("app", "client"))], Some(vec![port(8080)])),
            SHUT,
        ),
    ];
    for (what, rule, passes) in cases {
        let world = world([ingress("web", is("app", "web"), vec![rule()])]);
        assert_eq!(blocked(&world, "client", "web").is_empty(), *passes, "{what}");
    }
}

#[test]
fn a_selector_asks_for_everything_that_it_says() {
    let labels: BTreeMap<Arc<str>, Arc<str>> =
        [("app", "web"), ("tier", "")].map(|(k, v)| (Arc::from(k), Arc::from(v))).into();
    let one = |key: &str, operator| LabelSelector(vec![Requirement { key: key.into(), operator }]);
    let values = |values: &[&str]| values.iter().map(|&value| Arc::from(value)).collect();
    for (what, selector, matches) in [
        ("nothing", all(), true),
        ("In", one("app", Operator::In(values(&["db", "web"]))), true),
        ("In, another value", one("app", Operator::In(values(&["db"]))), false),
        ("In, no such label", one("zone", Operator::In(values(&["db"]))), false),
        ("In, empty value", one("tier", Operator::In(values(&[""]))), true),
        ("NotIn", one("app", Operator::NotIn(values(&["db"]))), true),
        ("NotIn, its value", one("app", Operator::NotIn(values(&["web"]))), false),
        ("NotIn, no such label", one("zone", Operator::NotIn(values(&["web"]))), true),
        ("Exists", one("tier", Operator::Exists), true),
        ("Exists, no such label", one("zone", Operator::Exists), false),
        ("DoesNotExist", one("zone", Operator::DoesNotExist), true),
        ("DoesNotExist, there", one("app", Operator::DoesNotExist), false),
        ("two, one of them wrong", both(is("app", "web"), is("tier", "x")), false),
        ("two", both(is("app", "web"), one("tier", Operator::Exists)), true),
    ] {
        assert_eq!(selector.matches(&labels), matches, "{what}");
    }
}

#[test]
fn only_policies_that_are_for_the_pod_and_the_direction_isolate_it() {
    let nothing = || Some(Vec::new());
    let policy = |name: &str, pods, ingress, egress| NetworkPolicy {
        name: object("shop", name),
        pods,
        ingress,
        egress,
    };
    let mut elsewhere = policy("d", all(), nothing(), nothing());
    elsewhere.name = object("bank", "d");
    for (what, policies, expected) in [
        ("no policy", vec![], vec![]),
        ("for other pods", vec![policy("a", is("app", "x"), nothing(), nothing())], vec![]),
        ("of another namespace", vec![elsewhere], vec![]),
        (
            "into the destination",
            vec![policy("a", is("app", "web"), nothing(), None)],
            vec!["ingress a"],
        ),
        ("out of the destination", vec![policy("a", is("app", "web"), None, nothing())], vec![]),
        (
            "out of the source",
            vec![policy("a", is("app", "client"), None, nothing())],
            vec!["egress a"],
        ),
        ("into the source", vec![policy("a", is("app", "client"), nothing(), None)], vec![]),
        (
            "all of it",
            vec![policy("a", all(), nothing(), nothing())],
            vec!["egress a", "ingress a"],
        ),
        (
            "two, and neither admits it",
            vec![
                policy("a", all(), nothing(), None),
                policy("b", all(), Some(vec![rule(vec![], Some(vec![port(80)]))]), None),
            ],
            vec!["ingress a b, but other ports"],
        ),
        (
            "two, and one admits it",
            vec![
                policy("a", all(), nothing(), None),
                policy("b", all(), Some(vec![rule(vec![], None)]), None),
            ],
            vec![],
        ),
    ] {
        assert_eq!(blocked(&world(policies), "client", "web"), expected, "{what}");
    }
}

#[test]
fn what_goes_out_is_asked_about_the_destination() {
    let out = |rule: Rule| NetworkPolicy {
        name: object("shop", "out"),
        pods: is("app", "client"),
        ingress: None,
        egress: Some(vec![rule]),
    };
    let to_web = || vec![pods(None, is("app", "web"))];
    for (what, rule, expected) in [
        ("to the destination", rule(to_web(), None), vec![]),
        ("by its name for the port", rule(to_web(), Some(vec![named("tunnel")])), vec![]),
        ("to another", rule(vec![pods(None, is("app", "db"))], None), vec!["egress out"]),
        ("by its address", rule(vec![block("10.0.1.2/32", &[])], None), vec![]),
        (
            "to its application",
            rule(to_web(), Some(vec![port(8080)])),
            vec!["egress out, but other ports"],
        ),
        ("to DNS by UDP", rule(vec![], Some(vec![])), vec!["egress out"]),
    ] {
        assert_eq!(blocked(&world([out(rule)]), "client", "web"), expected, "{what}");
    }
}

#[test]
fn an_address_that_is_no_pods_matches_blocks_and_nothing_else() {
    let stranger = End { pod: None, address: "10.9.9.9".parse().unwrap() };
    for (rule, passes) in [
        (from(block("10.9.0.0/16", &[])), true),
        (from(pods(Some(all()), all())), false),
        (rule(vec![], None), true),
    ] {
        let world = world([ingress("web", all(), vec![rule])]);
        let web = pod_of(&world, "web");
        assert_eq!(tunnel(&world, stranger, end(&web)).is_empty(), passes);
        // Nothing isolates who is no pod.
        assert!(tunnel(&world, stranger, stranger).is_empty());
    }
}

#[test]
fn a_survey_tells_of_pods_that_peers_are_let_to_but_not_through_the_tunnel() {
    let policies = [
        ingress(
            "http",
            is("app", "web"),
            vec![rule(
                vec![pods(None, is("app", "client")), pods(None, is("app", "web"))],
                Some(vec![port(8080)]),
            )],
        ),
        ingress("dark", is("app", "dark"), vec![]),
        ingress("fine", is("app", "client"), vec![rule(vec![], Some(vec![port(15008)]))]),
    ];
    let world = world(policies);
    let told = told(&world);
    assert_eq!(
        told,
        [
            "dark ingress by dark: 3 shut, such as client",
            "web ingress by http: 1 on other ports, such as client"
        ]
    );
}

#[test]
fn a_survey_of_a_world_without_policies_or_with_none_in_the_way_is_empty() {
    assert_eq!(told(&world([])), [""; 0]);
    let open = ingress("open", all(), vec![rule(vec![pods(Some(all()), all())], None)]);
    assert_eq!(told(&world([open])), [""; 0]);
    // Some are let in and some are not, which is what policies are for.
    let some = ingress("some", all(), vec![from(pods(None, is("app", "client")))]);
    assert_eq!(told(&world([some])), ["client ingress by some: 3 shut, such as dark"]);
}

#[test]
fn who_is_not_enrolled_is_neither_asked_about_nor_a_peer() {
    let shut = ingress("shut", all(), vec![rule(vec![], Some(vec![port(80)]))]);
    let (world, _) = world([shut]).apply([Delta::Namespace(namespace("shop", MeshMode::Unset))]);
    assert_eq!(told(&world), [""; 0]);
    let web = pod_of(&world, "web");
    assert!(enrolment::select(&world, &web).is_err());
}

/// What [`tunnel`] says, in short.
fn blocked(world: &World, source: &str, destination: &str) -> Vec<String> {
    let (source, destination) = (pod_of(world, source), pod_of(world, destination));
    let blocked = tunnel(world, end(&source), end(&destination));
    blocked
        .iter()
        .map(|Blocked { direction, policies, other_ports }| {
            let names: Vec<&str> = policies.iter().map(|name| &*name.name).collect();
            let other = if *other_ports { ", but other ports" } else { "" };
            format!("{} {}{other}", direction.as_label(), names.join(" "))
        })
        .collect()
}

fn end(pod: &Workload) -> End<'_> {
    End { pod: Some(pod), address: pod.addresses[0] }
}

/// What [`survey`] says of all pods, in short.
fn told(world: &World) -> Vec<String> {
    let found = survey(world, world.workloads());
    found
        .iter()
        .map(|closed| {
            let Closed { pod, direction, policies, other_ports, peers, peer } = closed;
            let names: Vec<&str> = policies.iter().map(|name| &*name.name).collect();
            let how = if *other_ports { "on other ports" } else { "shut" };
            format!(
                "{} {} by {}: {peers} {how}, such as {}",
                pod.name,
                direction.as_label(),
                names.join(" "),
                peer.name
            )
        })
        .collect()
}

fn ingress(name: &str, pods: LabelSelector, rules: Vec<Rule>) -> NetworkPolicy {
    NetworkPolicy { name: object("shop", name), pods, ingress: Some(rules), egress: None }
}

fn rule(peers: Vec<Peer>, ports: Option<Vec<Ports>>) -> Rule {
    Rule { peers, ports }
}

fn from(peer: Peer) -> Rule {
    rule(vec![peer], None)
}

fn pods(namespaces: Option<LabelSelector>, pods: LabelSelector) -> Peer {
    Peer::Pods { namespaces, pods }
}

fn block(block: &str, except: &[&str]) -> Peer {
    let block = IpBlock::parse(block).unwrap();
    Peer::Addresses {
        block,
        except: except.iter().map(|text| IpBlock::parse(text).unwrap()).collect(),
    }
}

const fn port(port: u16) -> Ports {
    Ports::Range(port, port)
}

fn named(name: &str) -> Ports {
    Ports::Named(Arc::from(name))
}

fn all() -> LabelSelector {
    LabelSelector::default()
}

fn is(key: &str, value: &str) -> LabelSelector {
    let operator = Operator::In([Arc::from(value)].into());
    LabelSelector(vec![Requirement { key: Arc::from(key), operator }])
}

fn both(one: LabelSelector, other: LabelSelector) -> LabelSelector {
    LabelSelector(one.0.into_iter().chain(other.0).collect())
}

/// A client, a web server and a pod that nobody should reach, all of `shop`, which is opted in; a database
/// of `bank`, which is too.
fn world(policies: impl IntoIterator<Item = NetworkPolicy>) -> World {
    let spaces = ["shop", "bank"].map(|name| Delta::Namespace(namespace(name, MeshMode::Ambient)));
    let pods = [
        workload("shop", "client", "10.0.1.1"),
        workload("shop", "web", "10.0.1.2"),
        workload("shop", "dark", "10.0.1.3"),
        workload("bank", "db", "10.0.1.4"),
    ];
    let policies = policies.into_iter().map(Delta::NetworkPolicy);
    let deltas = spaces.into_iter().chain(pods.map(Delta::Workload)).chain(policies);
    World::default().apply(deltas).0
}

fn namespace(name: &str, mode: MeshMode) -> Namespace {
    let team = if name == "shop" { "a" } else { "b" };
    let labels = [(Arc::from("team"), Arc::from(team))].into();
    Namespace { name: Arc::from(name), mode, labels }
}

fn workload(namespace: &str, name: &str, address: &str) -> Workload {
    let domain = TrustDomain::parse("cluster.local").unwrap();
    Workload {
        uid: PodUid::parse(name).unwrap(),
        name: object(namespace, name),
        node: Some(NodeName::new("n1")),
        identity: SpiffeId::try_new(domain, namespace, name).unwrap(),
        addresses: vec![address.parse().unwrap()],
        mode: MeshMode::Unset,
        host_network: false,
        phase: Phase::Active,
        owner: Owner { kind: Arc::from("pod"), name: Arc::from(name) },
        labels: [(Arc::from("app"), Arc::from(name))].into(),
        probed: Vec::new(),
        tunnel_ports: vec![Arc::from("tunnel")],
        mirror_of: None,
        announced: None,
        netns: None,
    }
}

fn pod_of(world: &World, name: &str) -> Arc<Workload> {
    Arc::clone(world.workload(&PodUid::parse(name).unwrap()).unwrap())
}

fn object(namespace: &str, name: &str) -> ObjectName {
    ObjectName::new(namespace, name)
}
