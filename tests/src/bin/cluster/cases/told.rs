//! What kubectl shows of adit.

use std::time::{Duration, Instant};

use adit_e2e::wait::wait_for;
use anyhow::{Result, ensure};
use serde_json::Value;

use super::{PODS, SHOP, STREET};
use crate::lab::Lab;

const PATIENCE: Duration = Duration::from_secs(60);

/// The pods of the namespace that is opted in carry it, those of the other do not.
pub(crate) fn annotated(lab: &Lab) -> Result<String> {
    let began = Instant::now();
    wait_for("all pods to be annotated", PATIENCE, || {
        let said = annotations(lab, SHOP)?;
        let enrolled = said.iter().filter(|value| *value == "enrolled").count();
        Ok((enrolled == PODS).then_some(()))
    })?;
    let others = annotations(lab, STREET)?;
    ensure!(others.iter().all(Value::is_null), "{others:?}");
    Ok(format!("after {:.1} s", began.elapsed().as_secs_f32()))
}

/// After the label was removed.
pub(crate) fn cleared(lab: &Lab) -> Result<String> {
    wait_for("no pod to be annotated", PATIENCE, || {
        Ok(annotations(lab, SHOP)?.iter().all(Value::is_null).then_some(()))
    })?;
    Ok(String::new())
}

/// While the CA is away, a pod with a new identity waits and says why; when the CA is back, it starts.
pub(crate) fn refused(lab: &Lab) -> Result<String> {
    let newcomer = lab.file("manifests/newcomer.yaml");
    scale_ca(lab, "0")?;
    lab.kubectl(&["-n", "adit-system", "wait", "--for=delete", "pod", "-l", CA, "--timeout=60s"])?;
    let began = Instant::now();
    lab.kubectl(&["apply", "-f", &newcomer])?;
    let why = wait_for("the pod to say that it is refused", PATIENCE, || {
        let pod = lab.json(&["-n", SHOP, "get", "pod", "newcomer"])?;
        let said = status(&pod).as_str().unwrap_or_default().to_owned();
        Ok(said.starts_with("refused: ").then_some(said))
    })?;
    let took = began.elapsed().as_secs_f32();
    wait_for("an Event of the pod", PATIENCE, || {
        let said = lab.kubectl(&["-n", SHOP, "describe", "pod", "newcomer"])?;
        Ok(said.contains("EnrolmentRefused").then_some(()))
    })?;
    scale_ca(lab, "2")?;
    let ready = "--for=condition=Ready";
    lab.kubectl(&["-n", SHOP, "wait", ready, "pod/newcomer", "--timeout=120s"])?;
    wait_for("the pod to be annotated", PATIENCE, || {
        let pod = lab.json(&["-n", SHOP, "get", "pod", "newcomer"])?;
        Ok((status(&pod) == "enrolled").then_some(()))
    })?;
    lab.kubectl(&["delete", "-f", &newcomer, "--grace-period=1"])?;
    Ok(format!("{why:?} after {took:.1} s"))
}

/// The status of policies.
pub(crate) fn conditions(lab: &Lab) -> Result<String> {
    let policies = lab.file("manifests/partial.yaml");
    let began = Instant::now();
    lab.kubectl(&["apply", "-f", &policies])?;
    let accepted = "--for=condition=adit.dev/Accepted";
    let both = ["authorizationpolicy/whole", "authorizationpolicy/paths"];
    lab.kubectl(&["-n", STREET, "wait", accepted, both[0], both[1], "--timeout=60s"])?;
    let took = began.elapsed().as_secs_f32();
    let table = lab.kubectl(&["-n", STREET, "get", "authorizationpolicies"])?;
    let shows = |name: &str, reason: &str| {
        table.lines().any(|line| line.starts_with(name) && line.contains(reason))
    };
    ensure!(shows("whole", "Accepted") && shows("paths", "PartiallySupported"), "{table}");
    lab.kubectl(&["delete", "-f", &policies])?;
    Ok(format!("after {took:.1} s"))
}

const CA: &str = "app.kubernetes.io/component=ca";

fn scale_ca(lab: &Lab, replicas: &str) -> Result<()> {
    let replicas = format!("--replicas={replicas}");
    lab.kubectl(&["-n", "adit-system", "scale", "deployment/adit-ca", &replicas])?;
    Ok(())
}

fn status(pod: &Value) -> &Value {
    &pod["metadata"]["annotations"]["adit.dev/status"]
}

fn annotations(lab: &Lab, namespace: &str) -> Result<Vec<Value>> {
    let list = lab.json(&["-n", namespace, "get", "pods"])?;
    let pods = list["items"].as_array().into_iter().flatten();
    Ok(pods.map(|pod| status(pod).clone()).collect())
}
