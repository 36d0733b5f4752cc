//! A node that loses its power and comes back.

use std::time::{Duration, Instant};

use adit_e2e::capture::Capture;
use adit_e2e::wait::wait_for;
use anyhow::{Context as _, Result, bail, ensure};

use super::{PODS, SHOP};
use crate::lab::{Lab, address};

/// What every request and answer of the namespace contains.
const PLAIN: &[u8] = b"HTTP/1.1";

/// Its pods start again by themselves, in new namespaces, before anybody tells the agent of them; one of them
/// connects without a pause.
pub(crate) fn node(lab: &Lab) -> Result<String> {
    // Nobody tells of the pods' new addresses behind the service: the old ones, which are nobody's, stay.
    lab.control_plane("stop-controllers")?;
    let outcome = loses_power(lab);
    lab.control_plane("controllers")?;
    let remark = outcome?;
    wait_for("the service's endpoints", Duration::from_secs(60), || {
        let (_, web) = lab.pod(SHOP, "web", "n2")?;
        let slices = ["-n", SHOP, "get", "endpointslices", "-l", "kubernetes.io/service-name=web"];
        Ok(lab.json(&slices)?.to_string().contains(&format!("{web:?}")).then_some(()))
    })?;
    Ok(remark)
}

fn loses_power(lab: &Lab) -> Result<String> {
    let restless = lab.file("manifests/restless.yaml");
    lab.kubectl(&["apply", "-f", &restless])?;
    lab.kubectl(&["-n", SHOP, "wait", "--for=condition=Ready", "pod/restless", "--timeout=60s"])?;
    lab.wait_enrolled(SHOP, PODS + 1)?;
    lab.crash("n2")?;
    let capture = Capture::start(&lab.underlay())?;
    let began = Instant::now();
    lab.boot("n2")?;
    let back = wait_for("the node's pods to start again", Duration::from_secs(180), || {
        let pods =
            lab.json(&["-n", SHOP, "get", "pods", "--field-selector", "spec.nodeName=n2"])?;
        let pods = pods["items"].as_array().context("no list")?;
        let again = pods.iter().all(|pod| {
            let container = &pod["status"]["containerStatuses"][0];
            container["ready"] == true && container["restartCount"].as_u64().unwrap_or(0) > 0
        });
        Ok(again.then_some(pods.len()))
    })?;
    lab.wait_enrolled(SHOP, PODS + 1)?;
    let took = began.elapsed().as_secs_f32();
    let (_, restless_ip) = lab.pod(SHOP, "restless", "n2")?;
    let flows = wait_for("the pod's first tunnel", Duration::from_secs(20), || {
        let flows = lab.adit("n2", &["flows"])?;
        let of_pod = flows.as_array().into_iter().flatten().filter(|flow| {
            flow["direction"] == "outbound"
                && flow["source"]["address"]
                    .as_str()
                    .is_some_and(|from| from.contains(&restless_ip))
        });
        let flows: Vec<_> = of_pod.cloned().collect();
        Ok(flows.iter().any(|flow| flow["protocol"] == "hbone").then_some(flows))
    })?;
    if let Some(flow) = flows.iter().find(|flow| flow["protocol"] == "plaintext") {
        bail!("of its {} flows one went in plaintext: {flow}", flows.len());
    }
    let packets = capture.finish()?;
    let leaked = packets.with(PLAIN).len();
    ensure!(leaked == 0, "{leaked} frames in plaintext");
    let node: std::net::Ipv4Addr = address("n2").parse()?;
    ensure!(!packets.with(&node.octets()).is_empty(), "the capture saw nothing of the node");
    lab.kubectl(&["delete", "-f", &restless])?;
    lab.wait_enrolled(SHOP, PODS)?;
    Ok(format!("{back} pods enrolled {took:.0} s after the start, none in plaintext meanwhile"))
}
