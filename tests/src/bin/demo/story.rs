//! The story itself.

use std::env;
use std::net::SocketAddr;
use std::path::PathBuf;

use adit_e2e::agent::{Agent, Setup};
use adit_e2e::capture::{Packets, hexdump};
use adit_e2e::process::Process;
use adit_e2e::view::Flow;
use adit_e2e::wait::{SOON, wait_until};
use adit_e2e::{Cluster, Node, Pod, PodSpec};
use anyhow::{Context as _, Result, bail, ensure};

use crate::print::Voice;

/// What must not be readable.
const SECRET: &str = "card=4111-1111-1111-1111";
const HTTP: u16 = 8080;
const ECHO: u16 = 7000;
const HBONE: u16 = 15008;

/// Everything that runs.
struct Stage {
    /// Processes go first, then pods, then the cluster.
    _servers: Vec<Process>,
    pods: Pods,
    cluster: Cluster,
    tool: PathBuf,
}

struct Pods {
    client: Pod,
    web: Pod,
    echo: Pod,
    legacy: Pod,
}

/// Tells it from the beginning to the end.
pub(crate) fn tell(voice: &Voice, keep: bool) -> Result<()> {
    let stage = raise(voice)?;
    enrolled_traffic(voice, &stage)?;
    plaintext_to_legacy(voice, &stage)?;
    label_taken_away(voice, &stage)?;
    let errors = stage.cluster.errors();
    ensure!(errors.is_empty(), "errors in the logs:\n{}", errors.join("\n"));
    if keep {
        return leave_running(voice, stage);
    }
    voice.step("The end");
    drop(stage);
    voice.say("Processes, namespaces, eBPF programs and files of the demo are gone.");
    Ok(())
}

fn raise(voice: &Voice) -> Result<Stage> {
    voice.step("Two nodes, a CA, an agent on each node");
    voice.say(
        "Nodes and pods are network namespaces of this machine; the CA and the agents are\n\
         processes of the real `adit` binary, and the eBPF programs are loaded in its kernel.",
    );
    let cluster = Cluster::start_with(&Setup::default())?;
    for agent in cluster.agents() {
        voice.good(&format!("{} runs an agent", agent.node().name()));
    }

    voice.step("Pods, in namespaces with and without the label adit.dev/mode=ambient");
    let manifests = cluster.manifests();
    manifests.namespace("shop", Some("ambient"))?;
    manifests.namespace("backend", Some("ambient"))?;
    manifests.namespace("legacy", None)?;
    let [web, echo, legacy, client] = cluster.pods([
        PodSpec::new("backend", "web", Node::B),
        PodSpec::new("backend", "echo", Node::A),
        PodSpec::new("legacy", "db", Node::B),
        PodSpec::new("shop", "client", Node::A),
    ])?;
    let tool = env::current_exe().context("own path")?.with_file_name("pod");
    ensure!(tool.is_file(), "{} is missing: build the package adit-e2e", tool.display());
    let mut servers = Vec::new();
    for (pod, what, port) in
        [(&web, "serve-http", HTTP), (&echo, "echo", ECHO), (&legacy, "echo", ECHO)]
    {
        let log = cluster.run().directory().join(format!("{}.log", pod.name()));
        let mut command = pod.command(&tool.to_string_lossy());
        command.args([what, &port.to_string()]);
        servers.push(Process::start(&pod.full_name(), &mut command, &log)?);
        let to = pod.at4(port);
        wait_until(&format!("{} to listen", pod.full_name()), SOON, || {
            let tried = pod.run(|| std::net::TcpStream::connect(to).is_ok());
            matches!(tried, Ok(true))
        })?;
    }
    show_pods(voice, &[&client, &web, &echo, &legacy]);
    show_cli(voice, cluster.agent(Node::A), &["workloads"])?;
    Ok(Stage { _servers: servers, pods: Pods { client, web, echo, legacy }, cluster, tool })
}

fn show_pods(voice: &Voice, pods: &[&Pod]) {
    for pod in pods {
        let name = pod.full_name();
        let (node, v4, v6) = (pod.node().name(), pod.v4(), pod.v6());
        voice.say(&format!("{name:<12}  on {node}  {v4:<12}  {v6}"));
    }
}

