//! What flows.

use std::time::Duration;

use adit_e2e::capture::Capture;
use adit_e2e::wait::wait_for;
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::SHOP;
use crate::lab::{Lab, NODES};

/// What every answer of the server contains.
const PLAIN: &[u8] = b"HTTP/1.1";

/// Requests between the nodes, both ways; the frames that crossed in the meantime.
fn captured(lab: &Lab) -> Result<adit_e2e::capture::Packets> {
    let capture = Capture::start(&lab.underlay())?;
    for (from, to) in [("n1", "n2"), ("n2", "n1")] {
        let (client, _) = lab.pod(SHOP, "client", from)?;
        let (_, server) = lab.pod(SHOP, "web", to)?;
        let said = lab.get(SHOP, &client, &format!("http://{server}:8080/"))?;
        ensure!(said.contains(&format!("node={to}")), "{said}");
    }
    capture.finish()
}

pub(crate) fn plaintext(lab: &Lab) -> Result<String> {
    let packets = captured(lab)?;
    ensure!(!packets.with(PLAIN).is_empty(), "the capture does not see plaintext");
    Ok(String::new())
}

pub(crate) fn secret(lab: &Lab) -> Result<String> {
    let packets = captured(lab)?;
    let web = lab.pod(SHOP, "web", "n2")?.1;
    let address: std::net::Ipv4Addr = web.parse().context("the server's address")?;
    let leaked = packets.with(PLAIN).len();
    ensure!(leaked == 0, "{leaked} frames with {:?}", String::from_utf8_lossy(PLAIN));
    // The exec itself crosses the same network, as TLS to the kubelet; the pods' frames are there too.
    let between = packets.with(&address.octets()).len();
    ensure!(between > 10, "only {between} frames of {web} were seen");
    Ok(format!("{between} frames of one server, none in plaintext"))
}

pub(crate) fn reaches(lab: &Lab) -> Result<String> {
    for from in NODES {
        let (client, _) = lab.pod(SHOP, "client", from)?;
        for to in NODES {
            let (_, server) = lab.pod(SHOP, "web", to)?;
            let said = lab.get(SHOP, &client, &format!("http://{server}:8080/"))?;
            ensure!(said.contains(&format!("node={to}")), "{from} → {to}: {said}");
        }
        let mut seen: Vec<&str> = Vec::new();
        for _ in 0..20 {
            let said = lab.get(SHOP, &client, "http://web.shop/")?;
            seen.extend(NODES.into_iter().filter(|node| said.contains(&format!("node={node}"))));
            if NODES.iter().all(|node| seen.contains(node)) {
                break;
            }
        }
        ensure!(NODES.iter().all(|node| seen.contains(node)), "the service led only to {seen:?}");
    }
    Ok(String::new())
}

pub(crate) fn source_address(lab: &Lab) -> Result<String> {
    let (client, own) = lab.pod(SHOP, "client", "n1")?;
    for to in NODES {
        let (_, server) = lab.pod(SHOP, "web", to)?;
        let said = lab.get(SHOP, &client, &format!("http://{server}:8080/"))?;
        ensure!(said.contains(&format!("remote={own}:")), "{to}: {said}");
        ensure!(said.contains(&format!("local={server}:8080")), "{to}: {said}");
    }
    Ok(String::new())
}

pub(crate) fn identities(lab: &Lab) -> Result<String> {
    let (client, _) = lab.pod(SHOP, "client", "n1")?;
    let (_, server) = lab.pod(SHOP, "web", "n2")?;
    lab.get(SHOP, &client, &format!("http://{server}:8080/"))?;
    for node in NODES {
        wait_for(&format!("the flow on {node}"), Duration::from_secs(10), || {
            let flows = lab.adit(node, &["flows"])?;
            if flows.as_array().into_iter().flatten().any(is_tunnelled) {
                return Ok(Some(()));
            }
            bail!("{flows}")
        })?;
    }
    // As the documentation has it, without choosing a node.
    let shown =
        lab.kubectl(&["-n", "adit-system", "exec", "daemonset/adit", "--", "adit", "flows"])?;
    ensure!(shown.contains("hbone"), "{shown}");
    Ok(String::new())
}

/// As the documentation has it, without choosing a node.
pub(crate) fn followed(lab: &Lab) -> Result<String> {
    let (client, _) = lab.pod(SHOP, "client", "n1")?;
    let (_, server) = lab.pod(SHOP, "web", "n2")?;
    let follow = ["adit", "flows", "--follow", "-o", "json"];
    let exec = ["-n", "adit-system", "exec", "daemonset/adit", "--"];
    let mut followed = lab.start_kubectl(&[&exec[..], &follow].concat())?;
    let url = format!("http://{server}:8080/");
    lab.exec(SHOP, &client, &["/testapp", "every", "100ms", "3s", &url])?;
    followed.kill().context("end the following")?;
    let said = followed.wait_with_output().context("end the following")?;
    let said = String::from_utf8_lossy(&said.stdout);
    // The last line may be half of one.
    let events = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let both = events.filter(|event| is_tunnelled(&event["flow"])).count();
    ensure!(both > 0, "no tunnel with both identities among: {said}");
    Ok(format!("{both} events with both identities"))
}

fn is_tunnelled(flow: &Value) -> bool {
    flow["protocol"] == "hbone"
        && flow["source"]["identity"] == "spiffe://cluster.local/ns/shop/sa/client"
        && flow["destination"]["identity"] == "spiffe://cluster.local/ns/shop/sa/web"
}

pub(crate) fn kubectl(lab: &Lab) -> Result<String> {
    let (web, _) = lab.pod(SHOP, "web", "n1")?;
    ensure!(lab.exec(SHOP, &web, &["/bin/hostname"])?.trim() == web);
    ensure!(lab.kubectl(&["-n", SHOP, "logs", &web])?.contains("listening"));
    let mut forward = lab.start_kubectl(&["-n", SHOP, "port-forward", &web, "18080:8080"])?;
    let answered = wait_for("an answer through port-forward", Duration::from_secs(15), || {
        let said = lab.in_control_plane(&["curl", "-sf", "http://127.0.0.1:18080/"])?;
        Ok(said.contains("node=n1").then_some(()))
    });
    forward.kill().context("end port-forward")?;
    forward.wait().context("end port-forward")?;
    answered?;
    Ok(String::new())
}
