//! Who may have what. Every refusal stands beside the request that is granted and differs from it in
//! one thing.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::*;
use crate::workload::{MeshMode, Owner};
use crate::world::Delta;

#[test]
fn the_agent_of_a_node_gets_the_identities_of_the_pods_on_it() {
    let world = world();
    for (identity, pod) in [("shop/cart", "cart"), ("shop/starting", "starting")] {
        let granted = decide(&world, &rules(), &agent(), &id(identity));
        let expected = Grant { node: NodeName::new("n1"), pod: uid(pod) };
        assert_eq!(granted, Ok(expected), "{identity}");
    }
}

#[test]
fn an_identity_that_is_not_on_the_node_is_refused_for_its_reason() {
    let world = world();
    let cases = [
        ("shop/elsewhere", Denied::NotOnNode),
        ("shop/unscheduled", Denied::NotOnNode),
        ("shop/nobody", Denied::NotOnNode),
        ("other/cart", Denied::NotOnNode),
        ("shop/leaving", Denied::Terminating),
        ("shop/done", Denied::Finished),
        ("shop/both", Denied::Terminating),
    ];
    for (identity, denied) in cases {
        let answer = decide(&world, &rules(), &agent(), &id(identity));
        assert_eq!(answer, Err(denied), "{identity}");
        assert!(!denied.is_of_caller());
    }
    let foreign = SpiffeId::parse("spiffe://example.org/ns/shop/sa/cart").unwrap();
    assert_eq!(decide(&world, &rules(), &agent(), &foreign), Err(Denied::OtherTrustDomain));
}

#[test]
fn a_static_pod_gets_its_node_no_identity() {
    let mirror = Workload {
        mirror_of: Some(Arc::from("0123abcd")),
        ..pod("bank/default", "mirror", Some("n1"), Phase::Active)
    };
    let (stolen, _) = world().apply([Delta::Workload(mirror)]);
    let ask = |world: &World| decide(world, &rules(), &agent(), &id("bank/default"));
    assert_eq!(ask(&stolen), Err(Denied::StaticPod));
    assert!(!Denied::StaticPod.is_of_caller());
    let scheduled = pod("bank/default", "scheduled", Some("n1"), Phase::Active);
    let (world, _) = stolen.apply([Delta::Workload(scheduled)]);
    assert_eq!(ask(&world).map(|grant| grant.pod), Ok(uid("scheduled")));
}

#[test]
fn one_pod_that_stays_is_enough_for_an_identity_that_others_give_up() {
    let mut pods = pods();
    pods.push(pod("shop/leaving", "stays", Some("n1"), Phase::Active));
    let (world, _) = World::default().apply(pods.into_iter().map(Delta::Workload));
    let granted = decide(&world, &rules(), &agent(), &id("shop/leaving"));
    assert_eq!(granted.map(|grant| grant.pod), Ok(uid("stays")));
}

#[test]
fn a_caller_that_is_no_agent_of_that_node_is_refused_for_its_reason() {
    let world = world();
    let account = |name: &str| Claims { account: object(name), ..claims() };
    let bound = |name: &str, uid_text: &str| Claims {
        pod: Some((object(name), uid(uid_text))),
        ..claims()
    };
    let cases = [
        ("another account", account("shop/cart"), Denied::OtherAccount),
        ("the account's name in another namespace", account("shop/adit"), Denied::OtherAccount),
        ("no pod", Claims { pod: None, ..claims() }, Denied::NoPod),
        ("no node", Claims { node: None, ..claims() }, Denied::NoNode),
        ("a pod that is gone", bound("adit-system/agent", "deleted"), Denied::CallerUnknown),
        ("a pod of another name", bound("adit-system/other", "agent"), Denied::CallerOther),
        ("a pod of another account", bound("shop/cart", "cart"), Denied::CallerOther),
        ("a pod on another node", bound("adit-system/agent-2", "agent-2"), Denied::CallerElsewhere),
        ("a pod that has ended", bound("adit-system/agent-0", "agent-0"), Denied::CallerFinished),
        (
            "another node than the pod's",
            Claims { node: Some(NodeName::new("n2")), ..claims() },
            Denied::CallerElsewhere,
        ),
    ];
    for (what, claims, denied) in cases {
        let answer = decide(&world, &rules(), &Caller::Pod(claims), &id("shop/cart"));
        assert_eq!(answer, Err(denied), "{what}");
        assert!(denied.is_of_caller(), "{what}");
    }
}

