//! Whether a rule matches a flow, and where it does not, what is in its way.

use std::fmt;

use super::facts::Facts;
use super::matcher::Match;
use super::object::{Rule, Test};
use crate::identity::SpiffeId;

/// Something that a rule asks for and that a flow has otherwise. Printed as
/// `source.principals is cluster.local/ns/shop/sa/web, wanted cluster.local/ns/shop/sa/cart`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Miss {
    /// The field of the rule, such as `source.principals`, or the key of the condition.
    pub field: &'static str,
    /// What the flow has.
    pub actual: String,
    /// What the rule wants.
    pub wanted: String,
}

/// How many values of a list are written out.
const WRITTEN_OUT: usize = 3;

/// Where misses go: into a list, or into a number for which no text is made.
trait Sink {
    fn add(&mut self, miss: impl FnOnce() -> Miss);
}

impl Sink for usize {
    fn add(&mut self, _miss: impl FnOnce() -> Miss) {
        *self += 1;
    }
}

impl Sink for Vec<Miss> {
    fn add(&mut self, miss: impl FnOnce() -> Miss) {
        self.push(miss());
    }
}

impl Rule {
    /// Whether the rule matches.
    pub(super) fn matches(&self, facts: &Facts<'_>) -> bool {
        let all = |tests: &[Test]| tests.iter().all(|test| test.holds(facts));
        let one = |alternatives: &[Box<[Test]>]| {
            alternatives.is_empty() || alternatives.iter().any(|tests| all(tests))
        };
        !self.never && one(&self.operations) && one(&self.sources) && all(&self.conditions)
    }

    /// How much is in the rule's way: 0 if it matches.
    pub(super) fn distance(&self, facts: &Facts<'_>) -> usize {
        let mut distance = 0;
        self.visit(facts, &mut distance);
        distance
    }

    /// What is in the rule's way: nothing if it matches. Of several sources or operations, the one
    /// that is nearest.
    pub(super) fn misses(&self, facts: &Facts<'_>) -> Vec<Miss> {
        let mut misses = Vec::new();
        self.visit(facts, &mut misses);
        misses
    }

    fn visit(&self, facts: &Facts<'_>, sink: &mut impl Sink) {
        if self.never {
            sink.add(|| Miss {
                field: "connection",
                actual: "TCP".to_owned(),
                wanted: "fields that cannot be enforced on it".to_owned(),
            });
        }
        visit_nearest(&self.sources, facts, sink);
        visit_nearest(&self.operations, facts, sink);
        for test in &self.conditions {
            test.visit(facts, true, sink);
        }
    }
}

fn visit_nearest(alternatives: &[Box<[Test]>], facts: &Facts<'_>, sink: &mut impl Sink) {
    let distance = |tests: &&[Test]| {
        let mut distance = 0;
        tests.iter().for_each(|test| test.visit(facts, false, &mut distance));
        distance
    };
    let nearest = alternatives.iter().map(|tests| &**tests).min_by_key(distance);
    for test in nearest.into_iter().flatten() {
        test.visit(facts, false, sink);
    }
}

impl Test {
    fn holds(&self, facts: &Facts<'_>) -> bool {
        match self {
            Self::Principal(texts) => texts.matches(|text| text.matches(facts.principal())),
            Self::Namespace(texts) => texts.matches(|text| text.matches(facts.namespace())),
            Self::ServiceAccount(accounts) => {
                accounts.matches(|account| account.matches(facts.identity))
            }
            Self::TrustDomain(texts) => texts.matches(|text| text.matches(facts.trust_domain())),
            Self::SourceIp(blocks) => blocks.matches(|block| block.contains(facts.source)),
            Self::DestinationIp(blocks) => {
                blocks.matches(|block| block.contains(facts.destination))
            }
            Self::Port(ports) => ports.matches(|port| *port == facts.port),
        }
    }

