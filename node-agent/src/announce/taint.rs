//! The taint that a node may be registered with, so that no pod comes to it before its agent
//! (`kubelet --register-with-taints`): taken off once the agent is ready, and never put on.

use std::time::Duration;

use adit_core::announce::Answer;
use adit_core::workload::NodeName;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::announce::server::{Form, Server};
use crate::shutdown::{Phase, Shutdown};
use crate::telemetry::Readiness;

/// Its key.
const TAINT: &str = "adit.dev/agent-not-ready";

/// How often it is looked whether the agent is ready, and how soon a write that failed is tried again;
/// each time it fails again, it takes twice as long.
const SOON: Duration = Duration::from_secs(1);

/// But no longer than this. A node that was deleted and has registered anew carries the taint again: so
/// often it is looked for.
const LONGEST: Duration = Duration::from_secs(300);

/// Keeps the taint off this node from when the agent is ready until it drains.
pub async fn taint(
    mut server: Server,
    node: NodeName,
    readiness: Readiness,
    mut shutdown: Shutdown,
) {
    let path = format!("/api/v1/nodes/{}", node.as_str());
    tokio::select! {
        () = shutdown.reached(Phase::Draining) => {}
        () = keep_off(&mut server, &path, &readiness) => {}
    }
}

async fn keep_off(server: &mut Server, path: &str, readiness: &Readiness) {
    let mut again = SOON;
    loop {
        if !readiness.missing().is_empty() {
            sleep(SOON).await;
            continue;
        }
        match take_off(server, path).await {
            Ok(()) => {
                again = SOON;
                sleep(LONGEST).await;
            }
            Err(_told) => {
                sleep(again).await;
                again = LONGEST.min(again * 2);
            }
        }
    }
}

async fn take_off(server: &mut Server, path: &str) -> Result<(), Answer> {
    let Some(change) = without(&server.read(path).await?) else {
        return Ok(());
    };
    match server.write(Form::MergePatch, path, &change).await {
        Answer::Done => {
            tracing::info!(path, taint = TAINT, "taken off: the agent is ready");
            Ok(())
        }
        answer @ (Answer::Gone | Answer::Refused | Answer::Away) => Err(answer),
    }
}

/// The change that takes the taint off a node of the version that was read; `None` if it has none.
fn without(node: &Value) -> Option<Value> {
    let taints = node.pointer("/spec/taints")?.as_array()?;
    let others: Vec<&Value> = taints.iter().filter(|taint| taint["key"] != TAINT).collect();
    if others.len() == taints.len() {
        return None;
    }
    let version = node.pointer("/metadata/resourceVersion")?;
    Some(json!({"metadata": {"resourceVersion": version}, "spec": {"taints": others}}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_taint_is_taken_off_whatever_its_effect_and_all_others_stay() {
        let node = |taints: Value| json!({"metadata": {"resourceVersion": "7", "labels": {"a": "b"}}, "spec": {"taints": taints}});
        let other = json!({"key": "a", "value": "b", "effect": "NoExecute"});
        let ours = |effect: &str| json!({"key": TAINT, "effect": effect});
        let change = without(&node(json!([ours("NoSchedule"), other, ours("NoExecute")])));
        let expected = json!({"metadata": {"resourceVersion": "7"}, "spec": {"taints": [other]}});
        assert_eq!(change, Some(expected));
        assert!(without(&node(json!([ours("NoSchedule")]))).is_some());
        for untouched in [node(json!([other])), node(json!([])), json!({"spec": {}})] {
            assert_eq!(without(&untouched), None, "{untouched}");
        }
    }
}
