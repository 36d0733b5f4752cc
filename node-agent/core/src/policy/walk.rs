//! The one walk over a pod's policies. Whoever wants to know more than its outcome watches it.

use std::sync::Arc;

use super::compile::Compiled;
use super::evaluate::Miss;
use super::facts::Facts;
use super::index::{Level, View};
use super::object::{Mode, PeerAuthentication, Rule};
use super::verdict::{Denied, RuleRef};

/// How many rules are looked at for the one that came nearest. A refused client must not be able to
/// keep the agent busy with the search.
const NEAREST_OF: usize = 512;

/// What a walk comes to.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) verdict: Result<(), Denied>,
    pub(super) by: Option<RuleRef>,
    /// What kept the nearest rule from matching.
    pub(super) missed: Vec<Miss>,
}

/// Sees every policy that a walk asks, in order.
pub(super) trait Watcher {
    /// A PeerAuthentication and what it says for the port; `None` passes the question on.
    fn peer(&mut self, level: Level, policy: &Arc<PeerAuthentication>, mode: Option<Mode>);

    /// An AuthorizationPolicy and its first rule that matches.
    fn rules(&mut self, policy: &Compiled, facts: &Facts<'_>, matched: Option<usize>);
}

/// Sees nothing.
pub(super) struct Nobody;

impl Watcher for Nobody {
    fn peer(&mut self, _: Level, _: &Arc<PeerAuthentication>, _: Option<Mode>) {}
    fn rules(&mut self, _: &Compiled, _: &Facts<'_>, _: Option<usize>) {}
}

/// Asks the policies of a view, in Istio's order: is plaintext accepted, is the flow refused, and if
/// it has to be allowed, is it?
pub(super) fn walk(view: View<'_>, facts: &Facts<'_>, watcher: &mut impl Watcher) -> Outcome {
    if let (Some((Mode::Strict, policy)), None) = (mode(view, facts, watcher), facts.identity) {
        let by = RuleRef { policy: Arc::clone(policy.id()), rule: None };
        return Outcome::new(Err(Denied::Plaintext), Some(by));
    }
    for policy in view.denies() {
        if let Some(by) = matching(policy, facts, watcher) {
            return Outcome::new(Err(Denied::ByRule), Some(by));
        }
    }
    let mut all_may = true;
    for policy in view.allows() {
        all_may = false;
        if let Some(by) = matching(policy, facts, watcher) {
            return Outcome::new(Ok(()), Some(by));
        }
    }
    if all_may { Outcome::new(Ok(()), None) } else { nearest(view, facts) }
}

/// The mode in force for the port, and the policy that sets it.
fn mode<'a>(
    view: View<'a>,
    facts: &Facts<'_>,
    watcher: &mut impl Watcher,
) -> Option<(Mode, &'a Arc<PeerAuthentication>)> {
    view.peers().find_map(|(level, policy)| {
        let of_port = policy.port_modes().get(&facts.port).copied().flatten();
        let mode = of_port.or_else(|| policy.mode());
        watcher.peer(level, policy, mode);
        Some((mode?, policy))
    })
}

fn matching(policy: &Compiled, facts: &Facts<'_>, watcher: &mut impl Watcher) -> Option<RuleRef> {
    let matched = policy.first_match(facts);
    watcher.rules(policy, facts, matched);
    let policy = policy.policy().id();
    matched.map(|rule| RuleRef { policy: Arc::clone(policy), rule: Some(rule) })
}

/// The outcome where no ALLOW rule matches. Of rules that came equally near, the first.
fn nearest(view: View<'_>, facts: &Facts<'_>) -> Outcome {
    let rules = view.allows().flat_map(|policy| {
        let rules = policy.policy().rules().iter().enumerate();
        rules.map(move |(index, rule)| (policy, index, rule))
    });
    let mut nearest: Option<(usize, &Arc<Compiled>, usize, &Rule)> = None;
    for (policy, index, rule) in rules.take(NEAREST_OF) {
        let distance = rule.distance(facts);
        if nearest.is_none_or(|(nearest, ..)| distance < nearest) {
            nearest = Some((distance, policy, index, rule));
        }
        // Nothing is nearer: no rule matches.
        if distance <= 1 {
            break;
        }
    }
    let Some((_, policy, index, rule)) = nearest else {
        let policy = view.allows().next().map(|policy| Arc::clone(policy.policy().id()));
        let by = policy.map(|policy| RuleRef { policy, rule: None });
        return Outcome::new(Err(Denied::NoRule), by);
    };
    let by = RuleRef { policy: Arc::clone(policy.policy().id()), rule: Some(index) };
    let missed = rule.misses(facts);
    Outcome { verdict: Err(Denied::NoRule), by: Some(by), missed }
}

impl Outcome {
    const fn new(verdict: Result<(), Denied>, by: Option<RuleRef>) -> Self {
        Self { verdict, by, missed: Vec::new() }
    }
}