    /// Notes each side of the test that does not hold.
    fn visit(&self, facts: &Facts<'_>, condition: bool, sink: &mut impl Sink) {
        let names = self.names(condition);
        let actual = || self.actual(facts);
        match self {
            Self::Principal(texts) => {
                visit(names, texts, sink, actual, |text| text.matches(facts.principal()));
            }
            Self::Namespace(texts) => {
                visit(names, texts, sink, actual, |text| text.matches(facts.namespace()));
            }
            Self::ServiceAccount(accounts) => {
                visit(names, accounts, sink, actual, |account| account.matches(facts.identity));
            }
            Self::TrustDomain(texts) => {
                visit(names, texts, sink, actual, |text| text.matches(facts.trust_domain()));
            }
            Self::SourceIp(blocks) => {
                visit(names, blocks, sink, actual, |block| block.contains(facts.source));
            }
            Self::DestinationIp(blocks) => {
                visit(names, blocks, sink, actual, |block| block.contains(facts.destination));
            }
            Self::Port(ports) => visit(names, ports, sink, actual, |port| *port == facts.port),
        }
    }

    /// What the two sides of the test are called in a manifest.
    const fn names(&self, condition: bool) -> [&'static str; 2] {
        match (self, condition) {
            (Self::Principal(_), true) => ["source.principal"; 2],
            (Self::Principal(_), false) => ["source.principals", "source.notPrincipals"],
            (Self::Namespace(_), true) => ["source.namespace"; 2],
            (Self::Namespace(_), false) => ["source.namespaces", "source.notNamespaces"],
            (Self::ServiceAccount(_), _) => ["source.serviceAccounts", "source.notServiceAccounts"],
            (Self::TrustDomain(_), _) => ["source.trustDomains", "source.notTrustDomains"],
            (Self::SourceIp(_), true) => ["source.ip"; 2],
            (Self::SourceIp(_), false) => ["source.ipBlocks", "source.notIpBlocks"],
            (Self::DestinationIp(_), _) => ["destination.ip"; 2],
            (Self::Port(_), true) => ["destination.port"; 2],
            (Self::Port(_), false) => ["operation.ports", "operation.notPorts"],
        }
    }

    /// What the flow has of what the test asks for.
    fn actual(&self, facts: &Facts<'_>) -> String {
        let account = |id: &SpiffeId| format!("{}/{}", id.namespace(), id.service_account());
        let identity = match self {
            Self::Principal(_) => facts.principal().map(str::to_owned),
            Self::Namespace(_) => facts.namespace().map(str::to_owned),
            Self::ServiceAccount(_) => facts.identity.map(account),
            Self::TrustDomain(_) => facts.trust_domain().map(str::to_owned),
            Self::SourceIp(_) => Some(facts.source.to_string()),
            Self::DestinationIp(_) => Some(facts.destination.to_string()),
            Self::Port(_) => Some(facts.port.to_string()),
        };
        identity.unwrap_or_else(|| "unknown (plaintext)".to_owned())
    }
}

fn visit<T: fmt::Display>(
    [field, not_field]: [&'static str; 2],
    wanted: &Match<T>,
    sink: &mut impl Sink,
    actual: impl Fn() -> String,
    holds: impl Fn(&T) -> bool,
) {
    if !wanted.any_of.is_empty() && !wanted.any_of.iter().any(&holds) {
        sink.add(|| Miss { field, actual: actual(), wanted: written_out(&wanted.any_of) });
    }
    if let Some(value) = wanted.none_of.iter().find(|value| holds(value)) {
        let wanted = || format!("anything but {value}");
        sink.add(|| Miss { field: not_field, actual: actual(), wanted: wanted() });
    }
}

fn written_out<T: fmt::Display>(values: &[T]) -> String {
    let shown: Vec<_> = values.iter().take(WRITTEN_OUT).map(ToString::to_string).collect();
    let more = values.len() - shown.len();
    let shown = shown.join(" or ");
    if more == 0 { shown } else { format!("{shown} or one of {more} more") }
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { field, actual, wanted } = self;
        write!(f, "{field} is {actual}, wanted {wanted}")
    }
}
