//! The CNI plugin on a node, asked as a runtime asks it.

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{SHOP, STREET};
use crate::lab::Lab;

/// containerd calls ADD and DEL alone; CHECK, STATUS and GC are for other runtimes.
pub(crate) fn check_status_gc(lab: &Lab) -> Result<String> {
    let (client, _) = lab.pod(SHOP, "client", "n1")?;
    let uid = |namespace: &str, name: &str| {
        let pod = lab.json(&["-n", namespace, "get", "pod", name])?;
        pod["metadata"]["uid"].as_str().map(str::to_owned).context("a pod without a UID")
    };
    let (enrolled, stranger) = (uid(SHOP, &client)?, uid(STREET, "stranger")?);
    let nobody = "00000000-0000-4000-8000-000000000000";
    for (command, namespace, name, uid, refused) in [
        ("CHECK", SHOP, &*client, &*enrolled, false),
        ("CHECK", SHOP, "no-such-pod", nobody, true),
        ("CHECK", STREET, "stranger", &stranger, false),
        ("STATUS", "", "", "", false),
        ("GC", "", "", "", false),
        ("DEL", SHOP, "no-such-pod", nobody, false),
    ] {
        let said = ask(lab, command, namespace, name, uid)?;
        let asked = format!("{command} {namespace}/{name}");
        if refused {
            let error: Value = serde_json::from_str(&said).with_context(|| asked.clone())?;
            ensure!(error["code"] == 11, "{asked}: {said}");
        } else {
            ensure!(said.is_empty(), "{asked}: {said}");
        }
    }
    Ok(String::new())
}

/// What it prints: an error, or nothing.
fn ask(lab: &Lab, command: &str, namespace: &str, name: &str, uid: &str) -> Result<String> {
    let list = lab.on_node("n1", &["cat", "/etc/cni/net.d/10-lab.conflist"])?;
    let list: Value = serde_json::from_str(&list).context("the node's conflist")?;
    let mut plugins = list["plugins"].as_array().into_iter().flatten().cloned();
    let own = plugins.find(|plugin| plugin["type"] == "adit-cni");
    let mut own = own.context("adit's plugin is not in the conflist")?;
    // CNI specification 1.0, section 3: what a runtime adds to a plugin's configuration.
    own["cniVersion"] = "1.1.0".into();
    own["name"] = list["name"].clone();
    let args = format!("K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};K8S_POD_UID={uid}");
    let args = if namespace.is_empty() { "" } else { &args };
    let script =
        r#"printf %s "$1" | env CNI_COMMAND="$2" CNI_ARGS="$3" /opt/cni/bin/adit-cni || true"#;
    lab.on_node("n1", &["sh", "-c", script, "sh", &own.to_string(), command, args])
}
