//! The certificates of an agent: who gets one, and what happens while the CA is away.

use std::time::Duration;

use adit_e2e::agent::Setup;
use adit_e2e::wait::{SOON, wait_for, wait_until};
use adit_e2e::{Node, client, server};

use crate::support::Scene;

#[test]
fn while_the_ca_is_away_existing_certificates_serve_and_a_new_identity_waits_until_it_is_back() {
    let Some(scene) = Scene::own("ca-away") else {
        return;
    };
    let (client, server) = scene.pair();
    let _echo = server.serve(8080, server::echo).unwrap();

    scene.cluster.ca().kill().unwrap();
    for to in [server.at4(8080), server.at6(8080)] {
        client.run(|| client::echo(to, b"without a CA")).unwrap().unwrap();
    }
    let [late] = scene.cluster.unsettled_pods([scene.pod("late", Node::A)]).unwrap();
    scene.cluster.wait_state(&late, "awaiting_certificate").unwrap();
    let agent = scene.cluster.agent(Node::A);
    let waiting = wait_for("the failure to be shown", SOON, || {
        let certs = agent.certs()?;
        let ours = certs.into_iter().find(|cert| cert.identity == late.identity());
        Ok(ours.filter(|cert| cert.last_error.is_some()))
    })
    .unwrap();
    assert_eq!(waiting.state, "failed");

    scene.cluster.ca().start().unwrap();
    wait_until("the late pod to be enrolled", Duration::from_secs(60), || {
        let shown = agent.workload(late.uid());
        matches!(shown, Ok(Some(shown)) if shown.state() == Some("enrolled"))
    })
    .unwrap();
    late.run(|| client::echo(server.at4(8080), b"late")).unwrap().unwrap();
    assert_eq!(scene.outbound(&late, &server, 8080).protocol, "hbone");
}

#[test]
fn certificates_are_renewed_before_they_expire_without_a_cut() {
    let setup = Setup { lifetime: "20s".to_owned(), ..Setup::default() };
    let Some(scene) = Scene::own_with(&setup, "renewal") else {
        return;
    };
    let (client, server) = scene.pair();
    let _echo = server.serve(8080, server::echo).unwrap();
    let agent = scene.cluster.agent(Node::A);
    let serial = || -> Option<String> {
        let certs = agent.certs().unwrap();
        certs.into_iter().find(|cert| cert.identity == client.identity())?.serial
    };
    let first = serial().unwrap();
    let open = client.connect(server.at4(8080)).unwrap();

    wait_until("a new serial number", Duration::from_secs(25), || {
        client.run(|| client::echo(server.at4(8080), b"meanwhile")).unwrap().unwrap();
        serial().is_some_and(|now| now != first)
    })
    .unwrap();

    assert_eq!(client::exchange(open, b"not cut").unwrap(), b"not cut");
    client.run(|| client::echo(server.at4(8080), b"and after")).unwrap().unwrap();
}

#[test]
fn an_identity_is_dropped_with_its_last_pod() {
    let Some(scene) = Scene::own("dropped") else {
        return;
    };
    let [one, two] = scene.pods([
        scene.pod("one", Node::A).service_account("same"),
        scene.pod("two", Node::A).service_account("same"),
    ]);
    let agent = scene.cluster.agent(Node::A);
    let identity = one.identity();
    let count = || {
        let certs = agent.certs().unwrap();
        certs.iter().filter(|cert| cert.identity == identity).count()
    };
    assert_eq!(count(), 1);

    one.delete().unwrap();
    wait_until("the first pod to go", SOON, || !one.is_attached()).unwrap();
    assert_eq!(count(), 1);
    two.delete().unwrap();

    wait_until("the certificate to go", SOON, || count() == 0).unwrap();
}

#[test]
fn the_ca_refuses_an_identity_that_the_callers_node_does_not_host() {
    let Some(scene) = Scene::own("not-hosted") else {
        return;
    };
    // The agent of node-a is made to believe that it hosts the pod; the CA knows better.
    let lie = scene.cluster.run().directory().join("lie");
    let [pod] = scene.pods([scene.pod("pod", Node::B)]);
    let agent = scene.cluster.agent(Node::A);
    agent.kill().unwrap();
    copy_with_node(scene.cluster.manifests().directory(), &lie, "node-b", "node-a");
    agent.start_on(&lie).unwrap();

    let refused = wait_for("the refusal to be shown", SOON, || {
        let certs = agent.certs()?;
        let ours = certs.into_iter().find(|cert| cert.identity == pod.identity());
        Ok(ours.and_then(|cert| cert.last_error))
    });

    let error = refused.unwrap();
    assert!(error.contains("no pod with this identity runs on node node-a"), "{error}");
    let log = scene.cluster.ca().log().since(0);
    let told = log.lines().any(|line| line.contains(&pod.identity()) && line.contains("node-a"));
    assert!(told, "{log}");
}

/// Copies manifests and puts one word in place of another.
fn copy_with_node(from: &std::path::Path, to: &std::path::Path, old: &str, new: &str) {
    std::fs::create_dir(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap().replace(old, new);
        std::fs::write(to.join(path.file_name().unwrap()), text).unwrap();
    }
}
