//! Flows that are open when a policy comes, changes or goes, and how soon that is in force.

use std::time::{Duration, Instant};

use adit_e2e::view::Flow;
use adit_e2e::{Node, Pod, client, server};

use super::{
    Open, WITHIN, allowed, apply, denied, measured, put, put_annotated, refused, wait_policy,
};
use crate::support::Scene;

const PEER: &str = "PeerAuthentication";
const AUTHORIZATION: &str = "AuthorizationPolicy";

fn scene(ns: &str) -> Option<Scene> {
    Scene::shared("policy", ns)
}

pub(super) fn allow_accounts(ns: &str, accounts: &[&str]) -> String {
    let principals: Vec<String> =
        accounts.iter().map(|account| format!("cluster.local/ns/{ns}/sa/{account}")).collect();
    let principals = principals.join(", ");
    format!("{{ rules: [ {{ from: [ {{ source: {{ principals: [ {principals} ] }} }} ] }} ] }}")
}

/// The record of a flow that policy cut.
#[track_caller]
fn cut(scene: &Scene, from: &Pod, to: &Pod) -> Flow {
    let flow = denied(scene, from.v4(), to, 8080);
    assert!(flow.bytes_sent > 0, "it was open: {flow:?}");
    flow
}

#[test]
fn a_rule_that_goes_cuts_the_flows_that_it_let_in_and_no_others() {
    let Some(scene) = scene("rule-goes") else { return };
    let [server, friend, other, near] = scene.pods([
        scene.pod("server", Node::B),
        scene.pod("friend", Node::A),
        scene.pod("other", Node::A),
        scene.pod("near", Node::B).service_account("friend"),
    ]);
    let _echo = server.serve(8080, server::echo).unwrap();
    apply(&scene, AUTHORIZATION, "server", &allow_accounts(&scene.ns, &["friend", "other"]));
    let (across, same_node) =
        (Open::new(friend.netns(), server.at4(8080)), Open::new(near.netns(), server.at4(8080)));
    let mut stays = Open::new(other.netns(), server.at4(8080));

    let began = Instant::now();
    put(&scene, &scene.ns, (AUTHORIZATION, "server"), &allow_accounts(&scene.ns, &["other"]));

    for (what, open) in [("across nodes", across), ("on one node", same_node)] {
        let took = open.reset_after(began);
        measured(&format!("open tunnelled flow cut, {what}"), took);
        assert!(took < WITHIN, "{what}: {took:?}");
    }
    stays.beats();
    // The client's agent was told why.
    let told = scene.outbound(&friend, &server, 8080);
    assert_eq!((told.verdict.as_str(), told.end.as_deref()), ("denied", Some("denied_by_peer")));
    assert!(told.bytes_sent > 0, "{told:?}");
    for from in [&friend, &near] {
        let flow = cut(&scene, from, &server);
        let named = format!("AuthorizationPolicy {}/server", scene.ns);
        assert!(flow.policy.as_ref().unwrap().starts_with(&named), "{flow:?}");
    }
    refused(friend.netns(), server.at4(8080));
    stays.beats();
}

#[test]
fn plaintext_flows_that_are_open_when_strict_arrives_are_cut() {
    let Some(scene) = scene("strict-arrives") else { return };
    let [server, client, plain, near] = scene.pods([
        scene.pod("server", Node::B),
        scene.pod("client", Node::A),
        scene.pod("plain", Node::A).label("adit.dev/mode", "none"),
        scene.pod("near", Node::B).label("adit.dev/mode", "none"),
    ]);
    let _echo = server.serve(8080, server::echo).unwrap();
    let node = scene.cluster.agent(Node::B).netns();
    let opens = [
        ("across nodes", Open::new(plain.netns(), server.at4(8080))),
        ("across nodes, IPv6", Open::new(plain.netns(), server.at6(8080))),
        ("on one node", Open::new(near.netns(), server.at4(8080))),
        ("from the node itself", Open::new(node, server.at4(8080))),
    ];
    let mut stays = Open::new(client.netns(), server.at4(8080));

    let began = Instant::now();
    put(&scene, &scene.ns, (PEER, "default"), "{ mtls: { mode: STRICT } }");

    for (what, open) in opens {
        let took = open.reset_after(began);
        measured(&format!("open plaintext flow cut by STRICT, {what}"), took);
        assert!(took < WITHIN, "{what}: {took:?}");
    }
    stays.beats();
    let flow = cut(&scene, &plain, &server);
    let policy = format!("PeerAuthentication {}/default", scene.ns);
    assert_eq!(flow.policy.as_deref(), Some(&*policy));
}

#[test]
fn a_policy_with_a_selector_cuts_open_flows_when_it_arrives_and_when_a_label_puts_a_pod_under_it() {
    let Some(scene) = scene("selector-arrives") else { return };
    let [server, mut later, client] = scene.pods([
        scene.pod("server", Node::B),
        scene.pod("later", Node::B),
        scene.pod("client", Node::A),
    ]);
    let _echoes = [&server, &later].map(|pod| pod.serve(8080, server::echo).unwrap());
    let first = Open::new(client.netns(), server.at4(8080));
    let mut second = Open::new(client.netns(), later.at4(8080));

    let began = Instant::now();
    put(
        &scene,
        &scene.ns,
        (AUTHORIZATION, "locked"),
        "{ selector: { matchLabels: { app: server } } }",
    );
    let took = first.reset_after(began);
    measured("open flow cut by a policy with a selector", took);
    assert!(took < WITHIN, "{took:?}");
    second.beats();

    let began = Instant::now();
    later.set_label("app", Some("server")).unwrap();
    let took = second.reset_after(began);
    measured("open flow cut by a label", took);
    assert!(took < WITHIN, "{took:?}");
    cut(&scene, &client, &later);
}

