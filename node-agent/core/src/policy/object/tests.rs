//! What is a valid policy, what is refused, and what is said of the parts that cannot be enforced.

use super::*;
use crate::policy::invalid::GapReason;
use crate::policy::spec::{
    AuthorizationPolicySpec, ConditionSpec, OperationSpec, PeerAuthenticationSpec, RuleSpec,
    SourceSpec,
};

#[test]
fn a_peer_authentication_keeps_what_its_manifest_says() {
    let policy = peer(|spec| {
        spec.mode = "STRICT".to_owned();
        spec.selector = labels(&[("app", "cart")]);
        spec.port_modes = labels(&[("8080", "PERMISSIVE"), ("9090", "UNSET")]);
    });
    let policy = policy.unwrap();
    assert_eq!(policy.id().to_string(), "PeerAuthentication shop/default");
    assert_eq!(policy.mode(), Some(Mode::Strict));
    assert_eq!(
        *policy.port_modes(),
        BTreeMap::from([(8080, Some(Mode::Permissive)), (9090, None)])
    );
    assert_eq!(policy.selector().to_string(), "app=cart");
    assert_eq!(policy.gaps(), []);
}

#[test]
fn a_peer_authentication_that_is_not_valid_is_refused_with_field_and_value() {
    type Change = fn(&mut PeerAuthenticationSpec);
    let cases: [(Change, &str); 6] = [
        (
            |spec| spec.mode = "strict".to_owned(),
            r#"spec.mtls.mode: "strict": is not one of UNSET, DISABLE, PERMISSIVE, STRICT"#,
        ),
        (
            |spec| spec.port_modes = labels(&[("80", "STRICT")]),
            r#"spec.portLevelMtls: "": only a policy with a selector can set modes of ports"#,
        ),
        (
            |spec| {
                spec.selector = labels(&[("app", "cart")]);
                spec.port_modes = labels(&[("0", "STRICT")]);
            },
            r#"spec.portLevelMtls[0]: "0": is not a port: a number from 1 to 65535"#,
        ),
        (
            |spec| {
                spec.selector = labels(&[("app", "cart")]);
                spec.port_modes = labels(&[("80", "ON")]);
            },
            r#"spec.portLevelMtls[80].mode: "ON": is not one of UNSET, DISABLE, PERMISSIVE, STRICT"#,
        ),
        (
            |spec| spec.selector = labels(&[("app", "ca*")]),
            r#"spec.selector.matchLabels: "app=ca*": a label of a selector has a key, and no `*`"#,
        ),
        (
            |spec| spec.selector = labels(&[("", "cart")]),
            r#"spec.selector.matchLabels: "=cart": a label of a selector has a key, and no `*`"#,
        ),
    ];
    for (change, expected) in cases {
        assert_eq!(said(&peer(change).unwrap_err()), [expected]);
    }
}

#[test]
fn disable_is_permissive_and_says_so() {
    let policy = peer(|spec| spec.mode = "DISABLE".to_owned()).unwrap();
    assert_eq!(
        policy.gaps()[0].to_string(),
        "spec.mtls.mode: tunnels are still accepted: DISABLE is the same as PERMISSIVE"
    );
}

#[test]
fn an_empty_authorization_policy_is_an_allow_policy_without_rules() {
    let policy = authorization(|_| {}).unwrap();
    assert_eq!(policy.id().to_string(), "AuthorizationPolicy shop/cart");
    assert_eq!((policy.action(), policy.effect()), (Action::Allow, Some(Effect::Allow)));
    assert_eq!(policy.rules(), []);
}

