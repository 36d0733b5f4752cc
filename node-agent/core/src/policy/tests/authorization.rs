//! AuthorizationPolicy: order, empty cases, scopes, and what cannot be enforced.

use super::*;

#[test]
fn an_allow_policy_without_rules_allows_nothing() {
    let scene = Scene::new([policy("shop/allow-nothing", "ALLOW", [])]);
    for from in [Caller::from(WEB), PLAINTEXT] {
        assert_eq!(scene.ask(from), "denied_no_rule by AuthorizationPolicy shop/allow-nothing");
    }
}

#[test]
fn an_empty_rule_matches_everything() {
    let all = || RuleSpec::default();
    let scene = Scene::new([policy("shop/all", "ALLOW", [all()])]);
    assert_eq!(scene.ask(PLAINTEXT), "allowed by AuthorizationPolicy shop/all rule 0");
    let scene = Scene::new([policy("shop/none", "DENY", [all()])]);
    assert_eq!(scene.ask(WEB), "denied_by_rule by AuthorizationPolicy shop/none rule 0");
}

#[test]
fn a_refusal_goes_before_a_permission() {
    let scene = Scene::new([
        policy("shop/a-allow", "ALLOW", [RuleSpec::default()]),
        policy(
            "shop/b-deny",
            "DENY",
            [from(SourceSpec { namespaces: texts(&["bank"]), ..none() })],
        ),
    ]);
    assert_eq!(scene.ask(TELLER), "denied_by_rule by AuthorizationPolicy shop/b-deny rule 0");
    assert_eq!(scene.ask(WEB), "allowed by AuthorizationPolicy shop/a-allow rule 0");
}

#[test]
fn a_deny_policy_alone_lets_in_what_it_does_not_match() {
    let rule = from(SourceSpec { namespaces: texts(&["bank"]), ..none() });
    let scene = Scene::new([policy("shop/deny", "DENY", [rule])]);
    assert_eq!(scene.ask(WEB), "allowed by default");
}

#[test]
fn one_of_several_allow_policies_is_enough() {
    let allow = |name, namespace: &str| {
        policy(name, "ALLOW", [from(SourceSpec { namespaces: texts(&[namespace]), ..none() })])
    };
    let scene = Scene::new([allow("shop/a", "shop"), allow("istio-system/b", "bank")]);
    assert_eq!(scene.ask(WEB), "allowed by AuthorizationPolicy shop/a rule 0");
    assert_eq!(scene.ask(TELLER), "allowed by AuthorizationPolicy istio-system/b rule 0");
}

#[test]
fn peer_authentication_is_asked_before_authorization() {
    let scene = Scene::new([
        peer("shop/default", "STRICT", |_| ()),
        policy("shop/all", "ALLOW", [RuleSpec::default()]),
    ]);
    assert_eq!(scene.ask(PLAINTEXT), "denied_plaintext by PeerAuthentication shop/default");
}

#[test]
fn policies_are_for_the_pods_of_their_scope_only() {
    let none = |name: &str, labels: &[(&str, &str)]| {
        authorization(name, "ALLOW", [], |spec| spec.selector = owned(labels))
    };
    let cases = [
        (none("shop/x", &[]), false),
        (none("shop/x", &[("app", "cart")]), false),
        (none("shop/x", &[("app", "cart"), ("version", "v1")]), false),
        (none("shop/x", &[("app", "web")]), true),
        (none("shop/x", &[("app", "cart"), ("version", "v2")]), true),
        (none("bank/x", &[]), true),
        (none("istio-system/x", &[]), false),
        (none("istio-system/x", &[("app", "cart")]), false),
        (none("istio-system/x", &[("app", "web")]), true),
    ];
    for (policy, allowed) in cases {
        let scene = Scene::new([policy.clone()]);
        assert_eq!(scene.decide(&WEB.into()).verdict.is_ok(), allowed, "{policy:#?}");
    }
}

#[test]
fn audit_and_target_refs_have_no_say_and_custom_refuses() {
    let audit = policy("shop/audit", "AUDIT", [RuleSpec::default()]);
    let targets = authorization("shop/gateway", "ALLOW", [], |spec| spec.targets = true);
    assert_eq!(Scene::new([audit, targets]).ask(WEB), "allowed by default");
    let custom = policy("shop/custom", "CUSTOM", [port_rule(&["8080"])]);
    let scene = Scene::new([custom]);
    let on = |port| scene.ask(Caller { port, ..WEB.into() });
    assert_eq!(on(8080), "denied_by_rule by AuthorizationPolicy shop/custom rule 0");
    assert_eq!(on(80), "allowed by default");
}

#[test]
fn what_cannot_be_enforced_makes_allow_narrower_and_deny_wider() {
    let l7 = |ports: &[&str]| {
        let unsupported = texts(&["methods"]);
        to(OperationSpec { ports: texts(ports), unsupported, ..OperationSpec::default() })
    };
    let scene = Scene::new([policy("shop/get", "ALLOW", [l7(&["80"]), port_rule(&["8080"])])]);
    let on = |scene: &Scene, port| scene.decide(&Caller { port, ..WEB.into() }).verdict.is_ok();
    assert_eq!([on(&scene, 80), on(&scene, 8080)], [false, true]);
    let scene = Scene::new([policy("shop/post", "DENY", [l7(&["80"])])]);
    assert_eq!([on(&scene, 80), on(&scene, 8080)], [false, true]);
    let scene = Scene::new([policy("shop/post", "DENY", [l7(&[])])]);
    assert_eq!([on(&scene, 80), on(&scene, 8080)], [false, false]);
}

#[test]
fn an_address_of_another_pod_is_refused_whatever_the_policies_say() {
    let scene = Scene::new([policy("shop/all", "ALLOW", [RuleSpec::default()])]);
    let mut flow = scene.flow(&WEB.into());
    flow.destination_address = "10.9.0.2:80".parse().unwrap();
    let decision = decide(&scene.world, &flow);
    assert_eq!(decision.verdict, Err(Denied::NotItsAddress));
    assert_eq!(decision.grounds, Grounds::default());
}
