//! The policies of the whole cluster.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use adit_core::announce::{CONDITION, Policy, PolicySeen, PolicyWrite, Stated, judge};
use adit_core::identity::TrustDomain;
use adit_core::policy::{PolicyId, PolicyKind};
use adit_core::workload::ObjectName;
use adit_core::world::Changes;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::sync::{broadcast, watch};

use crate::announce::drive::{Objects, Pair, Request, drive};
use crate::announce::lease::Lease;
use crate::announce::server::{Form, Server};
use crate::discovery::kubernetes::{self, Access, Standing, Standings};
use crate::discovery::{SourceStatus, StatusHandle, Worlds};
use crate::shutdown::{Phase, Shutdown};

/// The Lease whose holder writes.
const LEASE: &str = "adit-ca";

/// What is needed to tell of policies.
#[derive(Debug, Clone)]
pub struct Options {
    /// The way to the API server.
    pub access: Access,
    /// The namespace of the Lease.
    pub namespace: String,
    /// A name that no other replica has.
    pub holder: String,
    /// The mesh's trust domain.
    pub trust_domain: TrustDomain,
}

/// Keeps a condition in the status of every policy true, for as long as this replica is elected, until the
/// process drains.
pub async fn policies(options: Options, mut shutdown: Shutdown) {
    let Options { access, namespace, holder, trust_domain } = options;
    let (worlds, status) = (Worlds::new(), StatusHandle::new());
    let (standings, standing) = Standings::kept();
    let settings = kubernetes::Settings { access: access.clone(), kinds: kubernetes::POLICIES };
    let following = kubernetes::run_with_standings(
        settings,
        trust_domain,
        worlds.clone(),
        status.clone(),
        &standings,
        shutdown.clone(),
    );
    let mut lease = Lease::new(Server::new(access.clone()), &namespace, LEASE, holder);
    let mut server = Server::new(access);
    let telling = async {
        loop {
            lease.acquire().await;
            let policies = Policies {
                worlds: worlds.clone(),
                changes: worlds.subscribe(),
                status: status.subscribe(),
                standing: standing.clone(),
            };
            tokio::select! {
                () = drive(policies, &mut server) => {}
                () = lease.keep() => {}
            }
        }
    };
    tokio::select! {
        () = shutdown.reached(Phase::Draining) => {}
        () = following => {}
        () = telling => {}
    }
}

struct Policies {
    worlds: Worlds,
    changes: broadcast::Receiver<Arc<Changes>>,
    status: watch::Receiver<Arc<SourceStatus>>,
    standing: watch::Receiver<BTreeMap<PolicyId, Standing>>,
}

impl Objects for Policies {
    type Subject = Policy;

    fn look(&mut self) -> Vec<Pair<Policy>> {
        let world = self.worlds.load();
        let rejected = &self.status.borrow().rejected;
        let standing = self.standing.borrow();
        let known = standing.iter().filter(|(id, _)| {
            // Before everything is listed nothing is in the world.
            world.policies().contains(id) || rejected.contains_key(id)
        });
        known
            .map(|(id, standing)| {
                let wrong = rejected.get(id).map(String::as_str);
                let seen = PolicySeen {
                    id: id.clone(),
                    generation: standing.generation,
                    condition: judge(world.policies(), id, wrong),
                    carried: own(&standing.conditions).map(stated),
                };
                (id.clone(), seen)
            })
            .collect()
    }

    async fn changed(&mut self) -> bool {
        tokio::select! {
            changed = self.status.changed() => changed.is_ok(),
            changed = self.standing.changed() => changed.is_ok(),
            // One that lagged missed something: that is a change too.
            _changes = self.changes.recv() => true,
        }
    }

    fn request(&self, write: &PolicyWrite, now: SystemTime) -> Request {
        let standing = self.standing.borrow();
        request(write, standing.get(&write.id), now)
    }
}

