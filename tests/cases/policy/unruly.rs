//! Policies that were broken while no agent looked.

use adit_e2e::{Node, server};

use super::live::allow_accounts;
use super::{allowed, apply, denied, put, refused, wait_policy};
use crate::support::Scene;

const PEER: &str = "PeerAuthentication";
const AUTHORIZATION: &str = "AuthorizationPolicy";

#[test]
fn policies_that_were_broken_while_the_agent_was_away_open_nothing_up() {
    let Some(scene) = Scene::own("broken-away") else { return };
    let [server, friend, stranger, plain] = scene.pods([
        scene.pod("server", Node::B),
        scene.pod("friend", Node::A),
        scene.pod("stranger", Node::A),
        scene.pod("plain", Node::A).label("adit.dev/mode", "none"),
    ]);
    let echo = server.serve(8080, server::echo).unwrap();
    let allow = allow_accounts(&scene.ns, &["friend"]);
    apply(&scene, AUTHORIZATION, "server", &allow);
    let on_9999 =
        "{ selector: { matchLabels: { app: server } }, portLevelMtls: { 9999: { mode: STRICT } } }";
    apply(&scene, PEER, "server", on_9999);
    allowed(friend.netns(), server.at4(8080));
    refused(stranger.netns(), server.at4(8080));
    let agent = scene.cluster.agent(Node::B);
    agent.kill().unwrap();

    // A number where a text belongs: read as no ports at all it would let everybody in.
    let broken = "{ rules: [ { to: [ { operation: { ports: [ 8080 ] } } ] } ] }";
    put(&scene, &scene.ns, (AUTHORIZATION, "server"), broken);
    put(&scene, &scene.ns, (PEER, "server"), &on_9999.replace("STRICT", "strict"));
    agent.start().unwrap();
    scene.cluster.wait_settled(&server).unwrap();

    for kind in [AUTHORIZATION, PEER] {
        wait_policy(agent, (kind, &scene.ns, "server"), "to be closed", |policy| policy.closed);
    }
    for from in [&stranger, &friend, &plain] {
        refused(from.netns(), server.at4(8080));
    }
    assert_eq!(echo.connections(), 1);
    let flow = denied(&scene, plain.v4(), &server, 8080);
    assert_eq!(flow.policy.unwrap(), format!("PeerAuthentication {}/server", scene.ns));
    let status = agent.status().unwrap();
    assert_eq!(status["healthy"], false, "{status}");

    apply(&scene, AUTHORIZATION, "server", &allow);
    allowed(friend.netns(), server.at4(8080));
    refused(stranger.netns(), server.at4(8080));
}
