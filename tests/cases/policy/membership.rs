//! Flows that are open when one of their ends leaves the mesh, comes back, or is somebody else.

use std::net::SocketAddr;
use std::time::Instant;

use adit_e2e::wait::{SOON, wait_until};
use adit_e2e::{Node, Pod, PodSpec, client, server};

use super::live::allow_accounts;
use super::{Open, WITHIN, allowed, apply, denied, measured, put, refused};
use crate::support::Scene;

const PEER: &str = "PeerAuthentication";
const AUTHORIZATION: &str = "AuthorizationPolicy";
const STRICT: &str = "{ mtls: { mode: STRICT } }";
const MODE: &str = "adit.dev/mode";

fn scene(ns: &str) -> Option<Scene> {
    Scene::shared("policy", ns)
}

#[track_caller]
fn protocol(scene: &Scene, pod: &Pod, protocol: &str) {
    scene.cluster.wait_protocol(pod, protocol).unwrap();
}

/// The pod is let in as soon as both agents know of the change.
#[track_caller]
fn soon_let_in(from: &Pod, to: SocketAddr) {
    wait_until("to be let in", SOON, || {
        matches!(from.run(|| client::echo(to, b"let me in")), Ok(Ok(())))
    })
    .unwrap();
}

/// The pod is refused as soon as its own agent no longer captures it.
#[track_caller]
fn soon_refused(from: &Pod, to: SocketAddr) {
    wait_until("to be refused", SOON, || {
        matches!(from.run(|| client::echo(to, b"let me in")), Ok(Err(_)))
    })
    .unwrap();
    refused(from.netns(), to);
}

#[test]
fn a_pod_that_becomes_another_service_account_loses_what_only_the_first_one_may() {
    let Some(scene) = scene("other-account") else { return };
    let [mut server, mut friend, other] = scene.pods([
        scene.pod("server", Node::B),
        scene.pod("friend", Node::A),
        scene.pod("other", Node::A),
    ]);
    let _echo = server.serve(8080, server::echo).unwrap();
    apply(&scene, AUTHORIZATION, "server", &allow_accounts(&scene.ns, &["friend", "other"]));
    let open = Open::new(friend.netns(), server.at4(8080));
    let mut stays = Open::new(other.netns(), server.at4(8080));

    let began = Instant::now();
    friend.set_service_account("stranger").unwrap();
    let took = open.reset_after(began);
    measured("open flow cut by another service account", took);
    assert!(took < WITHIN, "{took:?}");
    protocol(&scene, &friend, "hbone");
    refused(friend.netns(), server.at4(8080));
    let flow = denied(&scene, friend.v4(), &server, 8080);
    assert_eq!(flow.source.identity.as_deref(), Some(&*friend.identity()));
    stays.beats();

    friend.set_service_account("friend").unwrap();
    soon_let_in(&friend, server.at4(8080));

    // The called pod's callers made sure of who it is; it is that no longer.
    let began = Instant::now();
    server.set_service_account("impostor").unwrap();
    let took = stays.reset_after(began);
    measured("open flow cut by the called pod's other service account", took);
    assert!(took < WITHIN, "{took:?}");
    soon_let_in(&friend, server.at4(8080));
}

#[test]
fn a_caller_that_leaves_the_mesh_keeps_its_tunnel_and_gets_in_no_more() {
    let Some(scene) = scene("caller-leaves") else { return };
    let elsewhere = format!("{}-callers", scene.ns);
    let manifests = scene.cluster.manifests();
    manifests.namespace(&elsewhere, Some("ambient")).unwrap();
    let [server, mut one, two] = scene.pods([
        scene.pod("server", Node::B),
        PodSpec::new(&elsewhere, "one", Node::A),
        PodSpec::new(&elsewhere, "two", Node::B),
    ]);
    let _echo = server.serve(8080, server::echo).unwrap();
    apply(&scene, PEER, "default", STRICT);
    apply(&scene, AUTHORIZATION, "server", &allow_accounts(&elsewhere, &["one", "two"]));
    let to = server.at4(8080);
    let mut opens = [&one, &two].map(|pod| Open::new(pod.netns(), to));

    one.set_label(MODE, Some("none")).unwrap();
    soon_refused(&one, to);
    allowed(two.netns(), to);
    manifests.namespace(&elsewhere, None).unwrap();
    soon_refused(&two, to);
    // Who is at the other end of an open tunnel was proved, and still may.
    opens.iter_mut().for_each(Open::beats);

    let began = Instant::now();
    put(&scene, &scene.ns, (AUTHORIZATION, "server"), &allow_accounts(&elsewhere, &["two"]));
    let [first, mut second] = opens;
    let took = first.reset_after(began);
    measured("open flow of a pod outside of the mesh cut", took);
    assert!(took < WITHIN, "{took:?}");
    second.beats();

    manifests.namespace(&elsewhere, Some("ambient")).unwrap();
    protocol(&scene, &two, "hbone");
    allowed(two.netns(), to);
    refused(one.netns(), to);
}

#[test]
fn a_called_pod_that_leaves_the_mesh_and_comes_back_is_under_its_policies_again() {
    let Some(scene) = scene("called-leaves") else { return };
    let [mut server, friend, plain] = scene.pods([
        scene.pod("server", Node::B),
        scene.pod("friend", Node::A),
        scene.pod("plain", Node::A).label(MODE, "none"),
    ]);
    let _echo = server.serve(8080, server::echo).unwrap();
    apply(&scene, PEER, "default", STRICT);
    let to = server.at4(8080);
    refused(plain.netns(), to);
    let open = Open::new(friend.netns(), to);

    server.set_label(MODE, Some("none")).unwrap();
    protocol(&scene, &server, "plaintext");
    // Callers that do not know yet are waited for, and STRICT is in force as long.
    soon_let_in(&plain, to);

    // What came while it was in the mesh is the agent's until it ends.
    let began = Instant::now();
    put(&scene, &scene.ns, (AUTHORIZATION, "nobody"), "{}");
    let took = open.reset_after(began);
    measured("open flow to a pod that left the mesh cut", took);
    assert!(took < WITHIN, "{took:?}");

    server.set_label(MODE, None).unwrap();
    protocol(&scene, &server, "hbone");
    refused(plain.netns(), to);
    refused(friend.netns(), to);
    super::withdraw(&scene, &scene.ns, (AUTHORIZATION, "nobody"));
    allowed(friend.netns(), to);
    refused(plain.netns(), to);
}
