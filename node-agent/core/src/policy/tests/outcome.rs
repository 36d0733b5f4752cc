//! The nearest rule, dry-run and explanations.

use super::*;

#[test]
fn where_nothing_allows_the_nearest_rule_says_what_it_wanted() {
    let narrow = RuleSpec {
        to: port_rule(&["443"]).to,
        ..from(principals(&["cluster.local/ns/shop/sa/api"]))
    };
    let near = RuleSpec {
        to: port_rule(&["80"]).to,
        ..from(principals(&["cluster.local/ns/shop/sa/api", "cluster.local/ns/shop/sa/cart"]))
    };
    let scene =
        Scene::new([policy("shop/a", "ALLOW", [narrow]), policy("shop/b", "ALLOW", [near])]);
    assert_eq!(scene.ask(WEB), "denied_no_rule by AuthorizationPolicy shop/b rule 0");
    let said = |from: Caller| {
        let missed = scene.decide(&from).grounds.missed;
        missed.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(
        said(WEB.into()),
        ["source.principals is cluster.local/ns/shop/sa/web, wanted \
          cluster.local/ns/shop/sa/api or cluster.local/ns/shop/sa/cart"]
    );
    assert_eq!(
        said(PLAINTEXT),
        ["source.principals is unknown (plaintext), wanted \
          cluster.local/ns/shop/sa/api or cluster.local/ns/shop/sa/cart"]
    );
}

#[test]
fn a_miss_says_which_value_is_in_the_way_and_shortens_long_lists() {
    let near = |rule: RuleSpec| {
        let scene = Scene::new([policy("shop/a", "ALLOW", [rule])]);
        scene.decide(&WEB.into()).grounds.missed[0].to_string()
    };
    assert_eq!(
        near(from(SourceSpec { not_namespaces: texts(&["bank", "sh*"]), ..none() })),
        "source.notNamespaces is shop, wanted anything but sh*"
    );
    assert_eq!(
        near(port_rule(&["1", "2", "3", "4", "5"])),
        "operation.ports is 80, wanted 1 or 2 or 3 or one of 2 more"
    );
    assert_eq!(
        near(when("destination.ip", &["192.0.2.0/24"], &[])),
        "destination.ip is 10.9.0.1, wanted 192.0.2.0/24"
    );
    assert_eq!(
        near(when("request.headers[x]", &["y"], &[])),
        "connection is TCP, wanted fields that cannot be enforced on it"
    );
}

#[test]
fn a_dry_run_refusal_is_said_and_not_enforced() {
    let scene = Scene::new([authorization("shop/deny", "DENY", [RuleSpec::default()], |spec| {
        spec.dry_run = true;
    })]);
    assert_eq!(scene.ask(WEB), "allowed by default");
    assert_eq!(scene.dry(WEB), "would deny by AuthorizationPolicy shop/deny rule 0");
}

#[test]
fn a_dry_run_permission_is_said_and_does_not_close_the_rest() {
    let rule = from(SourceSpec { namespaces: texts(&["shop"]), ..none() });
    let scene = Scene::new([authorization("shop/list", "ALLOW", [rule], |spec| {
        spec.dry_run = true;
    })]);
    assert_eq!(scene.ask(TELLER), "allowed by default");
    assert_eq!(scene.dry(TELLER), "would deny by AuthorizationPolicy shop/list rule 0");
    assert_eq!(scene.dry(WEB), "would allow by AuthorizationPolicy shop/list rule 0");
}

#[test]
fn a_dry_run_permission_counts_beside_those_that_are_enforced() {
    let of = |namespace: &str| from(SourceSpec { namespaces: texts(&[namespace]), ..none() });
    let scene = Scene::new([
        policy("shop/a", "ALLOW", [of("shop")]),
        authorization("shop/b", "ALLOW", [of("bank")], |spec| spec.dry_run = true),
    ]);
    assert_eq!(scene.ask(TELLER), "denied_no_rule by AuthorizationPolicy shop/a rule 0");
    assert_eq!(scene.dry(TELLER), "would allow by AuthorizationPolicy shop/b rule 0");
    assert_eq!(scene.dry(WEB), "would allow by AuthorizationPolicy shop/a rule 0");
}

#[test]
fn a_dry_run_of_strict_stands_in_for_the_mode_in_force_at_its_place() {
    let scene = Scene::new([
        peer("shop/default", "PERMISSIVE", |_| ()),
        peer("shop/strict", "STRICT", |spec| spec.dry_run = true),
    ]);
    assert_eq!(scene.ask(PLAINTEXT), "allowed by default");
    assert_eq!(scene.dry(PLAINTEXT), "would deny by PeerAuthentication shop/strict");
    assert_eq!(scene.dry(WEB), "would allow by default");
}

#[test]
fn without_a_dry_run_policy_for_the_pod_there_is_no_dry_run() {
    let scene = Scene::new([
        authorization("bank/deny", "DENY", [RuleSpec::default()], |spec| spec.dry_run = true),
        peer("shop/web", "STRICT", |spec| {
            select(&[("app", "web")])(spec);
            spec.dry_run = true;
        }),
    ]);
    assert_eq!(scene.decide(&PLAINTEXT).grounds.dry_run, None);
}

#[test]
fn an_explanation_lists_the_policies_in_the_order_in_which_they_were_asked() {
    let rule = || from(SourceSpec { namespaces: texts(&["bank"]), ..none() });
    let scene = Scene::new([
        peer("istio-system/default", "STRICT", |_| ()),
        peer("shop/default", "UNSET", |_| ()),
        policy("shop/deny", "DENY", [rule()]),
        policy("shop/allow", "ALLOW", [rule(), RuleSpec::default()]),
        policy("bank/other", "ALLOW", []),
        authorization("shop/dry", "DENY", [rule()], |spec| spec.dry_run = true),
    ]);
    let flow = scene.flow(&WEB.into());
    let trace = explain(&scene.world, &flow);
    assert_eq!(trace.decision, decide(&scene.world, &flow));
    assert_eq!(
        names(&trace.steps),
        [
            "PeerAuthentication shop/default",
            "PeerAuthentication istio-system/default",
            "AuthorizationPolicy shop/deny",
            "AuthorizationPolicy shop/allow",
        ]
    );
    let strict = Answer::Mode { level: Level::Mesh, mode: Some(Mode::Strict) };
    assert_eq!(trace.steps[1].answer, strict);
    let Answer::NotMatched { action: Action::Deny, rules } = &trace.steps[2].answer else {
        panic!("{:?}", trace.steps[2]);
    };
    assert_eq!(rules[0][0].to_string(), "source.namespaces is shop, wanted bank");
    assert_eq!(trace.steps[3].answer, Answer::Matched { action: Action::Allow, rule: 1 });
    assert!(names(&trace.dry_run).contains(&"AuthorizationPolicy shop/dry".to_owned()));
}
