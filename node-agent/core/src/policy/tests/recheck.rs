//! Flows that live, after a change.

use super::*;
use crate::flow::CloseReason;
use crate::recheck::{Recheck, recheck};
use crate::workload::Namespace;

#[test]
fn a_flow_that_a_new_policy_refuses_ends_with_the_policys_name() {
    let scene = Scene::new([]);
    let cases = [
        (peer("shop/default", "STRICT", |_| ()), Denied::Plaintext),
        (peer("shop/cart", "STRICT", select(&[("app", "cart")])), Denied::Plaintext),
        (peer("istio-system/default", "STRICT", |_| ()), Denied::Plaintext),
        (
            authorization("shop/x", "ALLOW", [], |spec| spec.selector = owned(&[("app", "cart")])),
            Denied::NoRule,
        ),
        (policy("istio-system/x", "DENY", [RuleSpec::default()]), Denied::ByRule),
    ];
    for (policy, denied) in cases {
        let flow = scene.flow(&PLAINTEXT);
        let (world, changes) = scene.world.apply([policy.clone()]);
        let Recheck::Ended(reason, grounds) = recheck(&world, Some(&changes), &flow) else {
            panic!("{policy:#?}");
        };
        assert_eq!(reason, CloseReason::Denied(denied));
        assert_eq!(Some(&grounds.by.unwrap().policy), changes.policies.first());
    }
}

#[test]
fn a_flow_ends_when_a_new_label_puts_its_pod_under_a_policy() {
    let rule = RuleSpec::default();
    let scene = Scene::new([authorization("shop/x", "DENY", [rule], |spec| {
        spec.selector = owned(&[("quarantine", "yes")]);
    })]);
    let flow = scene.flow(&WEB.into());
    let mut pod = pod();
    pod.labels.insert(Arc::from("quarantine"), Arc::from("yes"));
    let (world, changes) = scene.world.apply([Delta::Workload(pod)]);
    let again = recheck(&world, Some(&changes), &flow);
    assert!(matches!(again, Recheck::Ended(CloseReason::Denied(Denied::ByRule), _)), "{again:?}");
}

/// What was proved when the flow began is still true, so enrolment alone ends none: the pod's own agent
/// lets them end by themselves. But none is passed over.
#[test]
fn the_flows_of_a_pod_whose_enrolment_changes_are_decided_again() {
    let scene = Scene::new([policy(
        "shop/web",
        "ALLOW",
        [from(principals(&["cluster.local/ns/shop/sa/web"]))],
    )]);
    let shop = |mode| {
        Delta::Namespace(Namespace { name: Arc::from("shop"), mode, labels: BTreeMap::new() })
    };
    let (world, _) = scene.world.apply([shop(MeshMode::Ambient)]);
    let opted_out = Workload { mode: MeshMode::None, ..pod() };
    let identity = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/other").unwrap();
    let other_account = Workload { identity, ..pod() };
    for change in [
        shop(MeshMode::Unset),
        Delta::NamespaceGone(Arc::from("shop")),
        Delta::Workload(opted_out),
        Delta::Workload(other_account),
    ] {
        let flow = scene.flow(&WEB.into());
        let (alone, changes) = world.apply([change.clone()]);
        let again = recheck(&alone, Some(&changes), &flow);
        assert!(matches!(again, Recheck::Permitted(_)), "{change:?}: {again:?}");
        let (together, changes) = world.apply([change.clone(), policy("shop/web", "ALLOW", [])]);
        let again = recheck(&together, Some(&changes), &flow);
        let Recheck::Ended(CloseReason::Denied(Denied::NoRule), grounds) = again else {
            panic!("{change:?}: {again:?}");
        };
        assert_eq!(grounds.by.unwrap().policy.to_string(), "AuthorizationPolicy shop/web");
    }
}

#[test]
fn a_flow_ends_with_its_pod() {
    let scene = Scene::new([]);
    let flow = scene.flow(&WEB.into());
    let (world, changes) = scene.world.apply([Delta::WorkloadGone(pod().uid)]);
    let again = recheck(&world, Some(&changes), &flow);
    assert_eq!(again, Recheck::Ended(CloseReason::PodGone, Grounds::default()));
}

#[test]
fn a_change_elsewhere_leaves_a_flow_alone() {
    let scene = Scene::new([]);
    let flow = scene.flow(&PLAINTEXT);
    let (world, changes) = scene.world.apply([
        peer("bank/default", "STRICT", |_| ()),
        peer("shop/web", "STRICT", select(&[("app", "web")])),
    ]);
    assert_eq!(recheck(&world, Some(&changes), &flow), Recheck::Untouched);
    assert_eq!(recheck(&world, None, &flow), Recheck::Permitted(Grounds::default()));
}

#[test]
fn a_flow_ends_when_the_rule_that_allowed_it_goes() {
    let of = |namespace: &str| from(SourceSpec { namespaces: texts(&[namespace]), ..none() });
    let scene = Scene::new([policy("shop/list", "ALLOW", [of("shop"), of("bank")])]);
    let (web, teller) = (scene.flow(&WEB.into()), scene.flow(&TELLER.into()));
    let (world, changes) = scene.world.apply([policy("shop/list", "ALLOW", [of("bank")])]);
    let ended = recheck(&world, Some(&changes), &web);
    assert!(matches!(ended, Recheck::Ended(CloseReason::Denied(Denied::NoRule), _)), "{ended:?}");
    let Recheck::Permitted(grounds) = recheck(&world, Some(&changes), &teller) else {
        panic!("the other flow is still allowed");
    };
    assert_eq!(grounds.by.unwrap().rule, Some(0));
}
