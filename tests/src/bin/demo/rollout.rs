//! The way from plaintext to zero trust, walked in five steps, each with what adit shows of it.

use std::env;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Output;
use std::time::{Duration, Instant};

use adit_e2e::agent::Setup;
use adit_e2e::process::Process;
use adit_e2e::view::{Flow, Policy};
use adit_e2e::wait::{SOON, wait_for, wait_until};
use adit_e2e::{Cluster, Node, Pod, PodSpec};
use anyhow::{Context as _, Result, ensure};

use crate::print::Voice;
use crate::story::show_cli;

const CART: u16 = 8080;
const OTHER: u16 = 9090;

/// Everything that runs. Processes go first, then pods, then the cluster.
struct Stage {
    _servers: Vec<Process>,
    pods: Pods,
    cluster: Cluster,
    tool: PathBuf,
}

struct Pods {
    cart: Pod,
    web: Pod,
    batch: Pod,
    report: Pod,
}

/// Walks it.
pub(crate) fn tell(voice: &Voice) -> Result<()> {
    let stage = raise(voice)?;
    permissive(voice, &stage)?;
    coverage(voice, &stage)?;
    strict(voice, &stage)?;
    allow_list(voice, &stage)?;
    default_deny(voice, &stage)?;
    let errors = stage.cluster.errors();
    ensure!(errors.is_empty(), "errors in the logs:\n{}", errors.join("\n"));
    drop(stage);
    voice.pause();
    voice.say("Processes, namespaces, eBPF programs and files of the demo are gone.");
    Ok(())
}

fn raise(voice: &Voice) -> Result<Stage> {
    voice.say(
        "Two nodes. shop/cart on node-b serves on two ports; shop/web and shop/batch on node-a call\n\
         it, and so does legacy/report, whose namespace does not belong to the mesh.",
    );
    let cluster = Cluster::start_with(&Setup::default())?;
    let manifests = cluster.manifests();
    manifests.namespace("shop", Some("ambient"))?;
    manifests.namespace("legacy", None)?;
    let [cart, web, batch, report] = cluster.pods([
        PodSpec::new("shop", "cart", Node::B),
        PodSpec::new("shop", "web", Node::A),
        PodSpec::new("shop", "batch", Node::A),
        PodSpec::new("legacy", "report", Node::A),
    ])?;
    let tool = env::current_exe().context("own path")?.with_file_name("pod");
    ensure!(tool.is_file(), "{} is missing: build the package adit-e2e", tool.display());
    let mut servers = Vec::new();
    for port in [CART, OTHER] {
        let log = cluster.run().directory().join(format!("cart-{port}.log"));
        let mut command = cart.command(&tool.to_string_lossy());
        command.args(["echo", &port.to_string()]);
        servers.push(Process::start("shop/cart", &mut command, &log)?);
        let to = cart.at4(port);
        wait_until("shop/cart to listen", SOON, || {
            matches!(cart.run(|| TcpStream::connect(to).is_ok()), Ok(true))
        })?;
    }
    Ok(Stage { _servers: servers, pods: Pods { cart, web, batch, report }, cluster, tool })
}

fn permissive(voice: &Voice, stage: &Stage) -> Result<()> {
    voice.step("Permissive: what can be encrypted is, and nothing breaks");
    stage.apply(
        voice,
        ("PeerAuthentication", "shop", "default"),
        "",
        "{ mtls: { mode: PERMISSIVE } }",
    )?;
    for from in [&stage.pods.web, &stage.pods.batch, &stage.pods.report] {
        stage.passes(voice, from, CART)?;
    }
    stage.inbound(&stage.pods.web, "the tunnelled flow", |flow| flow.protocol == "hbone")?;
    stage.inbound(&stage.pods.report, "the plaintext flow", |flow| flow.protocol == "plaintext")?;
    show_cli(voice, stage.node_b(), &["flows", "--direction", "inbound"])
}

