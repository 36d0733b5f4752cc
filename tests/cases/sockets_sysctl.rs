//! Pods whose kernel is set up in ways that matter to how connections are steered.

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use adit_e2e::{Node, Pod, client, server};
use socket2::{Domain, Socket, Type};

use crate::support::Scene;

fn scene(ns: &str) -> Option<Scene> {
    Scene::shared("sockets", ns)
}

#[track_caller]
fn both_ways(scene: &Scene, one: &Pod, other: &Pod) {
    for (from, to) in [(one, other), (other, one)] {
        let echo = to.serve(8080, server::echo).unwrap();
        for at in [to.at4(8080), to.at6(8080)] {
            for round in 0..20 {
                let text = format!("round {round} to {at}");
                from.run(|| client::echo(at, text.as_bytes())).unwrap().unwrap();
            }
        }
        assert_eq!(echo.clients(), [IpAddr::V4(from.v4()), IpAddr::V6(from.v6())]);
        assert_eq!(scene.outbound(from, to, 8080).protocol, "hbone");
    }
}

#[test]
fn pods_that_answer_every_connection_with_a_syn_cookie_work_in_both_directions() {
    let Some(scene) = scene("syncookies") else { return };
    let pod = |name, node| scene.pod(name, node).sysctl("net/ipv4/tcp_syncookies", "2");
    let [one, other] = scene.pods([pod("one", Node::A), pod("other", Node::B)]);

    both_ways(&scene, &one, &other);
}

#[test]
fn pods_with_a_strict_reverse_path_filter_work_in_both_directions() {
    let Some(scene) = scene("rp-filter") else { return };
    let pod = |name, node| {
        scene
            .pod(name, node)
            .sysctl("net/ipv4/conf/all/rp_filter", "1")
            .sysctl("net/ipv4/conf/default/rp_filter", "1")
            .sysctl("net/ipv4/conf/lo/rp_filter", "1")
            .sysctl("net/ipv4/conf/eth0/rp_filter", "1")
    };
    let [one, other] = scene.pods([pod("one", Node::A), pod("other", Node::B)]);

    both_ways(&scene, &one, &other);
}

#[test]
fn a_pod_without_ipv6_calls_and_is_called_by_ipv4() {
    let Some(scene) = scene("no-ipv6") else { return };
    let pod = |name, node| {
        scene
            .pod(name, node)
            .sysctl("net/ipv6/conf/all/disable_ipv6", "1")
            .sysctl("net/ipv6/conf/default/disable_ipv6", "1")
    };
    let [one, other] = scene.pods([pod("one", Node::A), pod("other", Node::B)]);

    for (from, to) in [(&one, &other), (&other, &one)] {
        let echo = to.serve(8080, server::echo).unwrap();
        from.run(|| client::echo(to.at4(8080), b"by IPv4")).unwrap().unwrap();
        assert_eq!(echo.clients(), [IpAddr::V4(from.v4())]);
        assert_eq!(scene.outbound(from, to, 8080).protocol, "hbone");
        let refused = from.run(|| TcpStream::connect(to.at6(8080)).unwrap_err()).unwrap();
        let errors = [nix::libc::ENETUNREACH, nix::libc::EADDRNOTAVAIL];
        assert!(refused.raw_os_error().is_some_and(|error| errors.contains(&error)), "{refused}");
    }
}

/// Link-local addresses are of one link only: two pods may have the same. Nothing but the namespace tells
/// their connections apart.
#[test]
fn two_pods_with_the_same_link_local_address_are_never_mixed_up() {
    let Some(scene) = scene("link-local") else { return };
    let same: [IpAddr; 2] = ["169.254.77.7".parse().unwrap(), "fe80::77".parse().unwrap()];
    let pod = |name| scene.pod(name, Node::A).address(same[0]).address(same[1]);
    let [server, one, other] = scene.pods([scene.pod("server", Node::B), pod("one"), pod("other")]);

    for (from, to, port) in [(same[0], server.at4(8004), 8004), (same[1], server.at6(8006), 8006)] {
        let echo = server.serve(port, server::echo).unwrap();
        let open = [&one, &other].map(|pod| {
            let stream = pod.run(|| {
                let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
                socket.bind(&scoped(from, 5555).into())?;
                socket.connect_timeout(&to.into(), Duration::from_secs(20))?;
                socket.set_read_timeout(Some(Duration::from_secs(20)))?;
                std::io::Result::Ok(TcpStream::from(socket))
            });
            (pod, stream.unwrap().unwrap())
        });
        for (pod, stream) in open {
            let name = pod.full_name();
            assert_eq!(client::exchange(stream, name.as_bytes()).unwrap(), name.as_bytes());
            assert_eq!(scene.outbound(pod, &server, port).protocol, "hbone");
        }
        let own = |pod: &Pod| if to.is_ipv4() { pod.v4().into() } else { IpAddr::V6(pod.v6()) };
        assert_eq!(echo.clients(), [own(&one), own(&other)]);
    }
}

/// An address and a port, and for a link-local one the interface of the calling thread's pod.
fn scoped(address: IpAddr, port: u16) -> SocketAddr {
    match address {
        IpAddr::V6(v6) => {
            let scope = nix::net::if_::if_nametoindex("eth0").unwrap();
            std::net::SocketAddrV6::new(v6, port, 0, scope).into()
        }
        IpAddr::V4(_) => SocketAddr::new(address, port),
    }
}
