//! The CA's root, replaced from within one of its pods.

use std::time::Duration;

use adit_e2e::wait::wait_for;
use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::SHOP;
use crate::lab::Lab;

/// What a rotation does after its first phase takes days here too; the tests against an API server go through it.
pub(crate) fn begun_and_given_up(lab: &Lab) -> Result<String> {
    ensure!(rotate(lab, Some("--dry-run"))?["phase"] == "idle", "it was not idle");
    rotate(lab, None)?;
    wait_for("both roots to be published", Duration::from_secs(30), || {
        let said = rotate(lab, Some("--status"))?;
        let roots = said["roots"].as_array().map_or(0, Vec::len);
        Ok((said["phase"] == "distributing" && roots == 2 && published(lab)? == 2).then_some(()))
    })?;
    let (client, _) = lab.pod(SHOP, "client", "n1")?;
    lab.get(SHOP, &client, "http://web.shop/")?;
    rotate(lab, Some("--abort"))?;
    wait_for("the rotation to be given up", Duration::from_secs(30), || {
        let idle = rotate(lab, Some("--status"))?["phase"] == "idle";
        Ok((idle && published(lab)? == 1).then_some(()))
    })?;
    lab.get(SHOP, &client, "http://web.shop/")?;
    Ok("the rest of it takes three days".to_owned())
}

fn rotate(lab: &Lab, option: Option<&str>) -> Result<Value> {
    let exec = ["-n", "adit-system", "exec", "deploy/adit-ca", "--", "adit", "-o", "json"];
    let arguments = exec.into_iter().chain(["ca", "rotate"]).chain(option);
    let said = lab.kubectl(&arguments.collect::<Vec<_>>())?;
    serde_json::from_str(&said).context(said)
}

/// How many roots the agents are told of.
fn published(lab: &Lab) -> Result<usize> {
    let bundle = lab.json(&["-n", "adit-system", "get", "configmap", "adit-ca-root"])?;
    let roots = bundle["data"]["root-cert.pem"].as_str().context("no roots")?;
    Ok(roots.matches("BEGIN CERTIFICATE").count())
}
