//! The pods of this node.

use std::sync::Arc;
use std::time::SystemTime;

use adit_core::announce::{ANNOTATION, Pod, Seen, What, Write};
use adit_core::workload::{ObjectName, Phase, PodUid};
use adit_core::world::{Changes, World};
use serde_json::json;
use tokio::sync::broadcast;

use crate::announce::drive::{Objects, Pair, Request, drive};
use crate::announce::server::{Form, Server, micro_time};
use crate::discovery::Worlds;
use crate::enrol::{Enrolments, PodStatus};
use crate::shutdown::{Phase as Ending, Shutdown};

/// Who reports the Events. deploy/agent-admission.yaml lets the agents write no others.
const REPORTER: &str = "adit.dev/agent";

/// Keeps what the cluster is told of this node's pods true until the process drains.
pub async fn pods(
    mut server: Server,
    worlds: Worlds,
    enrolments: Enrolments,
    mut shutdown: Shutdown,
) {
    let pods = Pods { changes: worlds.subscribe(), worlds, enrolments };
    tokio::select! {
        () = shutdown.reached(Ending::Draining) => {}
        () = drive(pods, &mut server) => {}
    }
}

struct Pods {
    worlds: Worlds,
    changes: broadcast::Receiver<Arc<Changes>>,
    enrolments: Enrolments,
}

impl Objects for Pods {
    type Subject = Pod;

    fn look(&mut self) -> Vec<Pair<Pod>> {
        look(&self.worlds.load(), &self.enrolments.list())
    }

    async fn changed(&mut self) -> bool {
        tokio::select! {
            going_on = self.enrolments.changed() => going_on,
            // One that lagged missed something: that is a change too.
            _changes = self.changes.recv() => true,
        }
    }

    fn request(&self, write: &Write, now: SystemTime) -> Request {
        request(write, now)
    }
}

/// The pods that live. Of one that is ending nobody needs to be told any more.
fn look(world: &World, pods: &[PodStatus]) -> Vec<(PodUid, Seen)> {
    let seen = pods.iter().filter_map(|pod| {
        let workload = world.workload(&pod.uid).filter(|pod| pod.phase == Phase::Active)?;
        let seen = Seen {
            uid: pod.uid.clone(),
            name: pod.name.clone(),
            addressed: !pod.addresses.is_empty(),
            state: pod.state.clone(),
            since: pod.since,
            carried: workload.announced.clone(),
        };
        Some((pod.uid.clone(), seen))
    });
    seen.collect()
}

/// As the API server wants it.
fn request(write: &Write, now: SystemTime) -> Request {
    let ObjectName { namespace, name } = &write.pod;
    let events = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events");
    match &write.what {
        What::Annotation(value) => {
            // With the UID, so that a pod of the same name is not taken for this one (409).
            let metadata = json!({"uid": write.uid.as_str(), "annotations": {ANNOTATION: value}});
            let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/status");
            (Form::MergePatch, path, json!({"metadata": metadata}))
        }
        What::Event { name: event, note } => {
            let body = json!({
                "apiVersion": "events.k8s.io/v1",
                "kind": "Event",
                "metadata": {"name": event, "namespace": namespace},
                "eventTime": micro_time(now),
                "type": "Warning",
                "reason": "EnrolmentRefused",
                "action": "Enrol",
                "note": note,
                "regarding": {
                    "apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": name,
                    "uid": write.uid.as_str(),
                },
                "reportingController": REPORTER,
                "reportingInstance": REPORTER,
            });
            (Form::Object, events, body)
        }
        What::Series { name: event, count } => {
            let series = json!({"count": count, "lastObservedTime": micro_time(now)});
            (Form::MergePatch, format!("{events}/{event}"), json!({"series": series}))
        }
    }
}
