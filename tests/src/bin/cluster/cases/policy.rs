//! Who may talk to whom.

use std::time::{Duration, Instant};

use adit_e2e::wait::wait_for;
use anyhow::{Result, ensure};

use super::{SHOP, STREET};
use crate::lab::Lab;

pub(crate) fn strict(lab: &Lab) -> Result<String> {
    let (client, _) = lab.pod(SHOP, "client", "n1")?;
    let (_, server) = lab.pod(SHOP, "web", "n2")?;
    let url = format!("http://{server}:8080/");
    lab.get(STREET, "stranger", &url)?;
    let began = Instant::now();
    lab.kubectl(&["apply", "-f", &lab.file("manifests/strict.yaml")])?;
    wait_for("the stranger to be refused", Duration::from_secs(15), || {
        Ok(lab.get(STREET, "stranger", &url).is_err().then_some(()))
    })?;
    let took = began.elapsed().as_secs_f32();
    lab.get(SHOP, &client, &url)?;
    lab.kubectl(&["delete", "-f", &lab.file("manifests/strict.yaml")])?;
    wait_for("the stranger to be let in again", Duration::from_secs(15), || {
        Ok(lab.get(STREET, "stranger", &url).is_ok().then_some(()))
    })?;
    Ok(format!("refused {took:.1} s after apply"))
}

pub(crate) fn deny(lab: &Lab) -> Result<String> {
    let (client, _) = lab.pod(SHOP, "client", "n1")?;
    let (_, server) = lab.pod(SHOP, "web", "n2")?;
    let url = format!("http://{server}:8080/");
    let began = Instant::now();
    lab.kubectl(&["apply", "-f", &lab.file("manifests/deny-client.yaml")])?;
    wait_for("the client to be refused", Duration::from_secs(15), || {
        Ok(lab.get(SHOP, &client, &url).is_err().then_some(()))
    })?;
    let took = began.elapsed().as_secs_f32();
    let flows = lab.adit("n2", &["flows"])?.to_string();
    ensure!(flows.contains("no-client"), "no flow names the policy: {flows}");
    lab.kubectl(&["delete", "-f", &lab.file("manifests/deny-client.yaml")])?;
    wait_for("the client to be let in again", Duration::from_secs(15), || {
        Ok(lab.get(SHOP, &client, &url).is_ok().then_some(()))
    })?;
    Ok(format!("refused {took:.1} s after apply"))
}