/// All conditions, everybody else's as they were: in Istio's own definitions of these kinds the list is a
/// whole that belongs to one writer, so that server-side apply would take the others away. The version
/// sees to it that none is lost that came meanwhile (409).
fn request(write: &PolicyWrite, standing: Option<&Standing>, now: SystemTime) -> Request {
    let ObjectName { namespace, name } = &write.id.name;
    let plural = match write.id.kind {
        PolicyKind::PeerAuthentication => "peerauthentications",
        PolicyKind::AuthorizationPolicy => "authorizationpolicies",
    };
    let none: &[Value] = &[];
    let before = standing.map_or(none, |standing| &standing.conditions);
    let version = standing.map_or("", |standing| &standing.version);
    let api = standing.map_or("security.istio.io/v1", |standing| &standing.api_version);
    let own = own(before);
    let same = own.filter(|own| own["status"] == write.condition.status());
    let since = same.and_then(|own| own["lastTransitionTime"].as_str());
    let mut conditions: Vec<Value> = before.iter().filter(|one| !is_own(one)).cloned().collect();
    conditions.push(json!({
        "type": CONDITION,
        "status": write.condition.status(),
        "reason": write.condition.reason,
        "message": write.condition.message,
        "observedGeneration": write.generation,
        "lastTransitionTime": since.map_or_else(|| seconds(now), str::to_owned),
    }));
    let body = json!({
        "metadata": {"resourceVersion": version},
        "status": {"conditions": conditions},
    });
    let path = format!("/apis/{api}/namespaces/{namespace}/{plural}/{name}/status");
    (Form::MergePatch, path, body)
}

fn is_own(condition: &Value) -> bool {
    condition["type"] == CONDITION
}

fn own(conditions: &[Value]) -> Option<&Value> {
    conditions.iter().find(|one| is_own(one))
}

fn stated(condition: &Value) -> Stated {
    let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    Stated {
        status: text("status"),
        reason: text("reason"),
        message: text("message"),
        generation: condition["observedGeneration"].as_i64().unwrap_or_default(),
    }
}

/// As the API server writes a Time.
fn seconds(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time);
    let seconds = time.replace_nanosecond(0).unwrap_or(time);
    seconds.format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use adit_core::announce::Condition;

    use super::*;

    #[test]
    fn a_condition_stands_beside_others_and_keeps_its_time_while_its_status_is_the_same() {
        let id = PolicyId {
            kind: PolicyKind::AuthorizationPolicy,
            name: ObjectName::new("shop", "cart"),
        };
        let condition = Condition { accepted: true, reason: "Accepted", message: "m".to_owned() };
        let mut write = PolicyWrite { id, generation: 3, condition };
        let theirs = json!({"type": "ZtunnelAccepted", "status": "True"});
        let ours = json!({
            "type": CONDITION, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z",
        });
        let standing = Standing {
            generation: 3,
            version: "12".to_owned(),
            api_version: "security.istio.io/v1beta1".to_owned(),
            conditions: vec![ours, theirs.clone()],
        };
        let now = UNIX_EPOCH + Duration::from_secs(1_764_000_000);
        let (_, path, body) = request(&write, Some(&standing), now);
        assert_eq!(
            path,
            "/apis/security.istio.io/v1beta1/namespaces/shop/authorizationpolicies/cart/status"
        );
        assert_eq!(body["metadata"]["resourceVersion"], "12");
        let conditions = &body["status"]["conditions"];
        assert_eq!(conditions[0], theirs);
        assert_eq!(conditions[1]["observedGeneration"], 3);
        assert_eq!(conditions[1]["lastTransitionTime"], "2026-01-01T00:00:00Z");
        assert!(conditions[2].is_null());
        write.condition.accepted = false;
        let (_, _, body) = request(&write, Some(&standing), now);
        let since = &body["status"]["conditions"][1]["lastTransitionTime"];
        assert_eq!(since, "2025-11-24T16:00:00Z");
    }
}