fn enrolled_traffic(voice: &Voice, stage: &Stage) -> Result<()> {
    let Stage { cluster, pods, .. } = stage;
    voice.step("Traffic between enrolled pods: across the nodes and on one node, IPv4 and IPv6");
    let capture = cluster.capture()?;
    for to in [pods.web.at4(HTTP), pods.web.at6(HTTP)] {
        stage.client(voice, &["get", &to.to_string(), &format!("/pay?{SECRET}")])?;
    }
    for to in [pods.echo.at4(ECHO), pods.echo.at6(ECHO)] {
        stage.client(voice, &["send", &to.to_string(), SECRET])?;
    }
    voice.pause();
    voice.say("The web server greets the client by its own address: it is kept.");
    let packets = capture.finish()?;

    voice.step("What adit saw");
    for (server, port) in [(&pods.web, HTTP), (&pods.echo, ECHO)] {
        let flow = stage.ended_flow(server, port, "hbone")?;
        ensure!(
            flow.source.identity == Some(pods.client.identity())
                && flow.destination.identity == Some(server.identity()),
            "the identities are not those of the pods: {flow:?}"
        );
    }
    show_cli(voice, cluster.agent(Node::A), &["flows", "-o", "wide"])?;
    voice.pause();
    voice.say("Every connection went through a tunnel, and both ends proved who they are:");
    let shown = stage.ended_flow(&pods.web, HTTP, "hbone")?;
    explain_tunnelled(voice, &shown);

    voice.step("What a stranger saw on the network between the nodes");
    let found = packets.with(SECRET.as_bytes()).len();
    ensure!(found == 0, "{found} packets between enrolled pods can be read");
    tally(voice, &packets);
    voice.good(&format!("packets that contain {SECRET:?}: none"));
    let sample = packets.find(|packet| is_data_to(packet, HBONE));
    let sample = sample.context("no packet of a tunnel was captured")?;
    voice.say("One of them, to the tunnel's port 15008:");
    voice.say(&hexdump(sample, 160));
    Ok(())
}

fn plaintext_to_legacy(voice: &Voice, stage: &Stage) -> Result<()> {
    let Stage { cluster, pods, .. } = stage;
    voice.step("Traffic to a pod that is not enrolled");
    let capture = cluster.capture()?;
    let to = pods.legacy.at4(ECHO);
    stage.client(voice, &["send", &to.to_string(), SECRET])?;
    let flow = stage.ended_flow(&pods.legacy, ECHO, "plaintext")?;
    show_cli(voice, cluster.agent(Node::A), &["flows", "--protocol", "plaintext"])?;
    voice.pause();
    explain_plaintext(voice, &flow)?;
    show_readable(voice, &capture.finish()?)
}

fn label_taken_away(voice: &Voice, stage: &Stage) -> Result<()> {
    let Stage { cluster, pods, .. } = stage;
    voice.step("The label is taken from the namespace backend");
    cluster.manifests().namespace("backend", None)?;
    for pod in [&pods.web, &pods.echo] {
        cluster.wait_protocol(pod, "plaintext")?;
    }
    voice.say("Its pods left the mesh while they ran. The same request as before:");
    let capture = cluster.capture()?;
    let to = pods.web.at4(HTTP);
    stage.client(voice, &["get", &to.to_string(), &format!("/pay?{SECRET}")])?;
    let flow = stage.ended_flow(&pods.web, HTTP, "plaintext")?;
    show_cli(voice, cluster.agent(Node::A), &["flows", "--protocol", "plaintext"])?;
    voice.pause();
    explain_plaintext(voice, &flow)?;
    show_readable(voice, &capture.finish()?)
}

