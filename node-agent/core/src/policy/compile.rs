//! An AuthorizationPolicy with its rules found by what they need, instead of one after the other.

use std::sync::Arc;

use super::facts::{Facts, Key, Keys};
use super::matcher::{Match, ServiceAccount, TextMatch};
use super::object::{AuthorizationPolicy, Condition, Rule, Source};

/// A policy, compiled once when it arrives.
#[derive(Debug)]
pub(super) struct Compiled {
    policy: Arc<AuthorizationPolicy>,
    /// Rules that match only flows which have one of some keys: (key, rule), sorted.
    keyed: Box<[(u64, u16)]>,
    /// The other rules, in order.
    others: Box<[u16]>,
}

impl Compiled {
    pub(super) fn new(policy: Arc<AuthorizationPolicy>) -> Self {
        let mut keyed = Vec::new();
        let mut others = Vec::new();
        for (rule, index) in policy.rules().iter().zip(0_u16..) {
            if rule.never {
                continue;
            }
            match needed(rule) {
                Some(keys) => keyed.extend(keys.into_iter().map(|key| (key, index))),
                None => others.push(index),
            }
        }
        keyed.sort_unstable();
        keyed.dedup();
        Self { policy, keyed: keyed.into(), others: others.into() }
    }

    pub(super) const fn policy(&self) -> &Arc<AuthorizationPolicy> {
        &self.policy
    }

    /// The first rule that matches.
    pub(super) fn first_match(&self, facts: &Facts<'_>, keys: &Keys) -> Option<usize> {
        let rules = self.policy.rules();
        let matches =
            |index: u16| rules.get(usize::from(index)).is_some_and(|rule| rule.matches(facts));
        let mut first: Option<u16> = None;
        for key in keys.iter() {
            let start = self.keyed.partition_point(|(other, _)| *other < key);
            let found = self.keyed.get(start..).unwrap_or_default().iter();
            let found = found.take_while(|(other, _)| *other == key).map(|(_, index)| *index);
            let bound = first.unwrap_or(u16::MAX);
            let mut found = found.take_while(|index| *index < bound);
            first = found.find(|index| matches(*index)).or(first);
        }
        let bound = first.unwrap_or(u16::MAX);
        let mut others = self.others.iter().copied().take_while(|index| *index < bound);
        others.find(|index| matches(*index)).or(first).map(usize::from)
    }
}

/// The keys of which a flow must have one for the rule to match; `None` if it may match without any.
fn needed(rule: &Rule) -> Option<Vec<u64>> {
    let by_source = all(&rule.sources, source_keys);
    let by_condition = || rule.conditions.iter().find_map(condition_keys);
    let by_port = || all(&rule.operations, |operation| port_keys(&operation.ports));
    by_source.or_else(by_condition).or_else(by_port)
}

/// What each of some alternatives needs, if each needs something and there are any.
fn all<T>(alternatives: &[T], keys: impl Fn(&T) -> Option<Vec<u64>>) -> Option<Vec<u64>> {
    if alternatives.is_empty() {
        return None;
    }
    let keys: Option<Vec<_>> = alternatives.iter().map(keys).collect();
    keys.map(|keys| keys.concat())
}

fn source_keys(source: &Source) -> Option<Vec<u64>> {
    text_keys(&source.principals, |text| Key::Principal(text))
        .or_else(|| account_keys(&source.service_accounts))
        .or_else(|| text_keys(&source.namespaces, |text| Key::Namespace(text)))
}

fn condition_keys(condition: &Condition) -> Option<Vec<u64>> {
    match condition {
        Condition::SourcePrincipal(texts) => text_keys(texts, |text| Key::Principal(text)),
        Condition::SourceNamespace(texts) => text_keys(texts, |text| Key::Namespace(text)),
        Condition::DestinationPort(ports) => port_keys(ports),
        Condition::SourceIp(_) | Condition::DestinationIp(_) => None,
    }
}

fn text_keys(texts: &Match<TextMatch>, key: fn(&str) -> Key<'_>) -> Option<Vec<u64>> {
    all(&texts.any_of, |text| match text {
        TextMatch::Exact(text) => Some(vec![key(text).digest()]),
        TextMatch::Prefix(_) | TextMatch::Suffix(_) | TextMatch::Present => None,
    })
}

fn account_keys(accounts: &Match<ServiceAccount>) -> Option<Vec<u64>> {
    all(&accounts.any_of, |ServiceAccount { namespace, name }| {
        Some(vec![Key::ServiceAccount(namespace, name).digest()])
    })
}

fn port_keys(ports: &Match<u16>) -> Option<Vec<u64>> {
    all(&ports.any_of, |port| Some(vec![Key::Port(*port).digest()]))
}
