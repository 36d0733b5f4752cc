//! Policies, pods and flows from bytes, out of few enough names that they meet.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{labels, uid};
use crate::flow::FlowContext;
use crate::identity::SpiffeId;
use crate::policy::spec::{
    AuthorizationPolicySpec, ConditionSpec, OperationSpec, PeerAuthenticationSpec, RuleSpec,
    SourceSpec,
};
use crate::workload::{MeshMode, ObjectName, Owner, Phase, Workload};
use crate::world::World;

const NAMESPACES: [&str; 4] = ["shop", "bank", "istio-system", "adit-system"];
const PRINCIPALS: [&str; 8] = [
    "cluster.local/ns/shop/sa/web",
    "cluster.local/ns/bank/sa/cart",
    "other/ns/shop/sa/web",
    "cluster.local/ns/*",
    "*/sa/web",
    "*",
    "other*",
    "spiffe://cluster.local/ns/shop/sa/web",
];
const NAMES: [&str; 6] = ["shop", "bank", "sh*", "*nk", "*", "s*p"];
const ACCOUNTS: [&str; 5] = ["web", "shop/web", "bank/cart", "other/web", "a/b/c"];
const BLOCKS: [&str; 9] = [
    "10.0.0.0/8",
    "10.0.0.1",
    "10.1.2.3/16",
    "fd00::/16",
    "fd00::1",
    "0.0.0.0/0",
    "::/0",
    "::ffff:10.0.0.0/104",
    "10.0.0.0/40",
];
const DOMAINS: [&str; 4] = ["cluster.local", "other", "*", "cluster*"];
const PORTS: [&str; 4] = ["80", "8080", "443", "http"];
const ADDRESSES: [&str; 5] = ["10.0.0.1", "10.1.0.1", "192.0.2.1", "fd00::1", "::ffff:10.0.0.1"];
const IDENTITIES: [&str; 4] = [
    "spiffe://cluster.local/ns/shop/sa/web",
    "spiffe://cluster.local/ns/bank/sa/cart",
    "spiffe://other/ns/shop/sa/web",
    "spiffe://cluster.local/ns/other/sa/web",
];

/// Choices that bytes make. When they are used up, every choice is the first.
pub(super) struct Choices<'a> {
    bytes: &'a [u8],
}

