//! Manifests that are not valid and whose last good version is not known: nothing is opened up.

use super::*;

/// What a policy lets in: the tunnel of a friend on ports 80 and 8080, and plaintext on port 80.
fn admits(policies: impl IntoIterator<Item = Delta>) -> [bool; 3] {
    let scene = Scene::new(policies);
    let on = |from: Caller| scene.decide(&from).verdict.is_ok();
    [on(WEB.into()), on(Caller { port: 8080, ..WEB.into() }), on(PLAINTEXT)]
}

fn closed_peer(change: impl FnOnce(&mut PeerAuthenticationSpec)) -> Delta {
    let mut spec = PeerAuthenticationSpec::new(object("shop/default"));
    change(&mut spec);
    assert!(PeerAuthentication::try_new(spec.clone()).is_err(), "it is valid: {spec:?}");
    Delta::PeerAuthentication(PeerAuthentication::closed(spec))
}

fn closed(action: &str, rules: impl Into<Vec<RuleSpec>>, unread: &[&str]) -> Delta {
    closed_with(action, rules, unread, |_| ())
}

fn closed_with(
    action: &str,
    rules: impl Into<Vec<RuleSpec>>,
    unread: &[&str],
    change: impl FnOnce(&mut AuthorizationPolicySpec),
) -> Delta {
    let mut spec = AuthorizationPolicySpec::new(object("shop/x"));
    spec.action = action.to_owned();
    spec.rules = rules.into();
    change(&mut spec);
    let valid = AuthorizationPolicy::try_new(spec.clone()).is_ok();
    assert!(!valid || !unread.is_empty(), "it is valid: {spec:?}");
    let policy = AuthorizationPolicy::closed(spec, &texts(unread));
    assert!(policy.is_closed());
    Delta::AuthorizationPolicy(policy)
}

#[test]
fn a_peer_authentication_is_strict_on_every_port() {
    let changes: [fn(&mut PeerAuthenticationSpec); 4] = [
        |spec| spec.mode = "strict".to_owned(),
        |spec| {
            spec.mode = "PERMISSIVE".to_owned();
            spec.selector = owned(&[("app", "cart")]);
            spec.port_modes = owned(&[("80", "PERMISSIVE"), ("http", "STRICT")]);
        },
        |spec| {
            spec.mode = "PERMISSIVE".to_owned();
            spec.selector = owned(&[("app", "ca*")]);
        },
        |spec| spec.port_modes = owned(&[("80", "PERMISSIVE")]),
    ];
    for change in changes {
        assert_eq!(admits([closed_peer(change)]), [true, true, false]);
    }
    let elsewhere = |spec: &mut PeerAuthenticationSpec| {
        spec.mode = "strict".to_owned();
        spec.selector = owned(&[("app", "web")]);
    };
    assert_eq!(admits([closed_peer(elsewhere)]), [true; 3], "its selector can be read");
}

#[test]
fn an_allow_rule_that_cannot_be_read_lets_nothing_in_and_the_others_do() {
    let good = || port_rule(&["8080"]);
    let all = RuleSpec::default;
    let cases = [
        (closed("ALLOW", [good(), port_rule(&["http"])], &[]), [false, true, false]),
        (closed("ALLOW", [good(), port_rule(&["80", "http"])], &[]), [false, true, false]),
        (closed("ALLOW", [good(), from(principals(&[""]))], &[]), [false, true, false]),
        (closed("ALLOW", [good(), from(none())], &[]), [false, true, false]),
        // What translation could not read, such as a text where a list should be, is absent here.
        (closed("ALLOW", [good(), all()], &["spec.rules[1].to"]), [false, true, false]),
        (closed("ALLOW", [good(), all()], &["spec.rules[1]"]), [false, true, false]),
    ];
    for (policy, expected) in cases {
        assert_eq!(admits([policy.clone()]), expected, "{policy:#?}");
    }
}

#[test]
fn a_policy_of_which_more_than_a_rule_cannot_be_read_lets_nothing_in() {
    let all = || [RuleSpec::default()];
    let cases = [
        closed("ALLOW", all(), &["metadata.annotations[\"istio.io/dry-run\"]"]),
        closed("ALLOW", [], &["spec.rules"]),
        closed("ALLOW", vec![RuleSpec::default(); 513], &[]),
        closed_with("ALLOW", all(), &[], |spec| spec.selector = owned(&[("app", "ca*")])),
        closed_with("ALLOW", all(), &[], |spec| {
            spec.selector = owned(&[("app", "cart")]);
            spec.targets = true;
        }),
    ];
    for policy in cases {
        assert_eq!(admits([policy.clone()]), [false; 3], "{policy:#?}");
    }
}

#[test]
fn a_deny_rule_denies_as_if_the_field_that_cannot_be_read_were_absent() {
    let on_80 = |source| RuleSpec { to: port_rule(&["80"]).to, ..from(source) };
    let blocks = |ip_blocks: &[&str]| SourceSpec { ip_blocks: texts(ip_blocks), ..none() };
    let contradiction = SourceSpec { namespaces: texts(&["bank"]), ..accounts(&["bank/teller"]) };
    let cases = [
        (closed("DENY", [port_rule(&["8080", "http"])], &[]), [false; 3]),
        (closed("DENY", [on_80(blocks(&["192.0.2.0/33"]))], &[]), [false, true, false]),
        (closed("DENY", [on_80(blocks(&["192.0.2.1", ""]))], &[]), [false, true, false]),
        (closed("DENY", [on_80(contradiction)], &[]), [false, true, false]),
        (closed("CUSTOM", [when("destination.port", &["http"], &[])], &[]), [false; 3]),
        (closed("DENY", [when("destination.port", &[], &["80", "http"])], &[]), [false; 3]),
        // Nothing is left of a rule that is not an object, and of rules that are not a list.
        (closed("DENY", [RuleSpec::default()], &["spec.rules[0]"]), [false; 3]),
        (closed("DENY", [], &["spec.rules"]), [false; 3]),
        (closed("DENY", vec![port_rule(&["1"]); 513], &[]), [false; 3]),
        // A rule that can be read denies what it says.
        (closed("DENY", [port_rule(&["80"])], &["metadata.labels"]), [false, true, false]),
    ];
    for (policy, expected) in cases {
        assert_eq!(admits([policy.clone()]), expected, "{policy:#?}");
    }
}

#[test]
fn a_policy_that_may_have_been_of_any_action_denies_everything() {
    let all = policy("shop/all", "ALLOW", [RuleSpec::default()]);
    for unread in [closed("PERMIT", [port_rule(&["80"])], &[]), closed("", [], &["spec"])] {
        assert_eq!(admits([all.clone(), unread]), [false; 3]);
    }
}

#[test]
fn a_deny_policy_without_rules_never_matches_as_istio_has_it() {
    assert_eq!(admits([closed("DENY", [], &[])]), [true; 3]);
}
