//! What a large cluster costs an agent: `cargo xtask cluster scale`. A measurement, no test: it prints, and
//! asserts only that the agent has followed.
//!
//! The objects are real ones in a real API server, but nobody runs them: there is no kubelet. The agent
//! is the program itself, with its programs in the kernel, on a node without pods.

mod agent;
mod objects;
mod proxy;

use std::time::{Duration, Instant};

use agent::{Process, Resources, Status};
use objects::Cluster;
use proxy::Proxy;

use crate::server;

/// Pods, and a tenth of that services.
const PODS: usize = 5_000;

/// Changes a second while the agent follows.
const RATE: usize = 100;

/// How long.
const MINUTE: Duration = Duration::from_secs(60);

/// How long the lag is sampled after that, at the same rate of changes.
const SAMPLING: Duration = Duration::from_secs(30);

/// Far beyond what the first list takes.
const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement of minutes; `cargo xtask cluster scale` runs it"]
async fn an_agent_follows_five_thousand_pods() {
    let Some(server) = server::start().await else { return };
    let cluster = Cluster::new(&server).await;
    let proxy = Proxy::start(server.port()).await;
    let kubeconfig = server.kubeconfig_at("agent", proxy.port());
    let ca = Process::ca(&server).await;
    say(["pods", "services", "synced", "list", "CPU", "RSS", "peak"]);
    for pods in [0, PODS / 2, PODS] {
        cluster.fill(pods).await;
        let before = proxy.bytes();
        let agent = Process::agent(&server, &kubeconfig);
        // With the API server's own service.
        let whole = |status: &Status| status.workloads == pods && status.services == pods / 10 + 1;
        agent.wait_for(whole, PATIENCE).await;
        let took = agent.age();
        let bytes = proxy.bytes() - before;
        settle().await;
        let used = agent.resources();
        say([
            &pods.to_string(),
            &(pods / 10).to_string(),
            &format!("{} ms", took.as_millis()),
            &format!("{:.1} MB", bytes as f64 / 1e6),
            &format!("{:.2} s", used.cpu.as_secs_f64()),
            &mib(used.rss),
            &mib(used.peak),
        ]);
        if pods == PODS {
            follow(&cluster, &agent, &proxy, &ca).await;
        }
    }
}

/// A minute of changes that nobody asks about, and then half of one in which somebody does.
async fn follow(cluster: &Cluster, agent: &Process, proxy: &Proxy, ca: &Process) {
    let (began, bytes, ca_began) = (agent.resources(), proxy.bytes(), ca.resources());
    let changed = cluster.change(RATE, MINUTE).await;
    agent.wait_for(|status| status.workloads == cluster.len(), PATIENCE).await;
    let (ended, ca_ended) = (agent.resources(), ca.resources());
    print(&format!("{changed} changes in {} s:", MINUTE.as_secs()));
    told("  agent", &began, &ended);
    print(&format!("  received {:.1} MB", (proxy.bytes() - bytes) as f64 / 1e6));
    told("  CA", &ca_began, &ca_ended);
    let (changes, mut lags) =
        tokio::join!(cluster.change(RATE, SAMPLING), lags(cluster, agent, SAMPLING));
    lags.sort();
    let part = |parts: usize| lags[(lags.len() - 1) * parts / 100];
    let [half, most, last] = [part(50), part(99), part(100)].map(|lag| lag.as_millis());
    print(&format!(
        "lag, from sending a change to the agent having it, {} of them beside {changes} others: p50 {half} ms, p99 {most} ms, most {last} ms",
        lags.len()
    ));
    settle().await;
    told("  agent in the end", &began, &agent.resources());
}

/// One service after the other is created, and the agent's number of services looked at.
async fn lags(cluster: &Cluster, agent: &Process, time: Duration) -> Vec<Duration> {
    let until = Instant::now() + time;
    let mut known = agent.status().services;
    let mut lags = Vec::new();
    while Instant::now() < until {
        let sent = Instant::now();
        cluster.marker(lags.len()).await;
        known += 1;
        while agent.status().services < known {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        lags.push(sent.elapsed());
    }
    lags
}

/// Memory that was used for the list is given back, or is not.
async fn settle() {
    tokio::time::sleep(Duration::from_secs(5)).await;
}

fn told(what: &str, began: &Resources, ended: &Resources) {
    let cpu = ended.cpu.saturating_sub(began.cpu).as_secs_f64();
    let (rss, peak) = (mib(ended.rss), mib(ended.peak));
    print(&format!("{what}: {cpu:.2} s of CPU, RSS {} -> {rss}, peak {peak}", mib(began.rss)));
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

fn say(row: [&str; 7]) {
    let [pods, services, synced, list, cpu, rss, peak] = row;
    print(&format!("{pods:>6} {services:>9} {synced:>9} {list:>9} {cpu:>8} {rss:>10} {peak:>10}"));
}

#[expect(clippy::print_stdout, reason = "whoever measures reads it")]
fn print(line: &str) {
    println!("{line}");
}

/// Policies, which need no API server: 5,000 of 50 rules in 500 namespaces.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement; `cargo xtask cluster scale` runs it"]
async fn an_agent_holds_five_thousand_policies() {
    for policies in [0, 2_500, 5_000] {
        let directory = objects::policies(policies);
        let agent = Process::on_manifests(directory.path());
        agent.wait_for(|status| status.policies == policies, PATIENCE).await;
        let took = agent.age();
        settle().await;
        let used = agent.resources();
        print(&format!(
            "{policies:>6} policies of 50 rules: {} ms, {:.2} s of CPU, RSS {}, peak {}",
            took.as_millis(),
            used.cpu.as_secs_f64(),
            mib(used.rss),
            mib(used.peak)
        ));
    }
}