#[test]
fn an_agent_that_drains_may_still_ask() {
    let mut pods = pods();
    pods.retain(|pod| pod.uid != uid("agent"));
    pods.push(pod("adit-system/adit", "agent", Some("n1"), Phase::Terminating));
    let (world, _) = World::default().apply(pods.into_iter().map(Delta::Workload));
    assert!(decide(&world, &rules(), &agent(), &id("shop/cart")).is_ok());
}

#[test]
fn a_node_that_was_drained_gets_the_pods_identity_no_more() {
    let before = world();
    assert!(decide(&before, &rules(), &agent(), &id("shop/cart")).is_ok());
    let moved = [
        Delta::WorkloadGone(uid("cart")),
        Delta::Workload(pod("shop/cart", "cart-2", Some("n2"), Phase::Active)),
    ];
    let (after, _) = before.apply(moved);
    assert_eq!(decide(&after, &rules(), &agent(), &id("shop/cart")), Err(Denied::NotOnNode));
}

#[test]
fn a_node_with_a_token_of_its_own_gets_what_is_on_it() {
    let world = world();
    let node = Caller::Node(NodeName::new("n1"));
    assert!(decide(&world, &rules(), &node, &id("shop/cart")).is_ok());
    assert_eq!(decide(&world, &rules(), &node, &id("shop/elsewhere")), Err(Denied::NotOnNode));
}

fn rules() -> Rules {
    Rules {
        trust_domain: TrustDomain::parse("cluster.local").unwrap(),
        agent: object("adit-system/adit"),
    }
}

fn claims() -> Claims {
    Claims {
        account: object("adit-system/adit"),
        pod: Some((object("adit-system/agent"), uid("agent"))),
        node: Some(NodeName::new("n1")),
    }
}

fn agent() -> Caller {
    Caller::Pod(claims())
}

fn world() -> World {
    World::default().apply(pods().into_iter().map(Delta::Workload)).0
}

fn pods() -> Vec<Workload> {
    let (n1, n2) = (Some("n1"), Some("n2"));
    vec![
        pod("adit-system/adit", "agent", n1, Phase::Active),
        pod("adit-system/adit", "agent-0", n1, Phase::Finished),
        pod("adit-system/adit", "agent-2", n2, Phase::Active),
        pod("shop/cart", "cart", n1, Phase::Active),
        pod("shop/starting", "starting", n1, Phase::Active),
        pod("shop/elsewhere", "elsewhere", n2, Phase::Active),
        pod("shop/unscheduled", "unscheduled", None, Phase::Active),
        pod("shop/leaving", "leaving", n1, Phase::Terminating),
        pod("shop/done", "done", n1, Phase::Finished),
        pod("shop/both", "both-1", n1, Phase::Terminating),
        pod("shop/both", "both-2", n1, Phase::Finished),
    ]
}

/// A pod of this service account whose UID is its name.
fn pod(account: &str, name: &str, node: Option<&str>, phase: Phase) -> Workload {
    let namespace = object(account).namespace;
    Workload {
        uid: uid(name),
        name: ObjectName { namespace, name: Arc::from(name) },
        node: node.map(NodeName::new),
        identity: id(account),
        addresses: Vec::new(),
        mode: MeshMode::Unset,
        host_network: false,
        phase,
        owner: Owner { kind: Arc::from("pod"), name: Arc::from(name) },
        labels: BTreeMap::new(),
        probed: Vec::new(),
        tunnel_ports: Vec::new(),
        mirror_of: None,
        announced: None,
        netns: None,
    }
}

fn id(account: &str) -> SpiffeId {
    let ObjectName { namespace, name } = object(account);
    SpiffeId::try_new(rules().trust_domain, &namespace, &name).unwrap()
}

fn object(text: &str) -> ObjectName {
    let (namespace, name) = text.split_once('/').unwrap();
    ObjectName::new(namespace, name)
}

fn uid(text: &str) -> PodUid {
    PodUid::parse(text).unwrap()
}
