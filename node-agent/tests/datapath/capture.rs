//! What is captured, and what is not.

use socket2::Domain;

use crate::space::{
    Kind, PEER4, PEER6, POD4, POD6, World, accept, addr, address, connect, ping, root,
};

#[tokio::test]
async fn connections_of_an_enrolled_pod_come_to_the_agent_with_their_destination() {
    if !root() {
        return;
    }
    let world = World::new();
    let agent = world.enrolled(2).await;
    // The application listens on the port that it dials elsewhere.
    let _same_port = world.pod.listen("[::]:80");

    for (dialled, seen, own) in [
        (format!("{PEER4}:80"), format!("{PEER4}:80"), POD4),
        (format!("[{PEER6}]:80"), format!("[{PEER6}]:80"), POD6),
        (format!("[::ffff:{PEER4}]:80"), format!("{PEER4}:80"), POD4),
        (format!("{PEER4}:15008"), format!("{PEER4}:15008"), POD4),
        // Beyond the link, where the route of the namespace itself would not lead.
        (format!("{PEER4}:1"), format!("{PEER4}:1"), POD4),
    ] {
        let mut app = world.pod.connect(&dialled).await.unwrap();
        let (kind, mut accepted, destination) = agent.accept().await;

        assert_eq!((kind, destination), (Kind::Outbound, address(&seen)), "{dialled}");
        assert_eq!(app.peer_addr().unwrap(), address(&dialled));
        assert_eq!(app.local_addr().unwrap().ip().to_canonical(), addr(own));
        assert_eq!(accepted.peer_addr().unwrap().ip().to_canonical(), addr(own));
        ping(&mut app, &mut accepted).await;
    }
    assert_eq!(agent.counter("connect_marked"), 5);
}

#[tokio::test]
async fn sockets_bound_to_an_address_or_an_interface_are_captured_too() {
    if !root() {
        return;
    }
    let world = World::new();
    let agent = world.enrolled(2).await;

    let to = address(&format!("{PEER4}:80"));
    let bound = world.pod.socket(Domain::IPV4);
    bound.bind(&address(&format!("{POD4}:5555")).into()).unwrap();
    let _app = connect(bound, to).await.unwrap();
    let (kind, accepted, destination) = agent.accept().await;
    assert_eq!((kind, destination), (Kind::Outbound, to));
    assert_eq!(accepted.peer_addr().unwrap().port(), 5555);

    for (domain, to) in [(Domain::IPV4, to), (Domain::IPV6, address(&format!("[{PEER6}]:80")))] {
        let bound = world.pod.socket(domain);
        bound.bind_device(Some(b"eth0")).unwrap();
        let mut app = connect(bound, to).await.unwrap();
        let (kind, mut accepted, destination) = agent.accept().await;
        assert_eq!((kind, destination), (Kind::Outbound, to));
        ping(&mut app, &mut accepted).await;
    }
}

