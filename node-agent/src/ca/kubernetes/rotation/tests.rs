//! Every step on a Secret, with certificates that are signed before, between and after.

use adit_core::identity::SpiffeId;
use serde_json::json;

use super::*;
use crate::ca::kubernetes::root::material;
use crate::pki::{Authority, Csr, request};

#[test]
fn certificates_of_either_root_verify_by_what_is_trusted_at_every_step() {
    let before = fresh();
    let both = step(&before, Step::MakeRoot);
    let switched = step(&both, Step::SignWithNew);
    let after = step(&switched, Step::DropOld);
    let objects = [&before, &both, &switched, &after];
    // A row for who signs, a column for who verifies.
    let expected = [
        [true, true, true, false],
        [true, true, true, false],
        [false, true, true, true],
        [false, true, true, true],
    ];
    for (signer, row) in objects.iter().zip(expected) {
        let chain =
            authority(signer).issue(&csr(), &id(), Duration::from_secs(3600), now()).unwrap().chain;
        for (verifier, expected) in objects.iter().zip(row) {
            assert_eq!(
                verifies(&chain, authority(verifier).roots()),
                expected,
                "{signer} {verifier}"
            );
        }
    }
    assert_eq!([1, 2, 2, 1], objects.map(|object| authority(object).roots().certificates().len()));
}

#[test]
fn a_step_changes_the_phase_with_the_keys_and_leaves_nothing_behind() {
    let before = fresh();
    assert_eq!(phase(&before).unwrap(), Phase::Idle);
    let both = step(&before, Step::MakeRoot);
    assert_eq!(phase(&both).unwrap(), Phase::Distributing { since: now() });
    let switched = step(&both, Step::SignWithNew);
    assert_eq!(phase(&switched).unwrap(), Phase::Signing { since: now() });
    assert_eq!(new_root(&both), new_root(&switched));
    let text = switched.to_string();
    let old_key = before["data"][ROOT_KEY].as_str().unwrap();
    assert!(!text.contains(old_key), "the old root's key is forgotten");
    let after = step(&switched, Step::DropOld);
    assert_eq!(phase(&after).unwrap(), Phase::Idle);
    assert_eq!(names(&after), names(&before));
    assert_eq!(after["metadata"]["annotations"], json!({"kept": "yes"}));
    assert_eq!(step(&both, Step::DropNew), {
        let mut same = before.clone();
        same["metadata"]["annotations"] = json!({"kept": "yes"});
        same
    });
}

#[test]
fn a_root_that_somebody_added_is_trusted_on() {
    let mut object = fresh();
    let other = fresh();
    let parts = Parts::of(&object).unwrap();
    let mut roots = parts.certificates(ROOT_CERT).unwrap();
    let added = Parts::of(&other).unwrap().certificates(ROOT_CERT).unwrap();
    roots.extend(added.iter().cloned());
    object["data"][ROOT_CERT] = STANDARD.encode(pem(&roots)).into();
    let steps = [Step::MakeRoot, Step::SignWithNew, Step::DropOld];
    let after = steps.into_iter().fold(object, |object, next| step(&object, next));
    let trusted = Parts::of(&after).unwrap().certificates(ROOT_CERT).unwrap();
    assert_eq!(trusted.len(), 2);
    assert!(trusted.contains(&added[0]));
}

#[test]
fn an_annotation_that_does_not_fit_the_keys_changes_nothing() {
    let before = fresh();
    for (next, said) in [
        (Step::SignWithNew, "next-root-cert.pem is missing"),
        (Step::DropOld, "old-root-cert.pem is missing"),
        (Step::DropNew, "next-root-cert.pem is missing"),
    ] {
        let error = apply(&before, next, &domain(), now()).unwrap_err().to_string();
        assert!(error.ends_with(said), "{error}");
    }
    let mut switched = step(&step(&before, Step::MakeRoot), Step::SignWithNew);
    switched["data"][OLD_ROOT] = switched["data"][ROOT_CERT].clone();
    let error = apply(&switched, Step::DropOld, &domain(), now()).unwrap_err();
    assert!(error.to_string().contains("holds no certificate"), "{error}");
    for text in
        ["", "{}", "signing", r#"{"phase":"signing"}"#, r#"{"phase":"signing","since":"x"}"#]
    {
        let object = json!({"metadata": {"annotations": {ANNOTATION: text}}});
        let error = phase(&object).unwrap_err().to_string();
        assert!(error.contains("no phase of a rotation"), "{error}");
    }
}

fn step(object: &Value, step: Step) -> Value {
    apply(object, step, &domain(), now()).unwrap()
}

fn fresh() -> Value {
    let files = make(&domain(), now()).unwrap();
    let data: BTreeMap<&str, String> =
        files.iter().map(|(name, text)| (*name, STANDARD.encode(text))).collect();
    json!({"metadata": {"name": "s", "annotations": {"kept": "yes"}}, "data": data})
}

fn names(object: &Value) -> Vec<&String> {
    object["data"].as_object().unwrap().keys().collect()
}

fn authority(object: &Value) -> Authority {
    Authority::try_new(material(object, "ns/s").unwrap()).unwrap()
}

fn csr() -> Csr {
    Csr::parse(&request(&id()).unwrap().1).unwrap()
}

fn id() -> SpiffeId {
    SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").unwrap()
}

fn verifies(chain: &[CertificateDer<'static>], roots: &Bundle) -> bool {
    let (leaf, above) = chain.split_first().unwrap();
    let leaf = rustls::server::ParsedCertificate::try_from(leaf).unwrap();
    let at = now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    rustls::client::verify_server_cert_signed_by_trust_anchor(
        &leaf,
        &roots.store(),
        above,
        rustls::pki_types::UnixTime::since_unix_epoch(at),
        crate::identity::provider().signature_verification_algorithms.all,
    )
    .is_ok()
}

fn domain() -> TrustDomain {
    TrustDomain::parse("cluster.local").unwrap()
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}
