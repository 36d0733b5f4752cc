//! A CA that fails in one way after the other while there is traffic: what is valid stays in use,
//! each failure is told as what it is, and it is over when the CA is well again.

use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use adit_e2e::agent::{Agent, Setup};
use adit_e2e::ca::PORT;
use adit_e2e::server::{self, Server};
use adit_e2e::wait::wait_until;
use adit_e2e::{Node, Pod, client};

use crate::support::Scene;

/// A few lives of a certificate, and the back-off of the requests.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_ca_that_is_away_is_told_as_unreachable() {
    let fails = |scene: &Scene| {
        scene.cluster.ca().kill().unwrap();
        None
    };
    a_failing_ca("ca-unreachable", fails, "unreachable", |scene| {
        scene.cluster.ca().start().unwrap();
    });
}

#[test]
fn a_ca_that_answers_no_tls_is_told_as_unreachable_and_one_that_is_silent_as_timed_out() {
    let stand_in = |scene: &Scene, handler: fn(TcpStream)| {
        scene.cluster.ca().kill().unwrap();
        Some(server::serve(scene.cluster.ca().netns(), PORT, handler).unwrap())
    };
    let restart = |scene: &Scene| scene.cluster.ca().start().unwrap();
    let silent = move |scene: &Scene| stand_in(scene, |mut stream| drain(&mut stream));
    a_failing_ca("ca-silent", silent, "timed_out", restart);
    let garbage = move |scene: &Scene| {
        stand_in(scene, |mut stream| {
            let _gone = stream.write_all(b"220 this is no CA\r\n");
            drain(&mut stream);
        })
    };
    a_failing_ca("ca-garbage", garbage, "unreachable", restart);
}

#[test]
fn a_ca_that_does_not_know_the_nodes_token_is_told_as_that() {
    let fails = |scene: &Scene| {
        scene.cluster.ca().forget_tokens().unwrap();
        None
    };
    a_failing_ca("ca-token", fails, "unauthenticated", |scene| {
        scene.cluster.ca().write_tokens(&Node::ALL.map(Node::name)).unwrap();
    });
}

fn drain(stream: &mut TcpStream) {
    while client::read(stream, &mut [0; 512]).is_ok_and(|read| read > 0) {}
}

/// Certificates live for seconds, so that each failure meets every kind of them: valid, in need of
/// renewal, and expired.
#[track_caller]
fn a_failing_ca(
    ns: &str,
    fails: impl FnOnce(&Scene) -> Option<Server>,
    reason: &str,
    recovers: impl FnOnce(&Scene),
) {
    let setup = Setup { lifetime: "10s".to_owned(), ..Setup::default() };
    let Some(scene) = Scene::own_with(&setup, ns) else {
        return;
    };
    scene.cluster.tolerate("certificate expired before it was renewed");
    let (client, server) = scene.pair();
    let _echo = server.serve(8080, server::echo).unwrap();
    // To this one there will be no tunnel yet when the certificates have expired.
    let [other] = scene.pods([scene.pod("other", Node::B)]);
    let _other = other.serve(8080, server::echo).unwrap();
    let agent = scene.cluster.agent(Node::A);
    let works = || client.run(|| client::echo(server.at4(8080), b"hello")).unwrap().is_ok();
    let mut open = client.connect(server.at4(8080)).unwrap();
    open.write_all(b"open").unwrap();
    assert!(works());

    let stand_in = fails(&scene);
    // Valid still: it works while the renewals fail, and that is told.
    wait_until("the failure to be shown", PATIENCE, || {
        let worked = works();
        // Asked afterwards: a tunnel that drains is followed by one that needs both certificates.
        let states = [state_of(agent, &client), state_of(scene.cluster.agent(Node::B), &server)];
        assert!(worked || states.iter().any(|state| state.0 != "valid"), "{states:?}");
        states[0].1.as_deref() == Some(reason)
    })
    .unwrap();
    let problems = agent.status().unwrap()["problems"].to_string();
    assert!(problems.contains(&client.identity()), "{problems}");
    let metrics = agent.http_get(15020, "/metrics").unwrap();
    let line = format!("adit_certificates_failing{{reason=\"{reason}\"}}");
    assert!(metrics.contains(&line), "{line} in\n{metrics}");
    assert!(agent.log().since(0).contains(&format!("error=\"{reason}\"")));

    // Expired: what needs a new tunnel fails with that reason, the open flow lives on.
    wait_until("the certificate to expire", PATIENCE, || state_of(agent, &client).0 == "expired")
        .unwrap();
    let dials = || client.run(|| client::echo(other.at4(8080), b"hello")).unwrap().is_ok();
    assert!(!dials());
    let end = match reason {
        "unreachable" => "no_certificate_ca_unreachable",
        "timed_out" => "no_certificate_ca_timed_out",
        "unauthenticated" => "no_certificate_ca_unauthenticated",
        other => panic!("{other}"),
    };
    wait_until("a flow to fail on this side for that reason", PATIENCE, || {
        assert!(!dials());
        agent.flows().unwrap().iter().any(|flow| flow.end.as_deref() == Some(end))
    })
    .unwrap();
    let metrics = agent.http_get(15020, "/metrics").unwrap();
    assert!(metrics.contains(&format!("reason=\"{end}\"")), "{metrics}");

    drop(stand_in);
    recovers(&scene);
    wait_until("it to work again", PATIENCE, || works() && dials()).unwrap();
    wait_until("the certificate to be well", PATIENCE, || {
        state_of(agent, &client) == ("valid".to_owned(), None)
    })
    .unwrap();
    assert_eq!(client::exchange(open, b", still").unwrap(), b"open, still");
}

/// The state of the pod's certificate, and why the last request failed.
fn state_of(agent: &Agent, pod: &Pod) -> (String, Option<String>) {
    let certs = agent.certs().unwrap();
    let ours = certs.into_iter().find(|cert| cert.identity == pod.identity()).unwrap();
    (ours.state, ours.last_error_reason)
}
