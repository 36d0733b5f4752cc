//! An AuthorizationPolicy with its rules found by what they need, instead of one after the other.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::facts::{Attribute, Facts, Key, Shape, block_digest, part_digest};
use super::keyed::Keyed;
use super::matcher::{Match, ServiceAccount, TextMatch};
use super::object::{AuthorizationPolicy, Rule, Test};

/// A policy, compiled once when it arrives.
#[derive(Debug)]
pub(super) struct Compiled {
    policy: Arc<AuthorizationPolicy>,
    /// Rules that match only flows which have one of some keys.
    keyed: Keyed,
    /// The shapes of those keys that have one.
    shapes: Box<[Shape]>,
    /// The other rules, in order.
    others: Box<[u16]>,
}

impl Compiled {
    pub(super) fn new(policy: Arc<AuthorizationPolicy>) -> Self {
        let mut keyed = Vec::new();
        let mut shapes = BTreeSet::new();
        let mut others = Vec::new();
        for (rule, index) in policy.rules().iter().zip(0_u16..) {
            if rule.never {
                continue;
            }
            match needed(rule) {
                Some(keys) => {
                    shapes.extend(keys.iter().filter_map(|(shape, _)| *shape));
                    keyed.extend(keys.into_iter().map(|(_, digest)| (digest, index)));
                }
                None => others.push(index),
            }
        }
        let shapes = shapes.into_iter().collect();
        Self { policy, keyed: Keyed::new(keyed), shapes, others: others.into() }
    }

    pub(super) const fn policy(&self) -> &Arc<AuthorizationPolicy> {
        &self.policy
    }

    /// The first rule that matches.
    pub(super) fn first_match(&self, facts: &Facts<'_>) -> Option<usize> {
        let rules = self.policy.rules();
        let matches =
            |index: &u16| rules.get(usize::from(*index)).is_some_and(|rule| rule.matches(facts));
        let shaped = self.shapes.iter().filter_map(|shape| facts.shaped(*shape));
        let keyed = facts.keys().chain(shaped).filter_map(|key| self.keyed.find(key).find(matches));
        let keyed = keyed.min();
        let before = |index: &u16| keyed.is_none_or(|keyed| *index < keyed);
        let mut others = self.others.iter().copied().take_while(before);
        others.find(matches).or(keyed).map(usize::from)
    }
}

/// What a flow must have one of for a rule to match: digests of keys, and the shapes of those that have
/// one.
type Needed = Vec<(Option<Shape>, u64)>;

/// `None` if the rule may match without any key.
fn needed(rule: &Rule) -> Option<Needed> {
    each(&rule.sources).or_else(|| best(&rule.conditions)).or_else(|| each(&rule.operations))
}

/// What each of some alternatives needs, if each needs something and there are any.
fn each(alternatives: &[Box<[Test]>]) -> Option<Needed> {
    if alternatives.is_empty() {
        return None;
    }
    let mut all = Vec::new();
    for tests in alternatives {
        all.extend(best(tests)?);
    }
    Some(all)
}

/// What the test of several needs that keeps out the most: exact values, then ranges, then parts of
/// texts.
fn best(tests: &[Test]) -> Option<Needed> {
    let weakness = |keys: &Needed| keys.iter().map(|(shape, _)| *shape).max();
    tests.iter().filter_map(by_test).min_by_key(weakness)
}

fn by_test(test: &Test) -> Option<Needed> {
    match test {
        Test::Principal(texts) => by_values(texts, |text| by_text(Attribute::Principal, text)),
        Test::Namespace(texts) => by_values(texts, |text| by_text(Attribute::Namespace, text)),
        Test::TrustDomain(texts) => by_values(texts, |text| by_text(Attribute::TrustDomain, text)),
        Test::ServiceAccount(accounts) => by_values(accounts, |account| {
            let ServiceAccount { namespace, name } = account;
            Some((None, Key::ServiceAccount(namespace, name).digest()))
        }),
        Test::SourceIp(blocks) => by_values(blocks, |block| {
            let (shape, digest) = block_digest(block);
            Some((Some(shape), digest))
        }),
        Test::Port(ports) => by_values(ports, |port| Some((None, Key::Port(*port).digest()))),
        Test::DestinationIp(_) => None,
    }
}

fn by_text(attribute: Attribute, text: &TextMatch) -> Option<(Option<Shape>, u64)> {
    let part = text.literal();
    let shape = match text {
        TextMatch::Exact(text) => return Some((None, Key::Text(attribute, text).digest())),
        TextMatch::Prefix(_) => Shape::Prefix(attribute, part.len()),
        TextMatch::Suffix(_) => Shape::Suffix(attribute, part.len()),
        TextMatch::Present => return None,
    };
    Some((Some(shape), part_digest(shape, part.as_bytes())))
}

fn by_values<T>(
    values: &Match<T>,
    key: impl Fn(&T) -> Option<(Option<Shape>, u64)>,
) -> Option<Needed> {
    if values.any_of.is_empty() { None } else { values.any_of.iter().map(key).collect() }
}
