//! Agents and pods that die.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use adit_e2e::agent::Agent;
use adit_e2e::wait::{SOON, wait_until};
use adit_e2e::{Node, PodSpec, client, server};

use crate::support::Scene;

/// Every file below a directory, by path.
fn files_below(directory: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            found.push(path.display().to_string());
        }
    }
    found.sort();
    found
}

#[test]
fn while_the_agent_is_dead_connects_wait_and_nothing_leaves_in_plaintext() {
    let Some(scene) = Scene::own("agent-killed") else {
        return;
    };
    let (client, server) = scene.pair();
    let _echo = server.serve(8080, server::echo).unwrap();
    let agent = scene.cluster.agent(Node::A);
    let marker = b"marker-e0a7-sent-while-the-agent-was-dead";
    let capture = scene.cluster.capture().unwrap();

    agent.kill().unwrap();
    let to = server.at4(8080);
    let outage = Duration::from_secs(2);
    let took = thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let start = Instant::now();
            client.run(|| client::echo(to, marker)).unwrap().unwrap();
            start.elapsed()
        });
        thread::sleep(outage); // The outage itself: there is no event to wait for.
        assert!(!waiting.is_finished(), "a connection got through without an agent");
        agent.start().unwrap();
        waiting.join().unwrap()
    });

    assert!(took >= outage && took < Duration::from_secs(20), "{took:?}");
    let flow = scene.outbound(&client, &server, 8080);
    assert_eq!(flow.protocol, "hbone");
    let packets = capture.finish().unwrap();
    assert!(packets.with(marker).is_empty());
    assert!(packets.with(b"marker").is_empty());
}

#[test]
fn a_restarted_agent_takes_over_the_pods_of_the_one_that_was_killed() {
    let Some(scene) = Scene::own("adoption") else {
        return;
    };
    let (client, server) = scene.pair();
    let _echo = server.serve(8080, server::echo).unwrap();
    let [gone] = scene.pods([scene.pod("gone", Node::B)]);
    client.run(|| client::echo(server.at4(8080), b"first")).unwrap().unwrap();

    for node in Node::ALL {
        scene.cluster.agent(node).kill().unwrap();
    }
    // One pod ends while nobody looks.
    gone.delete().unwrap();
    for node in Node::ALL {
        scene.cluster.agent(node).start().unwrap();
    }
    for pod in [&client, &server] {
        scene.cluster.wait_settled(pod).unwrap();
    }

    for to in [server.at4(8080), server.at6(8080)] {
        client.run(|| client::echo(to, b"second")).unwrap().unwrap();
    }
    assert_eq!(scene.outbound(&client, &server, 8080).protocol, "hbone");
    let pins = scene.cluster.agent(Node::B).pins();
    wait_until("the pins of the pod that is gone to go", SOON, || {
        !files_below(pins).iter().any(|pin| pin.contains(gone.uid()))
    })
    .unwrap();
    wait_until("the namespace of the pod that is gone to go", SOON, || !gone.is_attached())
        .unwrap();
}

#[test]
fn a_pod_withdrawn_while_the_agent_was_dead_is_let_go_at_its_next_start() {
    let Some(scene) = Scene::own("withdrawn-meanwhile") else {
        return;
    };
    let (client, server) = scene.pair();
    let _echo = server.serve(8080, server::echo).unwrap();

    scene.cluster.agent(Node::A).kill().unwrap();
    scene.cluster.manifests().namespace(&scene.ns, None).unwrap();
    scene.cluster.agent(Node::A).start().unwrap();
    scene.cluster.wait_protocol(&client, "plaintext").unwrap();
    scene.cluster.wait_protocol(&server, "plaintext").unwrap();

    client.run(|| client::echo(server.at4(8080), b"without adit")).unwrap().unwrap();
}