#[tokio::test]
async fn connections_to_loopback_and_own_addresses_are_the_pods_own_business() {
    if !root() {
        return;
    }
    let world = World::new();
    let agent = world.enrolled(2).await;
    let app = world.pod.listen_async("[::]:8080");

    for to in [POD4, "127.0.0.1", "127.8.8.8"] {
        let mut client = world.pod.connect(&format!("{to}:8080")).await.unwrap();
        ping(&mut client, &mut accept(&app).await.0).await;
    }
    for to in [POD6, "::1"] {
        let mut client = world.pod.connect(&format!("[{to}]:8080")).await.unwrap();
        ping(&mut client, &mut accept(&app).await.0).await;
    }
    let from_loopback = world.pod.socket(Domain::IPV4);
    from_loopback.bind(&address("127.0.0.1:0").into()).unwrap();
    let mut client = connect(from_loopback, address(&format!("{POD4}:8080"))).await.unwrap();
    ping(&mut client, &mut accept(&app).await.0).await;

    assert_eq!(agent.steered(), 0);
    let refused = world.pod.connect(&format!("{POD4}:8081")).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn connections_from_outside_come_to_the_listener_for_their_port() {
    if !root() {
        return;
    }
    let world = World::new();
    let agent = world.enrolled(2).await;
    let _app = world.pod.listen("[::]:8080");

    for own in [POD4.to_owned(), format!("[{POD6}]")] {
        for (port, expected) in [
            (8080, Kind::Plaintext),
            (22, Kind::Plaintext),
            (15001, Kind::Plaintext),
            (15008, Kind::Hbone),
        ] {
            let to = format!("{own}:{port}");
            let mut client = world.peer.connect(&to).await.unwrap();
            let (kind, mut accepted, destination) = agent.accept().await;

            assert_eq!((kind, destination), (expected, address(&to)));
            let from = accepted.peer_addr().unwrap();
            let local = client.local_addr().unwrap();
            assert_eq!((from.ip().to_canonical(), from.port()), (local.ip(), local.port()));
            ping(&mut client, &mut accepted).await;
        }
    }
}

#[tokio::test]
async fn all_workers_get_connections_and_syn_cookies_do_not_mix_them_up() {
    if !root() {
        return;
    }
    let world = World::new();
    world.pod.set_sysctl("net/ipv4/tcp_syncookies", "2");
    let agent = world.enrolled(4).await;

    let mut clients = Vec::new();
    for _ in 0..64 {
        clients.push(world.peer.connect(&format!("{POD4}:8080")).await.unwrap());
        clients.push(world.pod.connect(&format!("[{PEER6}]:80")).await.unwrap());
    }
    for worker in &agent.listeners {
        accept(&worker.plaintext).await;
        accept(&worker.outbound).await;
    }
}

#[tokio::test]
async fn a_pod_without_ipv6_is_enrolled_and_captured() {
    if !root() {
        return;
    }
    let world = World::new();
    world.pod.set_sysctl("net/ipv6/conf/all/disable_ipv6", "1");
    let agent = world.enrolled(1).await;

    let mut app = world.pod.connect(&format!("{PEER4}:80")).await.unwrap();
    let (kind, mut accepted, destination) = agent.accept().await;

    assert_eq!((kind, destination), (Kind::Outbound, address(&format!("{PEER4}:80"))));
    ping(&mut app, &mut accepted).await;
    world.peer.connect(&format!("{POD4}:8080")).await.unwrap();
    assert_eq!(agent.accept().await.0, Kind::Plaintext);

    // Switched on later, it does not become a way out.
    let _peers = world.peer.listen(&format!("[{PEER6}]:80"));
    world.pod.set_sysctl("net/ipv6/conf/all/disable_ipv6", "0");
    world.pod.ip(&format!("address add {POD6}/64 dev eth0 nodad"));
    let error = world.pod.connect(&format!("[{PEER6}]:80")).await.unwrap_err();
    assert_eq!(error.raw_os_error(), Some(nix::libc::ENETUNREACH));
}

#[tokio::test]
async fn pods_that_are_not_enrolled_are_untouched() {
    if !root() {
        return;
    }
    let world = World::new();
    let agent = world.enrolled(1).await;
    let app = world.peer.listen_async("[::]:80");

    let mut client = world.peer.connect("127.0.0.1:80").await.unwrap();
    ping(&mut client, &mut accept(&app).await.0).await;

    assert_eq!(agent.counter("connect_marked") + agent.steered(), 0);
}

#[tokio::test]
async fn an_application_may_bind_the_port_of_connections_that_the_agent_carries() {
    if !root() {
        return;
    }
    let world = World::new();
    let agent = world.enrolled(1).await;
    let _app = world.pod.connect(&format!("{PEER4}:9090")).await.unwrap();
    let (_kind, _accepted, _) = agent.accept().await;

    let socket = world.pod.socket(Domain::IPV4);
    socket.bind(&address("0.0.0.0:9090").into()).unwrap();
    socket.listen(1).unwrap();
}
