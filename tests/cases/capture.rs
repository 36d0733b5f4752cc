//! What a stranger on the network between the nodes can read.

use adit_e2e::capture::Packets;
use adit_e2e::{Node, client, server};

use crate::support::Scene;

fn scene(ns: &str) -> Option<Scene> {
    Scene::shared("capture", ns)
}

/// Long enough never to be there by chance, many times, so that some stand in one packet.
fn payload(marker: &str) -> Vec<u8> {
    marker.repeat(400).into_bytes()
}

/// Runs `work` under a capture, which is known to work because it also sees a message to a host
/// outside.
fn captured(scene: &Scene, work: impl FnOnce()) -> Packets {
    let capture = scene.cluster.capture().unwrap();
    work();
    let canary = format!("canary-of-{}", scene.ns);
    let _echo = server::serve(scene.cluster.outside(), 0, server::echo).unwrap();
    let [address, _] = scene.cluster.outside_addresses();
    let to = (address, _echo.port()).into();
    let node = scene.cluster.agent(Node::A).netns();
    node.run(|| client::echo(to, canary.as_bytes())).unwrap().unwrap();
    let packets = capture.finish().unwrap();
    assert!(!packets.with(canary.as_bytes()).is_empty(), "the capture is blind");
    packets
}

#[test]
fn no_byte_of_a_flow_between_enrolled_pods_can_be_read_on_the_wire() {
    let Some(scene) = scene("unreadable") else {
        return;
    };
    let (client, server) = scene.pair();
    let _echo = server.serve(8080, server::echo).unwrap();
    let marker = "marker-7c1de0-of-enrolled-pods";

    let packets = captured(&scene, || {
        for to in [server.at4(8080), server.at6(8080)] {
            client.run(|| client::echo(to, &payload(marker))).unwrap().unwrap();
        }
    });

    assert!(packets.bytes() > 4 * payload(marker).len(), "{} bytes", packets.bytes());
    assert_eq!(packets.with(marker.as_bytes()).len(), 0);
    // Nor are the identities: TLS 1.3 encrypts certificates.
    assert_eq!(packets.with(b"spiffe://").len(), 0);
}

#[test]
fn a_flow_to_a_pod_that_opted_out_can_be_read_on_the_wire() {
    let Some(scene) = scene("readable") else {
        return;
    };
    let [server, client] = scene.pods([
        scene.pod("server", Node::B).label("adit.dev/mode", "none"),
        scene.pod("client", Node::A),
    ]);
    let _echo = server.serve(8080, server::echo).unwrap();
    let marker = "marker-91b2aa-of-a-pod-that-opted-out";

    let packets = captured(&scene, || {
        client.run(|| client::echo(server.at4(8080), &payload(marker))).unwrap().unwrap();
    });

    assert!(!packets.with(marker.as_bytes()).is_empty());
}