#[test]
fn a_dry_run_cuts_nothing_and_says_what_it_would_do() {
    let Some(scene) = scene("dry-run") else { return };
    let [server, client, plain] = scene.pods([
        scene.pod("server", Node::B),
        scene.pod("client", Node::A),
        scene.pod("plain", Node::A).label("adit.dev/mode", "none"),
    ]);
    let _echo = server.serve(8080, server::echo).unwrap();
    let mut tunnelled = Open::new(client.netns(), server.at4(8080));
    let mut plaintext = Open::new(plain.netns(), server.at4(8080));
    put_annotated(
        &scene,
        &scene.ns,
        (AUTHORIZATION, "nobody"),
        ", annotations: { istio.io/dry-run: \"true\" }",
        "{ action: DENY, rules: [ { from: [ { source: { principals: [ \"*\" ] } } ] } ] }",
    );
    put_annotated(
        &scene,
        &scene.ns,
        (PEER, "default"),
        ", annotations: { adit.dev/dry-run: \"true\" }",
        "{ mtls: { mode: STRICT } }",
    );
    let agent = scene.cluster.agent(Node::B);
    for (kind, name) in [(AUTHORIZATION, "nobody"), (PEER, "default")] {
        wait_policy(agent, (kind, &scene.ns, name), "to be evaluated", |policy| policy.dry_run);
    }

    for (from, policy) in [
        (&client, format!("AuthorizationPolicy {}/nobody rule ", scene.ns)),
        (&plain, format!("PeerAuthentication {}/default", scene.ns)),
    ] {
        // The open flow, decided again, and a new one.
        let (source, destination) = (from.full_name(), server.full_name());
        let would = format!("would deny by {policy}");
        let open = agent.wait_flow("what a dry run would do with an open flow", |flow| {
            flow.is("inbound", &source, &destination)
                && flow.end.is_none()
                && flow.dry_run.as_ref().is_some_and(|text| text.starts_with(&would))
        });
        assert_eq!(open.unwrap().verdict, "allowed");
        allowed(from.netns(), server.at4(8080));
        let ended = scene.inbound(from, &server, 8080);
        assert!(ended.dry_run.unwrap().starts_with(&would));
    }
    tunnelled.beats();
    plaintext.beats();
    let name = (AUTHORIZATION, &*scene.ns, "nobody");
    let shown = wait_policy(agent, name, "to be hit", |policy| policy.dry_run_hits > 0);
    assert_eq!(shown.hits, 0);
}

#[test]
fn a_policy_that_becomes_invalid_stays_in_force_as_it_was() {
    let Some(scene) = scene("last-good") else { return };
    let [server, friend, stranger] = scene.pods([
        scene.pod("server", Node::B),
        scene.pod("friend", Node::A),
        scene.pod("stranger", Node::A),
    ]);
    let _echo = server.serve(8080, server::echo).unwrap();
    apply(&scene, AUTHORIZATION, "server", &allow_accounts(&scene.ns, &["friend"]));
    let mut open = Open::new(friend.netns(), server.at4(8080));
    put(
        &scene,
        &scene.ns,
        (AUTHORIZATION, "server"),
        "{ rules: [ { to: [ { operation: { ports: [ http ] } } ] } ] }",
    );

    let agent = scene.cluster.agent(Node::B);
    let name = (AUTHORIZATION, &*scene.ns, "server");
    let shown = wait_policy(agent, name, "to be invalid", |policy| policy.state == "invalid");
    assert!(shown.in_force);
    let reason = shown.reasons.join("; ");
    assert!(reason.contains("spec.rules[0].to[0].operation.ports[0]: \"http\""), "{reason}");
    open.beats();
    allowed(friend.netns(), server.at4(8080));
    refused(stranger.netns(), server.at4(8080));

    put(&scene, &scene.ns, (AUTHORIZATION, "server"), &allow_accounts(&scene.ns, &["stranger"]));
    open.reset_after(Instant::now());
    wait_policy(agent, name, "to be valid again", |policy| policy.state == "valid");
    allowed(stranger.netns(), server.at4(8080));
}

#[test]
fn a_policy_is_in_force_within_a_fifth_of_a_second() {
    let Some(scene) = scene("effective") else { return };
    let (client, server) = scene.pair();
    let _echo = server.serve(8080, server::echo).unwrap();
    let nobody = (AUTHORIZATION, "nobody");
    let mut times = Vec::new();
    for _ in 0..5 {
        allowed(client.netns(), server.at4(8080));
        let began = Instant::now();
        put(&scene, &scene.ns, nobody, "{}");
        let to = server.at4(8080);
        let took = client.run(|| {
            while client::echo(to, b"still?").is_ok() {}
            began.elapsed()
        });
        times.push(took.unwrap());
        super::withdraw(&scene, &scene.ns, nobody);
    }
    times.sort();
    for took in &times {
        measured("a default-deny is in force", *took);
    }
    // The fastest of five: the others say how busy this machine is.
    assert!(times[0] < Duration::from_millis(200), "{times:?}");
}
