//! The pods of this node.

use std::future::pending;
use std::time::SystemTime;

use adit_core::announce::{ANNOTATION, Announcer, Answer, Input, Seen, What, Write};
use adit_core::workload::{ObjectName, Phase};
use adit_core::world::World;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::announce::server::{Form, Server};
use crate::discovery::Worlds;
use crate::enrol::{Enrolments, PodStatus};
use crate::shutdown::{Phase as Ending, Shutdown};

/// Who reports the Events. deploy/agent-admission.yaml lets the agents write no others.
const REPORTER: &str = "adit.dev/agent";

/// Keeps what the cluster is told of this node's pods true until the process drains.
pub async fn pods(server: Server, worlds: Worlds, enrolments: Enrolments, mut shutdown: Shutdown) {
    let (asking, asked) = mpsc::channel(1);
    let (answering, answered) = mpsc::channel(1);
    tokio::select! {
        () = shutdown.reached(Ending::Draining) => {}
        () = decide(worlds, enrolments, asking, answered) => {}
        () = write(server, asked, answering) => {}
    }
}

async fn decide(
    worlds: Worlds,
    mut enrolments: Enrolments,
    asking: mpsc::Sender<Write>,
    mut answered: mpsc::Receiver<Answer>,
) {
    let mut changes = worlds.subscribe();
    let mut machine = Announcer::new(rand::random());
    let mut pods = enrolments.list();
    machine.handle(Input::Pods(look(&worlds.load(), &pods)), now());
    loop {
        if let Some(write) = machine.poll_command()
            && asking.send(write).await.is_err()
        {
            return;
        }
        tokio::select! {
            Some(answer) = answered.recv() => {
                machine.handle(Input::Answered(answer), now());
                continue;
            }
            () = deadline(&machine) => {
                machine.handle_timeout(now());
                continue;
            }
            going_on = enrolments.changed() => if !going_on { return },
            changes = changes.recv() => match changes {
                Ok(changes) if !pods.iter().any(|pod| changes.workloads.contains(&pod.uid)) => continue,
                // `worlds` holds a sender: `Closed` cannot happen.
                Ok(_) | Err(RecvError::Lagged(_) | RecvError::Closed) => {}
            },
        }
        pods = enrolments.list();
        machine.handle(Input::Pods(look(&worlds.load(), &pods)), now());
    }
}

/// The pods that live. Of one that is ending nobody needs to be told any more.
fn look(world: &World, pods: &[PodStatus]) -> Vec<Seen> {
    let seen = pods.iter().filter_map(|pod| {
        let workload = world.workload(&pod.uid).filter(|pod| pod.phase == Phase::Active)?;
        Some(Seen {
            uid: pod.uid.clone(),
            name: pod.name.clone(),
            addressed: !pod.addresses.is_empty(),
            state: pod.state.clone(),
            since: pod.since,
            carried: workload.announced.clone(),
        })
    });
    seen.collect()
}

async fn write(
    mut server: Server,
    mut asked: mpsc::Receiver<Write>,
    answering: mpsc::Sender<Answer>,
) {
    while let Some(write) = asked.recv().await {
        let (form, path, body) = request(&write, SystemTime::now());
        let answer = server.write(form, &path, &body).await;
        if answering.send(answer).await.is_err() {
            return;
        }
    }
}

/// As the API server wants it.
fn request(write: &Write, now: SystemTime) -> (Form, String, Value) {
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

/// RFC 3339 with six digits of a second, as the API server reads a MicroTime.
fn micro_time(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time);
    let micros = time.replace_nanosecond(time.microsecond() * 1000).unwrap_or(time);
    let format = time::macros::format_description!(
        "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z"
    );
    micros.format(format).unwrap_or_default()
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

/// Waits for the machine's next deadline; for ever if it has none.
async fn deadline(machine: &Announcer) {
    match machine.poll_timeout() {
        Some((at, _)) => sleep_until(Instant::from_std(at)).await,
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn a_time_has_six_digits_behind_the_second() {
        let time = UNIX_EPOCH + Duration::from_nanos(1_764_000_000_000_001_999);
        assert_eq!(micro_time(time), "2025-11-24T16:00:00.000001Z");
    }
}