impl<'a> Choices<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    pub(super) const fn left(&self) -> bool {
        !self.bytes.is_empty()
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        let Some((first, rest)) = self.bytes.split_first() else {
            return 0;
        };
        self.bytes = rest;
        usize::from(*first) % bound
    }

    fn one_in(&mut self, bound: usize) -> bool {
        self.left() && self.below(bound) == bound - 1
    }

    fn of<'b>(&mut self, pool: &[&'b str]) -> &'b str {
        pool[self.below(pool.len())]
    }

    /// Mostly none.
    fn some(&mut self, pool: &[&str]) -> Vec<String> {
        let number = self.below(6).saturating_sub(3);
        (0..number).map(|_| self.of(pool).to_owned()).collect()
    }

    pub(super) fn pod(&mut self, number: usize) -> Workload {
        let namespace = NAMESPACES[number % 3];
        let chosen = [
            &[("app", "web")][..],
            &[("app", "cart"), ("tier", "back")],
            &[("app", "cart")],
            &[("app", "web"), ("tier", "back")],
            &[],
        ];
        let chosen = chosen[self.below(5)];
        Workload {
            uid: uid(number),
            name: ObjectName::new(namespace, uid(number).as_str()),
            node: None,
            identity: SpiffeId::parse(IDENTITIES[0]).unwrap(),
            addresses: ["10.9.0.1", "fd09::1"].map(|text| text.parse().unwrap()).into(),
            mode: MeshMode::Ambient,
            host_network: false,
            phase: Phase::Active,
            owner: Owner { kind: Arc::from("pod"), name: Arc::from("pod") },
            labels: labels(chosen),
            probed: Vec::new(),
            tunnel_ports: Vec::new(),
            mirror_of: None,
            announced: None,
            netns: None,
        }
    }

    pub(super) fn flow(&mut self, world: &World) -> FlowContext {
        let destination = Arc::clone(world.workload(&uid(self.below(4))).unwrap());
        let address = destination.addresses[self.below(2)];
        let identity = self.below(IDENTITIES.len() + 1).checked_sub(1);
        let source_address: IpAddr = self.of(&ADDRESSES).parse().unwrap();
        let port = [80, 8080, 443][self.below(3)];
        FlowContext {
            source_address,
            source_identity: identity.map(|index| SpiffeId::parse(IDENTITIES[index]).unwrap()),
            destination,
            destination_address: SocketAddr::new(address, port),
        }
    }

    fn name(&mut self) -> ObjectName {
        let namespace = self.of(&NAMESPACES);
        ObjectName::new(namespace, self.of(&["a", "b", "c"]))
    }

    fn created(&mut self) -> Option<SystemTime> {
        let age = self.below(4).checked_sub(1)?;
        Some(SystemTime::UNIX_EPOCH + Duration::from_secs(age as u64))
    }

    fn selector(&mut self) -> std::collections::BTreeMap<String, String> {
        let pairs = [
            &[][..],
            &[("app", "web")],
            &[("tier", "back")],
            &[("app", "cart"), ("tier", "back")],
            &[("app", "w*")],
        ];
        let pairs = pairs[self.below(5)].iter();
        pairs.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    pub(super) fn peer_authentication(&mut self) -> PeerAuthenticationSpec {
        const MODES: [&str; 6] = ["STRICT", "PERMISSIVE", "DISABLE", "UNSET", "", "strict"];
        let mut spec = PeerAuthenticationSpec::new(self.name());
        spec.created = self.created();
        spec.dry_run = self.one_in(4);
        spec.selector = self.selector();
        spec.mode = self.of(&MODES[..5]).to_owned();
        if !spec.selector.is_empty() || self.one_in(10) {
            for _ in 0..self.below(3) {
                let port = self.of(&PORTS[..3]).to_owned();
                spec.port_modes.insert(port, self.of(&MODES).to_owned());
            }
        }
        spec
    }

    pub(super) fn authorization_policy(&mut self) -> AuthorizationPolicySpec {
        let mut spec = AuthorizationPolicySpec::new(self.name());
        spec.dry_run = self.one_in(4);
        spec.selector = self.selector();
        spec.targets = self.one_in(20);
        spec.action = self.of(&["", "ALLOW", "DENY", "DENY", "AUDIT", "CUSTOM"]).to_owned();
        spec.rules = (0..self.below(4)).map(|_| self.rule()).collect();
        spec
    }

    /// Makes a policy invalid, and says which of its fields then cannot even be read.
    pub(super) fn spoil(&mut self, spec: &mut AuthorizationPolicySpec) -> Vec<String> {
        let index = self.below(spec.rules.len().max(1));
        let bad = || vec!["x".to_owned()];
        match (self.below(6), spec.rules.get_mut(index)) {
            (0, Some(rule)) => {
                *rule = RuleSpec::default();
                return vec![format!("spec.rules[{index}]")];
            }
            (1, Some(rule)) => {
                rule.from = None;
                return vec![format!("spec.rules[{index}].from")];
            }
            (2, Some(rule)) => {
                let source = SourceSpec { not_ip_blocks: bad(), ..SourceSpec::default() };
                rule.from.get_or_insert_default().push(source);
                for source in rule.from.iter_mut().flatten() {
                    source.ip_blocks.extend(bad());
                }
            }
            (3, Some(rule)) => {
                let key = "destination.port".to_owned();
                rule.when.push(ConditionSpec { key, values: bad(), not_values: Vec::new() });
            }
            (4, _) => {
                spec.rules.clear();
                return vec!["spec.rules".to_owned()];
            }
            (5, _) => drop(spec.selector.insert("app".to_owned(), "w*".to_owned())),
            _ => spec.action = "PERMIT".to_owned(),
        }
        Vec::new()
    }

    fn rule(&mut self) -> RuleSpec {
        let mut rule = RuleSpec::default();
        if !self.one_in(3) {
            rule.from = Some((0..=self.below(2)).map(|_| self.source()).collect());
        }
        if self.one_in(3) {
            rule.to = Some((0..=self.below(2)).map(|_| self.operation()).collect());
        }
        if self.one_in(3) {
            rule.when = (0..=self.below(2)).map(|_| self.condition()).collect();
        }
        rule
    }

    fn source(&mut self) -> SourceSpec {
        let mut source = SourceSpec::default();
        match self.below(6) {
            0 => source.principals = vec![self.of(&PRINCIPALS).to_owned()],
            1 => source.namespaces = vec![self.of(&NAMES).to_owned()],
            2 => source.service_accounts = vec![self.of(&ACCOUNTS).to_owned()],
            3 => source.ip_blocks = vec![self.of(&BLOCKS).to_owned()],
            4 => source.not_principals = vec![self.of(&PRINCIPALS).to_owned()],
            _ => source.trust_domains = vec![self.of(&DOMAINS).to_owned()],
        }
        if self.one_in(2) {
            source.principals.extend(self.some(&PRINCIPALS));
            source.not_principals.extend(self.some(&PRINCIPALS));
            source.namespaces.extend(self.some(&NAMES));
            source.not_namespaces.extend(self.some(&NAMES));
            source.ip_blocks.extend(self.some(&BLOCKS));
            source.not_ip_blocks.extend(self.some(&BLOCKS));
            source.not_trust_domains.extend(self.some(&DOMAINS));
        }
        if self.one_in(4) {
            source.not_service_accounts.extend(self.some(&ACCOUNTS));
        }
        if self.one_in(8) {
            source.unsupported.push("requestPrincipals".to_owned());
        }
        source
    }

    fn operation(&mut self) -> OperationSpec {
        let mut operation = OperationSpec {
            ports: self.some(&PORTS[..3]),
            not_ports: self.some(&PORTS),
            unsupported: Vec::new(),
        };
        if self.one_in(8) {
            operation.unsupported.push("methods".to_owned());
        }
        operation
    }

    fn condition(&mut self) -> ConditionSpec {
        let (key, pool) = [
            ("source.ip", &BLOCKS[..]),
            ("source.namespace", &NAMES),
            ("source.principal", &PRINCIPALS),
            ("destination.ip", &BLOCKS),
            ("destination.port", &PORTS[..3]),
            ("request.headers[x]", &NAMES),
        ][self.below(6)];
        let (values, not_values) = (self.some(pool), self.some(pool));
        ConditionSpec { key: key.to_owned(), values, not_values }
    }
}
