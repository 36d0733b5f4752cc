//! The semantics of Istio's API reference, field by field and precedence by precedence.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::spec::{
    AuthorizationPolicySpec, ConditionSpec, OperationSpec, PeerAuthenticationSpec, RuleSpec,
    SourceSpec,
};
use super::*;
use crate::identity::SpiffeId;
use crate::workload::{MeshMode, ObjectName, Owner, Phase, PodUid};
use crate::world::Delta;

mod authorization;
mod closed;
mod fields;
mod outcome;
mod peer;
mod probe;
mod recheck;

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
const TELLER: &str = "spiffe://cluster.local/ns/bank/sa/teller";
const STRANGER: &str = "spiffe://other.domain/ns/shop/sa/web";

struct Scene {
    world: World,
}

/// Who calls.
#[derive(Debug, Clone, Copy)]
struct Caller {
    identity: Option<&'static str>,
    address: IpAddr,
    port: u16,
}

const PLAINTEXT: Caller =
    Caller { identity: None, address: IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1)), port: 80 };

impl From<&'static str> for Caller {
    fn from(identity: &'static str) -> Self {
        Self { identity: Some(identity), ..PLAINTEXT }
    }
}

impl Scene {
    fn new(policies: impl IntoIterator<Item = Delta>) -> Self {
        let (world, _) = World::default().apply([Delta::Workload(pod())]);
        Self { world: world.apply(policies).0 }
    }

    fn flow(&self, from: &Caller) -> FlowContext {
        FlowContext {
            source_address: from.address,
            source_identity: from.identity.map(|text| SpiffeId::parse(text).unwrap()),
            destination: Arc::clone(self.world.workload(&pod().uid).unwrap()),
            destination_address: (pod().addresses[0], from.port).into(),
        }
    }

    fn decide(&self, from: &Caller) -> Decision {
        decide(&self.world, &self.flow(from))
    }

    fn ask(&self, from: impl Into<Caller>) -> String {
        let Decision { verdict, grounds } = self.decide(&from.into());
        let verdict = verdict.map_or_else(Denied::as_label, |_permit| "allowed");
        let by = grounds.by.map_or_else(|| "default".to_owned(), |by| by.to_string());
        format!("{verdict} by {by}")
    }

    fn dry(&self, from: impl Into<Caller>) -> String {
        self.decide(&from.into()).grounds.dry_run.unwrap().to_string()
    }
}

fn pod() -> Workload {
    Workload {
        uid: PodUid::parse("cart").unwrap(),
        name: object("shop/cart"),
        node: None,
        identity: SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").unwrap(),
        addresses: vec!["10.9.0.1".parse().unwrap()],
        mode: MeshMode::Ambient,
        host_network: false,
        phase: Phase::Active,
        owner: Owner { kind: Arc::from("pod"), name: Arc::from("cart") },
        labels: BTreeMap::from([
            (Arc::from("app"), Arc::from("cart")),
            (Arc::from("version"), Arc::from("v1")),
        ]),
        probed: vec![8081],
        tunnel_ports: Vec::new(),
        mirror_of: None,
        announced: None,
        netns: None,
    }
}

fn peer(name: &str, mode: &str, change: impl FnOnce(&mut PeerAuthenticationSpec)) -> Delta {
    let mut spec = PeerAuthenticationSpec::new(object(name));
    spec.mode = mode.to_owned();
    change(&mut spec);
    Delta::PeerAuthentication(PeerAuthentication::try_new(spec).unwrap())
}

fn select(labels: &'static [(&str, &str)]) -> impl FnOnce(&mut PeerAuthenticationSpec) {
    |spec| spec.selector = owned(labels)
}

fn policy(name: &str, action: &str, rules: impl IntoIterator<Item = RuleSpec>) -> Delta {
    authorization(name, action, rules, |_| ())
}

fn authorization(
    name: &str,
    action: &str,
    rules: impl IntoIterator<Item = RuleSpec>,
    change: impl FnOnce(&mut AuthorizationPolicySpec),
) -> Delta {
    let mut spec = AuthorizationPolicySpec::new(object(name));
    spec.action = action.to_owned();
    spec.rules = rules.into_iter().collect();
    change(&mut spec);
    Delta::AuthorizationPolicy(AuthorizationPolicy::try_new(spec).unwrap())
}

fn none() -> SourceSpec {
    SourceSpec::default()
}

fn principals(principals: &[&str]) -> SourceSpec {
    SourceSpec { principals: texts(principals), ..none() }
}

fn not_principals(principals: &[&str]) -> SourceSpec {
    SourceSpec { not_principals: texts(principals), ..none() }
}

fn accounts(accounts: &[&str]) -> SourceSpec {
    SourceSpec { service_accounts: texts(accounts), ..none() }
}

fn from(source: SourceSpec) -> RuleSpec {
    RuleSpec { from: Some(vec![source]), ..RuleSpec::default() }
}

fn to(operation: OperationSpec) -> RuleSpec {
    RuleSpec { to: Some(vec![operation]), ..RuleSpec::default() }
}

fn port_rule(ports: &[&str]) -> RuleSpec {
    to(OperationSpec { ports: texts(ports), ..OperationSpec::default() })
}

fn when(key: &str, values: &[&str], not_values: &[&str]) -> RuleSpec {
    let when = ConditionSpec { not_values: texts(not_values), ..condition(key, values) };
    RuleSpec { when: vec![when], ..RuleSpec::default() }
}

fn condition(key: &str, values: &[&str]) -> ConditionSpec {
    ConditionSpec { key: key.to_owned(), values: texts(values), not_values: Vec::new() }
}

fn object(name: &str) -> ObjectName {
    let (namespace, name) = name.split_once('/').unwrap();
    ObjectName::new(namespace, name)
}

fn owned(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

fn names(steps: &[Step]) -> Vec<String> {
    steps.iter().map(|step| step.policy.to_string()).collect()
}
