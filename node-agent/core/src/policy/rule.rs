//! From what a manifest says to the rules of an AuthorizationPolicy.

use std::sync::Arc;

use super::invalid::{Gap, GapReason, Invalid, Why};
use super::matcher::{IpBlock, Match, ServiceAccount, TextMatch, port};
use super::object::{MAX_RULES, Rule, Test};
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
    pub(super) fn rule(&mut self, index: usize, spec: &RuleSpec) -> Rule {
        let at = format!("spec.rules[{index}]");
        let RuleSpec { from, to, when, unsupported } = spec;
        let known_gaps = self.gaps.len();
        self.unsupported(&at, unsupported);
        let sources = from.as_deref().map_or_else(Box::default, |from| {
            self.not_empty(&format!("{at}.from"), from.len());
            let from = from.iter().enumerate();
            from.map(|(i, spec)| self.source(&format!("{at}.from[{i}].source"), spec)).collect()
        });
        let operations = to.as_deref().map_or_else(Box::default, |to| {
            self.not_empty(&format!("{at}.to"), to.len());
            let to = to.iter().enumerate();
            to.map(|(i, spec)| self.operation(&format!("{at}.to[{i}].operation"), spec)).collect()
        });
        let when = when.iter().enumerate();
        let when = when.filter_map(|(i, spec)| self.condition(&format!("{at}.when[{i}]"), spec));
        let conditions = when.collect();
        let gaps = self.gaps.get(known_gaps..).unwrap_or_default();
        let never = gaps.iter().any(|gap| gap.why == GapReason::RuleNeverMatches);
        Rule { sources, operations, conditions, never }
    }

    fn source(&mut self, at: &str, spec: &SourceSpec) -> Box<[Test]> {
        self.unsupported(at, &spec.unsupported);
        let names = [at, ".principals", ".notPrincipals"];
        let principals = self.principals(names, &spec.principals, &spec.not_principals);
        let names = [at, ".namespaces", ".notNamespaces"];
        let namespaces = self.texts(names, &spec.namespaces, &spec.not_namespaces);
        let names = [at, ".serviceAccounts", ".notServiceAccounts"];
        let both = (&*spec.service_accounts, &*spec.not_service_accounts);
        let account = |namespace: &Arc<str>, text: &str| ServiceAccount::parse(text, namespace);
        let accounts = self.values(names, both, account);
        let names = [at, ".ipBlocks", ".notIpBlocks"];
        let blocks = self.blocks(names, &spec.ip_blocks, &spec.not_ip_blocks);
        let names = [at, ".trustDomains", ".notTrustDomains"];
        let domains = self.texts(names, &spec.trust_domains, &spec.not_trust_domains);
        if !self.check_source(at, spec) {
            return Box::default();
        }
        let tests = [
            principals.said().map(Test::Principal),
            namespaces.said().map(Test::Namespace),
            accounts.said().map(Test::ServiceAccount),
            blocks.said().map(Test::SourceIp),
            domains.said().map(Test::TrustDomain),
        ];
        tests.into_iter().flatten().collect()
    }

    /// Whether what is set goes together.
    fn check_source(&mut self, at: &str, spec: &SourceSpec) -> bool {
        let set = |lists: &[&Vec<String>]| lists.iter().any(|list| !list.is_empty());
        let others =
            [&spec.principals, &spec.not_principals, &spec.namespaces, &spec.not_namespaces];
        let accounts = [&spec.service_accounts, &spec.not_service_accounts];
        let rest = [
            &spec.ip_blocks,
            &spec.not_ip_blocks,
            &spec.trust_domains,
            &spec.not_trust_domains,
            &spec.unsupported,
        ];
        let contradicts = set(&others) && set(&accounts);
        if contradicts {
            let account = accounts.into_iter().flatten().next().map_or("", |text| text);
            let field = format!("{at}.serviceAccounts");
            self.wrong.push(Why::ServiceAccountsWithOthers.at(field, account));
        }
        if !set(&others) && !set(&accounts) && !set(&rest) {
            self.wrong.push(Why::NothingSet.at(at, ""));
        }
        !contradicts
    }

    fn operation(&mut self, at: &str, spec: &OperationSpec) -> Box<[Test]> {
        let OperationSpec { ports, not_ports, unsupported } = spec;
        self.unsupported(at, unsupported);
        if ports.is_empty() && not_ports.is_empty() && unsupported.is_empty() {
            self.wrong.push(Why::NothingSet.at(at, ""));
        }
        let ports = self.ports([at, ".ports", ".notPorts"], ports, not_ports);
        ports.said().map(Test::Port).into_iter().collect()
    }

    /// `None` for a condition that cannot be enforced.
    fn condition(&mut self, at: &str, spec: &ConditionSpec) -> Option<Test> {
        let ConditionSpec { key, values, not_values } = spec;
        if values.is_empty() && not_values.is_empty() {
            self.wrong.push(Why::NothingSet.at(at, key));
        }
        let names = [at, ".values", ".notValues"];
        Some(match &**key {
            "source.ip" => Test::SourceIp(self.blocks(names, values, not_values)),
            "source.namespace" => Test::Namespace(self.texts(names, values, not_values)),
            "source.principal" => Test::Principal(self.principals(names, values, not_values)),
            "destination.ip" => Test::DestinationIp(self.blocks(names, values, not_values)),
            "destination.port" => Test::Port(self.ports(names, values, not_values)),
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

    fn blocks(
        &mut self,
        names: [&str; 3],
        any_of: &[String],
        none_of: &[String],
    ) -> Match<IpBlock> {
        self.values(names, (any_of, none_of), |_, text| IpBlock::parse(text))
    }

    fn ports(&mut self, names: [&str; 3], any_of: &[String], none_of: &[String]) -> Match<u16> {
        let ports = self.values(names, (any_of, none_of), |_, text| port(text));
        self.note(names, &ports, |port| (*port == 0).then_some(GapReason::PortZero));
        ports
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

    /// Reads both lists of one field; `names` are where they stand and what they are called. A list
    /// with a value that is wrong comes back empty, as if it were absent.
    fn values<T>(
        &mut self,
        [at, any_of_name, none_of_name]: [&str; 3],
        (any_of, none_of): (&[String], &[String]),
        parse: impl Fn(&Arc<str>, &str) -> Result<T, Why>,
    ) -> Match<T> {
        let mut read = |name: &str, texts: &[String]| {
            let mut values = Vec::new();
            for (i, text) in texts.iter().enumerate() {
                match parse(&self.namespace, text) {
                    Ok(value) => values.push(value),
                    Err(why) => self.wrong.push(why.at(format!("{at}{name}[{i}]"), text)),
                }
            }
            if values.len() < texts.len() { Box::default() } else { values.into() }
        };
        Match { any_of: read(any_of_name, any_of), none_of: read(none_of_name, none_of) }
    }

    /// Names or identities have no such characters, so a value with one was meant otherwise.
    fn note_hopeless(
        &mut self,
        names: [&str; 3],
        texts: &Match<TextMatch>,
        hopeless: impl Fn(&str) -> bool,
    ) {
        let why = GapReason::ValueNeverMatches;
        self.note(names, texts, |text| hopeless(text.literal()).then_some(why));
    }

    /// Points out the values that can match nothing.
    fn note<T>(
        &mut self,
        [at, any_of_name, none_of_name]: [&str; 3],
        values: &Match<T>,
        why: impl Fn(&T) -> Option<GapReason>,
    ) {
        for (name, list) in [(any_of_name, &values.any_of), (none_of_name, &values.none_of)] {
            for (i, value) in list.iter().enumerate() {
                if let Some(why) = why(value) {
                    self.gaps.push(Gap { field: format!("{at}{name}[{i}]"), why });
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