fn coverage(voice: &Voice, stage: &Stage) -> Result<()> {
    voice.step("Coverage: who would be shut out, asked before anybody is");
    voice.say("What still comes in plaintext, and why:");
    show_cli(
        voice,
        stage.node_b(),
        &["flows", "--direction", "inbound", "--protocol", "plaintext"],
    )?;
    voice.pause();
    voice.say("STRICT as a dry run: evaluated on every flow, enforced on none.");
    stage.apply(
        voice,
        ("PeerAuthentication", "shop", "strict-trial"),
        "annotations: { adit.dev/dry-run: \"true\" }",
        "{ mtls: { mode: STRICT } }",
    )?;
    for from in [&stage.pods.web, &stage.pods.report] {
        stage.passes(voice, from, CART)?;
    }
    let told = |flow: &Flow| flow.dry_run.as_ref().is_some_and(|dry| dry.contains("would deny"));
    let flow = stage.inbound(&stage.pods.report, "what STRICT would refuse", told)?;
    show_cli(voice, stage.node_b(), &["flows", "--dry-run", "deny"])?;
    voice.note(&format!("legacy/report: {}", flow.dry_run.unwrap_or_default()));
    voice.pause();
    voice.say("So legacy/report has to come along: its namespace gets the label.");
    stage.cluster.manifests().namespace("legacy", Some("ambient"))?;
    stage.cluster.wait_protocol(&stage.pods.report, "hbone")?;
    stage.passes(voice, &stage.pods.report, CART)?;
    let flow = stage.inbound(&stage.pods.report, "the tunnelled flow", |flow| {
        flow.protocol == "hbone" && flow.end.is_some()
    })?;
    ensure!(
        flow.dry_run.as_ref().is_none_or(|dry| !dry.contains("would deny")),
        "a tunnelled flow would be refused by STRICT: {flow:?}"
    );
    voice.good("legacy/report -> shop/cart: hbone; STRICT would let it in");
    Ok(())
}

fn strict(voice: &Voice, stage: &Stage) -> Result<()> {
    voice.step("STRICT, for one namespace: only what proves its identity gets in");
    voice.say("Meanwhile a process of node-a has a plaintext connection to shop/cart open.");
    let node = stage.cluster.agent(Node::A).netns();
    let to = stage.pods.cart.at4(CART);
    let open = node.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(5)))??;
    stage.cluster.agent(Node::B).wait_flow("the open plaintext flow", |flow| {
        flow.direction == "inbound" && flow.protocol == "plaintext" && flow.end.is_none()
    })?;
    let began = Instant::now();
    stage.remove(("PeerAuthentication", "shop", "strict-trial"))?;
    stage.apply(
        voice,
        ("PeerAuthentication", "shop", "default"),
        "",
        "{ mtls: { mode: STRICT } }",
    )?;
    open.set_read_timeout(Some(Duration::from_secs(5)))?;
    let cut = std::io::Read::read(&mut &open, &mut [0]);
    ensure!(cut.is_err(), "the open plaintext flow was not reset");
    voice.good(&format!(
        "it was reset, {} ms after the manifest was written",
        began.elapsed().as_millis()
    ));
    for from in [&stage.pods.web, &stage.pods.report] {
        stage.passes(voice, from, CART)?;
    }
    show_cli(voice, stage.node_b(), &["flows", "--verdict", "denied"])?;
    voice.pause();
    let from = node_address(node, to)?.to_string();
    let text = explain(voice, stage, &from, &format!("shop/cart:{CART}"))?;
    ensure!(text.contains("PeerAuthentication shop/default"), "explain names no policy:\n{text}");
    Ok(())
}

fn allow_list(voice: &Voice, stage: &Stage) -> Result<()> {
    voice.step("An allow-list for shop/cart: first as a dry run, then in force");
    let name = ("AuthorizationPolicy", "shop", "cart");
    let spec = "{ selector: { matchLabels: { app: cart } }, action: ALLOW, rules: [ { from: [ { source: {\n    \
                principals: [ cluster.local/ns/shop/sa/web, cluster.local/ns/legacy/sa/report ] } } ],\n    \
                to: [ { operation: { ports: [ \"8080\" ] } } ] } ] }";
    stage.apply(voice, name, "annotations: { istio.io/dry-run: \"true\" }", spec)?;
    for from in [&stage.pods.web, &stage.pods.batch] {
        stage.passes(voice, from, CART)?;
    }
    let told = |flow: &Flow| flow.dry_run.as_ref().is_some_and(|dry| dry.contains("would deny"));
    stage.inbound(&stage.pods.batch, "what the allow-list would refuse", told)?;
    let asked = ["flows", "--dry-run", "deny", "--policy", "shop/cart"];
    show_cli(voice, stage.node_b(), &asked)?;
    voice.pause();
    voice.say("shop/batch has no business there. So:");
    stage.apply(voice, name, "", spec)?;
    for from in [&stage.pods.web, &stage.pods.report] {
        stage.passes(voice, from, CART)?;
    }
    stage.is_refused(voice, &stage.pods.batch, CART)?;
    let text = explain(voice, stage, "shop/batch", &format!("shop/cart:{CART}"))?;
    ensure!(text.contains("AuthorizationPolicy shop/cart"), "explain names no policy:\n{text}");
    voice.pause();
    voice.say("The client's own agent knows it, too:");
    show_cli(voice, stage.cluster.agent(Node::A), &["flows", "--verdict", "denied"])
}

