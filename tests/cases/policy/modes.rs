//! PeerAuthentication: whether plaintext gets in.

use std::net::IpAddr;

use adit_e2e::{Node, Pod, PodSpec, server};

use super::{allowed, apply, apply_in, denied, refused, withdraw};
use crate::support::Scene;

const PEER: &str = "PeerAuthentication";
const STRICT_FOR_SERVER: &str =
    "{ selector: { matchLabels: { app: server } }, mtls: { mode: STRICT } }";

fn scene(ns: &str) -> Option<Scene> {
    Scene::shared("policy", ns)
}

/// An enrolled server on node-b, an enrolled client on node-a, and pods outside of the mesh on both
/// nodes.
struct Cast {
    server: Pod,
    client: Pod,
    plain: Pod,
    plain_near: Pod,
}

#[track_caller]
fn cast(scene: &Scene) -> Cast {
    let [server, client, plain, plain_near] = scene.pods([
        scene.pod("server", Node::B),
        scene.pod("client", Node::A),
        scene.pod("plain", Node::A).label("adit.dev/mode", "none"),
        scene.pod("plain-near", Node::B).label("adit.dev/mode", "none"),
    ]);
    Cast { server, client, plain, plain_near }
}

#[test]
fn permissive_lets_tunnels_and_plaintext_in() {
    let Some(scene) = scene("permissive") else { return };
    let cast = cast(&scene);
    let _echo = cast.server.serve(8080, server::echo).unwrap();
    apply(&scene, PEER, "default", "{ mtls: { mode: PERMISSIVE } }");

    for to in [cast.server.at4(8080), cast.server.at6(8080)] {
        for from in [&cast.client, &cast.plain, &cast.plain_near] {
            allowed(from.netns(), to);
        }
    }

    let flow = scene.inbound(&cast.plain, &cast.server, 8080);
    assert_eq!((flow.verdict.as_str(), flow.policy.as_deref()), ("allowed", Some("default")));
}

#[test]
fn strict_in_a_namespace_refuses_plaintext_from_everywhere_and_lets_tunnels_in() {
    let Some(scene) = scene("strict-ns") else { return };
    let cast = cast(&scene);
    let echo = cast.server.serve(8080, server::echo).unwrap();
    apply(&scene, PEER, "default", "{ mtls: { mode: STRICT } }");

    for to in [cast.server.at4(8080), cast.server.at6(8080)] {
        allowed(cast.client.netns(), to);
        refused(cast.plain.netns(), to);
        refused(cast.plain_near.netns(), to);
        // A process of the node itself, and a host outside of the cluster.
        refused(scene.cluster.agent(Node::B).netns(), to);
        refused(scene.cluster.agent(Node::A).netns(), to);
        refused(scene.cluster.outside(), to);
    }

    assert_eq!(echo.clients(), [IpAddr::V4(cast.client.v4()), IpAddr::V6(cast.client.v6())]);
    let flow = denied(&scene, cast.plain_near.v4(), &cast.server, 8080);
    let policy = format!("PeerAuthentication {}/default", scene.ns);
    assert_eq!(flow.policy.as_deref(), Some(&*policy));
    assert_eq!(flow.protocol, "plaintext");

    withdraw(&scene, &scene.ns, (PEER, "default"));
    allowed(cast.plain.netns(), cast.server.at4(8080));
}

#[test]
fn strict_for_a_workload_is_for_no_other_one() {
    let Some(scene) = scene("strict-pod") else { return };
    let cast = cast(&scene);
    let [other] = scene.pods([scene.pod("other", Node::B)]);
    let _echoes = [&cast.server, &other].map(|pod| pod.serve(8080, server::echo).unwrap());
    apply(&scene, PEER, "server", STRICT_FOR_SERVER);

    refused(cast.plain.netns(), cast.server.at4(8080));
    allowed(cast.client.netns(), cast.server.at4(8080));
    allowed(cast.plain.netns(), other.at4(8080));
}

#[test]
fn a_port_can_have_a_mode_of_its_own() {
    let Some(scene) = scene("strict-port") else { return };
    let cast = cast(&scene);
    let _echoes = [8080, 8081, 8082].map(|port| cast.server.serve(port, server::echo).unwrap());
    apply(
        &scene,
        PEER,
        "server",
        "{ selector: { matchLabels: { app: server } }, mtls: { mode: STRICT },
           portLevelMtls: { 8081: { mode: PERMISSIVE }, 8082: { mode: DISABLE } } }",
    );

    refused(cast.plain.netns(), cast.server.at4(8080));
    for port in [8081, 8082] {
        allowed(cast.plain.netns(), cast.server.at4(port));
        allowed(cast.client.netns(), cast.server.at4(port));
    }

    let [other] = scene.pods([scene.pod("other", Node::B)]);
    let _echoes = [8080, 8081].map(|port| other.serve(port, server::echo).unwrap());
    apply(
        &scene,
        PEER,
        "other",
        "{ selector: { matchLabels: { app: other } }, portLevelMtls: { 8080: { mode: STRICT } } }",
    );
    refused(cast.plain.netns(), other.at4(8080));
    allowed(cast.client.netns(), other.at4(8080));
    allowed(cast.plain.netns(), other.at4(8081));
}

#[test]
fn strict_for_the_mesh_yields_to_a_namespace_and_that_to_a_workload() {
    let Some(scene) = Scene::own("strict-mesh") else { return };
    let cast = cast(&scene);
    scene.cluster.manifests().namespace("elsewhere", Some("ambient")).unwrap();
    let [elsewhere] = scene.pods([PodSpec::new("elsewhere", "server", Node::B)]);
    let _echoes = [&cast.server, &elsewhere].map(|pod| pod.serve(8080, server::echo).unwrap());
    apply_in(&scene, "istio-system", (PEER, "default"), "{ mtls: { mode: STRICT } }");
    refused(cast.plain.netns(), cast.server.at4(8080));
    refused(cast.plain.netns(), elsewhere.at4(8080));
    let flow = denied(&scene, cast.plain.v4(), &cast.server, 8080);
    assert_eq!(flow.policy.as_deref(), Some("PeerAuthentication istio-system/default"));

    apply(&scene, PEER, "default", "{ mtls: { mode: PERMISSIVE } }");
    allowed(cast.plain.netns(), cast.server.at4(8080));
    refused(cast.plain.netns(), elsewhere.at4(8080));

    apply(&scene, PEER, "server", STRICT_FOR_SERVER);
    refused(cast.plain.netns(), cast.server.at4(8080));
    allowed(cast.client.netns(), cast.server.at4(8080));
}
