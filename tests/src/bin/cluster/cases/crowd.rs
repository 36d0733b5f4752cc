//! What a node with two dozen pods costs, and what their traffic does: beside the same pods of a namespace
//! that is not opted in.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::lifecycle::agent;
use super::{PODS, SHOP, STREET};
use crate::lab::{Lab, NODES};

/// Pods of the crowd in each namespace, all on n1, started one after the other.
const CROWDS: [(&str, usize); 2] = [(STREET, 10), (SHOP, 20)];

/// Where a containerd of the nodes writes what it does.
const CONTAINERD: &str = "/lab/log/n1.containerd.log";

pub(crate) fn sandboxes_and_memory(lab: &Lab) -> Result<String> {
    let idle = rss(lab, "n2")?;
    let mut medians = Vec::new();
    for (namespace, pods) in CROWDS {
        let manifest = lab.file(&format!("manifests/crowd-{namespace}.yaml"));
        lab.kubectl(&["apply", "-f", &manifest])?;
        let status = ["-n", namespace, "rollout", "status", "statefulset/crowd", "--timeout=120s"];
        lab.kubectl(&status)?;
        medians.push(sandbox(lab, namespace, pods)?);
    }
    lab.wait_enrolled(SHOP, PODS + CROWDS[1].1)?;
    let full = rss(lab, "n1")?;
    for (namespace, _) in CROWDS {
        let manifest = lab.file(&format!("manifests/crowd-{namespace}.yaml"));
        lab.kubectl(&["delete", "-f", &manifest, "--grace-period=1"])?;
    }
    lab.wait_enrolled(SHOP, PODS)?;
    let [outside, inside] = *medians else { unreachable!() };
    let (few, many) = (PODS / NODES.len(), CROWDS[1].1 + PODS / NODES.len());
    Ok(format!(
        "the agent: {idle} MB with {few} pods, {full} MB with {many}; a pod's sandbox: {} ms, and {} ms outside of the mesh (medians)",
        inside.as_millis(),
        outside.as_millis(),
    ))
}

/// Resident memory of a node's agent, in 10^6 bytes.
fn rss(lab: &Lab, node: &str) -> Result<u64> {
    let status = lab.on_node(node, &["cat", &format!("/proc/{}/status", agent(lab, node)?)])?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().with_context(|| line.to_owned())?;
    Ok(kib * 1024 / 1_000_000)
}

/// How long the sandboxes of the crowd's pods took, by what containerd says: the median.
fn sandbox(lab: &Lab, namespace: &str, pods: usize) -> Result<Duration> {
    let said = lab.on_node("n1", &["grep", "RunPodSandbox for .*Name:crowd-", CONTAINERD])?;
    let in_namespace = format!("Namespace:{namespace},");
    let lines = || said.lines().filter(|line| line.contains(&in_namespace));
    let mut took = Vec::new();
    for end in lines().filter(|line| line.contains("returns sandbox id")) {
        let uid = word(end, "Uid:")?;
        let begin = lines().find(|line| line.contains(uid)).context("no begin")?;
        took.push((at(end)? - at(begin)?).unsigned_abs());
    }
    took.sort_unstable();
    ensure!(took.len() >= pods, "{namespace}: {} sandboxes", took.len());
    took.get(took.len() / 2).copied().context("no sandbox")
}

fn at(line: &str) -> Result<OffsetDateTime> {
    let text = word(line, "time=\"")?;
    OffsetDateTime::parse(text, &Rfc3339).with_context(|| text.to_owned())
}

/// What follows `key`, to the next comma or quotation mark.
fn word<'a>(line: &'a str, key: &str) -> Result<&'a str> {
    let rest = line.split_once(key).with_context(|| format!("no {key} in {line}"))?.1;
    Ok(rest.split([',', '"']).next().unwrap_or(rest))
}
