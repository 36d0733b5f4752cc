//! AuthorizationPolicy: what each field matches.

use super::*;

#[test]
fn each_field_of_a_source_matches_what_the_reference_says() {
    let all = [Caller::from(WEB), Caller::from(TELLER), Caller::from(STRANGER), PLAINTEXT];
    let cases: [(SourceSpec, [bool; 4]); 28] = [
        (principals(&["cluster.local/ns/shop/sa/web"]), [true, false, false, false]),
        (principals(&["cluster.local/*"]), [true, true, false, false]),
        (principals(&["*/sa/web"]), [true, false, true, false]),
        (principals(&["*"]), [true, true, true, false]),
        // Istio adds the scheme itself, so a value with one matches nothing.
        (principals(&["spiffe://cluster.local/ns/shop/sa/web"]), [false; 4]),
        (principals(&["x", "cluster.local/ns/bank/sa/teller"]), [false, true, false, false]),
        (not_principals(&["cluster.local/ns/shop/sa/web"]), [false, true, true, true]),
        (not_principals(&["*"]), [false, false, false, true]),
        (SourceSpec { namespaces: texts(&["shop"]), ..none() }, [true, false, true, false]),
        (SourceSpec { namespaces: texts(&["b*"]), ..none() }, [false, true, false, false]),
        (SourceSpec { namespaces: texts(&["*op"]), ..none() }, [true, false, true, false]),
        (SourceSpec { namespaces: texts(&["*"]), ..none() }, [true, true, true, false]),
        (SourceSpec { not_namespaces: texts(&["shop"]), ..none() }, [false, true, false, true]),
        (SourceSpec { not_namespaces: texts(&["*"]), ..none() }, [false, false, false, true]),
        (accounts(&["web"]), [true, false, true, false]),
        (accounts(&["bank/teller"]), [false, true, false, false]),
        (accounts(&["bank/web"]), [false; 4]),
        (
            SourceSpec { not_service_accounts: texts(&["web"]), ..none() },
            [false, true, false, true],
        ),
        (
            SourceSpec { trust_domains: texts(&["other.domain"]), ..none() },
            [false, false, true, false],
        ),
        (SourceSpec { trust_domains: texts(&["*.local"]), ..none() }, [true, true, false, false]),
        (
            SourceSpec { not_trust_domains: texts(&["cluster.local"]), ..none() },
            [false, false, true, true],
        ),
        (SourceSpec { ip_blocks: texts(&["10.0.0.0/8"]), ..none() }, [true; 4]),
        (SourceSpec { ip_blocks: texts(&["10.0.0.1"]), ..none() }, [true; 4]),
        (SourceSpec { ip_blocks: texts(&["10.0.0.2", "fd00::/8"]), ..none() }, [false; 4]),
        (SourceSpec { not_ip_blocks: texts(&["10.0.0.0/8"]), ..none() }, [false; 4]),
        (SourceSpec { not_ip_blocks: texts(&["fd00::/8"]), ..none() }, [true; 4]),
        // All fields of one source must match.
        (
            SourceSpec { trust_domains: texts(&["cluster.local"]), ..principals(&["*/sa/web"]) },
            [true, false, false, false],
        ),
        (
            SourceSpec { not_namespaces: texts(&["bank"]), ..principals(&["cluster.local/*"]) },
            [true, false, false, false],
        ),
    ];
    for (source, matched) in cases {
        for action in ["ALLOW", "DENY"] {
            let scene = Scene::new([policy("shop/x", action, [from(source.clone())])]);
            let allowed = all.map(|from| scene.decide(&from).verdict.is_ok());
            let expected = matched.map(|matched| matched == (action == "ALLOW"));
            assert_eq!(allowed, expected, "{action} {source:?}");
        }
    }
}

#[test]
fn addresses_are_those_of_the_connection_in_either_family() {
    let cases = [
        ("10.0.0.0/8", "10.0.0.1", true),
        ("10.0.0.0/8", "::ffff:10.0.0.1", true),
        ("::ffff:10.0.0.0/104", "10.0.0.1", true),
        ("fd00::/8", "fd00::1", true),
        ("fd00::/8", "fe00::1", false),
        ("0.0.0.0/0", "fd00::1", false),
        ("::/0", "10.0.0.1", false),
    ];
    for (block, address, matched) in cases {
        let source = SourceSpec { ip_blocks: texts(&[block]), ..none() };
        let scene = Scene::new([policy("shop/x", "ALLOW", [from(source)])]);
        let address = address.parse().unwrap();
        let decision = scene.decide(&Caller { address, ..PLAINTEXT });
        assert_eq!(decision.verdict.is_ok(), matched, "{address} in {block}");
    }
}

