//! What is to be told of one policy: what adit makes of it.

use std::time::Instant;

use super::turn::{LONGEST_REFUSED, REFUSED, SPACING, Turn};
use super::{Answer, Subject, shortened};
use crate::policy::{PolicyId, PolicyKind, PolicySet};

/// The type of the condition.
pub const CONDITION: &str = "adit.dev/Accepted";

/// The longest message, in bytes; Kubernetes takes 32 KiB.
const MESSAGE: usize = 4096;

/// What adit makes of a policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Whether it is in force.
    pub accepted: bool,
    /// `Accepted`, `PartiallySupported` or `Invalid`.
    pub reason: &'static str,
    /// The fields that it is about, and what comes of each.
    pub message: String,
}

/// A condition as an object carries it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stated {
    /// `True`, or something else.
    pub status: String,
    /// The reason.
    pub reason: String,
    /// The message.
    pub message: String,
    /// The generation of the object that it is about.
    pub generation: i64,
}

/// A policy as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicySeen {
    /// Its name.
    pub id: PolicyId,
    /// Its generation.
    pub generation: i64,
    /// What is true of it.
    pub condition: Condition,
    /// What its status says.
    pub carried: Option<Stated>,
}

/// A condition to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyWrite {
    /// The policy.
    pub id: PolicyId,
    /// The generation that the condition is about.
    pub generation: i64,
    /// The condition.
    pub condition: Condition,
}

/// A policy, and what was told of it.
#[derive(Debug)]
pub struct Policy {
    seen: PolicySeen,
    /// Since when there is something to tell, or since before.
    since: Instant,
    turn: Turn,
    written: Option<PolicyWrite>,
}

/// What adit makes of a policy; `rejected` says what is wrong with its newest version. The same that
/// `adit policies` shows as its state.
#[must_use]
pub fn judge(policies: &PolicySet, id: &PolicyId, rejected: Option<&str>) -> Condition {
    if let Some(error) = rejected {
        let message = format!(
            "{error}. In force is the last valid version, or where an agent knows none, what is left \
             of this one with everything invalid opening nothing up"
        );
        return Condition {
            accepted: false,
            reason: "Invalid",
            message: shortened(message, MESSAGE),
        };
    }
    let gaps = policies.gaps(id);
    if gaps.is_empty() {
        let message = match dry_run(policies, id) {
            false => "enforced as it is written",
            true => "evaluated as it is written, and not enforced: dry run",
        };
        return Condition { accepted: true, reason: "Accepted", message: message.to_owned() };
    }
    let gaps: Vec<String> = gaps.iter().map(ToString::to_string).collect();
    let message = shortened(gaps.join("; "), MESSAGE);
    Condition { accepted: true, reason: "PartiallySupported", message }
}

fn dry_run(policies: &PolicySet, id: &PolicyId) -> bool {
    match id.kind {
        PolicyKind::PeerAuthentication => {
            policies.peer_authentication(&id.name).is_some_and(|policy| policy.dry_run())
        }
        PolicyKind::AuthorizationPolicy => {
            policies.authorization_policy(&id.name).is_some_and(|policy| policy.dry_run())
        }
    }
}

impl Condition {
    /// As a condition's `status` has it.
    #[must_use]
    pub const fn status(&self) -> &'static str {
        if self.accepted { "True" } else { "False" }
    }

    fn is_stated(&self, generation: i64, by: Option<&Stated>) -> bool {
        by.is_some_and(|stated| {
            stated.status == self.status()
                && stated.reason == self.reason
                && stated.message == self.message
                && stated.generation == generation
        })
    }
}

impl Subject for Policy {
    type Key = PolicyId;
    type Seen = PolicySeen;
    type Write = PolicyWrite;

    fn new(seen: PolicySeen, now: Instant) -> Self {
        Self { seen, since: now, turn: Turn::default(), written: None }
    }

    fn see(&mut self, seen: PolicySeen, _now: Instant) {
        self.seen = seen;
    }

    fn due(&self) -> Option<Instant> {
        let PolicySeen { generation, condition, carried, .. } = &self.seen;
        let is_told = condition.is_stated(*generation, carried.as_ref());
        (!is_told).then(|| self.turn.at(self.since))
    }

    fn next(&self, now: Instant, _random: u64) -> Option<PolicyWrite> {
        self.due().filter(|due| *due <= now)?;
        let PolicySeen { id, generation, condition, .. } = self.seen.clone();
        Some(PolicyWrite { id, generation, condition })
    }

