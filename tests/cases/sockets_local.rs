//! What stays on the machine: ports that applications bind, and calls that come back to their caller.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use adit_e2e::cluster::vip;
use adit_e2e::manifest::{EndpointSpec, ServiceSpec};
use adit_e2e::wait::{SOON, wait_for, wait_until};
use adit_e2e::{Node, Pod, client, server};
use socket2::{Domain, Socket, Type};

use crate::support::Scene;

fn scene(ns: &str) -> Option<Scene> {
    Scene::shared("sockets", ns)
}

/// Listens as a plain program does, without SO_REUSEADDR, which std sets by itself.
fn listen(pod: &Pod, at: SocketAddr) -> io::Result<TcpListener> {
    let listener = pod.run(|| {
        let socket = Socket::new(Domain::for_address(at), Type::STREAM, None)?;
        socket.bind(&at.into())?;
        socket.listen(16)?;
        Ok(socket.into())
    });
    listener.unwrap()
}

/// The same once nobody else listens there: a listener that was just closed stays open in what another
/// case has forked and not executed yet.
#[track_caller]
fn listen_soon(pod: &Pod, at: SocketAddr) -> TcpListener {
    wait_for(&format!("{at} to be free"), SOON, || Ok(Some(listen(pod, at)?))).unwrap()
}

fn wildcards(port: u16) -> [SocketAddr; 2] {
    [(Ipv4Addr::UNSPECIFIED, port).into(), (Ipv6Addr::UNSPECIFIED, port).into()]
}

#[test]
fn an_application_can_bind_a_port_that_its_open_connections_go_to() {
    let Some(scene) = scene("bind-outbound") else { return };
    let (client, server) = scene.pair();
    let _echo = server.serve(8080, server::echo).unwrap();
    let open = [server.at4(8080), server.at6(8080)].map(|to| client.connect(to).unwrap());

    let own = [IpAddr::V4(client.v4()), IpAddr::V6(client.v6())];
    for at in own.map(|own| SocketAddr::new(own, 8080)).into_iter().chain(wildcards(8080)) {
        drop(listen_soon(&client, at));
    }

    for stream in open {
        assert_eq!(client::exchange(stream, b"still there").unwrap(), b"still there");
    }
}

#[test]
fn a_server_that_restarts_can_bind_its_port_while_adit_holds_connections_to_it() {
    let Some(scene) = scene("bind-inbound") else { return };
    let (client, server) = scene.pair();
    let first = server.serve(8080, server::echo).unwrap();
    let outside = scene.cluster.outside();
    // Plaintext: the agent's accepted sockets have the very port.
    let strangers = [server.at4(8080), server.at6(8080)].map(|to| {
        let stream = outside.run(|| std::net::TcpStream::connect(to)).unwrap();
        stream.unwrap()
    });
    let meshed = [server.at4(8080), server.at6(8080)].map(|to| client.connect(to).unwrap());
    wait_until("the connections to reach the server", SOON, || first.connections() == 4).unwrap();
    drop(first);

    for at in wildcards(8080) {
        let second = listen_soon(&server, at);
        // SO_REUSEADDR, which adit sets for it, lets nobody share the port of a listener.
        let third = listen(&server, at).unwrap_err();
        assert_eq!(third.kind(), ErrorKind::AddrInUse, "{at}");
        drop(second);
    }
    drop((strangers, meshed));
}

/// The service's only endpoint is the caller.
#[test]
fn a_pod_reaches_itself_through_the_address_of_a_service() {
    let Some(scene) = scene("hairpin") else { return };
    let [pod, other] = scene.pods([scene.pod("pod", Node::A), scene.pod("other", Node::A)]);
    let echo = pod.serve(9000, server::echo).unwrap();
    let endpoint =
        |address| EndpointSpec { address, ready: true, ports: vec![("web".to_owned(), 9000)] };
    let service = ServiceSpec {
        namespace: scene.ns.clone(),
        name: "svc".to_owned(),
        vips: vip(90).to_vec(),
        ports: vec![("web".to_owned(), 80, "9000".to_owned())],
        endpoints: vec![endpoint(pod.v4().into()), endpoint(pod.v6().into())],
        ..ServiceSpec::default()
    };
    scene.cluster.manifests().service(&service).unwrap();

    for vip in &service.vips {
        let to = SocketAddr::new(*vip, 80);
        wait_until("the service to be known", SOON, || {
            other.run(|| client::echo(to, b"there?")).unwrap().is_ok()
        })
        .unwrap();
        let before = echo.connections();
        for _ in 0..5 {
            pod.run(|| client::echo(to, b"to myself")).unwrap().unwrap();
        }
        assert_eq!(echo.connections(), before + 5, "{to}");
    }
}

#[test]
fn three_thousand_connections_by_ipv6_that_close_at_once_are_all_delivered() {
    // As many flows as an agent keeps: no other case could look for its own among them.
    let Some(scene) = Scene::own("fire-and-forget6") else { return };
    let (client, server) = scene.pair();
    let (sender, receiver) = std::sync::mpsc::channel();
    let heard = move |mut stream: std::net::TcpStream| {
        let mut text = Vec::new();
        if io::Read::read_to_end(&mut stream, &mut text).is_ok() {
            let _ended = sender.send(text.len());
        }
    };
    let sink = server.serve(8080, heard).unwrap();
    let to = server.at6(8080);

    let sent = client.run(|| {
        for _ in 0..3000 {
            io::Write::write_all(&mut std::net::TcpStream::connect(to)?, b"12345")?;
        }
        io::Result::Ok(())
    });

    sent.unwrap().unwrap();
    let arrived = (0..3000).map(|_| receiver.recv_timeout(SOON).unwrap());
    assert_eq!(arrived.sum::<usize>(), 15_000);
    assert_eq!(sink.connections(), 3000);
}