#[test]
fn an_authorization_policy_that_is_not_valid_is_refused_with_field_and_value() {
    type Change = fn(&mut AuthorizationPolicySpec);
    let cases: [(Change, &[&str]); 11] = [
        (
            |spec| spec.action = "allow".to_owned(),
            &[r#"spec.action: "allow": is not one of ALLOW, DENY, AUDIT, CUSTOM"#],
        ),
        (|spec| spec.action = "DENY".to_owned(), &[NO_RULES]),
        (|spec| spec.action = "CUSTOM".to_owned(), &[NO_RULES]),
        (
            |spec| spec.rules = vec![RuleSpec::default(); 513],
            &[r#"spec.rules: "513": has more than 512 entries"#],
        ),
        (
            |spec| {
                spec.targets = true;
                spec.selector = labels(&[("app", "cart")]);
            },
            &[r#"spec.selector: "": cannot be set together with targetRefs"#],
        ),
        (
            |spec| spec.rules = vec![RuleSpec { from: Some(vec![]), ..RuleSpec::default() }],
            &[r#"spec.rules[0].from: "[]": must not be empty"#],
        ),
        (
            |spec| spec.rules = vec![RuleSpec { to: Some(vec![]), ..RuleSpec::default() }],
            &[r#"spec.rules[0].to: "[]": must not be empty"#],
        ),
        (
            |spec| spec.rules = vec![from(SourceSpec::default())],
            &[r#"spec.rules[0].from[0].source: "": must have at least one field set"#],
        ),
        (
            |spec| spec.rules = vec![to(OperationSpec::default())],
            &[r#"spec.rules[0].to[0].operation: "": must have at least one field set"#],
        ),
        (
            |spec| spec.rules = vec![when("source.ip", &[])],
            &[r#"spec.rules[0].when[0]: "source.ip": must have at least one field set"#],
        ),
        (
            |spec| spec.rules = vec![when("", &["x"])],
            &[r#"spec.rules[0].when[0].key: "": must not be empty"#],
        ),
    ];
    for (change, expected) in cases {
        assert_eq!(said(&authorization(change).unwrap_err()), expected);
    }
}

#[test]
fn a_value_that_is_not_valid_is_refused_with_field_and_value() {
    type Change = fn(&mut AuthorizationPolicySpec);
    let cases: [(Change, &[&str]); 3] = [
        (
            |spec| {
                let ports = texts(&["80", "http"]);
                let bad = OperationSpec { ports, ..OperationSpec::default() };
                spec.rules = vec![RuleSpec::default(), to(bad), when("destination.port", &["x"])];
            },
            &[
                r#"spec.rules[1].to[0].operation.ports[1]: "http": is not a port: a number from 1 to 65535"#,
                r#"spec.rules[2].when[0].values[0]: "x": is not a port: a number from 1 to 65535"#,
            ],
        ),
        (
            |spec| {
                let not_ip_blocks = texts(&["10.0.0.0/33"]);
                let source = SourceSpec { not_ip_blocks, ..SourceSpec::default() };
                spec.rules = vec![from(source)];
            },
            &[concat!(
                r#"spec.rules[0].from[0].source.notIpBlocks[0]: "10.0.0.0/33": "#,
                "the prefix length must be a number up to 32 (IPv4) or 128 (IPv6)"
            )],
        ),
        (
            |spec| {
                let service_accounts = texts(&["shop/cart"]);
                let not_namespaces = texts(&["dev"]);
                let source =
                    SourceSpec { service_accounts, not_namespaces, ..SourceSpec::default() };
                spec.rules = vec![from(source)];
            },
            &[concat!(
                r#"spec.rules[0].from[0].source.serviceAccounts: "shop/cart": "#,
                "cannot be set together with principals or namespaces"
            )],
        ),
    ];
    for (change, expected) in cases {
        assert_eq!(said(&authorization(change).unwrap_err()), expected);
    }
}

#[test]
fn an_allow_rule_with_a_field_that_cannot_be_enforced_never_matches() {
    let policy = authorization(|spec| spec.rules = vec![l7(), ports(&["80"])]).unwrap();
    assert_eq!(policy.rules().iter().map(|rule| rule.never).collect::<Vec<_>>(), [true, false]);
    let gaps: Vec<_> = policy.gaps().iter().map(|gap| (&*gap.field, gap.why)).collect();
    assert_eq!(gaps, L7.map(|field| (field, GapReason::RuleNeverMatches)));
}

#[test]
fn a_deny_rule_with_a_field_that_cannot_be_enforced_matches_as_if_it_were_absent() {
    for action in ["DENY", "CUSTOM"] {
        let policy = authorization(|spec| {
            spec.action = action.to_owned();
            spec.rules = vec![l7()];
        });
        let policy = policy.unwrap();
        let nothing = Rule {
            sources: Box::new([Box::default()]),
            operations: Box::new([Box::default()]),
            ..Rule::default()
        };
        assert_eq!(policy.rules(), [nothing]);
        let gaps = policy.gaps().iter().filter(|gap| gap.why == GapReason::FieldIgnored);
        assert_eq!(gaps.map(|gap| &*gap.field).collect::<Vec<_>>(), L7);
    }
}

#[test]
fn audit_and_target_refs_have_no_effect_and_say_so() {
    let audit = authorization(|spec| spec.action = "AUDIT".to_owned()).unwrap();
    assert_eq!((audit.action(), audit.effect()), (Action::Audit, None));
    assert_eq!(audit.gaps()[0].to_string(), "spec.action: AUDIT has no effect");
    let targets = authorization(|spec| spec.targets = true).unwrap();
    assert_eq!(targets.effect(), None);
    assert_eq!(targets.gaps()[0].why, GapReason::Targets);
}

#[test]
fn a_custom_policy_refuses_what_it_matches_and_says_so() {
    let custom = authorization(|spec| {
        spec.action = "CUSTOM".to_owned();
        spec.rules = vec![RuleSpec::default()];
    });
    let custom = custom.unwrap();
    assert_eq!(custom.effect(), Some(Effect::Deny));
    assert_eq!(custom.gaps()[0].why, GapReason::Custom);
}

#[test]
fn a_value_that_no_identity_can_match_is_pointed_out() {
    let policy = authorization(|spec| {
        let principals = texts(&["spiffe://cluster.local/ns/a/sa/b", "cluster.local/ns/a/sa/b"]);
        let not_namespaces = texts(&["a*b", "a*"]);
        let source = SourceSpec { principals, not_namespaces, ..SourceSpec::default() };
        spec.rules = vec![from(source)];
    });
    let policy = policy.unwrap();
    let gaps: Vec<_> = policy.gaps().iter().map(|gap| (&*gap.field, gap.why)).collect();
    assert_eq!(
        gaps,
        [
            ("spec.rules[0].from[0].source.principals[0]", GapReason::ValueNeverMatches),
            ("spec.rules[0].from[0].source.notNamespaces[0]", GapReason::ValueNeverMatches),
        ]
    );
    assert!(!policy.rules()[0].never);
}

#[test]
fn a_port_that_no_connection_has_is_pointed_out() {
    let policy = authorization(|spec| {
        let (ports, not_ports) = (texts(&["80", "0"]), texts(&["00"]));
        let operation = OperationSpec { ports, not_ports, ..OperationSpec::default() };
        spec.rules = vec![to(operation), when("destination.port", &["0"])];
    });
    let policy = policy.unwrap();
    let gaps: Vec<String> = policy.gaps().iter().map(ToString::to_string).collect();
    assert_eq!(
        gaps,
        [
            "spec.rules[0].to[0].operation.ports[1]: no connection has port 0: the value matches none",
            "spec.rules[0].to[0].operation.notPorts[0]: no connection has port 0: the value matches none",
            "spec.rules[1].when[0].values[0]: no connection has port 0: the value matches none",
        ]
    );
    assert!(policy.rules().iter().all(|rule| !rule.never));
}

const NO_RULES: &str = concat!(
    r#"spec.rules: "": never matches without rules; "#,
    "to match everything, give it one empty rule: [{}]"
);

const L7: [&str; 4] = [
    "spec.rules[0].name",
    "spec.rules[0].from[0].source.requestPrincipals",
    "spec.rules[0].to[0].operation.methods",
    r#"spec.rules[0].when[0].key "request.headers[x]""#,
];

/// A rule of nothing but fields that need HTTP or that nobody knows.
fn l7() -> RuleSpec {
    let one = |field: &str| vec![field.to_owned()];
    RuleSpec {
        from: Some(vec![SourceSpec {
            unsupported: one("requestPrincipals"),
            ..SourceSpec::default()
        }]),
        to: Some(vec![OperationSpec { unsupported: one("methods"), ..OperationSpec::default() }]),
        unsupported: one("name"),
        ..when("request.headers[x]", &["y"])
    }
}

fn ports(ports: &[&str]) -> RuleSpec {
    to(OperationSpec { ports: texts(ports), ..OperationSpec::default() })
}

fn from(source: SourceSpec) -> RuleSpec {
    RuleSpec { from: Some(vec![source]), ..RuleSpec::default() }
}

fn to(operation: OperationSpec) -> RuleSpec {
    RuleSpec { to: Some(vec![operation]), ..RuleSpec::default() }
}

fn when(key: &str, values: &[&str]) -> RuleSpec {
    let when = ConditionSpec { key: key.to_owned(), values: texts(values), not_values: vec![] };
    RuleSpec { when: vec![when], ..RuleSpec::default() }
}

fn peer(
    change: impl FnOnce(&mut PeerAuthenticationSpec),
) -> Result<PeerAuthentication, Vec<Invalid>> {
    let mut spec = PeerAuthenticationSpec::new(ObjectName::new("shop", "default"));
    change(&mut spec);
    PeerAuthentication::try_new(spec)
}

fn authorization(
    change: impl FnOnce(&mut AuthorizationPolicySpec),
) -> Result<AuthorizationPolicy, Vec<Invalid>> {
    let mut spec = AuthorizationPolicySpec::new(ObjectName::new("shop", "cart"));
    change(&mut spec);
    AuthorizationPolicy::try_new(spec)
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn said(wrong: &[Invalid]) -> Vec<String> {
    wrong.iter().map(ToString::to_string).collect()
}
