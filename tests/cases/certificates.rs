//! The certificates of an agent: who gets one, and what happens while the CA is away.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use adit_e2e::agent::Setup;
use adit_e2e::view::Tunnel;
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
fn a_flow_lives_on_in_a_drained_tunnel_and_new_ones_use_one_with_new_certificates() {
    let setup = Setup { lifetime: "6s".to_owned(), ..Setup::default() };
    let Some(scene) = Scene::own_with(&setup, "drained") else {
        return;
    };
    let (client, server) = scene.pair();
    let _echo = server.serve(8080, server::echo).unwrap();
    let mut open = client.connect(server.at4(8080)).unwrap();
    let agents = scene.cluster.agents();
    let shows = |condition: &dyn Fn(&Tunnel) -> bool| {
        let tunnels = agents.iter().map(|agent| agent.tunnels().unwrap_or_default());
        tunnels.into_iter().all(|tunnels| tunnels.iter().any(condition))
    };
    let drained = |tunnel: &Tunnel| !tunnel.accepting && tunnel.streams == 1;

    let serial = || -> Option<String> {
        let certs = agents[0].certs().unwrap();
        certs.into_iter().find(|cert| cert.identity == client.identity())?.serial
    };

    // Twice, so that the flow is older than two certificates.
    for what in ["a tunnel beside the drained one", "another one"] {
        beat(&mut open);
        let before = serial();
        wait_until(what, Duration::from_secs(30), || {
            client.run(|| client::echo(server.at4(8080), b"new")).unwrap().unwrap();
            let serves = shows(&|tunnel: &Tunnel| tunnel.accepting && tunnel.streams_total > 0);
            serves && shows(&drained) && serial() != before
        })
        .unwrap();
    }

    assert_eq!(client::exchange(open, b"not cut").unwrap(), b"not cut");
    let flow = scene.inbound(&client, &server, 8080);
    assert_eq!(flow.end.as_deref(), Some("finished"));
    wait_until("the drained tunnel to close", SOON, || {
        agents.iter().all(|agent| !agent.tunnels().unwrap().iter().any(drained))
    })
    .unwrap();
}

#[test]
fn a_flow_that_outlives_its_tunnels_certificates_by_the_grace_is_reset_and_says_why() {
    let more = "tunnel: { expiredGrace: 1s }\n".to_owned();
    let setup = Setup { lifetime: "4s".to_owned(), more, ..Setup::default() };
    let Some(scene) = Scene::own_with(&setup, "outlived") else {
        return;
    };
    let (client, server) = scene.pair();
    let _echo = server.serve(8080, server::echo).unwrap();
    let mut open = client.connect(server.at4(8080)).unwrap();
    beat(&mut open);

    open.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let end = client::heard(&mut open);

    assert_eq!(end, Err(std::io::ErrorKind::ConnectionReset));
    let ends = [scene.outbound(&client, &server, 8080), scene.inbound(&client, &server, 8080)]
        .map(|flow| flow.end.unwrap());
    // Both agents keep the time by themselves: the later one may see the earlier one's reset.
    assert!(ends.iter().any(|end| end == "tunnel_certificate_expired"), "{ends:?}");
    client.run(|| client::echo(server.at4(8080), b"and on")).unwrap().unwrap();
}

/// It lives.
#[track_caller]
fn beat(stream: &mut TcpStream) {
    stream.write_all(b"!").unwrap();
    stream.read_exact(&mut [0; 1]).unwrap();
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
    assert!(error.contains("no pod with this identity is on the caller's node"), "{error}");
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
