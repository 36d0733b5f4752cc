//! PeerAuthentication: whether plaintext is accepted.

use super::*;
use std::time::{Duration, SystemTime};

#[test]
fn without_policies_tunnels_and_plaintext_come_in_by_default() {
    let scene = Scene::new([]);
    assert_eq!(scene.ask(WEB), "allowed by default");
    assert_eq!(scene.ask(PLAINTEXT), "allowed by default");
}

#[test]
fn strict_refuses_plaintext_and_names_the_policy() {
    let scene = Scene::new([peer("shop/default", "STRICT", |_| ())]);
    assert_eq!(scene.ask(PLAINTEXT), "denied_plaintext by PeerAuthentication shop/default");
    assert_eq!(scene.ask(WEB), "allowed by default");
}

#[test]
fn other_modes_accept_plaintext_and_tunnels() {
    for mode in ["PERMISSIVE", "DISABLE", "UNSET", ""] {
        let scene = Scene::new([peer("shop/default", mode, |_| ())]);
        assert_eq!(scene.ask(PLAINTEXT), "allowed by default", "{mode}");
        assert_eq!(scene.ask(WEB), "allowed by default", "{mode}");
    }
}

#[test]
fn the_mode_of_the_workload_goes_before_that_of_the_namespace_and_of_the_mesh() {
    let mesh = |mode| peer("istio-system/default", mode, |_| ());
    let namespace = |mode| peer("shop/default", mode, |_| ());
    let workload = |mode| peer("shop/cart", mode, select(&[("app", "cart")]));
    let other = peer("shop/web", "STRICT", select(&[("app", "web")]));
    let elsewhere = peer("bank/default", "STRICT", |_| ());
    let cases: [(Vec<Delta>, Option<&str>); 11] = [
        (vec![mesh("STRICT")], Some("istio-system/default")),
        (vec![mesh("STRICT"), namespace("PERMISSIVE")], None),
        (vec![mesh("STRICT"), namespace("UNSET")], Some("istio-system/default")),
        (vec![mesh("PERMISSIVE"), namespace("STRICT")], Some("shop/default")),
        (vec![namespace("STRICT"), workload("PERMISSIVE")], None),
        (vec![namespace("STRICT"), workload("DISABLE")], None),
        (vec![namespace("STRICT"), workload("UNSET")], Some("shop/default")),
        (vec![mesh("STRICT"), workload("UNSET")], Some("istio-system/default")),
        (vec![mesh("PERMISSIVE"), workload("STRICT")], Some("shop/cart")),
        (vec![mesh("STRICT"), namespace("UNSET"), workload("UNSET")], Some("istio-system/default")),
        (vec![other, elsewhere], None),
    ];
    for (policies, strict) in cases {
        let scene = Scene::new(policies.clone());
        let expected = strict.map_or_else(
            || "allowed by default".to_owned(),
            |name| format!("denied_plaintext by PeerAuthentication {name}"),
        );
        assert_eq!(scene.ask(PLAINTEXT), expected, "{policies:#?}");
    }
}

#[test]
fn the_mode_of_a_port_goes_before_that_of_its_policy() {
    let cases = [
        ("STRICT", "PERMISSIVE", [true, false]),
        ("STRICT", "DISABLE", [true, false]),
        ("STRICT", "UNSET", [false, false]),
        ("PERMISSIVE", "STRICT", [false, true]),
        ("UNSET", "STRICT", [false, true]),
        ("UNSET", "UNSET", [true, true]),
    ];
    for (whole, of_port, accepted) in cases {
        let scene = Scene::new([peer("shop/cart", whole, |spec| {
            select(&[("app", "cart")])(spec);
            spec.port_modes = BTreeMap::from([("8080".to_owned(), of_port.to_owned())]);
        })]);
        let on = |port| scene.decide(&Caller { port, ..PLAINTEXT }).verdict.is_ok();
        assert_eq!([on(8080), on(80)], accepted, "{whole} {of_port}");
    }
}

#[test]
fn a_port_without_a_mode_inherits_from_the_namespace() {
    let cart = peer("shop/cart", "UNSET", |spec| {
        select(&[("app", "cart")])(spec);
        spec.port_modes = BTreeMap::from([("8080".to_owned(), "PERMISSIVE".to_owned())]);
    });
    let scene = Scene::new([peer("shop/default", "STRICT", |_| ()), cart]);
    assert_eq!(
        scene.ask(Caller { port: 80, ..PLAINTEXT }),
        "denied_plaintext by PeerAuthentication shop/default"
    );
    assert_eq!(scene.ask(Caller { port: 8080, ..PLAINTEXT }), "allowed by default");
}

#[test]
fn of_policies_at_the_same_place_the_oldest_is_in_force_then_the_first_by_name() {
    let at = |name: &str, mode: &str, created: Option<u64>| {
        peer(name, mode, |spec| {
            spec.created = created.map(|s| SystemTime::UNIX_EPOCH + Duration::from_secs(s));
        })
    };
    let cases = [
        ([at("shop/a", "PERMISSIVE", Some(2)), at("shop/b", "STRICT", Some(1))], Some("shop/b")),
        ([at("shop/a", "STRICT", Some(1)), at("shop/b", "PERMISSIVE", Some(2))], Some("shop/a")),
        ([at("shop/a", "STRICT", Some(1)), at("shop/b", "PERMISSIVE", Some(1))], Some("shop/a")),
        ([at("shop/a", "PERMISSIVE", Some(1)), at("shop/b", "STRICT", None)], Some("shop/b")),
        // The oldest says nothing, so the mesh is asked, not the second oldest.
        ([at("shop/a", "UNSET", Some(1)), at("shop/b", "STRICT", Some(2))], None),
        // Both roots are one place.
        (
            [at("adit-system/a", "PERMISSIVE", Some(2)), at("istio-system/a", "STRICT", Some(1))],
            Some("istio-system/a"),
        ),
    ];
    for (policies, strict) in cases {
        let scene = Scene::new(policies.clone());
        let by = scene.decide(&PLAINTEXT).grounds.by.map(|by| by.policy.name.to_string());
        assert_eq!(by.as_deref(), strict, "{policies:#?}");
    }
}

#[test]
fn a_policy_that_an_older_one_outranks_says_so() {
    let scene = Scene::new([
        peer("shop/a", "STRICT", |_| ()),
        peer("shop/b", "PERMISSIVE", |_| ()),
        peer("shop/c", "PERMISSIVE", select(&[("app", "cart")])),
        peer("bank/d", "PERMISSIVE", |_| ()),
    ]);
    let outranked = |name: &str| {
        let id = PolicyId { kind: PolicyKind::PeerAuthentication, name: object(name) };
        scene.world.policies().gaps(&id).iter().any(|gap| gap.why == GapReason::Outranked)
    };
    assert_eq!(
        ["shop/a", "shop/b", "shop/c", "bank/d"].map(outranked),
        [false, true, false, false]
    );
}