    fn answered(&mut self, write: PolicyWrite, answer: Answer, now: Instant) {
        match answer {
            Answer::Done => {
                if self.written.as_ref() != Some(&write) {
                    self.turn.calm();
                }
                self.turn.wait(SPACING, LONGEST_REFUSED, now);
                self.written = Some(write);
            }
            // Somebody else wrote to it meanwhile, or it is gone: discovery will tell.
            Answer::Gone => self.turn.wait(SPACING, LONGEST_REFUSED, now),
            Answer::Refused | Answer::Away => self.turn.wait(REFUSED, LONGEST_REFUSED, now),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::{Announcer, Input};
    use super::*;
    use crate::policy::spec::{AuthorizationPolicySpec, OperationSpec, RuleSpec};
    use crate::policy::{AuthorizationPolicy, PolicySet};
    use crate::workload::ObjectName;
    use crate::world::{Delta, World};

    #[test]
    fn a_condition_says_what_adit_makes_of_a_policy_and_names_the_fields() {
        let policies =
            policies(&[("plain", &[], false), ("paths", &["paths"], false), ("dry", &[], true)]);
        let says = |name: &str, rejected: Option<&str>| {
            let Condition { accepted, reason, message } = judge(&policies, &id(name), rejected);
            (accepted, reason, message)
        };
        assert_eq!(says("plain", None), (true, "Accepted", "enforced as it is written".to_owned()));
        let (accepted, reason, message) = says("paths", None);
        assert_eq!((accepted, reason), (true, "PartiallySupported"));
        assert!(message.starts_with("spec.rules[0].to[0].operation.paths: "), "{message}");
        assert!(says("dry", None).2.contains("dry run"));
        let (accepted, reason, message) = says("plain", Some("spec.action: \"X\": is not one"));
        assert_eq!((accepted, reason), (false, "Invalid"));
        assert!(message.starts_with("spec.action: \"X\""), "{message}");
        assert!(says("plain", Some(&"ü".repeat(9000))).2.len() < MESSAGE + 4);
    }

    #[test]
    fn a_condition_is_written_when_it_or_the_generation_is_another_and_not_otherwise() {
        #[expect(clippy::disallowed_methods, reason = "a beginning from which the test counts")]
        let start = Instant::now();
        let mut now = start;
        let mut machine: Announcer<Policy> = Announcer::new(1);
        let condition =
            Condition { accepted: true, reason: "Accepted", message: "enforced".to_owned() };
        let mut seen = PolicySeen { id: id("p"), generation: 1, condition, carried: None };
        let mut look = |seen: &PolicySeen, now| {
            machine.handle(Input::Seen(vec![(seen.id.clone(), seen.clone())]), now);
            let write = machine.poll_command();
            if write.is_some() {
                machine.handle(Input::Answered(Answer::Done), now);
            }
            write.map(|write| write.generation)
        };
        assert_eq!(look(&seen, now), Some(1));
        seen.carried = Some(stated(1));
        now += Duration::from_secs(60);
        assert_eq!(look(&seen, now), None);
        seen.generation = 2;
        assert_eq!(look(&seen, now), Some(2));
        // Somebody who takes it away again and again is answered ever more rarely.
        seen.carried = None;
        let mut writes = 0;
        while now - start < Duration::from_secs(3600) {
            now += Duration::from_secs(1);
            writes += u32::from(look(&seen, now).is_some());
        }
        assert!((5..20).contains(&writes), "{writes}");
    }

    fn stated(generation: i64) -> Stated {
        let text = |text: &str| text.to_owned();
        let (status, reason, message) = (text("True"), text("Accepted"), text("enforced"));
        Stated { status, reason, message, generation }
    }

    fn id(name: &str) -> PolicyId {
        PolicyId { kind: PolicyKind::AuthorizationPolicy, name: ObjectName::new("shop", name) }
    }

    fn policies(list: &[(&str, &[&str], bool)]) -> PolicySet {
        let deltas = list.iter().map(|(name, unsupported, dry_run)| {
            let unsupported = unsupported.iter().map(|&field| field.to_owned()).collect();
            let ports = vec!["80".to_owned()];
            let to = OperationSpec { ports, unsupported, ..OperationSpec::default() };
            let rule = RuleSpec { to: Some(vec![to]), ..RuleSpec::default() };
            let spec = AuthorizationPolicySpec {
                dry_run: *dry_run,
                rules: vec![rule],
                ..AuthorizationPolicySpec::new(ObjectName::new("shop", name))
            };
            Delta::AuthorizationPolicy(AuthorizationPolicy::try_new(spec).unwrap())
        });
        let (world, _) = World::with_root_namespaces([Arc::from("root")]).apply(deltas);
        world.policies().clone()
    }
}