#[test]
fn ports_are_those_that_were_dialled() {
    let ports = |ports: &[&str], not_ports: &[&str]| {
        let operation = OperationSpec {
            ports: texts(ports),
            not_ports: texts(not_ports),
            ..OperationSpec::default()
        };
        to(operation)
    };
    let cases = [
        (ports(&["80"], &[]), [true, false]),
        (ports(&["80", "8080"], &[]), [true, true]),
        (ports(&[], &["80"]), [false, true]),
        (ports(&["80"], &["80"]), [false, false]),
        (ports(&["443"], &[]), [false, false]),
    ];
    for (rule, matched) in cases {
        let scene = Scene::new([policy("shop/x", "ALLOW", [rule.clone()])]);
        let on = |port| scene.decide(&Caller { port, ..PLAINTEXT }).verdict.is_ok();
        assert_eq!([on(80), on(8080)], matched, "{rule:?}");
    }
}

#[test]
fn each_condition_matches_what_the_reference_says() {
    let all = [Caller::from(WEB), Caller::from(TELLER), Caller::from(STRANGER), PLAINTEXT];
    type Case = (&'static str, &'static [&'static str], &'static [&'static str], [bool; 4]);
    let cases: [Case; 13] = [
        ("source.ip", &["10.0.0.0/8"], &[], [true; 4]),
        ("source.ip", &[], &["10.0.0.1"], [false; 4]),
        ("source.namespace", &["shop"], &[], [true, false, true, false]),
        ("source.namespace", &["*"], &["bank"], [true, false, true, false]),
        ("source.namespace", &[], &["bank"], [true, false, true, true]),
        ("source.principal", &["cluster.local/*"], &[], [true, true, false, false]),
        ("source.principal", &["*"], &[], [true, true, true, false]),
        ("source.principal", &[], &["*"], [false, false, false, true]),
        ("destination.ip", &["10.9.0.0/16"], &[], [true; 4]),
        ("destination.ip", &[], &["10.9.0.1"], [false; 4]),
        ("destination.ip", &["fd00::/8"], &[], [false; 4]),
        ("destination.port", &["80"], &[], [true; 4]),
        ("destination.port", &[], &["80"], [false; 4]),
    ];
    for (key, values, not_values, matched) in cases {
        let scene = Scene::new([policy("shop/x", "ALLOW", [when(key, values, not_values)])]);
        let allowed = all.map(|from| scene.decide(&from).verdict.is_ok());
        assert_eq!(allowed, matched, "{key} {values:?} {not_values:?}");
    }
}

#[test]
fn a_rule_matches_one_of_its_sources_one_of_its_operations_and_all_of_its_conditions() {
    let rule = RuleSpec {
        from: Some(vec![principals(&["x"]), SourceSpec { namespaces: texts(&["shop"]), ..none() }]),
        to: port_rule(&["80"]).to,
        when: vec![
            condition("source.principal", &["cluster.local/*"]),
            condition("source.ip", &["10.0.0.1"]),
        ],
        unsupported: Vec::new(),
    };
    let scene = Scene::new([policy("shop/x", "ALLOW", [rule])]);
    let allowed = |from: Caller| scene.decide(&from).verdict.is_ok();
    assert!(allowed(WEB.into()));
    assert!(!allowed(TELLER.into()), "no source");
    assert!(!allowed(STRANGER.into()), "not the first condition");
    assert!(
        !allowed(Caller { address: "10.0.0.2".parse().unwrap(), ..WEB.into() }),
        "not the second"
    );
    assert!(!allowed(Caller { port: 8080, ..WEB.into() }), "no operation");
}

#[test]
fn a_text_of_the_client_is_no_identity() {
    // A header can say what it wants: plaintext has no principal, and a tunnel has its own.
    let scene = Scene::new([policy("shop/x", "ALLOW", [from(principals(&["*"]))])]);
    assert!(scene.decide(&PLAINTEXT).verdict.is_err());
    assert!(scene.decide(&WEB.into()).verdict.is_ok());
}
