//! The ways in which an application can open a connection, and the ones that are none of adit's
//! business.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::time::Duration;

use adit_e2e::{Node, client, server};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Socket, Type};

use crate::support::Scene;

fn scene(ns: &str) -> Option<Scene> {
    Scene::shared("connects", ns)
}

#[test]
fn the_application_sees_native_names_on_both_sides() {
    let Some(scene) = scene("names") else { return };
    let (client, server) = scene.pair();
    let echo = server.serve(8080, server::echo).unwrap();

    for (to, own) in
        [(server.at4(8080), IpAddr::V4(client.v4())), (server.at6(8080), IpAddr::V6(client.v6()))]
    {
        let stream = client.connect(to).unwrap();
        assert_eq!(stream.peer_addr().unwrap(), to);
        assert_eq!(stream.local_addr().unwrap().ip(), own);
        assert_eq!(client::exchange(stream, b"names").unwrap(), b"names");
    }

    assert_eq!(echo.clients(), [IpAddr::V4(client.v4()), IpAddr::V6(client.v6())]);
    scene.outbound(&client, &server, 8080);
}

#[test]
fn a_non_blocking_connect_is_tunnelled() {
    let Some(scene) = scene("non-blocking") else {
        return;
    };
    let (client, server) = scene.pair();
    let _echo = server.serve(8080, server::echo).unwrap();

    for to in [server.at4(8080), server.at6(8080)] {
        let answer = client.run(|| {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            let begun = socket.connect(&to.into());
            assert!(
                begun.is_ok() || begun.unwrap_err().raw_os_error() == Some(nix::libc::EINPROGRESS)
            );
            let mut wanted = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
            assert_eq!(poll(&mut wanted, PollTimeout::from(10_000_u16)), Ok(1));
            assert!(socket.take_error().unwrap().is_none());
            socket.set_nonblocking(false).unwrap();
            client::exchange(TcpStream::from(socket), b"later").unwrap()
        });
        assert_eq!(answer.unwrap(), b"later");
    }

    assert_eq!(scene.outbound(&client, &server, 8080).protocol, "hbone");
}

#[test]
fn an_ipv4_mapped_connect_is_tunnelled_as_ipv4() {
    let Some(scene) = scene("mapped") else { return };
    let (client, server) = scene.pair();
    let echo = server.serve(8080, server::echo).unwrap();
    let to = SocketAddr::new(server.v4().to_ipv6_mapped().into(), 8080);

    client.run(|| client::echo(to, b"mapped")).unwrap().unwrap();

    let flow = scene.outbound(&client, &server, 8080);
    assert_eq!(flow.protocol, "hbone");
    assert_eq!(flow.destination.address, IpAddr::V4(server.v4()));
    assert_eq!(echo.clients(), [IpAddr::V4(client.v4())]);
}

#[test]
fn own_address_and_loopback_are_never_intercepted() {
    let Some(scene) = scene("loopback") else {
        return;
    };
    let [pod, _peer] = scene.pods([scene.pod("pod", Node::A), scene.pod("peer", Node::B)]);
    let echo = pod.serve(8080, server::echo).unwrap();
    let local = [
        SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
        SocketAddr::from((Ipv6Addr::LOCALHOST, 8080)),
        pod.at4(8080),
        pod.at6(8080),
    ];

    for to in local {
        pod.run(|| client::echo(to, b"to myself")).unwrap().unwrap();
    }

    assert_eq!(echo.connections(), local.len());
    let flows = scene.cluster.agent(Node::A).flows().unwrap();
    let own = flows.iter().find(|flow| flow.source.is(&pod.full_name()));
    assert!(own.is_none(), "{own:?}");
}

#[test]
fn a_client_that_listens_on_the_same_port_as_its_destination_reaches_the_destination() {
    let Some(scene) = scene("same-port") else {
        return;
    };
    let (client, server) = scene.pair();
    let own = client.serve(8080, server::echo).unwrap();
    let far = server.serve(8080, server::echo).unwrap();

    for to in [server.at4(8080), server.at6(8080)] {
        client.run(|| client::echo(to, b"there")).unwrap().unwrap();
    }
    server.run(|| client::echo(client.at4(8080), b"and back")).unwrap().unwrap();

    assert_eq!(far.clients(), [IpAddr::V4(client.v4()), IpAddr::V6(client.v6())]);
    assert_eq!(own.clients(), [IpAddr::V4(server.v4())]);
}

