//! NetworkPolicies of the cluster, which nobody enforces on the lab: what adit says of one.

use std::time::Duration;

use adit_e2e::wait::wait_for;
use anyhow::{Result, ensure};
use serde_json::Value;

use super::SHOP;
use crate::lab::Lab;

const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn blocked(lab: &Lab) -> Result<String> {
    let policy = lab.file("manifests/ports.yaml");
    lab.kubectl(&["apply", "-f", &policy])?;
    let said = wait_for("adit explain to name the NetworkPolicy", PATIENCE, || {
        let said = explained(lab)?;
        Ok((said["blocked"][0]["policies"][0]["name"] == "ports").then_some(said))
    })?;
    ensure!(said["verdict"] == "allowed", "the verdict is without it: {said}");
    let findings = lab.adit("n2", &["doctor"])?;
    let named = findings.to_string().contains("blocked by NetworkPolicy shop/ports");
    ensure!(named, "adit doctor does not name it: {findings}");
    lab.kubectl(&["delete", "-f", &policy])?;
    wait_for("adit explain to forget it", PATIENCE, || {
        Ok(explained(lab)?["blocked"][0].is_null().then_some(()))
    })?;
    Ok(String::new())
}

fn explained(lab: &Lab) -> Result<Value> {
    let (client, _) = lab.pod(SHOP, "client", "n1")?;
    let (web, _) = lab.pod(SHOP, "web", "n2")?;
    let (from, to) = (format!("{SHOP}/{client}"), format!("{SHOP}/{web}:8080"));
    lab.adit("n2", &["explain", &from, &to])
}
