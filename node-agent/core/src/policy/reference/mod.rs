//! A second evaluator of policies, as naive as can be: from the text of manifests, all policies one
//! after the other, no index. [`check`] takes policies, pods, changes and flows from bytes and holds
//! the engine to it.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a difference must end the run"
)]

mod choices;
mod naive;

use std::collections::BTreeMap;
use std::sync::Arc;

use choices::Choices;
use naive::{Manifest, Naive};

use super::spec::PeerAuthenticationSpec;
use super::{
    Answer, AuthorizationPolicy, Decision, Denied, DryRun, Grounds, PeerAuthentication, PolicyId,
    RuleRef, decide, explain,
};
use crate::flow::FlowContext;
use crate::recheck::{Recheck, recheck};
use crate::workload::{PodUid, Workload};
use crate::world::{Changes, Delta, World};

/// Applies changes that are chosen by `bytes`, and after each decides many flows with the engine and
/// with the naive evaluator.
///
/// # Panics
/// If they differ; if a policy that becomes invalid and whose last version is forgotten opens something up; if [`explain`] differs from [`decide`] or contradicts itself; if a change does not
/// say that it touches a flow on which the decision has changed.
pub fn check(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let mut scene = Scene::default();
    for number in 0..4 {
        scene.apply(vec![Delta::Workload(choices.pod(number))]);
    }
    while choices.left() {
        let size = choices.below(3) + 1;
        let deltas = (0..size).filter_map(|_| scene.next(&mut choices)).collect();
        let before = scene.world.clone();
        let changes = scene.apply(deltas);
        for _ in 0..4 {
            let flow = choices.flow(&scene.world);
            scene.compare(&flow);
            must_be_touched(&before, &scene.world, &changes, &flow);
            scene.close(&mut choices, &flow);
        }
    }
}

/// The engine's world and the manifests it was made from.
#[derive(Default)]
struct Scene {
    world: World,
    naive: Naive,
}

impl Scene {
    /// A change; `None` if the chosen policy is not valid.
    fn next(&mut self, choices: &mut Choices<'_>) -> Option<Delta> {
        let number = choices.below(4);
        match choices.below(8) {
            0 => Some(Delta::Workload(choices.pod(number))),
            1 => {
                let known: Vec<PolicyId> = self.naive.manifests.keys().cloned().collect();
                let id = known.get(choices.below(known.len().max(1)))?.clone();
                self.naive.manifests.remove(&id);
                Some(Delta::PolicyGone(id))
            }
            2 | 3 => {
                let spec = choices.peer_authentication();
                let policy = PeerAuthentication::try_new(spec.clone());
                let policy = policy.map_err(|wrong| assert!(!wrong.is_empty())).ok()?;
                let id = (**policy.id()).clone();
                self.naive.manifests.insert(id, Manifest::Peer(spec));
                Some(Delta::PeerAuthentication(policy))
            }
            _ => {
                let spec = choices.authorization_policy();
                let policy = AuthorizationPolicy::try_new(spec.clone());
                let policy = policy.map_err(|wrong| assert!(!wrong.is_empty())).ok()?;
                let id = (**policy.id()).clone();
                self.naive.manifests.insert(id, Manifest::Authorization(spec));
                Some(Delta::AuthorizationPolicy(policy))
            }
        }
    }

    /// Makes one policy invalid and forgets what it said.
    fn close(&self, choices: &mut Choices<'_>, flow: &FlowContext) {
        let manifests: Vec<&Manifest> = self.naive.manifests.values().collect();
        let closed = match manifests.get(choices.below(manifests.len().max(1))) {
            Some(Manifest::Peer(spec)) if !spec.dry_run => {
                let spec = PeerAuthenticationSpec { mode: "strict".to_owned(), ..spec.clone() };
                Delta::PeerAuthentication(PeerAuthentication::closed(spec))
            }
            Some(Manifest::Authorization(spec)) if !spec.dry_run => {
                let mut spec = spec.clone();
                let unread = choices.spoil(&mut spec);
                let valid = AuthorizationPolicy::try_new(spec.clone()).is_ok();
                assert!(!valid || !unread.is_empty(), "{spec:?}");
                Delta::AuthorizationPolicy(AuthorizationPolicy::closed(spec, &unread))
            }
            _ => return,
        };
        let (world, _) = self.world.apply([closed.clone()]);
        let (before, after) = (decide(&self.world, flow), decide(&world, flow));
        let opened = before.verdict.is_err() && after.verdict.is_ok();
        assert!(!opened, "{closed:#?} opens {flow:#?}: {:?}", before.grounds.by);
    }

