//! From what a manifest says to the rules of an AuthorizationPolicy.

use std::sync::Arc;

use super::invalid::{Gap, GapReason, Invalid, Why};
use super::matcher::{IpBlock, Match, ServiceAccount, TextMatch, port};
use super::object::{Condition, MAX_RULES, Operation, Rule, Source};
use super::spec::{ConditionSpec, OperationSpec, RuleSpec, SourceSpec};

/// What the check of one policy has come to so far.
pub(super) struct Checked {
    /// The policy's namespace.
    pub(super) namespace: Arc<str>,
    /// Whether its rules let in.
    pub(super) allow: bool,
    /// What is wrong.
    pub(super) wrong: Vec<Invalid>,
    /// What is not enforced.
    pub(super) gaps: Vec<Gap>,
}

impl Checked {
    pub(super) fn rule(&mut self, index: usize, spec: RuleSpec) -> Rule {
        let at = format!("spec.rules[{index}]");
        let gaps = self.gaps.len();
        self.unsupported(&at, &spec.unsupported);
        let sources = spec.from.map_or_else(Vec::new, |from| {
            self.not_empty(&format!("{at}.from"), from.len());
            let from = from.into_iter().enumerate();
            from.map(|(i, source)| self.source(&format!("{at}.from[{i}].source"), &source))
                .collect()
        });
        let operations = spec.to.map_or_else(Vec::new, |to| {
            self.not_empty(&format!("{at}.to"), to.len());
            let to = to.into_iter().enumerate();
            to.map(|(i, operation)| self.operation(&format!("{at}.to[{i}].operation"), &operation))
                .collect()
        });
        let when = spec.when.into_iter().enumerate();
        let conditions =
            when.filter_map(|(i, when)| self.condition(&format!("{at}.when[{i}]"), &when));
        let conditions = conditions.collect();
        let unenforced = self.gaps.get(gaps..).unwrap_or_default().iter();
        let never = unenforced.into_iter().any(|gap| gap.why == GapReason::RuleNeverMatches);
        Rule { sources, operations, conditions, never }
    }

    fn source(&mut self, at: &str, spec: &SourceSpec) -> Source {
        let SourceSpec {
            principals,
            not_principals,
            namespaces,
            not_namespaces,
            service_accounts,
            not_service_accounts,
            ip_blocks,
            not_ip_blocks,
            trust_domains,
            not_trust_domains,
            unsupported,
        } = spec;
        self.unsupported(at, unsupported);
        let account = |namespace: &Arc<str>, text: &str| ServiceAccount::parse(text, namespace);
        let source = Source {
            principals: self.principals(
                [at, ".principals", ".notPrincipals"],
                principals,
                not_principals,
            ),
            namespaces: self.texts(
                [at, ".namespaces", ".notNamespaces"],
                namespaces,
                not_namespaces,
            ),
            service_accounts: self.values(
                [at, ".serviceAccounts", ".notServiceAccounts"],
                (service_accounts, not_service_accounts),
                account,
            ),
            ip_blocks: self.values(
                [at, ".ipBlocks", ".notIpBlocks"],
                (ip_blocks, not_ip_blocks),
                |_, text| IpBlock::parse(text),
            ),
            trust_domains: self.texts(
                [at, ".trustDomains", ".notTrustDomains"],
                trust_domains,
                not_trust_domains,
            ),
        };
        let others = !principals.is_empty()
            || !not_principals.is_empty()
            || !namespaces.is_empty()
            || !not_namespaces.is_empty();
        let accounts = service_accounts.first().or_else(|| not_service_accounts.first());
        if let (Some(account), true) = (accounts, others) {
            let field = format!("{at}.serviceAccounts");
            self.wrong.push(Why::ServiceAccountsWithOthers.at(field, account));
        }
        let set = others
            || accounts.is_some()
            || [ip_blocks, not_ip_blocks, trust_domains, not_trust_domains, unsupported]
                .iter()
                .any(|list| !list.is_empty());
        if !set {
            self.wrong.push(Why::NothingSet.at(at, ""));
        }
        source
    }

