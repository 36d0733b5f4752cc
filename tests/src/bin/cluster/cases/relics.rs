//! Static pods, which a node's kubelet runs from files.

use std::time::Duration;

use adit_e2e::wait::wait_for;
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{SHOP, STREET};
use crate::lab::Lab;

const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn refused_where_opted_in(lab: &Lab) -> Result<String> {
    let text = std::fs::read_to_string(lab.file("manifests/relic.yaml"))?;
    for namespace in [SHOP, STREET] {
        let file = file(namespace);
        let manifest = text.replace("@NAMESPACE@", namespace);
        lab.on_node("n1", &["sh", "-c", "printf %s \"$1\" >\"$2\"", "sh", &manifest, &file])?;
    }
    lab.kubectl(&["-n", STREET, "wait", "--for=create", "pod/relic-n1", "--timeout=60s"])?;
    let ready = "--for=condition=Ready";
    lab.kubectl(&["-n", STREET, "wait", ready, "pod/relic-n1", "--timeout=60s"])?;
    let why = wait_for("the pod to say that it is refused", PATIENCE, || {
        let pod = lab.json(&["-n", SHOP, "get", "pod", "relic-n1"])?;
        let said = pod["metadata"]["annotations"]["adit.dev/status"].as_str();
        Ok(said.filter(|said| said.starts_with("refused: ")).map(str::to_owned))
    })?;
    ensure!(why.contains("static pod"), "{why}");
    wait_for("an event that says why", PATIENCE, || {
        let said = lab.kubectl(&["-n", SHOP, "describe", "pod", "relic-n1"])?;
        Ok(said.contains("FailedCreatePodSandBox").then_some(()))
    })?;
    for namespace in [SHOP, STREET] {
        lab.on_node("n1", &["rm", &file(namespace)])?;
    }
    wait_for("both pods to be gone", PATIENCE, || {
        let pods = lab.json(&["get", "pods", "-A", "-l", "app=relic"])?;
        let left = pods["items"].as_array().map(Vec::<Value>::len).context("no list")?;
        Ok((left == 0).then_some(()))
    })?;
    Ok(why)
}

fn file(namespace: &str) -> String {
    format!("/etc/kubernetes/manifests/relic-{namespace}.yaml")
}
