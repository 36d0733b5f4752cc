//! A rotation of the root, by two replicas of the CA that share nothing but the Secret.

use std::time::{Duration, SystemTime};

use adit::ca::kubernetes::{RotateError, RotateOptions, Rotation, Wish};
use adit::discovery::kubernetes::Access;
use adit::identity::{Svid, provider};
use adit::pki::Bundle;
use adit_core::root_rotation::{Phase, Refused};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::pki_types::UnixTime;
use rustls::server::ParsedCertificate;
use serde_json::json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::ca::{Ca, bound, populate};
use crate::server::{self, Server};

const SECRET: &str = "/api/v1/namespaces/adit-system/secrets/adit-ca";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_root_is_rotated_and_every_certificate_verifies_by_what_is_trusted_while_it_lives() {
    let Some(server) = server::start().await else { return };
    let pods = populate(&server).await;
    let (one, two) = tokio::join!(Ca::start(&server, 1), Ca::start(&server, 2));
    let agent = bound(&server, "adit-system", "adit", "agent-1", &pods.agent_1).await;
    let rotation = rotation(&server, "adit-ca").await;

    let old = server.roots().await;
    let before = one.fetch(&agent, "cart").await.unwrap();
    assert!(verifies(&before, &old));
    let error = rotation.ask(Wish::Abort).await.unwrap_err();
    assert!(matches!(error, RotateError::Refused(Refused::NoRotation)), "{error}");

    // It is begun, given up, and begun again.
    assert!(rotation.ask(Wish::Begin).await.unwrap());
    assert!(rotation.taken_up().await.unwrap());
    reached(&rotation, "distributing", 2).await;
    assert!(rotation.ask(Wish::Abort).await.unwrap());
    reached(&rotation, "idle", 1).await;
    assert_eq!(server.roots().await, old, "nothing of it is left");
    assert!(rotation.ask(Wish::Begin).await.unwrap());
    assert!(!rotation.ask(Wish::Begin).await.unwrap(), "to ask twice is to ask once");
    reached(&rotation, "distributing", 2).await;

    // Both are trusted, the old one signs.
    let both = server.roots().await;
    for ca in [&one, &two] {
        ca.mount(&both);
        let during = ca.fetch(&agent, "cart").await.unwrap();
        assert!(verifies(&during, &old), "who has not heard of the new root trusts it");
    }
    assert!(verifies(&before, &both));

    // One of the replicas is killed, and a day is over.
    drop(one);
    rewind(&server).await;
    reached(&rotation, "signing", 2).await;
    let three = Ca::start(&server, 3).await;
    let after = three.fetch(&agent, "cart").await.unwrap();
    assert!(verifies(&after, &both), "who has heard of both at any time trusts it");
    assert!(!verifies(&after, &old), "it is of the new root");
    let other = until_of_other_root(&two, &agent, &old, &both).await;
    for svid in [&before, &after, &other] {
        assert!(verifies(svid, &server.roots().await));
    }
    let error = rotation.ask(Wish::Abort).await.unwrap_err();
    assert!(matches!(error, RotateError::Refused(Refused::NewRootSigns)), "{error}");

    // Both replicas are killed, days are over, and another one ends it.
    drop((two, three));
    rewind(&server).await;
    let four = Ca::start(&server, 4).await;
    reached(&rotation, "idle", 1).await;
    let new = server.roots().await;
    four.mount(&new);
    let last = four.fetch(&agent, "cart").await.unwrap();
    assert!(verifies(&last, &new) && verifies(&after, &new));
    assert!(!verifies(&before, &new), "its root is trusted no longer");
    let secret = server.get(SECRET).await;
    assert_eq!(secret["data"].as_object().unwrap().len(), 5, "no key is left over");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_root_that_somebody_else_made_is_theirs_to_rotate() {
    let Some(server) = server::start().await else { return };
    populate(&server).await;
    let ca = Ca::start(&server, 5).await;
    drop(ca);
    let made = server.get(SECRET).await;
    // Istio's layout: the same data under another name, without the label of who keeps it.
    let foreign = json!({"metadata": {"name": "cacerts"}, "data": made["data"]});
    server.apply("/api/v1/namespaces/adit-system/secrets", foreign).await;
    let access = server.access();
    let options = |secret: &str| options(access.clone(), secret);
    let theirs = Rotation::new(options("cacerts"));
    assert!(!theirs.report(SystemTime::now()).await.unwrap().ours);
    for wish in [Wish::Begin, Wish::Abort] {
        let error = theirs.ask(wish).await.unwrap_err();
        assert!(error.to_string().contains("was not made by adit's CA"), "{error}");
    }
    let nobodys = Rotation::new(options("none"));
    let error = nobodys.report(SystemTime::now()).await.unwrap_err();
    assert!(error.to_string().contains("there is no Secret adit-system/none"), "{error}");
}

/// With the CA's own permissions, as in its pod.
async fn rotation(server: &Server, secret: &str) -> Rotation {
    let token = server.token("adit-system", "adit-ca", json!({})).await;
    let kubeconfig = server.kubeconfig("rotate", &token);
    Rotation::new(options(Access { kubeconfig: Some(kubeconfig) }, secret))
}

fn options(access: Access, secret: &str) -> RotateOptions {
    RotateOptions {
        access,
        namespace: "adit-system".to_owned(),
        secret: secret.to_owned(),
        bundle: "adit-ca-root".to_owned(),
    }
}

/// Waits for a phase, with this many roots published.
async fn reached(rotation: &Rotation, phase: &str, roots: usize) {
    let began = tokio::time::Instant::now();
    loop {
        let report = rotation.report(SystemTime::now()).await.unwrap();
        if report.phase.as_label() == phase && report.roots.len() == roots {
            let new = report.roots.iter().filter(|root| root.new).count();
            assert_eq!(new, usize::from(report.phase != Phase::Idle), "{report:?}");
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(90), "{report:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// As if the phase had begun four days ago.
async fn rewind(server: &Server) {
    let name = "adit.dev/root-rotation";
    let secret = server.get(SECRET).await;
    let note = secret["metadata"]["annotations"][name].as_str().unwrap();
    let mut note: serde_json::Value = serde_json::from_str(note).unwrap();
    let since = OffsetDateTime::from(SystemTime::now() - Duration::from_secs(96 * 3600));
    note["since"] = json!(since.format(&Rfc3339).unwrap());
    server.patch(SECRET, json!({"metadata": {"annotations": {name: note.to_string()}}})).await;
}

/// A replica that did not take the step itself follows. Whatever it signs verifies.
async fn until_of_other_root(ca: &Ca, agent: &str, old: &str, both: &str) -> Svid {
    let began = tokio::time::Instant::now();
    loop {
        let svid = ca.fetch(agent, "cart").await.unwrap();
        assert!(verifies(&svid, both));
        if !verifies(&svid, old) {
            return svid;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "it signs with the old root");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// As a peer does that trusts these roots.
fn verifies(svid: &Svid, roots: &str) -> bool {
    let roots = Bundle::from_pem(roots.as_bytes(), "roots").unwrap();
    let (leaf, above) = svid.chain().split_first().unwrap();
    verify_server_cert_signed_by_trust_anchor(
        &ParsedCertificate::try_from(leaf).unwrap(),
        &roots.store(),
        above,
        UnixTime::now(),
        provider().signature_verification_algorithms.all,
    )
    .is_ok()
}