#[test]
fn a_server_that_speaks_first_is_heard() {
    let Some(scene) = scene("server-first") else {
        return;
    };
    let (client, server) = scene.pair();
    let _greeter = server.serve(25, server::greet).unwrap();

    for to in [server.at4(25), server.at6(25)] {
        let mut stream = client.connect(to).unwrap();
        let mut greeting = [0; 10];
        stream.read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting, b"220 ready\n");
        assert_eq!(client::exchange(stream, b"HELO").unwrap(), b"HELO");
    }
}

#[test]
fn a_port_where_nothing_listens_ends_the_connection_and_the_flow_says_why() {
    let Some(scene) = scene("no-listener") else {
        return;
    };
    let (client, server) = scene.pair();
    let to = server.at4(8099);

    let heard = client.run(|| {
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(10))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        client::read(&mut stream, &mut [0; 1])
    });

    let error = heard.unwrap().unwrap_err();
    let reset = [std::io::ErrorKind::ConnectionReset, std::io::ErrorKind::ConnectionRefused];
    assert!(reset.contains(&error.kind()), "{error:?}");
    let flow = scene.outbound(&client, &server, 8099);
    assert_eq!(flow.end.as_deref(), Some("unavailable_at_peer"));
    assert_eq!(flow.verdict, "failed");
    let flow = scene.inbound(&client, &server, 8099);
    assert_eq!(flow.end.as_deref(), Some("connect_refused"));
}

#[test]
fn three_thousand_connections_that_close_at_once_all_find_their_destination() {
    // As many flows as an agent keeps: no other case could look for its own among them.
    let Some(scene) = Scene::own("fire-and-forget") else { return };
    let (client, server) = scene.pair();
    let (sender, receiver) = std::sync::mpsc::channel();
    let heard = move |mut stream: TcpStream| {
        let mut text = Vec::new();
        if stream.read_to_end(&mut text).is_ok() {
            let _ended = sender.send(text.len());
        }
    };
    let sink = server.serve(8080, heard).unwrap();
    let to = server.at4(8080);

    client
        .run(|| {
            for _ in 0..3000 {
                TcpStream::connect(to).unwrap().write_all(b"12345").unwrap();
            }
        })
        .unwrap();

    let arrived = (0..3000).map(|_| receiver.recv_timeout(Duration::from_secs(20)).unwrap());
    assert_eq!(arrived.sum::<usize>(), 15_000);
    assert_eq!(sink.connections(), 3000);
}

#[test]
fn a_connection_to_the_agents_own_listeners_goes_round_no_circle() {
    let Some(scene) = Scene::own("own-listeners") else {
        return;
    };
    let (client, server) = scene.pair();
    let agent = scene.cluster.agent(Node::B);
    let before = agent.open_files().unwrap();
    let ports = server.run(listening_ports).unwrap();
    assert!(ports.len() >= 3, "the agent listens in the pod: {ports:?}");

    for port in ports {
        server.run(|| knock((Ipv4Addr::LOCALHOST, port).into())).unwrap();
        server.run(|| knock(server.at4(port))).unwrap();
        client.run(|| knock(server.at4(port))).unwrap();
    }

    adit_e2e::wait::wait_until(
        "the agent to let go of the sockets",
        Duration::from_secs(10),
        || agent.open_files().is_ok_and(|files| files < before + 20),
    )
    .unwrap();
}

/// Connects, and waits a moment for the end. The tunnel's listener waits for a handshake instead.
fn knock(to: SocketAddr) {
    let Ok(mut stream) = TcpStream::connect_timeout(&to, Duration::from_secs(5)) else { return };
    stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let _refused_or_silent: std::io::Result<usize> = stream.read(&mut [0]);
}

/// The ports that sockets of this network namespace listen on: state 0A in `tcp` and `tcp6`
/// (proc_net_tcp in the kernel's documentation).
fn listening_ports() -> Vec<u16> {
    let table = |name| std::fs::read_to_string(format!("/proc/thread-self/net/{name}"));
    let text = [table("tcp").unwrap(), table("tcp6").unwrap()].concat();
    let listening = text.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, state) = (fields.get(1)?, fields.get(3)?);
        let (_, port) = local.rsplit_once(':')?;
        (*state == "0A").then(|| u16::from_str_radix(port, 16).ok())?
    });
    listening.collect()
}
