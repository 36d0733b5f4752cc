//! Which field of a manifest ends up where, and how one that is wrong is named.

use adit_core::policy::Test;

use super::*;

#[test]
fn every_field_of_a_source_and_an_operation_is_read() {
    let policy = authorization(
        r#"{"rules": [{
            "from": [{"source": {
                "principals": ["a/ns/b/sa/c"], "notPrincipals": ["a/ns/b/sa/d"],
                "namespaces": ["n"], "notNamespaces": ["o"],
                "ipBlocks": ["10.0.0.0/8"], "notIpBlocks": ["10.1.0.0/16"],
                "trustDomains": ["td"], "notTrustDomains": ["other"]}},
              {"source": {"serviceAccounts": ["n/s"], "notServiceAccounts": ["n/t"]}}],
            "to": [{"operation": {"ports": ["80"], "notPorts": ["81"]}}],
            "when": [{"key": "source.ip", "values": ["10.2.0.0/16"], "notValues": ["10.2.3.4"]}]}]}"#,
    )
    .unwrap();
    assert!(policy.gaps().is_empty(), "{:?}", policy.gaps());
    let [rule] = policy.rules() else { panic!("{:?}", policy.rules()) };
    let [source, accounts] = &*rule.sources else { panic!("{rule:?}") };
    assert_eq!((source.len(), accounts.len()), (4, 1));
    let [operation] = &*rule.operations else { panic!("{rule:?}") };
    for test in source.iter().chain(accounts).chain(operation).chain(&rule.conditions) {
        assert_eq!(counts(test), (1, 1), "{test:?}");
    }
    let [Test::Port(ports)] = &**operation else { panic!("{operation:?}") };
    assert_eq!((&*ports.any_of, &*ports.none_of), (&[80][..], &[81][..]));
    assert_eq!(rule.conditions.len(), 1);
}

#[test]
fn a_field_that_cannot_be_enforced_or_is_misspelt_is_told_with_its_path() {
    let policy = authorization(
        r#"{"selector": {"matchLabels": {"app": "x"}, "matchExpressions": [{}]}, "tags": ["x"],
            "rules": [{
              "from": [{"source": {"principal": ["x"], "namespaces": ["n"]}, "sources": {"a": 1}}],
              "to": [{"operation": {"hosts": ["h"], "methods": [], "paths": null}}],
              "when": [{"key": "request.headers[x]", "values": ["v"]},
                       {"key": "source.ip", "values": ["10.0.0.1"], "value": "y"}],
              "unless": [{}]}]}"#,
    );
    let mut fields: Vec<String> =
        policy.unwrap().gaps().iter().map(|gap| gap.field.clone()).collect();
    fields.sort();
    assert_eq!(
        fields,
        [
            "spec.rules[0].from[0].source.principal",
            "spec.rules[0].from[0].source.sources",
            "spec.rules[0].to[0].operation.hosts",
            "spec.rules[0].unless",
            "spec.rules[0].when[0].key \"request.headers[x]\"",
            "spec.rules[0].when[1].value",
            "spec.selector.matchExpressions",
            "spec.tags",
        ]
    );
    let policy = peer(r#"{"mtls": {"mode": "STRICT", "modes": "x"}, "portLevelTls": {"80": {}}}"#);
    let fields: Vec<String> = policy.unwrap().gaps().iter().map(|gap| gap.field.clone()).collect();
    assert_eq!(fields, ["spec.mtls.modes", "spec.portLevelTls"]);
}

#[test]
fn rules_that_stand_beside_the_spec_are_told() {
    let object = r#"{"metadata": {"name": "x"}, "rules": [{}], "status": {"conditions": [1]}}"#;
    let policy = authorization_policy(&serde_json::from_str(object).unwrap()).unwrap();
    let fields: Vec<&str> = policy.gaps().iter().map(|gap| &*gap.field).collect();
    assert_eq!(fields, ["rules"]);
    assert!(policy.rules().is_empty(), "an ALLOW policy that allows nothing");
}

#[test]
fn what_is_wrong_is_named_by_field_and_value_and_all_at_once() {
    let wrong = authorization(
        r#"{"action": "PERMIT", "rules": [
            {"from": [{"source": {"ipBlocks": ["10.0.0.0/33", "fe80::/64", 7]}}],
             "to": [{"operation": {"ports": ["http"]}}]},
            {"from": [{}]}]}"#,
    );
    let wrong: Vec<String> = wrong.unwrap_err().iter().map(ToString::to_string).collect();
    // A value of the wrong type is told first: the rest cannot be judged without it.
    assert_eq!(
        wrong,
        [r#"spec.rules[0].from[0].source.ipBlocks[2]: "7": not a text: write it in quotes"#]
    );

    let wrong = authorization(
        r#"{"action": "PERMIT", "rules": [
            {"from": [{"source": {"ipBlocks": ["10.0.0.0/33"]}}],
             "to": [{"operation": {"ports": ["http"]}}]},
            {"from": [{}]}]}"#,
    );
    let wrong: Vec<String> = wrong.unwrap_err().iter().map(ToString::to_string).collect();
    let starts = [
        r#"spec.action: "PERMIT": "#,
        r#"spec.rules[0].from[0].source.ipBlocks[0]: "10.0.0.0/33": "#,
        r#"spec.rules[0].to[0].operation.ports[0]: "http": "#,
        r#"spec.rules[1].from[0].source: "": "#,
    ];
    assert_eq!(wrong.len(), starts.len(), "{wrong:#?}");
    for (wrong, start) in wrong.iter().zip(starts) {
        assert!(wrong.starts_with(start), "{wrong}");
    }
}