#[test]
fn a_pod_deleted_in_mid_flow_ends_the_flow_and_leaves_nothing_behind() {
    let Some(scene) = Scene::own("pod-deleted") else {
        return;
    };
    let (client, server) = scene.pair();
    let _echo = server.serve(8080, server::echo).unwrap();
    let agent = scene.cluster.agent(Node::B);
    let (files, pins) = (agent.open_files().unwrap(), files_below(agent.pins()));
    let [doomed] = scene.pods([scene.pod("doomed", Node::B)]);
    let echo = doomed.serve(8080, server::echo).unwrap();
    let mut stream = client.connect(doomed.at4(8080)).unwrap();
    stream.write_all(b"alive").unwrap();
    stream.read_exact(&mut [0; 5]).unwrap();

    // The kubelet ends the processes, then the pod.
    drop(echo);
    doomed.delete().unwrap();

    let mut rest = Vec::new();
    let end = stream.read_to_end(&mut rest);
    assert!(rest.is_empty(), "{end:?}");
    scene.outbound(&client, &doomed, 8080);
    scene.inbound(&client, &doomed, 8080);
    wait_until("the veth to go with the last socket of the pod", SOON, || !doomed.is_attached())
        .unwrap();
    wait_until("its pins to go", SOON, || files_below(agent.pins()) == pins).unwrap();
    // The tunnel to the client is idle and may stay a while, the listeners may not.
    wait_until("its sockets to be closed", SOON, || {
        agent.open_files().is_ok_and(|now| now <= files + 4)
    })
    .unwrap();
    client.run(|| client::echo(server.at4(8080), b"the others are fine")).unwrap().unwrap();
}

#[test]
fn a_peer_that_vanishes_without_a_word_is_noticed_by_ping() {
    let setup = adit_e2e::agent::Setup {
        more: "tunnel: { pingInterval: 1s, pingTimeout: 1s, connectTimeout: 2s }\n".to_owned(),
        ..Default::default()
    };
    let Some(scene) = Scene::own_with(&setup, "vanished") else {
        return;
    };
    let (client, server) = scene.pair();
    let _echo = server.serve(8080, server::echo).unwrap();
    let mut stream = client.connect(server.at4(8080)).unwrap();
    stream.write_all(b"alive").unwrap();
    stream.read_exact(&mut [0; 5]).unwrap();

    server.unplug().unwrap();

    let heard = client::read(&mut stream, &mut [0; 1]);
    assert!(heard.is_err(), "{heard:?}");
    let flow = scene.outbound(&client, &server, 8080);
    assert_eq!(flow.end.as_deref(), Some("tunnel_lost"));
    let tunnels = scene.cluster.agent(Node::A).tunnels().unwrap();
    let left = tunnels.iter().find(|tunnel| tunnel.peer_identity == server.identity());
    assert!(left.is_none(), "{left:?}");
}

#[test]
fn an_address_that_belongs_to_another_pod_now_is_never_reached_through_the_old_tunnel() {
    let Some(scene) = Scene::own("reused") else {
        return;
    };
    let (client, server) = scene.pair();
    let echo = server.serve(8080, server::echo).unwrap();
    client.run(|| client::echo(server.at4(8080), b"first owner")).unwrap().unwrap();
    scene.outbound(&client, &server, 8080);

    // The next owner of the address has another identity.
    drop(echo);
    let successor = PodSpec::new(&scene.ns, "successor", Node::B).in_place_of(&server);
    server.delete().unwrap();
    wait_until("the first owner to go", SOON, || !server.is_attached()).unwrap();
    let [successor] = scene.pods([successor]);
    assert_eq!(successor.v4(), server.v4());
    let _echo = successor.serve(8080, server::echo).unwrap();

    client.run(|| client::echo(successor.at4(8080), b"second owner")).unwrap().unwrap();
    let flow = scene.outbound(&client, &successor, 8080);
    assert_eq!(flow.destination.identity.as_deref(), Some(&*successor.identity()));
}

#[test]
fn a_terminated_agent_lets_open_flows_finish() {
    let Some(scene) = Scene::own("drain") else {
        return;
    };
    let (client, server) = scene.pair();
    let _echo = server.serve(8080, server::echo).unwrap();
    let agent = scene.cluster.agent(Node::A);
    let mut stream = client.connect(server.at4(8080)).unwrap();
    stream.write_all(b"alive").unwrap();
    stream.read_exact(&mut [0; 5]).unwrap();

    let status = thread::scope(|scope| {
        let ending = scope.spawn(|| agent.terminate(Duration::from_secs(40)).unwrap());
        wait_until("the drain to begin", SOON, || drains(agent)).unwrap();
        assert_eq!(client::exchange(stream, b"a last word").unwrap(), b"a last word");
        ending.join().unwrap()
    });

    assert!(status.success(), "{status}");
}

/// Whether the agent says that it is not ready any more.
fn drains(agent: &Agent) -> bool {
    let ready = SocketAddr::from(([127, 0, 0, 1], 15021));
    let asked = agent.netns().run(|| -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&ready, Duration::from_secs(1))?;
        stream.write_all(b"GET /healthz/ready HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    });
    match asked {
        Ok(Ok(answer)) => !answer.starts_with("HTTP/1.1 200"),
        Ok(Err(_)) | Err(_) => true,
    }
}
