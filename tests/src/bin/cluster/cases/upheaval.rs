//! What is restarted, or away, around pods that talk.

use std::time::Duration;

use adit_e2e::wait::wait_for;
use anyhow::{Result, ensure};

use super::opening::Opening;
use super::{PODS, SHOP};
use crate::flows::{Done, is_from};
use crate::lab::{Lab, NODES};

/// Connections from one node to the other, one after the other, for `seconds`, while something is done
/// to them. None may fail.
fn under_traffic(lab: &Lab, seconds: u32, act: impl FnOnce() -> Result<()>) -> Result<String> {
    let (client, _) = lab.pod(SHOP, "client", "n1")?;
    let (_, server) = lab.pod(SHOP, "web", "n2")?;
    let opened = Opening::begin(lab, (SHOP, &client), &server, ("50ms", seconds))?;
    let acted = act();
    let seen = opened.none_failed();
    acted?;
    seen
}

pub(crate) fn rollout_restart(lab: &Lab) -> Result<String> {
    let seen = under_traffic(lab, 40, || {
        lab.kubectl(&["-n", "adit-system", "rollout", "restart", "daemonset/adit"])?;
        let status = ["-n", "adit-system", "rollout", "status", "daemonset/adit", "--timeout=90s"];
        lab.kubectl(&status).map(drop)
    })?;
    lab.wait_enrolled(SHOP, PODS)?;
    Ok(seen)
}

/// The exec that carries the traffic of the case would end with its node's kubelet or containerd: the
/// server's are restarted.
pub(crate) fn kubelet_and_containerd(lab: &Lab) -> Result<String> {
    let seen = under_traffic(lab, 15, || {
        for part in ["containerd", "kubelet"] {
            lab.restart("n2", part)?;
        }
        lab.kubectl(&["wait", "--for=condition=Ready", "node/n2", "--timeout=60s"]).map(drop)
    })?;
    lab.wait_enrolled(SHOP, PODS)?;
    // What comes afterwards is enrolled as before.
    lab.kubectl(&["apply", "-f", &lab.file("manifests/late.yaml")])?;
    lab.kubectl(&["-n", SHOP, "wait", "--for=condition=Ready", "pod/late", "--timeout=60s"])?;
    lab.kubectl(&["delete", "-f", &lab.file("manifests/late.yaml"), "--grace-period=1"])?;
    Ok(seen)
}

pub(crate) fn api_server_away(lab: &Lab) -> Result<String> {
    let (client, _) = lab.pod(SHOP, "client", "n1")?;
    let (_, server) = lab.pod(SHOP, "web", "n2")?;
    // In the pod's own background: an exec needs the API server.
    let command = format!("/testapp every 50ms 60s http://{server}:8080/ >/tmp/seen 2>&1 &");
    lab.exec(SHOP, &client, &["/bin/sh", "-c", &command])?;
    lab.control_plane("stop-api")?;
    let file = "cat /run/containerd/io.containerd.runtime.v2.task/k8s.io/*/rootfs/tmp/seen";
    let seen = wait_for("the traffic to end", Duration::from_secs(120), || {
        let said = lab.on_node("n1", &["sh", "-c", file]).unwrap_or_default();
        Ok(said.contains("ok=").then_some(said))
    });
    lab.control_plane("api")?;
    let seen = seen?;
    ensure!(seen.contains("failed=0"), "{seen}");
    // These may need a minute or two to hear it, since client-go's pauses grow to 30 s and as much again by
    // chance; started again, they do at once. kube-proxy leads the agents to it.
    for node in NODES {
        lab.restart(node, "kube-proxy")?;
        lab.restart(node, "kubelet")?;
    }
    lab.kubectl(&["wait", "--for=condition=Ready", "node", "--all", "--timeout=180s"])?;
    lab.wait_enrolled(SHOP, PODS)?;
    let heard = hear_again(lab, &client, &server)?;
    Ok(format!("{}; a policy in force {heard}", seen.trim()))
}

/// The agents take what is new, and so does a kubelet.
fn hear_again(lab: &Lab, client: &str, server: &str) -> Result<String> {
    let policy = lab.file("manifests/deny-client.yaml");
    let url = format!("http://{server}:8080/");
    let applied = Done::by(lab, &["apply", "-f", &policy])?;
    wait_for("the client to be refused", Duration::from_secs(60), || {
        Ok(lab.get(SHOP, client, &url).is_err().then_some(()))
    })?;
    let refused = applied
        .first(lab, "n2", |flow| is_from(flow, client, 8080) && flow["verdict"] == "denied")?;
    lab.kubectl(&["delete", "-f", &policy])?;
    wait_for("the client to be let in again", Duration::from_secs(60), || {
        Ok(lab.get(SHOP, client, &url).is_ok().then_some(()))
    })?;
    let late = lab.file("manifests/late.yaml");
    lab.kubectl(&["apply", "-f", &late])?;
    lab.kubectl(&["-n", SHOP, "wait", "--for=condition=Ready", "pod/late", "--timeout=120s"])?;
    lab.kubectl(&["delete", "-f", &late, "--grace-period=1"])?;
    Ok(applied.until(refused))
}
