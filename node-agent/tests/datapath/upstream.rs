//! The sockets that the agent itself opens in a pod.

use std::net::SocketAddr;

use adit::datapath::OpenPod;
use socket2::Domain;

use crate::space::{
    Kind, PEER4, PEER6, POD4, POD6, World, accept, addr, address, connect, dial, ping, root,
};

#[tokio::test]
async fn what_the_agent_dials_outward_leaves_from_the_pods_address() {
    if !root() {
        return;
    }
    let world = World::new();
    let agent = world.enrolled(1).await;
    let server = world.peer.listen_async("[::]:80");

    for (to, own) in [
        (format!("{PEER4}:80"), POD4),
        (format!("[{PEER6}]:80"), POD6),
        (format!("[::ffff:{PEER4}]:80"), POD4),
    ] {
        let socket = agent.pod.sockets().outward(address(&to)).unwrap();
        let mut upstream = dial(socket).await.unwrap();
        let (mut accepted, from) = accept(&server).await;

        assert_eq!(from.ip(), addr(own), "{to}");
        ping(&mut upstream, &mut accepted).await;
    }
    assert_eq!(agent.counter("connect_agent"), 3);
    assert_eq!(agent.counter("connect_marked") + agent.steered(), 0);
}

#[tokio::test]
async fn the_application_sees_the_clients_address() {
    if !root() {
        return;
    }
    let world = World::new();
    let agent = world.enrolled(1).await;

    let app = world.pod.listen_async("[::]:8080");
    let app_on_hbone = world.pod.listen_async("[::]:15008");
    for (rp_filter, syncookies) in [("0", "1"), ("0", "2"), ("1", "1"), ("1", "2")] {
        for name in ["conf/all/rp_filter", "conf/lo/rp_filter"] {
            world.pod.set_sysctl(&format!("net/ipv4/{name}"), rp_filter);
        }
        world.pod.set_sysctl("net/ipv4/tcp_syncookies", syncookies);
        for (client, own) in
            [(PEER4, POD4), ("203.0.113.7", POD4), (PEER6, POD6), ("2001:db8::7", POD6)]
        {
            for (app, port) in [(&app, 8080), (&app_on_hbone, 15008)] {
                let to = SocketAddr::new(addr(own), port);
                let mut upstream =
                    dial(agent.pod.sockets().inward(addr(client), to).unwrap()).await.unwrap();
                let (mut accepted, from) = accept(app).await;

                assert_eq!(from.ip(), addr(client), "{to}");
                ping(&mut upstream, &mut accepted).await;
            }
        }
    }
    assert_eq!(agent.steered(), 0);
}

/// The kernel may give the agent's socket the very port that the client has, and then both
/// connections to the application's address have the same four values. With two ports to choose from,
/// both of them the client's, it must.
#[tokio::test]
async fn the_clients_own_port_does_not_collide_with_the_agents() {
    if !root() {
        return;
    }
    let world = World::new();
    let agent = world.enrolled(1).await;
    let app = world.pod.listen_async("[::]:8080");
    world.pod.set_sysctl("net/ipv4/ip_local_port_range", "40000 40001");

    for (domain, client, own) in [
        (Domain::IPV4, PEER4.to_owned(), format!("{POD4}:8080")),
        (Domain::IPV6, format!("[{PEER6}]"), format!("[{POD6}]:8080")),
    ] {
        let mut open = Vec::new();
        for port in [40000, 40001] {
            let socket = world.peer.socket(domain);
            socket.bind(&address(&format!("{client}:{port}")).into()).unwrap();
            let down = connect(socket, address(&own)).await.unwrap();
            let (kind, accepted, _) = agent.accept().await;
            assert_eq!(kind, Kind::Plaintext);
            open.push((down, accepted));
        }
        for (mut down, mut accepted) in open {
            let source = accepted.peer_addr().unwrap().ip();
            let socket = agent.pod.sockets().inward(source, address(&own)).unwrap();
            let mut upstream = dial(socket).await.unwrap();
            let (mut served, from) = accept(&app).await;

            assert!((40000..=40001).contains(&from.port()), "{from}");
            ping(&mut upstream, &mut served).await;
            ping(&mut down, &mut accepted).await;
        }
    }
}

#[tokio::test]
async fn a_refusal_of_the_applications_is_a_refusal() {
    if !root() {
        return;
    }
    let world = World::new();
    let agent = world.enrolled(1).await;

    for (client, own) in [(PEER4, format!("{POD4}:81")), (PEER6, format!("[{POD6}]:81"))] {
        let socket = agent.pod.sockets().inward(addr(client), address(&own)).unwrap();
        let error = dial(socket).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{own}");
    }
}

#[tokio::test]
async fn addresses_of_different_families_are_refused() {
    if !root() {
        return;
    }
    let world = World::new();
    let agent = world.enrolled(1).await;

    let to = address(&format!("[{POD6}]:80"));
    let error = agent.pod.sockets().inward(addr(PEER4), to).unwrap_err();

    assert!(error.to_string().contains("families"), "{error}");
}

/// More than the 28,232 ports of ip_local_port_range: closed by the agent first, each leaves its port
/// in TIME_WAIT.
#[tokio::test]
async fn short_connections_from_one_client_do_not_run_out_of_ports() {
    if !root() {
        return;
    }
    let world = World::new();
    let agent = world.enrolled(1).await;
    let app = world.pod.listen_async("[::]:8080");
    let serve = tokio::spawn(async move {
        loop {
            drop(app.accept().await.unwrap().0);
        }
    });

    let sockets = agent.pod.sockets();
    let to = address(&format!("{POD4}:8080"));
    for count in 0..30_000 {
        let socket = sockets.inward(addr(PEER4), to).unwrap();
        let upstream = dial(socket).await;
        assert!(upstream.is_ok(), "connection {count}: {upstream:?}");
    }
    serve.abort();
}
