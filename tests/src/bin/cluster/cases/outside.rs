//! Clients outside of the cluster: a host on the nodes' network that is none of them.

use std::time::Duration;

use adit_e2e::wait::wait_for;
use anyhow::{Result, ensure};

use super::SHOP;
use crate::lab::{CONTROL_PLANE, Lab, NODES, address};

/// A NodePort of every node, one that keeps its client's address, and a hostPort.
const ANY: u16 = 30080;
const LOCAL: u16 = 30081;
const HOST: u16 = 30082;

pub(crate) fn node_port_and_host_port(lab: &Lab) -> Result<String> {
    let manifest = lab.file("manifests/outside.yaml");
    lab.kubectl(&["apply", "-f", &manifest])?;
    lab.kubectl(&["-n", SHOP, "wait", "--for=condition=Ready", "pod/kiosk", "--timeout=60s"])?;
    for node in NODES {
        answered(lab, node, ANY)?;
        let said = answered(lab, node, LOCAL)?;
        ensure!(said.contains(&format!("node={node} ")), "not of {node}: {said}");
        ensure!(said.contains(&format!("remote={CONTROL_PLANE}:")), "another client: {said}");
    }
    let said = answered(lab, "n1", HOST)?;
    ensure!(said.contains("host=kiosk "), "hostPort: {said}");
    // They are strangers in plaintext, whichever way they come.
    let strict = lab.file("manifests/strict.yaml");
    lab.kubectl(&["apply", "-f", &strict])?;
    for (node, port) in [("n1", ANY), ("n2", LOCAL), ("n1", HOST)] {
        wait_for(&format!("{node}:{port} to be refused"), Duration::from_secs(15), || {
            Ok(get(lab, node, port)?.is_empty().then_some(()))
        })?;
    }
    lab.kubectl(&["delete", "-f", &strict])?;
    answered(lab, "n1", HOST)?;
    lab.kubectl(&["delete", "-f", &manifest])?;
    Ok("the client's address is kept by externalTrafficPolicy: Local and by hostPort".to_owned())
}

/// kube-proxy needs a moment for a new service.
fn answered(lab: &Lab, node: &str, port: u16) -> Result<String> {
    wait_for(&format!("an answer of {node}:{port}"), Duration::from_secs(20), || {
        let said = get(lab, node, port)?;
        Ok((!said.is_empty()).then_some(said))
    })
}

/// What is answered; nothing, if nobody does.
fn get(lab: &Lab, node: &str, port: u16) -> Result<String> {
    let url = format!("http://{}:{port}/", address(node));
    lab.in_control_plane(&["curl", "-sf", "--max-time", "3", &url])
}