    fn operation(&mut self, at: &str, spec: &OperationSpec) -> Operation {
        let OperationSpec { ports, not_ports, unsupported } = spec;
        self.unsupported(at, unsupported);
        if ports.is_empty() && not_ports.is_empty() && unsupported.is_empty() {
            self.wrong.push(Why::NothingSet.at(at, ""));
        }
        let ports =
            self.values([at, ".ports", ".notPorts"], (ports, not_ports), |_, text| port(text));
        Operation { ports }
    }

    /// `None` for a condition that cannot be enforced.
    fn condition(&mut self, at: &str, spec: &ConditionSpec) -> Option<Condition> {
        let ConditionSpec { key, values, not_values } = spec;
        if values.is_empty() && not_values.is_empty() {
            self.wrong.push(Why::NothingSet.at(at, key));
        }
        let names = [at, ".values", ".notValues"];
        let both = (&**values, &**not_values);
        Some(match &**key {
            "source.ip" => {
                Condition::SourceIp(self.values(names, both, |_, text| IpBlock::parse(text)))
            }
            "source.namespace" => Condition::SourceNamespace(self.texts(names, values, not_values)),
            "source.principal" => {
                Condition::SourcePrincipal(self.principals(names, values, not_values))
            }
            "destination.ip" => {
                Condition::DestinationIp(self.values(names, both, |_, text| IpBlock::parse(text)))
            }
            "destination.port" => {
                Condition::DestinationPort(self.values(names, both, |_, text| port(text)))
            }
            "" => {
                self.wrong.push(Why::Empty.at(format!("{at}.key"), ""));
                return None;
            }
            other => {
                self.gap(format!("{at}.key {other:?}"));
                return None;
            }
        })
    }

    fn texts(
        &mut self,
        names: [&str; 3],
        any_of: &[String],
        none_of: &[String],
    ) -> Match<TextMatch> {
        let texts = self.values(names, (any_of, none_of), |_, text| TextMatch::parse(text));
        self.note_hopeless(names, &texts, |literal| literal.contains('*'));
        texts
    }

    fn principals(
        &mut self,
        names: [&str; 3],
        any_of: &[String],
        none_of: &[String],
    ) -> Match<TextMatch> {
        let texts = self.values(names, (any_of, none_of), |_, text| TextMatch::parse(text));
        self.note_hopeless(names, &texts, |literal| literal.contains('*') || literal.contains(':'));
        texts
    }

    /// Reads both lists of one field; `names` are where they stand and what they are called.
    fn values<T>(
        &mut self,
        [at, any_of_name, none_of_name]: [&str; 3],
        (any_of, none_of): (&[String], &[String]),
        parse: impl Fn(&Arc<str>, &str) -> Result<T, Why>,
    ) -> Match<T> {
        let mut read = |name: &str, texts: &[String]| {
            let texts = texts.iter().enumerate();
            let values = texts.filter_map(|(i, text)| {
                let value = parse(&self.namespace, text);
                value.map_err(|why| self.wrong.push(why.at(format!("{at}{name}[{i}]"), text))).ok()
            });
            values.collect()
        };
        Match { any_of: read(any_of_name, any_of), none_of: read(none_of_name, none_of) }
    }

    /// Names or identities have no such characters, so a value with one was meant otherwise.
    fn note_hopeless(
        &mut self,
        [at, any_of_name, none_of_name]: [&str; 3],
        texts: &Match<TextMatch>,
        hopeless: impl Fn(&str) -> bool,
    ) {
        for (name, list) in [(any_of_name, &texts.any_of), (none_of_name, &texts.none_of)] {
            for (i, text) in list.iter().enumerate() {
                if hopeless(text.literal()) {
                    let field = format!("{at}{name}[{i}]");
                    self.gaps.push(Gap { field, why: GapReason::ValueNeverMatches });
                }
            }
        }
    }

    fn unsupported(&mut self, at: &str, fields: &[String]) {
        for field in fields {
            self.gap(format!("{at}.{field}"));
        }
    }

    fn gap(&mut self, field: String) {
        let why = if self.allow { GapReason::RuleNeverMatches } else { GapReason::FieldIgnored };
        self.gaps.push(Gap { field, why });
    }

    fn not_empty(&mut self, field: &str, length: usize) {
        if length == 0 {
            self.wrong.push(Why::Empty.at(field, "[]"));
        }
        if length > MAX_RULES {
            self.wrong.push(Why::TooMany.at(field, length.to_string()));
        }
    }
}