#[test]
fn a_value_of_the_wrong_shape_is_named() {
    let cases = [
        (r#"{"rules": {}}"#, "spec.rules: \"{}\": not a list"),
        (r#"{"rules": ["x"]}"#, r#"spec.rules[0]: "\"x\"": not an object"#),
        (r#"{"action": 1}"#, "spec.action: \"1\": not a text: write it in quotes"),
        (r#"{"selector": {"matchLabels": ["app"]}}"#, "spec.selector.matchLabels: "),
        (r#"{"selector": {"matchLabels": {"app": 1}}}"#, "spec.selector.matchLabels[\"app\"]: "),
    ];
    for (spec, expected) in cases {
        let wrong = authorization(spec).unwrap_err();
        assert!(wrong[0].to_string().starts_with(expected), "{wrong:?}");
    }
    let wrong =
        peer(r#"{"selector": {"matchLabels": {"a": "b"}}, "portLevelMtls": {"80": "STRICT"}}"#);
    let wrong = wrong.unwrap_err();
    assert!(wrong[0].to_string().starts_with("spec.portLevelMtls[80]: "), "{wrong:?}");
}

#[test]
fn each_kind_has_its_own_annotation_of_dry_run() {
    let cases = [("true", true), ("True", true), ("1", true), ("false", false), ("0", false)];
    for (text, expected) in cases {
        assert_eq!(annotated(ISTIO_DRY_RUN, text).unwrap().dry_run(), expected, "{text}");
    }
    let other = annotated(ADIT_DRY_RUN, "true").unwrap();
    assert!(!other.dry_run(), "an AuthorizationPolicy has Istio's");
    let wrong = annotated(ISTIO_DRY_RUN, "yes").unwrap_err();
    assert_eq!(
        wrong[0].to_string(),
        r#"metadata.annotations["istio.io/dry-run"]: "yes": not "true" or "false""#
    );
    let object = r#"{"metadata": {"name": "x", "annotations": {"adit.dev/dry-run": "true"}},
                     "spec": {"mtls": {"mode": "STRICT"}}}"#;
    let policy = peer_authentication(&serde_json::from_str(object).unwrap()).unwrap();
    assert!(policy.dry_run());
}

#[test]
fn name_and_age_come_from_the_metadata() {
    let object = r#"{"metadata": {"name": "x", "creationTimestamp": "2024-05-01T10:30:00+02:00"}}"#;
    let policy = peer_authentication(&serde_json::from_str(object).unwrap()).unwrap();
    assert_eq!(policy.id().to_string(), "PeerAuthentication default/x");
    assert_eq!(policy.created(), Some(UNIX_EPOCH + Duration::from_secs(1_714_552_200)));

    for (metadata, field) in [
        (r#"{}"#, "metadata.name: missing"),
        (r#"{"name": "A"}"#, "metadata.name: \"A\""),
        (r#"{"name": "x", "namespace": "-"}"#, "metadata.namespace: \"-\""),
        (r#"{"name": "x", "creationTimestamp": "now"}"#, "metadata.creationTimestamp: \"now\""),
    ] {
        let object = format!(r#"{{"metadata": {metadata}}}"#);
        let wrong = peer_authentication(&serde_json::from_str(&object).unwrap()).unwrap_err();
        assert!(wrong[0].to_string().starts_with(field), "{wrong:?}");
    }
}

fn counts(test: &Test) -> (usize, usize) {
    match test {
        Test::Principal(texts) | Test::Namespace(texts) | Test::TrustDomain(texts) => {
            (texts.any_of.len(), texts.none_of.len())
        }
        Test::ServiceAccount(accounts) => (accounts.any_of.len(), accounts.none_of.len()),
        Test::SourceIp(blocks) | Test::DestinationIp(blocks) => {
            (blocks.any_of.len(), blocks.none_of.len())
        }
        Test::Port(ports) => (ports.any_of.len(), ports.none_of.len()),
    }
}

fn annotated(annotation: &str, text: &str) -> Result<AuthorizationPolicy, Vec<Invalid>> {
    let object =
        format!(r#"{{"metadata": {{"name": "x", "annotations": {{"{annotation}": "{text}"}}}}}}"#);
    authorization_policy(&serde_json::from_str(&object).unwrap())
}

fn authorization(spec: &str) -> Result<AuthorizationPolicy, Vec<Invalid>> {
    authorization_policy(&object(spec))
}

fn peer(spec: &str) -> Result<PeerAuthentication, Vec<Invalid>> {
    peer_authentication(&object(spec))
}

fn object(spec: &str) -> Value {
    let text = format!(r#"{{"metadata": {{"name": "x", "namespace": "shop"}}, "spec": {spec}}}"#);
    serde_json::from_str(&text).unwrap()
}
