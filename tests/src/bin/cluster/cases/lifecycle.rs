//! Losing the agent.

use std::time::Duration;

use adit_e2e::wait::{wait_for, wait_until};
use anyhow::{Result, ensure};

use super::opening::Opening;
use super::{PODS, SHOP, STREET};
use crate::lab::Lab;

pub(crate) fn agent_deleted(lab: &Lab) -> Result<String> {
    let (client, _) = lab.pod(SHOP, "client", "n1")?;
    let (_, server) = lab.pod(SHOP, "web", "n2")?;
    let opened = Opening::begin(lab, (SHOP, &client), &server, ("50ms", 15))?;
    wait_until("it to begin", Duration::from_secs(1), || false).unwrap_or(());
    let label = "app.kubernetes.io/component=agent";
    let selector = "spec.nodeName=n1";
    lab.kubectl(&[
        "-n",
        "adit-system",
        "delete",
        "pods",
        "-l",
        label,
        "--field-selector",
        selector,
        "--grace-period=5",
    ])?;
    let opened = opened.none_failed()?;
    lab.kubectl(&["-n", "adit-system", "rollout", "status", "daemonset/adit", "--timeout=60s"])?;
    lab.wait_enrolled(SHOP, PODS)?;
    Ok(opened)
}

/// Twice in a row: a container that ends again soon after its start is started later and later.
pub(crate) fn agent_killed(lab: &Lab) -> Result<String> {
    let (client, _) = lab.pod(SHOP, "client", "n1")?;
    let (_, server) = lab.pod(SHOP, "web", "n2")?;
    let opened = Opening::begin(lab, (SHOP, &client), &server, ("50ms", 40))?;
    wait_until("it to begin", Duration::from_secs(1), || false).unwrap_or(());
    for _ in 0..2 {
        let killed = agent(lab, "n1")?;
        lab.on_node("n1", &["kill", "-9", &killed])?;
        wait_for("the agent's container to start again", Duration::from_secs(60), || {
            let other = agent(lab, "n1")? != killed;
            Ok((other && lab.enrolled(SHOP)? == PODS).then_some(()))
        })?;
    }
    let opened = opened.ended()?;
    // One that is open in that moment is reset with the agent.
    let cut = ["failed=0 ", "failed=1 ", "failed=2 "].iter().any(|cut| opened.contains(cut));
    ensure!(cut && opened.contains("unmade=0"), "{opened}");
    Ok(opened)
}

/// The process of a node's agent, as the node numbers it.
pub(crate) fn agent(lab: &Lab, node: &str) -> Result<String> {
    Ok(lab.on_node(node, &["pgrep", "-f", "^/?[a-z/]*adit run"])?.trim().to_owned())
}

pub(crate) fn no_agent(lab: &Lab) -> Result<String> {
    let patch = |selector: &str| {
        let patch =
            format!(r#"{{"spec":{{"template":{{"spec":{{"nodeSelector":{selector}}}}}}}}}"#);
        lab.kubectl(&["-n", "adit-system", "patch", "daemonset", "adit", "-p", &patch])
    };
    patch(r#"{"no-such":"node"}"#)?;
    wait_for("no agent", Duration::from_secs(90), || {
        let label = "app.kubernetes.io/component=agent";
        let pods = lab.json(&["-n", "adit-system", "get", "pods", "-l", label])?;
        Ok(pods["items"].as_array().is_some_and(Vec::is_empty).then_some(()))
    })?;
    lab.kubectl(&["apply", "-f", &lab.file("manifests/late.yaml")])?;
    lab.kubectl(&["-n", STREET, "wait", "--for=condition=Ready", "pod/late", "--timeout=30s"])?;
    let event = wait_for("an event that says why", Duration::from_secs(30), || {
        let events = lab.kubectl(&[
            "-n",
            SHOP,
            "get",
            "events",
            "--field-selector",
            "involvedObject.name=late",
        ])?;
        Ok(events.lines().find(|line| line.contains("must be enrolled")).map(str::to_owned))
    })?;
    patch(r#"{"no-such":null}"#)?;
    lab.kubectl(&["-n", "adit-system", "rollout", "status", "daemonset/adit", "--timeout=90s"])?;
    lab.kubectl(&["-n", SHOP, "wait", "--for=condition=Ready", "pod/late", "--timeout=90s"])?;
    lab.kubectl(&["delete", "-f", &lab.file("manifests/late.yaml"), "--grace-period=1"])?;
    lab.wait_enrolled(SHOP, PODS)?;
    let said = event.split("adit-cni").nth(1).unwrap_or(&event);
    Ok(said.chars().take(120).collect())
}
