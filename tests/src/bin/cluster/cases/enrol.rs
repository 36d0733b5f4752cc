//! Opting in and out.

use std::time::{Duration, Instant};

use adit_e2e::wait::wait_for;
use anyhow::{Result, ensure};

use super::held::Held;
use super::opening::Opening;
use super::{PODS, SHOP, STREET};
use crate::flows::{Done, is_from};
use crate::lab::{Lab, NODES};

pub(crate) fn label(lab: &Lab) -> Result<String> {
    let (_, server) = lab.pod(SHOP, "web", "n2")?;
    let (client, _) = lab.pod(SHOP, "client", "n1")?;
    let opened = NODES.map(|node| opening(lab, node, &server));
    let held = Held::open(lab, SHOP, &client, &server)?;
    let labelled = Done::by(lab, &["label", "namespace", SHOP, "adit.dev/mode=ambient"])?;
    lab.wait_enrolled(SHOP, PODS)?;
    let held = held.lived()?;
    let mut seen = vec![format!("a connection that was open: {held}")];
    for (node, opened) in NODES.into_iter().zip(opened) {
        seen.push(format!("{node}: {}", opened?.none_failed()?));
        let (client, _) = lab.pod(SHOP, "client", node)?;
        let first = labelled
            .first(lab, node, |flow| is_from(flow, &client, 8080) && flow["protocol"] == "hbone")?;
        seen.push(format!("its first tunnel {}", labelled.until(first)));
    }
    Ok(seen.join("; "))
}

/// Connections of a node's client.
fn opening(lab: &Lab, node: &str, server: &str) -> Result<Opening> {
    let (client, _) = lab.pod(SHOP, "client", node)?;
    Opening::begin(lab, (SHOP, &client), server, ("20ms", 8))
}

pub(crate) fn new_pod(lab: &Lab) -> Result<String> {
    let began = Instant::now();
    lab.kubectl(&["apply", "-f", &lab.file("manifests/late.yaml")])?;
    for namespace in [SHOP, STREET] {
        lab.kubectl(&[
            "-n",
            namespace,
            "wait",
            "--for=condition=Ready",
            "pod/late",
            "--timeout=60s",
        ])?;
    }
    let took = began.elapsed().as_secs_f32();
    let address = lab.pod(SHOP, "late", "n1")?.1;
    let flows = wait_for("the first flow of the new pod", Duration::from_secs(10), || {
        let flows = lab.adit("n1", &["flows"])?;
        let of_pod = flows.as_array().into_iter().flatten();
        let of_pod = of_pod.filter(|flow| {
            flow["source"]["address"].as_str().is_some_and(|from| from.contains(&address))
                && flow["direction"] == "outbound"
        });
        let of_pod: Vec<String> =
            of_pod.map(|flow| flow["protocol"].as_str().unwrap_or_default().to_owned()).collect();
        Ok((!of_pod.is_empty()).then_some(of_pod))
    })?;
    ensure!(flows.iter().any(|protocol| protocol == "hbone"), "its flows went as {flows:?}");
    lab.kubectl(&["delete", "-f", &lab.file("manifests/late.yaml"), "--grace-period=1"])?;
    Ok(format!("ready after {took:.1} s"))
}

pub(crate) fn unlabel(lab: &Lab) -> Result<String> {
    let (client, _) = lab.pod(SHOP, "client", "n1")?;
    let (_, server) = lab.pod(SHOP, "web", "n2")?;
    let opened = opening(lab, "n1", &server)?;
    let held = Held::open(lab, SHOP, &client, &server)?;
    lab.kubectl(&["label", "namespace", SHOP, "adit.dev/mode-"])?;
    wait_for("no pod enrolled", Duration::from_secs(30), || {
        Ok((lab.enrolled(SHOP)? == 0).then_some(()))
    })?;
    lab.get(SHOP, &client, &format!("http://{server}:8080/"))?;
    let (held, opened) = (held.lived()?, opened.none_failed()?);
    Ok(format!("a connection that was open: {held}; new ones: {opened}"))
}
