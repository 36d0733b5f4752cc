//! What a hostile or broken surrounding does to an agent, and what it must not.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use adit_e2e::agent::Setup;
use adit_e2e::netns::Netns;
use adit_e2e::view::Flow;
use adit_e2e::wait::{SOON, wait_until};
use adit_e2e::{Node, Pod, PodSpec, client, server};
use nix::sys::signal::Signal;

use crate::support::Scene;

const PATIENCE: Duration = Duration::from_secs(20);

/// What is sent to a port that speaks TLS.
const GARBAGE: [&[u8]; 4] = [
    b"GET / HTTP/1.1\r\nhost: x\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    // The head of a TLS record that is longer than it may be, and of one that never comes.
    b"\x16\x03\x01\xff\xff",
    b"\x16\x03\x01\x02\x00\x01\x00",
];

fn open(from: &Pod, to: SocketAddr) -> TcpStream {
    let stream = from.connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[test]
fn silence_and_garbage_at_the_tunnel_port_hold_nobody_up_and_are_ended() {
    let setup = Setup { more: "tunnel: { connectTimeout: 2s }\n".to_owned(), ..Setup::default() };
    let Some(scene) = Scene::own_with(&setup, "garbage") else {
        return;
    };
    let (client, server) = scene.pair();
    let spec = PodSpec::new(&scene.ns, "stranger", Node::B).label("adit.dev/mode", "none");
    let [stranger] = scene.pods([spec]);
    let _echo = server.serve(8080, server::echo).unwrap();
    let to = server.at4(15008);

    let silent: Vec<TcpStream> = (0..200).map(|_| open(&stranger, to)).collect();
    let mut talking: Vec<TcpStream> = (0..40).map(|_| open(&stranger, to)).collect();
    for (stream, garbage) in talking.iter_mut().zip(GARBAGE.iter().cycle()) {
        stream.write_all(garbage).unwrap();
    }

    client.run(|| client::echo(server.at4(8080), b"not held up")).unwrap().unwrap();
    for mut stream in silent.into_iter().chain(talking) {
        // An end or a reset, after whatever TLS says to it.
        let _reset_is_fine = stream.read_to_end(&mut Vec::new()).inspect_err(|error| {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        });
    }
    let agent = scene.cluster.agent(Node::B);
    for reason in ["tls_timed_out", "tls_protocol"] {
        let refused = |flow: &Flow| flow.to_port(15008) && flow.end.as_deref() == Some(reason);
        agent.wait_flow(reason, refused).unwrap();
    }
    client.run(|| client::echo(server.at4(8080), b"nor afterwards")).unwrap().unwrap();
}

#[test]
fn garbage_on_the_admin_socket_hurts_nobody() {
    let Some(scene) = Scene::shared("abuse", "admin-garbage") else {
        return;
    };
    let agent = scene.cluster.agent(Node::A);
    let mut held = Vec::new();
    for garbage in GARBAGE {
        let mut stream = UnixStream::connect(agent.socket()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(garbage).unwrap();
        held.push(stream);
    }
    // More than are served at a time, none of which says anything.
    held.extend((0..100).map(|_| UnixStream::connect(agent.socket()).unwrap()));
    let mut huge = UnixStream::connect(agent.socket()).unwrap();
    let _cut_off = huge.write_all(&vec![b'a'; 4 << 20]);

    drop(held);
    wait_until("the agent to answer again", SOON, || agent.status().is_ok()).unwrap();
}

#[test]
fn an_agent_that_stands_still_for_a_while_goes_on() {
    let Some(scene) = Scene::own("stopped") else {
        return;
    };
    let (client, server) = scene.pair();
    let _echo = server.serve(8080, server::echo).unwrap();
    let mut stream = open(&client, server.at4(8080));
    stream.write_all(b"alive").unwrap();
    stream.read_exact(&mut [0; 5]).unwrap();
    let agent = scene.cluster.agent(Node::B);

    agent.signal(Signal::SIGSTOP).unwrap();
    stream.write_all(b"while it stands").unwrap();
    let to = server.at4(8080);
    let took = thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let start = Instant::now();
            client.run(|| client::echo(to, b"new one")).unwrap().unwrap();
            start.elapsed()
        });
        thread::sleep(Duration::from_secs(3)); // The stop itself: there is no event to wait for.
        agent.signal(Signal::SIGCONT).unwrap();
        waiting.join().unwrap()
    });

    assert!(took >= Duration::from_secs(2), "{took:?}");
    stream.read_exact(&mut [0; 15]).unwrap();
    assert_eq!(client::exchange(stream, b"to its end").unwrap(), b"to its end");
}

#[test]
fn new_flows_work_again_when_the_link_between_the_nodes_is_back() {
    let setup = Setup {
        more: "tunnel: { pingInterval: 1s, pingTimeout: 1s, connectTimeout: 2s }\n".to_owned(),
        ..Setup::default()
    };
    let Some(scene) = Scene::own_with(&setup, "link") else {
        return;
    };
    let (client, server) = scene.pair();
    let _echo = server.serve(8080, server::echo).unwrap();
    let mut stream = open(&client, server.at4(8080));
    stream.write_all(b"alive").unwrap();
    stream.read_exact(&mut [0; 5]).unwrap();
    let fabric = Netns::existing(&scene.cluster.run().netns_name("fabric"));

    fabric.ip("link set node-b down").unwrap();
    // The open flow is lost, and a new one is told so in time.
    stream.read_exact(&mut [0; 1]).unwrap_err();
    let mut refused = open(&client, server.at4(8080));
    refused.read_exact(&mut [0; 1]).unwrap_err();
    fabric.ip("link set node-b up").unwrap();

    wait_until("new flows to get through", SOON, || {
        client.run(|| client::echo(server.at4(8080), b"back")).is_ok_and(|done| done.is_ok())
    })
    .unwrap();
    let lost = |flow: &Flow| flow.end.as_deref() == Some("tunnel_lost");
    scene.cluster.agent(Node::A).wait_flow("tunnel_lost", lost).unwrap();
}

#[test]
fn without_file_descriptors_new_connections_wait_and_open_ones_live_on() {
    let Some(scene) = Scene::own("no-files") else {
        return;
    };
    let (client, server) = scene.pair();
    let _echo = server.serve(8080, server::echo).unwrap();
    let agent = scene.cluster.agent(Node::A);
    let mut first = open(&client, server.at4(8080));
    first.write_all(b"alive").unwrap();
    first.read_exact(&mut [0; 5]).unwrap();

    let limit = agent.open_files().unwrap() + 10;
    limit_files(agent.pid().unwrap(), limit);
    let crowd: Vec<TcpStream> = (0..40).map(|_| open(&client, server.at4(8080))).collect();
    wait_until("the agent to say so", SOON, || agent.log().since(0).contains("out of resources"))
        .unwrap();
    first.write_all(b"still").unwrap();
    first.read_exact(&mut [0; 5]).unwrap();

    drop(crowd);
    client.run(|| client::echo(server.at4(8080), b"room again")).unwrap().unwrap();
    assert!(agent.open_files().unwrap() <= limit);
}

fn limit_files(pid: u32, limit: usize) {
    let mut command = Command::new("prlimit");
    command.args(["--pid", &pid.to_string(), &format!("--nofile={limit}:{limit}")]);
    assert!(command.status().unwrap().success());
}
