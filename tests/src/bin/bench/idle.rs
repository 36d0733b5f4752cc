//! What the agents are and need when nothing moves: memory, start-up, enrolment, the start of a pod.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use adit_e2e::agent::{Agent, Setup};
use adit_e2e::requirements::adit_binary;
use adit_e2e::wait::wait_for;
use adit_e2e::{Cluster, Node, Pod, PodSpec};
use anyhow::{Context as _, Result, ensure};

use crate::agents::Agents;
use crate::compare::median;
use crate::load::{Flows, Moment, Path};
use crate::report::Row;

/// How long the agents may take to come to rest.
const REST: Duration = Duration::from_millis(1500);

/// What moves on each flow, in bytes.
const MOVED: usize = 200_000;

const WORK: &str = "memory";

/// An agent without flows.
pub(crate) fn memory(agents: &Agents<'_>) -> Result<Vec<Row>> {
    let memory = agents.memory()?;
    let each = |bytes: u64| bytes as f64 / 2.0 / 1e6;
    Ok(vec![
        Row::only_adit(WORK, "idle, each agent", "MB RSS", each(memory.rss)),
        Row::only_adit(WORK, "idle, each agent, shared parted", "MB PSS", each(memory.pss)),
    ])
}

/// What `count` flows add to both agents together, each flow's share.
pub(crate) fn flows(count: usize, path: &Path<'_>, agents: &Agents<'_>) -> Result<Vec<Row>> {
    let (idle, used) = match count {
        1000 => ("an idle flow, of 1,000", "a flow after 200 kB, of 1,000"),
        _ => ("an idle flow, of 5,000", "a flow after 200 kB, of 5,000"),
    };
    let before = agents.memory()?.rss;
    let mut rows = Vec::new();
    let flows = Flows { count, bytes: MOVED };
    flows.hold(path, |moment| {
        thread::sleep(REST);
        let added = agents.memory()?.rss.saturating_sub(before);
        let share = added as f64 / count as f64 / 1024.0;
        let figure = if moment == Moment::Open { idle } else { used };
        rows.push(Row::only_adit(WORK, figure, "KiB", share));
        Ok(())
    })?;
    Ok(rows)
}

/// How long an agent takes from its start until its admin socket answers, without any pod.
pub(crate) fn start_up(cluster: &Cluster, rounds: usize) -> Result<Vec<Row>> {
    let mut took = Vec::new();
    for _ in 0..rounds {
        let agent = cluster.agent(Node::A);
        agent.terminate(Duration::from_secs(10)).context("end the agent")?;
        let (began, answered) = (Instant::now(), AtomicBool::new(false));
        let first = thread::scope(|scope| {
            let first = scope.spawn(|| {
                while !answered.load(Ordering::Relaxed)
                    && UnixStream::connect(agent.socket()).is_err()
                {
                    thread::sleep(Duration::from_millis(1));
                }
                began.elapsed()
            });
            let started = agent.start();
            answered.store(true, Ordering::Relaxed);
            started.map(|()| first.join())
        })?;
        let first = first.map_err(|_panicked| anyhow::anyhow!("the watching thread panicked"))?;
        took.push(first.as_secs_f64() * 1e3);
    }
    Ok(vec![Row::only_adit(
        "start",
        "until the admin socket answers",
        "ms",
        median(took.into_iter()),
    )])
}

/// How long it takes from the label of a namespace until its pods, half of them on each node, are all
/// enrolled, each with a certificate of its own.
pub(crate) fn enrolment(pods: u8) -> Result<Vec<Row>> {
    let cluster = Cluster::start_with(&Setup { log: "warn".to_owned(), ..Setup::default() })?;
    cluster.manifests().namespace("many", None)?;
    let mut made: Vec<Pod> = Vec::new();
    for number in 0..pods {
        let node = if number % 2 == 0 { Node::A } else { Node::B };
        let spec = PodSpec::new("many", &format!("pod-{number}"), node);
        made.extend(cluster.unsettled_pods([spec])?);
    }
    for pod in &made {
        cluster.wait_settled(pod)?;
    }
    let began = Instant::now();
    cluster.manifests().namespace("many", Some("ambient"))?;
    wait_for("all pods to be enrolled", Duration::from_secs(60), || {
        let mut enrolled = 0;
        for agent in cluster.agents() {
            let workloads = agent.workloads()?;
            enrolled += workloads.iter().filter(|pod| pod.state() == Some("enrolled")).count();
        }
        Ok((enrolled == usize::from(pods)).then_some(()))
    })?;
    let took = began.elapsed().as_secs_f64();
    drop(made);
    let figure = if pods == 200 { "200 pods" } else { "20 pods" };
    Ok(vec![Row::only_adit("enrolment", figure, "s", took)])
}

/// What the CNI plugin adds to the start of a pod, one after the other: of pods that do not belong to the
/// mesh, and of pods that it holds until they are enrolled.
pub(crate) fn sandbox(pods: usize) -> Result<Vec<Row>> {
    let cluster = Cluster::start_with(&Setup { log: "warn".to_owned(), ..Setup::default() })?;
    let mut took = [Vec::new(), Vec::new()];
    for (namespace, mode) in [("plain", None), ("meshed", Some("ambient"))] {
        cluster.manifests().namespace(namespace, mode)?;
    }
    for number in 0..pods {
        let expected = [("plain", "not_enrolled"), ("meshed", "awaiting_namespace")];
        for ((namespace, state), took) in expected.into_iter().zip(&mut took) {
            let spec = PodSpec::new(namespace, &format!("pod-{number}"), Node::A).unplaced();
            let [pod] = cluster.unsettled_pods([spec.service_account("all")])?;
            cluster.wait_state(&pod, state)?;
            let began = Instant::now();
            add(cluster.agent(Node::A), namespace, &pod)?;
            took.push(began.elapsed().as_secs_f64() * 1e3);
        }
    }
    let [plain, meshed] = took.map(|took| median(took.into_iter()));
    Ok(vec![
        Row::only_adit("sandbox", "held until enrolled", "ms", meshed),
        Row::only_adit("sandbox", "outside of the mesh", "ms", plain),
    ])
}

/// Asks the plugin as a container runtime does.
fn add(agent: &Agent, namespace: &str, pod: &Pod) -> Result<()> {
    let network = serde_json::json!({
        "cniVersion": "1.0.0", "name": "bench", "type": "adit-cni",
        "socket": agent.socket(), "waitMs": 20_000,
        "prevResult": { "cniVersion": "1.0.0", "ips": [{ "address": format!("{}/32", pod.v4()) }] },
    });
    let (name, uid) = (pod.name(), pod.uid());
    let args = format!("K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_UID={uid}");
    let mut plugin = Command::new(adit_binary()?)
        .arg("cni")
        .envs([("CNI_COMMAND", "ADD"), ("CNI_ARGS", &args), ("CNI_CONTAINERID", uid)])
        .env("CNI_NETNS", pod.netns().path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("start the CNI plugin")?;
    let mut input = plugin.stdin.take().context("the plugin's input")?;
    input.write_all(network.to_string().as_bytes()).context("tell the plugin")?;
    drop(input);
    let output = plugin.wait_with_output().context("the CNI plugin")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    Ok(())
}
