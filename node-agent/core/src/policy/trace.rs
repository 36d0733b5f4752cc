//! How a decision came about, policy by policy.

use std::sync::Arc;

use super::compile::Compiled;
use super::evaluate::Miss;
use super::facts::Facts;
use super::index::Level;
use super::object::{Action, Mode, PeerAuthentication, PolicyId};
use super::verdict::Decision;
use super::walk::Watcher;

/// A decision and the policies that were asked for it.
#[derive(Debug, PartialEq, Eq)]
pub struct Trace {
    /// The decision; the very one that [`decide`](super::decide) makes.
    pub decision: Decision,
    /// The enforced policies that were asked, in order, up to the one that decided.
    pub steps: Vec<Step>,
    /// The same with the dry-run policies; empty if none is for the pod.
    pub dry_run: Vec<Step>,
}

/// A policy that was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The policy.
    pub policy: Arc<PolicyId>,
    /// Whether it is only evaluated.
    pub dry_run: bool,
    /// What it said.
    pub answer: Answer,
}

/// What a policy said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Whether plaintext is accepted on the port.
    Mode {
        /// Where the policy stands.
        level: Level,
        /// What it says; `None` passes the question on.
        mode: Option<Mode>,
    },
    /// One of its rules matches.
    Matched {
        /// What the policy does with what it matches.
        action: Action,
        /// The rule.
        rule: usize,
    },
    /// None of its rules matches.
    NotMatched {
        /// What the policy does with what it matches.
        action: Action,
        /// What was in the way of each rule, in order.
        rules: Vec<Vec<Miss>>,
    },
}

/// Writes every policy down.
#[derive(Default)]
pub(super) struct Scribe {
    pub(super) steps: Vec<Step>,
}

impl Watcher for Scribe {
    fn peer(&mut self, level: Level, policy: &Arc<PeerAuthentication>, mode: Option<Mode>) {
        self.steps.push(Step {
            policy: Arc::clone(policy.id()),
            dry_run: policy.dry_run(),
            answer: Answer::Mode { level, mode },
        });
    }

    fn rules(&mut self, compiled: &Compiled, facts: &Facts<'_>, matched: Option<usize>) {
        let policy = compiled.policy();
        let action = policy.action();
        let answer = match matched {
            Some(rule) => Answer::Matched { action, rule },
            None => Answer::NotMatched {
                action,
                rules: policy.rules().iter().map(|rule| rule.misses(facts)).collect(),
            },
        };
        let dry_run = policy.dry_run();
        self.steps.push(Step { policy: Arc::clone(policy.id()), dry_run, answer });
    }
}
