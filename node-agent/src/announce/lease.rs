//! A Lease (`coordination.k8s.io/v1`): one of several replicas holds it at a time, as Kubernetes' own
//! controllers elect their leaders. Nobody compares clocks: a Lease is free when it has not changed for
//! its duration by the clock of whoever wants it.

use std::time::{Duration, SystemTime};

use adit_core::announce::Answer;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::announce::server::{Form, Server, micro_time};

/// A Lease that is not renewed for this long is free.
const DURATION: Duration = Duration::from_secs(15);

/// How often it is renewed, or looked at by whoever waits for it.
const PERIOD: Duration = Duration::from_secs(5);

/// Who could not renew it for this long has lost it, before another may have it.
const LOST: Duration = Duration::from_secs(10);

/// The Lease, as one replica sees it.
pub(super) struct Lease {
    server: Server,
    collection: String,
    name: String,
    holder: String,
    /// The version that was seen last, and since when.
    seen: Option<(String, Instant)>,
}

impl Lease {
    pub(super) fn new(server: Server, namespace: &str, name: &str, holder: String) -> Self {
        let collection = format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases");
        Self { server, collection, name: name.to_owned(), holder, seen: None }
    }

    /// Returns when the Lease is held.
    pub(super) async fn acquire(&mut self) {
        while self.hold().await != Ok(true) {
            // Not all replicas at once.
            sleep(PERIOD + Duration::from_millis(rand::random::<u64>() % 1000)).await;
        }
        tracing::info!(lease = self.name, holder = self.holder, "elected");
    }

    /// Renews the Lease; returns when it is lost.
    pub(super) async fn keep(&mut self) {
        let mut held = Instant::now();
        loop {
            sleep(PERIOD).await;
            let began = Instant::now();
            match self.hold().await {
                Ok(true) => held = began,
                Err(_answer) if held.elapsed() < LOST => {}
                Ok(false) | Err(_) => break,
            }
        }
        tracing::info!(lease = self.name, holder = self.holder, "no longer elected");
    }

    /// Takes or renews the Lease, if it is this one's or free. Whether it is held now.
    async fn hold(&mut self) -> Result<bool, Answer> {
        let path = format!("{}/{}", self.collection, self.name);
        let lease = match self.server.read(&path).await {
            Ok(lease) => lease,
            Err(Answer::Gone) => {
                let lease = self.held(json!({"metadata": {"name": self.name}}));
                return self.write(Form::Object, &self.collection.clone(), &lease).await;
            }
            Err(answer) => return Err(answer),
        };
        let version = text(&lease, "/metadata/resourceVersion").unwrap_or_default();
        let since = match &self.seen {
            Some((seen, since)) if seen == version => *since,
            _ => Instant::now(),
        };
        self.seen = Some((version.to_owned(), since));
        if !is_free(&lease, &self.holder, since.elapsed()) {
            return Ok(false);
        }
        self.write(Form::Replacement, &path, &self.held(lease)).await
    }

    /// The Lease as it is when this one holds it.
    fn held(&self, mut lease: Value) -> Value {
        let now = micro_time(SystemTime::now());
        let before = text(&lease, "/spec/holderIdentity");
        let renewed = before == Some(&*self.holder);
        let acquired = text(&lease, "/spec/acquireTime").filter(|_| renewed).unwrap_or(&now);
        let transitions = lease.pointer("/spec/leaseTransitions").and_then(Value::as_i64);
        let spec = json!({
            "holderIdentity": self.holder,
            "leaseDurationSeconds": DURATION.as_secs(),
            "acquireTime": acquired,
            "renewTime": now,
            "leaseTransitions": transitions.unwrap_or(0) + i64::from(before.is_some() && !renewed),
        });
        if let Value::Object(fields) = &mut lease {
            fields.insert("spec".to_owned(), spec);
        }
        lease
    }

    async fn write(&mut self, form: Form, path: &str, lease: &Value) -> Result<bool, Answer> {
        match self.server.write(form, path, lease).await {
            Answer::Done => Ok(true),
            // Somebody else was faster.
            Answer::Gone => Ok(false),
            answer @ (Answer::Refused | Answer::Away) => Err(answer),
        }
    }
}

/// Whether this one may take a Lease that has not changed for this long.
fn is_free(lease: &Value, holder: &str, unchanged: Duration) -> bool {
    let seconds = lease.pointer("/spec/leaseDurationSeconds").and_then(Value::as_u64);
    let duration = Duration::from_secs(seconds.unwrap_or(0));
    match text(lease, "/spec/holderIdentity") {
        None | Some("") => true,
        Some(other) => other == holder || unchanged >= duration,
    }
}

fn text<'a>(object: &'a Value, pointer: &str) -> Option<&'a str> {
    object.pointer(pointer)?.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_taken_from_nobody_who_renews_it() {
        let lease =
            |holder: &str| json!({"spec": {"holderIdentity": holder, "leaseDurationSeconds": 15}});
        let seconds = Duration::from_secs;
        assert!(is_free(&json!({}), "a", seconds(0)));
        assert!(is_free(&lease(""), "a", seconds(0)));
        assert!(is_free(&lease("a"), "a", seconds(0)));
        assert!(!is_free(&lease("b"), "a", seconds(14)));
        assert!(is_free(&lease("b"), "a", seconds(15)));
    }
}
