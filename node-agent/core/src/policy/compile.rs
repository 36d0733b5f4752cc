//! An AuthorizationPolicy with its rules found by what they need, instead of one after the other.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::facts::{Facts, Key, block_digest};
use super::keyed::Keyed;
use super::matcher::{IpBlock, Match, ServiceAccount, TextMatch};
use super::object::{AuthorizationPolicy, Rule, Test};

/// A policy, compiled once when it arrives.
#[derive(Debug)]
pub(super) struct Compiled {
    policy: Arc<AuthorizationPolicy>,
    /// Rules that match only flows which have one of some keys.
    keyed: Keyed,
    /// The shapes of those keys that are ranges of source addresses.
    shapes: Box<[(u8, bool)]>,
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
                Some(Needed { digests, blocks }) => {
                    shapes.extend(blocks.iter().map(|block| block.shape()));
                    let blocks = blocks.iter().map(|block| block_digest(block));
                    keyed.extend(digests.into_iter().chain(blocks).map(|key| (key, index)));
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
        let blocks = self.shapes.iter().filter_map(|shape| facts.block(*shape));
        let keyed = facts.keys().chain(blocks).filter_map(|key| self.keyed.find(key).find(matches));
        let keyed = keyed.min();
        let before = |index: &u16| keyed.is_none_or(|keyed| *index < keyed);
        let mut others = self.others.iter().copied().take_while(before);
        others.find(matches).or(keyed).map(usize::from)
    }
}

/// What a flow must have one of for a rule to match.
#[derive(Default)]
struct Needed<'a> {
    digests: Vec<u64>,
    blocks: Vec<&'a IpBlock>,
}

/// `None` if the rule may match without any key.
fn needed(rule: &Rule) -> Option<Needed<'_>> {
    each(&rule.sources)
        .or_else(|| rule.conditions.iter().find_map(by_test))
        .or_else(|| each(&rule.operations))
}

/// What each of some alternatives needs, if each needs something and there are any.
fn each(alternatives: &[Box<[Test]>]) -> Option<Needed<'_>> {
    if alternatives.is_empty() {
        return None;
    }
    let mut all = Needed::default();
    for tests in alternatives {
        let Needed { digests, blocks } = tests.iter().find_map(by_test)?;
        all.digests.extend(digests);
        all.blocks.extend(blocks);
    }
    Some(all)
}

fn by_test(test: &Test) -> Option<Needed<'_>> {
    match test {
        Test::Principal(texts) => by_texts(texts, Key::Principal),
        Test::Namespace(texts) => by_texts(texts, Key::Namespace),
        Test::ServiceAccount(accounts) => {
            by_keys(&accounts.any_of, |ServiceAccount { namespace, name }| {
                Some(Key::ServiceAccount(namespace, name))
            })
        }
        Test::Port(ports) => by_keys(&ports.any_of, |port| Some(Key::Port(*port))),
        Test::SourceIp(blocks) if !blocks.any_of.is_empty() => {
            Some(Needed { digests: Vec::new(), blocks: blocks.any_of.iter().collect() })
        }
        Test::SourceIp(_) | Test::DestinationIp(_) | Test::TrustDomain(_) => None,
    }
}

fn by_texts<'a>(texts: &'a Match<TextMatch>, key: fn(&'a str) -> Key<'a>) -> Option<Needed<'a>> {
    by_keys(&texts.any_of, |text| match text {
        TextMatch::Exact(text) => Some(key(text)),
        TextMatch::Prefix(_) | TextMatch::Suffix(_) | TextMatch::Present => None,
    })
}

fn by_keys<'a, T>(values: &'a [T], key: impl Fn(&'a T) -> Option<Key<'a>>) -> Option<Needed<'a>> {
    if values.is_empty() {
        return None;
    }
    let digests = values.iter().map(|value| Some(key(value)?.digest()));
    Some(Needed { digests: digests.collect::<Option<_>>()?, blocks: Vec::new() })
}
