//! What the kubelet may reach, whatever policies say.

use std::net::SocketAddr;

use super::*;

/// Nobody but tunnels, and of those nobody.
fn closed() -> Scene {
    Scene::new([peer("istio-system/default", "STRICT", |_| ()), policy("shop/none", "ALLOW", [])])
}

fn probed(scene: &Scene, dialled: &str) -> Option<SocketAddr> {
    let dialled = dialled.parse().unwrap();
    probe(&scene.world, &pod().uid, dialled).map(|permit| permit.destination())
}

#[test]
fn the_kubelet_reaches_a_port_that_the_pod_asks_it_to_probe() {
    assert_eq!(
        closed().ask(Caller { port: 8081, ..PLAINTEXT }),
        "denied_plaintext by PeerAuthentication istio-system/default"
    );
    assert_eq!(probed(&closed(), "10.9.0.1:8081"), Some("10.9.0.1:8081".parse().unwrap()));
}

#[test]
fn the_kubelet_has_no_say_at_other_ports_and_addresses() {
    assert_eq!(probed(&closed(), "10.9.0.1:80"), None);
    assert_eq!(probed(&closed(), "10.9.0.2:8081"), None);
}

#[test]
fn a_pod_that_is_no_longer_known_is_not_probed() {
    let scene = closed();
    let gone = scene.world.apply([Delta::WorkloadGone(pod().uid)]).0;
    assert!(probe(&gone, &pod().uid, "10.9.0.1:8081".parse().unwrap()).is_none());
}
