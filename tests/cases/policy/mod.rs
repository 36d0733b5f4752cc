//! Policies with real pods: who gets in, who does not, what is said of it, and what becomes of flows
//! that are open when a policy changes.

mod hostile;
mod live;
mod membership;
mod modes;
mod network;
mod rules;
mod scale;
mod unruly;

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use adit_e2e::agent::Agent;
use adit_e2e::netns::Netns;
use adit_e2e::view::{Flow, Policy};
use adit_e2e::wait::{SOON, wait_for};
use adit_e2e::{Pod, client};

use crate::support::Scene;

/// A refusal is a reset at once; this is for a machine that is busy.
const AT_ONCE: Duration = Duration::from_secs(2);

/// The promise for open flows.
const WITHIN: Duration = Duration::from_secs(1);

/// Writes a policy of the scene's namespace and waits until all agents have it. `spec` is YAML in
/// flow style.
#[track_caller]
fn apply(scene: &Scene, kind: &str, name: &str, spec: &str) {
    apply_in(scene, &scene.ns, (kind, name), spec);
}

/// The same in another namespace.
#[track_caller]
fn apply_in(scene: &Scene, ns: &str, (kind, name): (&str, &str), spec: &str) {
    put(scene, ns, (kind, name), spec);
    for agent in scene.cluster.agents() {
        wait_policy(agent, (kind, ns, name), "to be in force", |policy| {
            policy.in_force && policy.state != "invalid"
        });
    }
}

/// Writes it and does not wait.
#[track_caller]
fn put(scene: &Scene, ns: &str, (kind, name): (&str, &str), spec: &str) {
    put_annotated(scene, ns, (kind, name), "", spec);
}

#[track_caller]
fn put_annotated(scene: &Scene, ns: &str, (kind, name): (&str, &str), more: &str, spec: &str) {
    let text = format!(
        "apiVersion: security.istio.io/v1\nkind: {kind}\n\
         metadata: {{ name: {name}, namespace: {ns}{more} }}\nspec: {spec}\n"
    );
    scene.cluster.manifests().write(&file(ns, (kind, name)), &text).unwrap();
}

/// Removes a policy and waits until no agent has it.
#[track_caller]
fn withdraw(scene: &Scene, ns: &str, (kind, name): (&str, &str)) {
    scene.cluster.manifests().remove(&file(ns, (kind, name))).unwrap();
    for agent in scene.cluster.agents() {
        wait_for("a policy to be gone", SOON, || {
            let policies = policies(agent);
            let there = policies.iter().any(|policy| policy.is((kind, ns, name)));
            Ok((!there).then_some(()))
        })
        .unwrap();
    }
}

fn file(ns: &str, (kind, name): (&str, &str)) -> String {
    format!("policy-{}-{ns}-{name}", kind.to_ascii_lowercase())
}

#[track_caller]
fn policies(agent: &Agent) -> Vec<Policy> {
    agent.cli(&["policies"]).unwrap()
}

#[track_caller]
fn wait_policy(
    agent: &Agent,
    name: (&str, &str, &str),
    what: &str,
    test: impl Fn(&Policy) -> bool,
) -> Policy {
    let found = wait_for(&format!("{name:?} {what}"), SOON, || {
        let policies: Vec<Policy> = agent.cli(&["policies"])?;
        Ok(policies.into_iter().find(|policy| policy.is(name) && test(policy)))
    });
    found.unwrap()
}

/// A connection from here is let in.
#[track_caller]
fn allowed(from: &Netns, to: SocketAddr) {
    from.run(|| client::echo(to, b"let me in")).unwrap().unwrap();
}

/// A connection from here is reset, and at once.
#[track_caller]
fn refused(from: &Netns, to: SocketAddr) {
    let began = Instant::now();
    let error = from.run(|| client::echo(to, b"let me in")).unwrap().unwrap_err();
    let took = began.elapsed();
    assert!(is_reset(&error), "{error:#}");
    assert!(took < AT_ONCE, "the refusal took {took:?}");
}

fn is_reset(error: &anyhow::Error) -> bool {
    // Whichever call comes first after the reset says it in its own way.
    let kinds =
        [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe, io::ErrorKind::NotConnected];
    let error = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>());
    error.is_some_and(|error| kinds.contains(&error.kind()))
}

/// The server's agent's record of a refused flow from this address.
#[track_caller]
fn denied(scene: &Scene, from: impl Into<IpAddr>, to: &Pod, port: u16) -> Flow {
    let (from, name) = (from.into(), to.full_name());
    let what = format!("a flow {from} -> {name}:{port} denied");
    let flow = scene.cluster.agent(to.node()).wait_flow(&what, |flow| {
        flow.direction == "inbound"
            && flow.source.address == from
            && flow.destination.is(&name)
            && flow.to_port(port)
            && flow.verdict == "denied"
    });
    flow.unwrap()
}

/// A flow that stays open, with one byte sent and echoed.
struct Open(TcpStream);

impl Open {
    #[track_caller]
    fn new(from: &Netns, to: SocketAddr) -> Self {
        let connect = || TcpStream::connect_timeout(&to, Duration::from_secs(10));
        let stream = from.run(connect).unwrap().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut open = Self(stream);
        open.beats();
        open
    }

    /// It lives.
    #[track_caller]
    fn beats(&mut self) {
        self.0.write_all(b"!").unwrap();
        let mut echoed = [0];
        self.0.read_exact(&mut echoed).unwrap();
        assert_eq!(&echoed, b"!");
    }

    /// It is reset without a word from this side. How long after `since`.
    #[track_caller]
    fn reset_after(mut self, since: Instant) -> Duration {
        let read = client::read(&mut self.0, &mut [0]);
        let took = since.elapsed();
        let error = read.expect_err("a reset, not the end of the stream");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset, "after {took:?}");
        took
    }
}

/// Shown by `cargo test -- --nocapture`, and wherever a case fails.
#[expect(clippy::print_stderr, reason = "measured times are the evidence that a case is for")]
fn measured(what: &str, took: Duration) {
    eprintln!("MEASURED {what}: {} ms", took.as_millis());
}
