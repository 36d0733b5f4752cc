//! AuthorizationPolicy: who gets in.

use std::net::IpAddr;

use adit_e2e::{Node, PodSpec, server};
use serde_json::Value;

use super::{allowed, apply, denied, refused, wait_policy, withdraw};
use crate::support::Scene;

const AUTHORIZATION: &str = "AuthorizationPolicy";

fn scene(ns: &str) -> Option<Scene> {
    Scene::shared("policy", ns)
}

#[test]
fn a_service_account_is_let_in_and_another_one_is_refused_on_both_nodes() {
    let Some(scene) = scene("by-account") else { return };
    let [server, friend, stranger, near] = scene.pods([
        scene.pod("server", Node::B),
        scene.pod("friend", Node::A),
        scene.pod("stranger", Node::A),
        scene.pod("near", Node::B).service_account("stranger"),
    ]);
    let echo = server.serve(8080, server::echo).unwrap();
    let spec = format!(
        "{{ selector: {{ matchLabels: {{ app: server }} }}, rules: [ {{ from: [ {{ source: {{
            principals: [ cluster.local/ns/{}/sa/friend ] }} }} ] }} ] }}",
        scene.ns
    );
    apply(&scene, AUTHORIZATION, "server", &spec);

    for to in [server.at4(8080), server.at6(8080)] {
        allowed(friend.netns(), to);
        refused(stranger.netns(), to);
        refused(near.netns(), to);
    }

    assert_eq!(echo.clients(), [IpAddr::V4(friend.v4()), IpAddr::V6(friend.v6())]);
    let flow = denied(&scene, stranger.v4(), &server, 8080);
    let policy = flow.policy.unwrap();
    let named = format!("AuthorizationPolicy {}/server", scene.ns);
    assert!(policy.starts_with(&named), "{policy}");
    let missed = flow.missed.join("; ");
    assert!(missed.contains("source.principals"), "{missed}");
    // The client's agent was told.
    let flow = scene.outbound(&stranger, &server, 8080);
    assert_eq!((flow.verdict.as_str(), flow.end.as_deref()), ("denied", Some("denied_by_peer")));
    let flow = scene.inbound(&friend, &server, 8080);
    assert!(flow.policy.unwrap().starts_with(&named));
    let agent = scene.cluster.agent(Node::B);
    let name = (AUTHORIZATION, &*scene.ns, "server");
    let shown = wait_policy(agent, name, "to be hit", |policy| policy.hits >= 6);
    assert_eq!((shown.scope.as_str(), shown.state.as_str()), ("workload", "valid"));
    assert_eq!(shown.workloads.len(), 1);
}

#[test]
fn a_namespace_is_refused_and_others_are_let_in() {
    let Some(scene) = scene("by-namespace") else { return };
    scene.cluster.manifests().namespace("unwanted", Some("ambient")).unwrap();
    let [server, client, unwanted] = scene.pods([
        scene.pod("server", Node::B),
        scene.pod("client", Node::A),
        PodSpec::new("unwanted", "client", Node::A),
    ]);
    let _echo = server.serve(8080, server::echo).unwrap();
    apply(
        &scene,
        AUTHORIZATION,
        "no-unwanted",
        "{ action: DENY, rules: [ { from: [ { source: { namespaces: [ unwanted ] } } ] } ] }",
    );

    allowed(client.netns(), server.at4(8080));
    refused(unwanted.netns(), server.at4(8080));

    let flow = denied(&scene, unwanted.v4(), &server, 8080);
    let policy = flow.policy.unwrap();
    let named = format!("AuthorizationPolicy {}/no-unwanted rule ", scene.ns);
    assert!(policy.starts_with(&named), "{policy}");
}

#[test]
fn addresses_are_those_that_the_connection_really_has_in_both_families() {
    let Some(scene) = scene("by-address") else { return };
    let [server, one, two] = scene.pods([
        scene.pod("server", Node::B),
        scene.pod("one", Node::A),
        scene.pod("two", Node::A).label("adit.dev/mode", "none"),
    ]);
    let _echo = server.serve(8080, server::echo).unwrap();
    let spec = format!(
        "{{ action: DENY, rules: [ {{ from: [ {{ source: {{ ipBlocks: [ {}/32, \"{}/128\" ] }} }} ] }} ] }}",
        one.v4(),
        two.v6()
    );
    apply(&scene, AUTHORIZATION, "by-address", &spec);

    refused(one.netns(), server.at4(8080));
    allowed(one.netns(), server.at6(8080));
    allowed(two.netns(), server.at4(8080));
    refused(two.netns(), server.at6(8080));
}

#[test]
fn a_rule_can_be_for_ports_only() {
    let Some(scene) = scene("by-port") else { return };
    let (client, server) = scene.pair();
    let _echoes = [8080, 9090].map(|port| server.serve(port, server::echo).unwrap());
    apply(
        &scene,
        AUTHORIZATION,
        "by-port",
        "{ rules: [ { to: [ { operation: { ports: [ \"8080\" ] } } ] } ] }",
    );

    allowed(client.netns(), server.at4(8080));
    refused(client.netns(), server.at4(9090));
}

#[test]
fn an_empty_spec_lets_nobody_in_and_explain_says_which_policy_it_was() {
    let Some(scene) = scene("default-deny") else { return };
    let [server, client, plain] = scene.pods([
        scene.pod("server", Node::B),
        scene.pod("client", Node::A),
        scene.pod("plain", Node::B).label("adit.dev/mode", "none"),
    ]);
    let echo = server.serve(8080, server::echo).unwrap();
    allowed(client.netns(), server.at4(8080));
    apply(&scene, AUTHORIZATION, "nothing", "{}");

    refused(client.netns(), server.at4(8080));
    refused(plain.netns(), server.at4(8080));

    assert_eq!(echo.connections(), 1);
    let named = format!("AuthorizationPolicy {}/nothing", scene.ns);
    let (from, to) = (client.full_name(), format!("{}:8080", server.full_name()));
    for agent in scene.cluster.agents() {
        let answer: Value = agent.cli(&["explain", &from, &to]).unwrap();
        assert_eq!(answer["verdict"], "denied", "{answer}");
        assert_eq!(answer["route"]["protocol"], "hbone", "{answer}");
        assert!(answer["policy"].as_str().unwrap().starts_with(&named), "{answer}");
        let text = agent.cli_text(&["explain", &from, &to]).unwrap();
        let verdict = format!("DENIED by {named} (denied_no_rule: it has no rule)");
        assert!(text.contains(&verdict), "{text}");
        let plain: Value = agent
            .cli(&["explain", &plain.v4().to_string(), &server.at4(8080).to_string()])
            .unwrap();
        assert_eq!(plain["route"]["protocol"], "plaintext", "{plain}");
        assert_eq!(plain["verdict"], "denied", "{plain}");
    }

    withdraw(&scene, &scene.ns, (AUTHORIZATION, "nothing"));
    allowed(client.netns(), server.at4(8080));
    let answer: Value = scene.cluster.agent(Node::A).cli(&["explain", &from, &to]).unwrap();
    assert_eq!((&answer["verdict"], &answer["policy"]), (&"allowed".into(), &"default".into()));
}