fn default_deny(voice: &Voice, stage: &Stage) -> Result<()> {
    voice.step("Default deny: what no rule lets in stays out, in the whole namespace");
    stage.apply(voice, ("AuthorizationPolicy", "shop", "nothing"), "", "{}")?;
    for from in [&stage.pods.web, &stage.pods.report] {
        stage.passes(voice, from, CART)?;
    }
    stage.is_refused(voice, &stage.pods.batch, CART)?;
    stage.is_refused(voice, &stage.pods.web, OTHER)?;
    voice.pause();
    show_cli(voice, stage.node_b(), &["policies"])?;
    voice.pause();
    let policies: Vec<Policy> = stage.node_b().cli(&["policies"])?;
    ensure!(policies.iter().all(|policy| policy.state == "valid"), "{policies:?}");
    show_cli(voice, stage.node_b(), &["status"])
}

/// The address that a host calls from.
fn node_address(node: &adit_e2e::netns::Netns, to: SocketAddr) -> Result<std::net::IpAddr> {
    let found = node.run(|| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(to)?;
        socket.local_addr()
    })?;
    Ok(found?.ip())
}

fn explain(voice: &Voice, stage: &Stage, from: &str, to: &str) -> Result<String> {
    let arguments = ["explain", from, to];
    show_cli(voice, stage.node_b(), &arguments)?;
    stage.node_b().cli_text(&arguments)
}

impl Stage {
    fn node_b(&self) -> &adit_e2e::agent::Agent {
        self.cluster.agent(Node::B)
    }

    /// Writes a policy, shows it, and waits until both agents have this version of it.
    fn apply(
        &self,
        voice: &Voice,
        (kind, ns, name): (&str, &str, &str),
        annotations: &str,
        spec: &str,
    ) -> Result<()> {
        let comma = if annotations.is_empty() { "" } else { ", " };
        let text = format!(
            "apiVersion: security.istio.io/v1\nkind: {kind}\n\
             metadata: {{ name: {name}, namespace: {ns}{comma}{annotations} }}\nspec: {spec}\n"
        );
        voice.command("kubectl apply -f -", &text);
        voice.pause();
        self.cluster.manifests().write(&format!("{kind}-{ns}-{name}"), &text)?;
        let dry_run = !annotations.is_empty();
        let action = if spec.contains("STRICT") {
            "STRICT"
        } else if spec.contains("PERMISSIVE") {
            "PERMISSIVE"
        } else {
            "ALLOW"
        };
        for agent in self.cluster.agents() {
            wait_for(&format!("{kind} {ns}/{name}"), SOON, || {
                let policies: Vec<Policy> = agent.cli(&["policies"])?;
                let mut policies = policies.iter();
                let there = policies.any(|policy| {
                    policy.is((kind, ns, name))
                        && policy.dry_run == dry_run
                        && policy.action.as_deref() == Some(action)
                });
                Ok(there.then_some(()))
            })?;
        }
        Ok(())
    }

    fn remove(&self, (kind, ns, name): (&str, &str, &str)) -> Result<()> {
        self.cluster.manifests().remove(&format!("{kind}-{ns}-{name}"))
    }

    fn call(&self, from: &Pod, port: u16) -> Result<Output> {
        let to = self.pods.cart.at4(port).to_string();
        let mut command = from.command(&self.tool.to_string_lossy());
        command.args(["send", &to, "hello"]).output().context("cannot start the client")
    }

    fn passes(&self, voice: &Voice, from: &Pod, port: u16) -> Result<()> {
        let output = self.call(from, port)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{} was not let in: {said}", from.full_name());
        voice.good(&format!("{} -> shop/cart:{port}: answered", from.full_name()));
        Ok(())
    }

    fn is_refused(&self, voice: &Voice, from: &Pod, port: u16) -> Result<()> {
        let began = Instant::now();
        let output = self.call(from, port)?;
        let took = began.elapsed().as_millis();
        ensure!(!output.status.success(), "{} was let in", from.full_name());
        voice.note(&format!("{} -> shop/cart:{port}: reset after {took} ms", from.full_name()));
        Ok(())
    }

    /// The newest flow from this pod that the server's agent shows so.
    fn inbound(&self, from: &Pod, what: &str, test: impl Fn(&Flow) -> bool) -> Result<Flow> {
        let (source, destination) = (from.full_name(), self.pods.cart.full_name());
        self.node_b().wait_flow(&format!("{what} of {source}"), |flow| {
            flow.is("inbound", &source, &destination) && test(flow)
        })
    }
}
