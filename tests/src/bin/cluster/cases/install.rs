//! Applying and deleting.

use std::time::{Duration, Instant};

use adit_e2e::wait::wait_for;
use anyhow::{Result, bail};

use super::{SHOP, STREET};
use crate::lab::{Lab, NODES};

pub(crate) fn manifests_are_valid(lab: &Lab) -> Result<String> {
    // What is namespaced is only checked in a namespace that exists.
    lab.kubectl(&["create", "namespace", "adit-system"])?;
    let mut count = 0;
    let whole = ["../../deploy", "../../deploy/crds", "../../deploy/cleanup"];
    // The third component is of a kind that Prometheus's operator defines.
    let components = ["no-cni", "node-taint"].map(|component| lab.with_component(component));
    let components = components.into_iter().collect::<Result<Vec<_>>>()?;
    for part in whole.into_iter().map(|part| lab.file(part)).chain(components) {
        let said = lab.kubectl(&["apply", "--server-side", "--dry-run=server", "-k", &part])?;
        count += said.lines().filter(|line| line.contains("(server dry run)")).count();
    }
    if count < 60 {
        bail!("only {count} objects were looked at");
    }
    Ok(format!("{count} objects"))
}

pub(crate) fn apply(lab: &Lab) -> Result<String> {
    lab.kubectl(&["apply", "-k", &lab.file("../../deploy/crds")])?;
    lab.kubectl(&["apply", "-f", &lab.file("manifests/shop.yaml")])?;
    for what in ["deployment/web", "daemonset/client"] {
        lab.kubectl(&["-n", SHOP, "rollout", "status", what, "--timeout=90s"])?;
    }
    lab.kubectl(&["-n", STREET, "wait", "--for=condition=Ready", "pod/stranger", "--timeout=60s"])?;
    let began = Instant::now();
    lab.kubectl(&["apply", "-k", &lab.overlay()?])?;
    for what in ["deployment/adit-ca", "daemonset/adit"] {
        lab.kubectl(&["-n", "adit-system", "rollout", "status", what, "--timeout=120s"])?;
    }
    Ok(format!("{:.1} s from apply to ready", began.elapsed().as_secs_f32()))
}

/// The documented steps.
pub(crate) fn uninstall(lab: &Lab) -> Result<String> {
    lab.kubectl(&["label", "namespace", SHOP, "adit.dev/mode=ambient"])?;
    lab.wait_enrolled(SHOP, super::PODS)?;
    let cleanup = lab.file("../../deploy/cleanup");
    lab.kubectl(&["delete", "-k", &lab.overlay()?, "--timeout=120s"])?;
    lab.kubectl(&["apply", "-k", &cleanup])?;
    lab.kubectl(&[
        "-n",
        "adit-system",
        "rollout",
        "status",
        "daemonset/adit-cleanup",
        "--timeout=90s",
    ])?;
    lab.kubectl(&["delete", "-k", &cleanup, "--timeout=120s"])?;
    for node in NODES {
        let left = lab.on_node(node, &[
            "sh",
            "-c",
            "ls -d /sys/fs/bpf/adit /opt/cni/bin/adit-cni /var/lib/adit/cni.json 2>/dev/null; grep -l adit /etc/cni/net.d/* || true",
        ])?;
        if !left.trim().is_empty() {
            bail!("{node} still has {left}");
        }
        let (client, _) = lab.pod(SHOP, "client", node)?;
        wait_for("traffic after the uninstall", Duration::from_secs(10), || {
            lab.get(SHOP, &client, "http://web.shop/").map(Some)
        })?;
    }
    Ok(String::new())
}
