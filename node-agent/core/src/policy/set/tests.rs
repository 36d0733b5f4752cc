//! Which pods a policy is for, and what a change of policies touches.

use super::*;
use crate::identity::{SpiffeId, TrustDomain};
use crate::policy::spec::{AuthorizationPolicySpec, PeerAuthenticationSpec};
use crate::workload::{MeshMode, Owner, Phase, PodUid};
use crate::world::{Changes, Delta, World};

#[test]
fn a_policy_without_a_selector_is_for_the_pods_of_its_namespace() {
    let (_, changes) = pods().apply([peer("shop/default", &[]), authorization("bank/x", &[])]);
    assert_eq!(governed(&changes), ["bank-cart", "shop-cart", "shop-web"]);
}

#[test]
fn a_policy_with_a_selector_is_for_the_pods_of_its_namespace_that_have_all_its_labels() {
    for policy in [peer, authorization] {
        let (_, changes) = pods().apply([policy("shop/x", &[("app", "cart")])]);
        assert_eq!(governed(&changes), ["shop-cart"]);
        let (_, changes) = pods().apply([policy("shop/x", &[("app", "cart"), ("tier", "back")])]);
        assert_eq!(governed(&changes), [""; 0]);
    }
}

#[test]
fn a_policy_of_a_root_namespace_is_for_the_mesh() {
    for root in ["adit-system/x", "istio-system/x"] {
        for policy in [peer, authorization] {
            let (_, changes) = pods().apply([policy(root, &[])]);
            assert_eq!(governed(&changes), ["bank-cart", "shop-cart", "shop-web"], "{root}");
        }
    }
}

#[test]
fn an_authorization_policy_of_a_root_namespace_can_select_pods_of_all_namespaces() {
    let (_, changes) = pods().apply([authorization("istio-system/x", &[("app", "cart")])]);
    assert_eq!(governed(&changes), ["bank-cart", "shop-cart"]);
}

#[test]
fn a_peer_authentication_of_a_root_namespace_that_selects_is_for_no_pod_and_says_so() {
    let (world, changes) = pods().apply([peer("istio-system/x", &[("app", "cart")])]);
    assert_eq!(governed(&changes), [""; 0]);
    let [id] = [changes.policies.first().unwrap()];
    assert_eq!(world.policies().gaps(id)[0].why, GapReason::SelectorInRoot);
}

#[test]
fn root_namespaces_can_be_others() {
    let world = World::with_root_namespaces([Arc::from("mesh")]);
    let (world, _) = world.apply(pods().workloads().map(|pod| Delta::Workload((**pod).clone())));
    let (_, changes) = world.apply([authorization("mesh/x", &[])]);
    assert_eq!(changes.governed.len(), 3);
    let (_, changes) = world.apply([authorization("istio-system/x", &[])]);
    assert_eq!(changes.governed.len(), 0);
}

#[test]
fn a_policy_that_moves_touches_the_pods_it_leaves_and_the_pods_it_comes_to() {
    let (world, _) = pods().apply([authorization("shop/x", &[("app", "cart")])]);
    let (_, changes) = world.apply([authorization("shop/x", &[("app", "web")])]);
    assert_eq!(governed(&changes), ["shop-cart", "shop-web"]);
}

#[test]
fn a_policy_that_goes_touches_the_pods_it_was_for() {
    for policy in [peer, authorization] {
        let (world, changes) = pods().apply([policy("shop/x", &[])]);
        let id = (**changes.policies.first().unwrap()).clone();
        let (world, changes) = world.apply([Delta::PolicyGone(id.clone())]);
        assert_eq!(governed(&changes), ["shop-cart", "shop-web"]);
        assert_eq!(world.policies().peer_authentications().count(), 0);
        assert_eq!(world.policies().authorization_policies().count(), 0);
        let (_, changes) = world.apply([Delta::PolicyGone(id)]);
        assert_eq!(changes, Changes::default());
    }
}

#[test]
fn a_policy_that_comes_again_unchanged_touches_nothing() {
    for policy in [peer, authorization] {
        let (world, _) = pods().apply([policy("shop/x", &[])]);
        let (_, changes) = world.apply([policy("shop/x", &[])]);
        assert_eq!(changes, Changes::default());
    }
}

#[test]
fn policies_of_one_name_and_two_kinds_do_not_meet() {
    let (world, changes) = pods().apply([peer("shop/x", &[]), authorization("shop/x", &[])]);
    assert_eq!(changes.policies.len(), 2);
    let name = ObjectName::new("shop", "x");
    assert!(world.policies().peer_authentication(&name).is_some());
    assert!(world.policies().authorization_policy(&name).is_some());
}

#[test]
fn a_change_shares_the_policies_of_other_namespaces() {
    let (world, _) = pods().apply([peer("shop/x", &[]), peer("bank/x", &[])]);
    let (after, _) = world.apply([peer("shop/y", &[])]);
    let of = |world: &World, name: &str| Arc::clone(&world.policies().namespaces[name]);
    assert!(Arc::ptr_eq(&of(&world, "bank"), &of(&after, "bank")));
    assert!(!Arc::ptr_eq(&of(&world, "shop"), &of(&after, "shop")));
}

fn pods() -> World {
    let pods = [("shop", "cart"), ("shop", "web"), ("bank", "cart")];
    World::default().apply(pods.map(|(namespace, app)| pod(namespace, app))).0
}

fn pod(namespace: &str, app: &str) -> Delta {
    let domain = TrustDomain::parse("cluster.local").unwrap();
    Delta::Workload(Workload {
        uid: PodUid::parse(&format!("{namespace}-{app}")).unwrap(),
        name: ObjectName::new(namespace, app),
        node: None,
        identity: SpiffeId::try_new(domain, namespace, app).unwrap(),
        addresses: Vec::new(),
        mode: MeshMode::Ambient,
        host_network: false,
        phase: Phase::Active,
        owner: Owner { kind: Arc::from("pod"), name: Arc::from(app) },
        labels: BTreeMap::from([
            (Arc::from("app"), Arc::from(app)),
            (Arc::from("version"), Arc::from("v1")),
        ]),
        probed: Vec::new(),
        tunnel_ports: Vec::new(),
        mirror_of: None,
        announced: None,
        netns: None,
    })
}

fn peer(name: &str, selector: &[(&str, &str)]) -> Delta {
    let mut spec = PeerAuthenticationSpec::new(object(name));
    spec.selector = labels(selector);
    Delta::PeerAuthentication(PeerAuthentication::try_new(spec).unwrap())
}

fn authorization(name: &str, selector: &[(&str, &str)]) -> Delta {
    let mut spec = AuthorizationPolicySpec::new(object(name));
    spec.selector = labels(selector);
    Delta::AuthorizationPolicy(AuthorizationPolicy::try_new(spec).unwrap())
}

fn object(name: &str) -> ObjectName {
    let (namespace, name) = name.split_once('/').unwrap();
    ObjectName::new(namespace, name)
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn governed(changes: &Changes) -> Vec<&str> {
    changes.governed.iter().map(PodUid::as_str).collect()
}
