//! Policies that are half written, change all the time, or were broken while no agent looked; and
//! questions that nobody would ask who means well.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use adit_e2e::view::Flow;
use adit_e2e::{Node, Pod, client, server};

use super::live::allow_accounts;
use super::{
    Open, allowed, apply, denied, file, measured, put, put_annotated, refused, wait_policy,
};
use crate::support::Scene;

const PEER: &str = "PeerAuthentication";
const AUTHORIZATION: &str = "AuthorizationPolicy";
const CHANGES: usize = 300;
/// After so long calls no longer come through.
const LONG: Duration = Duration::from_secs(60);

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

/// Every change leaves the friend permitted and the stranger refused.
#[test]
fn a_hundred_changes_a_second_disturb_no_flow_and_let_nobody_in() {
    let Some(scene) = Scene::own("flapping") else { return };
    let [mut server, friend, stranger] = scene.pods([
        scene.pod("server", Node::B),
        scene.pod("friend", Node::A),
        scene.pod("stranger", Node::A),
    ]);
    let _echo = server.serve(8080, server::echo).unwrap();
    let ns = scene.ns.clone();
    let name = (AUTHORIZATION, "server");
    apply(&scene, AUTHORIZATION, "server", &allow_accounts(&ns, &["friend"]));
    apply(&scene, AUTHORIZATION, "flap", "{ selector: { matchLabels: { flap: \"on\" } } }");
    let mut open = Open::new(friend.netns(), server.at4(8080));
    let (to, stop) = (server.at4(8080), AtomicBool::new(false));
    let kept_out = AtomicUsize::new(0);
    let (call, came_through) = mpsc::channel();
    std::thread::scope(|scope| {
        let calls = scope.spawn(|| keep_calling(&friend, to, &stop, &call));
        let knocks = scope.spawn(|| keep_knocking(&stranger, to, &stop, &kept_out));
        let began = Instant::now();
        let place = scene.cluster.manifests().directory().join(format!("{}.yaml", file(&ns, name)));
        let mut changes = 0;
        while changes < CHANGES {
            change(&scene, &mut server, &place, changes);
            changes += 1;
            // As often as a call comes through: about a hundred times a second.
            if came_through.recv_timeout(LONG).is_err() {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
        calls.join().unwrap();
        knocks.join().unwrap();
        open.beats();
        measured(&format!("{changes} changes, {kept_out:?} calls refused"), began.elapsed());
        assert_eq!(changes, CHANGES, "calls no longer come through");
    });
    assert!(kept_out.load(Ordering::Relaxed) > 0);

    // The last change counts.
    let began = Instant::now();
    server.set_label("flap", Some("on")).unwrap();
    put(&scene, &ns, name, "{}");
    open.reset_after(began);
    refused(friend.netns(), to);
    let agent = scene.cluster.agent(Node::A);
    let denied = |flow: &Flow| flow.end.as_deref() == Some("denied_by_peer");
    let flow = agent.wait_flow("the friend's refusal", |flow| {
        denied(flow) && flow.source.is(&friend.full_name())
    });
    flow.unwrap();
}

/// One of five kinds of change.
fn change(scene: &Scene, server: &mut Pod, place: &Path, round: usize) {
    let (ns, name) = (scene.ns.as_str(), (AUTHORIZATION, "server"));
    match round % 5 {
        // Half of it, and then the rest: not by renaming.
        0 => {
            let text = fs::read_to_string(place).unwrap();
            fs::write(place, &text[..text.len() - 10]).unwrap();
            std::thread::yield_now();
            fs::write(place, &text).unwrap();
        }
        1 => {
            let other = format!("nobody-{round}");
            put(scene, ns, name, &allow_accounts(ns, &["friend", &other]));
        }
        2 => server.set_label("version", Some(&format!("v{round}"))).unwrap(),
        3 => {
            let dry = if round.is_multiple_of(2) { "true" } else { "false" };
            let dry = format!(", annotations: {{ istio.io/dry-run: \"{dry}\" }}");
            let spec = "{ action: DENY, rules: [ { from: [ { source: \
                        { namespaces: [ nowhere ] } } ] } ] }";
            put_annotated(scene, ns, (AUTHORIZATION, "dry"), &dry, spec);
        }
        _ => {
            let root = if round.is_multiple_of(2) { "adit-system" } else { "istio-system" };
            let spec = format!("{{ mtls: {{ mode: {} }} }}", ["STRICT", "UNSET"][round % 2]);
            put(scene, root, (PEER, "default"), &spec);
        }
    }
}

/// Calls until it is told to stop; every call comes through, and is told.
fn keep_calling(friend: &Pod, to: SocketAddr, stop: &AtomicBool, call: &mpsc::Sender<()>) {
    let calls = || {
        while !stop.load(Ordering::Relaxed) {
            client::echo(to, b"through all of it").unwrap();
            let _stopped = call.send(());
        }
    };
    friend.run(calls).unwrap();
}

/// Calls until it is told to stop; no call comes through.
fn keep_knocking(stranger: &Pod, to: SocketAddr, stop: &AtomicBool, kept_out: &AtomicUsize) {
    let knocks = || {
        while !stop.load(Ordering::Relaxed) {
            client::echo(to, b"and now?").unwrap_err();
            kept_out.fetch_add(1, Ordering::Relaxed);
        }
    };
    stranger.run(knocks).unwrap();
}

#[test]
fn explain_answers_hostile_questions_with_an_error_that_names_them() {
    let Some(scene) = Scene::shared("policy", "questions") else { return };
    let (client, server) = scene.pair();
    let to = format!("{}:8080", server.full_name());
    let agent = scene.cluster.agent(Node::A);
    let long = "x".repeat(100_000);
    let from = client.full_name();
    for (source, destination) in [
        ("shop/nobody", &*to),
        (&*long, &to),
        ("", &to),
        ("a/b/c", &to),
        ("spiffe://", &to),
        ("\u{202e}/\u{7}\u{1b}[31m", &to),
        ("10.0.0.256", &to),
        (&from, "10.0.0.1"),
        (&from, "10.0.0.1:0"),
        (&from, "10.0.0.1:65536"),
        (&from, "[fe80::1%eth0]:80"),
        (&from, &long),
        (&from, "nobody/at-home:80"),
        (&from, ":80"),
        (&from, "shop/cart:8080&protocol=hbone"),
    ] {
        let error = agent.cli_text(&["explain", source, destination]).unwrap_err().to_string();
        // What the helper itself repeats of the arguments does not count.
        let said = error.rsplit_once("failed: ").unwrap().1;
        assert!(!said.is_empty() && !said.contains("panicked"), "{said}");
        assert!(!said.contains(['\u{7}', '\u{1b}', '\u{202e}']), "{said:?}");
        assert!(said.len() < 2000, "{} bytes for {source:.40} {destination:.40}", said.len());
    }
    for command in [vec!["policies", "--workload", "\u{1b}[31m"], vec!["policies", "-n", &long]] {
        let error = agent.cli_text(&command);
        assert!(error.is_err() || !error.unwrap().contains('\u{1b}'));
    }
    agent.cli_text(&["explain", &from, &to]).unwrap();
}
