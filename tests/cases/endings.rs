//! How agents end, and what the applications on both sides of an open flow see of it.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::mpsc;
use std::time::Duration;

use adit_e2e::{Node, Pod, PodSpec, server};
use nix::sys::signal::Signal;

use crate::support::Scene;

/// How long an application waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(20);

/// What an application found at the end of what it read.
type Seen = std::io::Result<Vec<u8>>;

/// A server that tells what it read, to the end.
fn reporting(pod: &Pod) -> (server::Server, mpsc::Receiver<Seen>) {
    let (tell, told) = mpsc::channel();
    let handler = move |mut stream: TcpStream| {
        let mut got = Vec::new();
        // The first bytes back say that the flow is up at both ends.
        let seen = stream.read_exact(&mut [0; 5]).and_then(|()| stream.write_all(b"ready"));
        let seen = seen.and_then(|()| stream.read_to_end(&mut got)).map(|_length| got);
        let _nobody_listens = tell.send(seen);
    };
    (pod.serve(8080, handler).unwrap(), told)
}

/// An open flow with something under way in both directions.
fn opened(client: &Pod, server: &Pod) -> TcpStream {
    let mut stream = client.connect(server.at4(8080)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(b"hello").unwrap();
    stream.read_exact(&mut [0; 5]).unwrap();
    stream.write_all(b"the first half of something").unwrap();
    stream
}

#[track_caller]
fn assert_broken(seen: Seen, whose: &str) {
    let error = seen.expect_err(whose);
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{whose}: {error}");
}

fn kill_while_a_flow_is_open(node: Node, ns: &str) {
    let Some(scene) = Scene::own(ns) else {
        return;
    };
    let (client, server) = scene.pair();
    let (_server, told) = reporting(&server);
    let mut stream = opened(&client, &server);

    scene.cluster.agent(node).kill().unwrap();

    assert_broken(stream.read_to_end(&mut Vec::new()).map(|_| Vec::new()), "the client");
    assert_broken(told.recv_timeout(PATIENCE).unwrap(), "the server");
}

#[test]
fn an_agent_killed_at_the_client_is_no_end_of_data_for_either_application() {
    kill_while_a_flow_is_open(Node::A, "killed-client");
}

#[test]
fn an_agent_killed_at_the_server_is_no_end_of_data_for_either_application() {
    kill_while_a_flow_is_open(Node::B, "killed-server");
}

#[test]
fn an_agent_killed_under_a_plaintext_flow_is_no_end_of_data_for_either_application() {
    let Some(scene) = Scene::own("killed-plain") else {
        return;
    };
    let (client, server) = scene.pair();
    let spec = PodSpec::new(&scene.ns, "outside", Node::B).label("adit.dev/mode", "none");
    let [outside] = scene.pods([spec]);

    // Outwards: the client is captured, the server is not enrolled.
    let (_outside, told) = reporting(&outside);
    let mut stream = opened(&client, &outside);
    scene.cluster.agent(Node::A).kill().unwrap();
    assert_broken(stream.read_to_end(&mut Vec::new()).map(|_| Vec::new()), "the client");
    assert_broken(told.recv_timeout(PATIENCE).unwrap(), "the server");

    // Inwards: the other way round.
    let (_server, told) = reporting(&server);
    let mut stream = opened(&outside, &server);
    scene.cluster.agent(Node::B).kill().unwrap();
    assert_broken(stream.read_to_end(&mut Vec::new()).map(|_| Vec::new()), "the client");
    assert_broken(told.recv_timeout(PATIENCE).unwrap(), "the server");
}

#[test]
fn flows_that_the_second_signal_cuts_have_their_line_and_reset_both_applications() {
    let Some(scene) = Scene::own("second-signal") else {
        return;
    };
    let (client, server) = scene.pair();
    let (_server, told) = reporting(&server);
    let mut stream = opened(&client, &server);
    let agent = scene.cluster.agent(Node::A);

    agent.signal(Signal::SIGTERM).unwrap();
    agent.wait_log("draining").unwrap();
    let status = agent.terminate(PATIENCE).unwrap();

    assert!(status.success(), "{status}");
    assert_broken(stream.read_to_end(&mut Vec::new()).map(|_| Vec::new()), "the client");
    assert_broken(told.recv_timeout(PATIENCE).unwrap(), "the server");
    let log = agent.log().since(0);
    let line = log.lines().find(|line| {
        line.contains(&client.full_name()) && line.contains(&server.full_name())
            || line.contains(&client.identity()) && line.contains(&server.identity())
    });
    assert!(line.is_some_and(|line| line.contains("drained")), "{line:?} in\n{log}");
}