fn leave_running(voice: &Voice, stage: Stage) -> Result<()> {
    stage.cluster.manifests().namespace("backend", Some("ambient"))?;
    for pod in [&stage.pods.web, &stage.pods.echo] {
        stage.cluster.wait_protocol(pod, "hbone")?;
    }
    stage.cluster.run().keep()?;
    voice.step("It goes on running, with the label back in its place");
    let adit = adit_e2e::requirements::adit_binary()?;
    let (adit, tool) = (adit.display(), stage.tool.display());
    let agent = stage.cluster.agent(Node::A).socket().display();
    let client = stage.pods.client.netns().path();
    let web = stage.pods.web.at4(HTTP);
    for command in [
        format!("{adit} --socket {agent} status"),
        format!("{adit} --socket {agent} flows --follow"),
        format!("{adit} --socket {agent} tunnels"),
        format!("{adit} --socket {agent} certs"),
        format!("nsenter --net={} {tool} get {web} /", client.display()),
        format!(
            "ls {}   # manifests: change them",
            stage.cluster.manifests().directory().display()
        ),
        "cargo xtask demo --clean   # removes it".to_owned(),
    ] {
        voice.say(&command);
    }
    // Its processes are to outlive this one.
    std::mem::forget(stage);
    Ok(())
}

impl Stage {
    /// Runs the client program in the client's pod, and shows it.
    fn client(&self, voice: &Voice, arguments: &[&str]) -> Result<()> {
        let output =
            self.pods.client.command(&self.tool.to_string_lossy()).args(arguments).output();
        let output = output.context("cannot start the client")?;
        let printed = String::from_utf8_lossy(&output.stdout);
        voice.command(&format!("[in shop/client] pod {}", arguments.join(" ")), &printed);
        if !output.status.success() {
            bail!("the client failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// The newest ended flow from the client to this server, which must be carried so.
    fn ended_flow(&self, server: &Pod, port: u16, protocol: &str) -> Result<Flow> {
        let (source, destination) = (self.pods.client.full_name(), server.full_name());
        let what = format!("the {protocol} flow {source} -> {destination}:{port}");
        self.cluster.agent(Node::A).wait_flow(&what, |flow| {
            flow.is("outbound", &source, &destination)
                && flow.to_port(port)
                && flow.protocol == protocol
                && flow.end.is_some()
        })
    }
}

pub(crate) fn show_cli(voice: &Voice, agent: &Agent, arguments: &[&str]) -> Result<()> {
    let printed = agent.cli_text(arguments)?;
    let node = agent.node().name();
    voice.command(&format!("adit {}   # on {node}", arguments.join(" ")), &printed);
    Ok(())
}

fn explain_tunnelled(voice: &Voice, flow: &Flow) {
    let unknown = || "unknown".to_owned();
    let source = flow.source.identity.clone().unwrap_or_else(unknown);
    let destination = flow.destination.identity.clone().unwrap_or_else(unknown);
    voice.good(&format!("{source}\n   -> {destination}"));
    if let Some(tls) = &flow.tls {
        voice.good(&format!("{}, {}, {}", tls.version, tls.group, tls.cipher));
    }
}

fn explain_plaintext(voice: &Voice, flow: &Flow) -> Result<()> {
    let reason = flow.plaintext_reason.as_deref().context("a plaintext flow without a reason")?;
    let to = SocketAddr::new(flow.destination.address, flow.destination.port);
    voice.note(&format!("To {to} in plaintext, because: {reason}"));
    Ok(())
}

fn tally(voice: &Voice, packets: &Packets) {
    let (count, bytes) = (packets.len(), packets.bytes());
    voice.say(&format!("{count} packets with {bytes} bytes were captured."));
}

fn show_readable(voice: &Voice, packets: &Packets) -> Result<()> {
    let readable = packets.with(SECRET.as_bytes());
    let first = readable.first().context("the plaintext was not captured")?;
    tally(voice, packets);
    voice.note(&format!("packets that contain {SECRET:?}: {}. One of them:", readable.len()));
    voice.say(&hexdump(first, 160));
    Ok(())
}

/// Whether an Ethernet frame is a TCP segment with data to this port: enough of IPv4 and IPv6 for
/// the network of the demo, without options or extension headers.
fn is_data_to(frame: &[u8], port: u16) -> bool {
    let tcp = match frame.get(12..14) {
        Some([0x08, 0x00]) => 34,
        Some([0x86, 0xdd]) => 54,
        _ => return false,
    };
    frame.get(tcp + 2..tcp + 4) == Some(&port.to_be_bytes()) && frame.len() > tcp + 120
}
