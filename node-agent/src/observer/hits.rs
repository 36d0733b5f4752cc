//! How often each policy decided on a flow of this node, and when last.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use adit_core::flow::FlowRecord;
use adit_core::policy::{PolicyId, RuleRef};

/// The decisions of one policy since the agent started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hit {
    /// Flows that it let in or refused.
    pub enforced: u64,
    /// When it did so last, or would have.
    pub last: Option<SystemTime>,
    /// Flows that it would have let in or refused if dry-run policies were enforced.
    pub dry_run: u64,
}

/// The decisions of all policies. Cheap to clone; the one task that receives records writes it.
#[derive(Debug, Clone, Default)]
pub struct Hits(Arc<Mutex<BTreeMap<Arc<PolicyId>, Hit>>>);

impl Hits {
    /// What a policy decided.
    #[must_use]
    pub fn get(&self, id: &PolicyId) -> Option<Hit> {
        self.lock().get(id).copied()
    }

    /// Counts the decision that a record tells, if it tells one.
    pub(super) fn count(&self, flow: &FlowRecord, now: SystemTime) {
        let Some(grounds) = flow.decision() else {
            return;
        };
        let dry_run = grounds.dry_run.as_ref().and_then(|dry_run| dry_run.by.as_ref());
        let mut hits = self.lock();
        let mut hit = |rule: &RuleRef, count: fn(&mut Hit) -> &mut u64| {
            let hit = hits.entry(Arc::clone(&rule.policy)).or_default();
            *count(hit) += 1;
            hit.last = Some(now);
        };
        if let Some(rule) = &grounds.by {
            hit(rule, |hit| &mut hit.enforced);
        }
        if let Some(rule) = dry_run {
            hit(rule, |hit| &mut hit.dry_run);
        }
    }

    /// Forgets the policies that are gone.
    pub(super) fn sweep(&self, known: impl Fn(&PolicyId) -> bool) {
        self.lock().retain(|id, _| known(id));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Arc<PolicyId>, Hit>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use adit_core::flow::CloseReason;
    use adit_core::policy::PolicyKind;
    use adit_core::workload::ObjectName;

    use super::*;
    use crate::observer::samples;

    #[test]
    fn a_decision_is_a_hit_of_its_policy_and_a_dry_run_one_of_its_own() {
        let (hits, now) = (Hits::default(), samples::noon());
        hits.count(&samples::denied(1), now);
        // The end of a flow that was let in tells nothing new.
        let ended = FlowRecord { end: Some(CloseReason::Finished), ..samples::denied(2) };
        hits.count(&ended, now);
        let friends = id(PolicyKind::AuthorizationPolicy, "friends");
        let default = id(PolicyKind::PeerAuthentication, "default");
        let enforced = Hit { enforced: 1, last: Some(now), dry_run: 0 };
        assert_eq!(hits.get(&friends), Some(enforced));
        assert_eq!(hits.get(&default), Some(Hit { enforced: 0, last: Some(now), dry_run: 1 }));

        hits.sweep(|id| *id == friends);
        assert_eq!((hits.get(&friends), hits.get(&default)), (Some(enforced), None));
    }

    fn id(kind: PolicyKind, name: &str) -> PolicyId {
        PolicyId { kind, name: ObjectName::new("shop", name) }
    }
}
