//! The kubelet's probes.

use std::time::{Duration, Instant};

use adit_e2e::wait::wait_for;
use anyhow::{Result, ensure};

use super::{SHOP, STREET};
use crate::lab::Lab;

const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn under_strict(lab: &Lab) -> Result<String> {
    lab.kubectl(&["apply", "-f", &lab.file("manifests/strict.yaml")])?;
    let (_, server) = lab.pod(SHOP, "web", "n1")?;
    let closed = format!("http://{server}:8080/");
    wait_for("STRICT to be in force", PATIENCE, || {
        Ok(lab.get(STREET, "stranger", &closed).is_err().then_some(()))
    })?;

    let began = Instant::now();
    lab.kubectl(&["apply", "-f", &lab.file("manifests/probed.yaml")])?;
    wait_ready(lab, "True")?;
    let took = began.elapsed().as_secs_f32();
    let (pod, address) = lab.pod(SHOP, "probed", "n1")?;
    wait_for("a flow of the kubelet's", PATIENCE, || {
        let flows = lab.adit("n1", &["flows"])?;
        let mut flows = flows.as_array().into_iter().flatten();
        Ok(flows.find(|flow| flow["plaintextReason"] == "probe").map(drop))
    })?;

    // The very port and path that the kubelet asks for, from a pod and from the node itself.
    let url = format!("http://{address}:8080/readyz");
    ensure!(lab.get(STREET, "stranger", &url).is_err(), "a stranger reached the probed port");
    let curl = ["curl", "-s", "-S", "-m", "10", &url];
    let refused = lab.on_node("n1", &curl);
    ensure!(refused.is_err(), "another process of the node reached the probed port");

    // What the kubelet is told is the application's own answer.
    lab.get(SHOP, &pod, "http://127.0.0.1:8080/readyz?set=0")?;
    wait_ready(lab, "False")?;
    lab.get(SHOP, &pod, "http://127.0.0.1:8080/readyz?set=1")?;
    wait_ready(lab, "True")?;
    let status = lab.json(&["-n", SHOP, "get", "pod", "probed"])?;
    let restarts = &status["status"]["containerStatuses"][0]["restartCount"];
    ensure!(*restarts == 0, "restarted {restarts} times");
    lab.kubectl(&["delete", "-f", &lab.file("manifests/probed.yaml")])?;
    lab.kubectl(&["delete", "-f", &lab.file("manifests/strict.yaml")])?;
    Ok(format!("ready {took:.1} s after apply"))
}

fn wait_ready(lab: &Lab, wanted: &str) -> Result<()> {
    wait_for(&format!("the probed pod's Ready to be {wanted}"), PATIENCE, || {
        let pod = lab.json(&["-n", SHOP, "get", "pod", "probed"])?;
        let mut conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
        let ready = conditions.find(|condition| condition["type"] == "Ready");
        Ok(ready.filter(|ready| ready["status"] == wanted).map(drop))
    })
}
