//! Whether a rule matches a flow, and where it does not, what is in its way.

use std::fmt;

use super::facts::Facts;
use super::matcher::Match;
use super::object::{Condition, Operation, Rule, Source};
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
        !self.never
            && (self.operations.is_empty() || self.operations.iter().any(|to| to.matches(facts)))
            && (self.sources.is_empty() || self.sources.iter().any(|from| from.matches(facts)))
            && self.conditions.iter().all(|when| when.matches(facts))
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
        let distance = |from: &&Source| {
            let mut distance = 0;
            from.visit(facts, &mut distance);
            distance
        };
        if let Some(nearest) = self.sources.iter().min_by_key(distance) {
            nearest.visit(facts, sink);
        }
        let distance = |to: &&Operation| {
            let mut distance = 0;
            to.visit(facts, &mut distance);
            distance
        };
        if let Some(nearest) = self.operations.iter().min_by_key(distance) {
            nearest.visit(facts, sink);
        }
        for when in &self.conditions {
            when.visit(facts, sink);
        }
    }
}

impl Source {
    fn matches(&self, facts: &Facts<'_>) -> bool {
        let Self { principals, namespaces, service_accounts, ip_blocks, trust_domains } = self;
        principals.matches(|text| text.matches(facts.principal()))
            && namespaces.matches(|text| text.matches(facts.namespace()))
            && service_accounts.matches(|account| account.matches(facts.identity))
            && ip_blocks.matches(|block| block.contains(facts.source))
            && trust_domains.matches(|text| text.matches(facts.trust_domain()))
    }

    fn visit(&self, facts: &Facts<'_>, sink: &mut impl Sink) {
        let Self { principals, namespaces, service_accounts, ip_blocks, trust_domains } = self;
        let field = Field("source.principals", "source.notPrincipals");
        let actual = || said(facts.principal());
        field.visit(principals, sink, actual, |text| text.matches(facts.principal()));
        let field = Field("source.namespaces", "source.notNamespaces");
        let actual = || said(facts.namespace());
        field.visit(namespaces, sink, actual, |text| text.matches(facts.namespace()));
        let field = Field("source.serviceAccounts", "source.notServiceAccounts");
        let actual = || said(facts.identity.map(account).as_deref());
        field.visit(service_accounts, sink, actual, |account| account.matches(facts.identity));
        let field = Field("source.ipBlocks", "source.notIpBlocks");
        let actual = || facts.source.to_string();
        field.visit(ip_blocks, sink, actual, |block| block.contains(facts.source));
        let field = Field("source.trustDomains", "source.notTrustDomains");
        let actual = || said(facts.trust_domain());
        field.visit(trust_domains, sink, actual, |text| text.matches(facts.trust_domain()));
    }
}

impl Operation {
    fn matches(&self, facts: &Facts<'_>) -> bool {
        self.ports.matches(|port| *port == facts.port)
    }

    fn visit(&self, facts: &Facts<'_>, sink: &mut impl Sink) {
        let field = Field("operation.ports", "operation.notPorts");
        let actual = || facts.port.to_string();
        field.visit(&self.ports, sink, actual, |port| *port == facts.port);
    }
}

impl Condition {
    fn matches(&self, facts: &Facts<'_>) -> bool {
        match self {
            Self::SourceIp(blocks) => blocks.matches(|block| block.contains(facts.source)),
            Self::SourceNamespace(texts) => texts.matches(|text| text.matches(facts.namespace())),
            Self::SourcePrincipal(texts) => texts.matches(|text| text.matches(facts.principal())),
            Self::DestinationIp(blocks) => {
                blocks.matches(|block| block.contains(facts.destination))
            }
            Self::DestinationPort(ports) => ports.matches(|port| *port == facts.port),
        }
    }

    fn visit(&self, facts: &Facts<'_>, sink: &mut impl Sink) {
        match self {
            Self::SourceIp(blocks) => {
                let field = Field("source.ip", "source.ip");
                let actual = || facts.source.to_string();
                field.visit(blocks, sink, actual, |block| block.contains(facts.source));
            }
            Self::SourceNamespace(texts) => {
                let field = Field("source.namespace", "source.namespace");
                let actual = || said(facts.namespace());
                field.visit(texts, sink, actual, |text| text.matches(facts.namespace()));
            }
            Self::SourcePrincipal(texts) => {
                let field = Field("source.principal", "source.principal");
                let actual = || said(facts.principal());
                field.visit(texts, sink, actual, |text| text.matches(facts.principal()));
            }
            Self::DestinationIp(blocks) => {
                let field = Field("destination.ip", "destination.ip");
                let actual = || facts.destination.to_string();
                field.visit(blocks, sink, actual, |block| block.contains(facts.destination));
            }
            Self::DestinationPort(ports) => {
                let field = Field("destination.port", "destination.port");
                let actual = || facts.port.to_string();
                field.visit(ports, sink, actual, |port| *port == facts.port);
            }
        }
    }
}

/// What the two sides of a match are called in a manifest.
struct Field(&'static str, &'static str);

impl Field {
    /// Notes each side of a match that does not hold.
    fn visit<T: fmt::Display>(
        &self,
        wanted: &Match<T>,
        sink: &mut impl Sink,
        actual: impl Fn() -> String,
        holds: impl Fn(&T) -> bool,
    ) {
        let Self(field, not_field) = *self;
        if !wanted.any_of.is_empty() && !wanted.any_of.iter().any(&holds) {
            sink.add(|| Miss { field, actual: actual(), wanted: written_out(&wanted.any_of) });
        }
        if let Some(value) = wanted.none_of.iter().find(|value| holds(value)) {
            let wanted = || format!("anything but {value}");
            sink.add(|| Miss { field: not_field, actual: actual(), wanted: wanted() });
        }
    }
}

/// A plaintext flow has nothing where an identity is asked for.
fn said(text: Option<&str>) -> String {
    text.unwrap_or("unknown (plaintext)").to_owned()
}

fn account(identity: &SpiffeId) -> String {
    format!("{}/{}", identity.namespace(), identity.service_account())
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