    fn apply(&mut self, deltas: Vec<Delta>) -> Changes {
        let (world, changes) = self.world.apply(deltas);
        self.world = world;
        changes
    }

    fn compare(&self, flow: &FlowContext) {
        let pod = self.world.workload(&flow.destination.uid).unwrap();
        let decision = decide(&self.world, flow);
        let Grounds { by, missed, dry_run } = &decision.grounds;
        let verdict = decision.verdict.as_ref().map(|_permit| ()).map_err(|denied| *denied);
        self.naive.agrees(pod, flow, false, (verdict, by));
        match dry_run {
            Some(DryRun { verdict, by }) => self.naive.agrees(pod, flow, true, (*verdict, by)),
            None => assert!(!self.naive.has_dry_run_for(pod), "a dry-run policy is overlooked"),
        }
        assert_eq!(verdict == Err(Denied::NoRule) && has_rule(by), !missed.is_empty());
        explains_itself(&self.world, flow, &decision);
    }
}

fn has_rule(by: &Option<RuleRef>) -> bool {
    by.as_ref().is_some_and(|by| by.rule.is_some())
}

fn explains_itself(world: &World, flow: &FlowContext, decision: &Decision) {
    let trace = explain(world, flow);
    assert_eq!(trace.decision, *decision);
    for step in trace.steps.iter().chain(&trace.dry_run) {
        if let Answer::NotMatched { rules, .. } = &step.answer {
            assert!(rules.iter().all(|misses| !misses.is_empty()), "{step:?}");
        }
    }
    let Grounds { by, dry_run, .. } = &decision.grounds;
    let last = trace.steps.iter().rfind(|step| matches!(step.answer, Answer::Matched { .. }));
    if decision.verdict == Err(Denied::ByRule) || (decision.verdict.is_ok() && by.is_some()) {
        assert_eq!(last.map(|step| &step.policy), by.as_ref().map(|by| &by.policy));
    }
    assert_eq!(dry_run.is_none(), trace.dry_run.is_empty());
}

fn must_be_touched(before: &World, after: &World, changes: &Changes, flow: &FlowContext) {
    let (old, new) = (decide(before, flow), decide(after, flow));
    let again = recheck(after, Some(changes), flow);
    if old != new {
        assert_ne!(again, Recheck::Untouched, "{old:?} became {new:?}");
    }
    match again {
        Recheck::Untouched => {}
        Recheck::Permitted(grounds) => {
            assert_eq!((true, &grounds), (new.verdict.is_ok(), &new.grounds))
        }
        Recheck::Ended(_, grounds) => {
            assert_eq!((false, &grounds), (new.verdict.is_ok(), &new.grounds))
        }
    }
}

impl Naive {
    #[track_caller]
    fn agrees(
        &self,
        pod: &Workload,
        flow: &FlowContext,
        dry_run: bool,
        (verdict, by): (Result<(), Denied>, &Option<RuleRef>),
    ) {
        let expected = self.decide(pod, flow, dry_run);
        let by = by.as_ref().map(|RuleRef { policy, rule }| ((**policy).clone(), *rule));
        let same = match (expected.verdict, &by) {
            // Any rule of the policies that allow could be the nearest.
            (Err(Denied::NoRule), Some((policy, _))) => expected.allows.contains(policy),
            _ => expected.by == by,
        };
        if verdict != expected.verdict || !same {
            panic!(
                "dry run: {dry_run}\n{flow:#?}\n{pod:#?}\n{:#?}\nengine: {verdict:?} {by:?}\n\
                 naive: {:?} {:?}",
                self.manifests, expected.verdict, expected.by
            );
        }
    }
}

/// The pod of this number.
fn uid(number: usize) -> PodUid {
    PodUid::parse(&format!("pod-{number}")).unwrap()
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<Arc<str>, Arc<str>> {
    pairs.iter().map(|(key, value)| (Arc::from(*key), Arc::from(*value))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_and_the_naive_evaluator_agree() {
        for seed in 0..500_u64 {
            let bytes = noise(seed, 800);
            let outcome = std::panic::catch_unwind(|| check(&bytes));
            assert!(outcome.is_ok(), "seed {seed}");
        }
    }

    /// Splitmix64 (Steele, Lea, Flood 2014).
    fn noise(seed: u64, length: usize) -> Vec<u8> {
        let mut state = seed;
        let mut bytes = Vec::new();
        while bytes.len() < length {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            bytes.extend_from_slice(&(z ^ (z >> 31)).to_le_bytes());
        }
        bytes
    }
}
