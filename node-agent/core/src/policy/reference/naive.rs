//! The evaluator itself. It reads the text of the manifests anew for every flow.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::flow::FlowContext;
use crate::identity::SpiffeId;
use crate::policy::spec::{
    AuthorizationPolicySpec, ConditionSpec, OperationSpec, PeerAuthenticationSpec, RuleSpec,
    SourceSpec,
};
use crate::policy::{Denied, PolicyId, PolicyKind};
use crate::workload::{ObjectName, Workload};

const ROOTS: [&str; 2] = ["adit-system", "istio-system"];

/// A valid manifest.
#[derive(Debug, Clone)]
pub(super) enum Manifest {
    Peer(PeerAuthenticationSpec),
    Authorization(AuthorizationPolicySpec),
}

/// All manifests.
#[derive(Debug, Default)]
pub(super) struct Naive {
    pub(super) manifests: BTreeMap<PolicyId, Manifest>,
}

/// What the evaluator says.
pub(super) struct Expected {
    pub(super) verdict: Result<(), Denied>,
    pub(super) by: Option<(PolicyId, Option<usize>)>,
    /// The policies that allow, for [`Denied::NoRule`].
    pub(super) allows: Vec<PolicyId>,
}

impl Naive {
    pub(super) fn decide(&self, pod: &Workload, flow: &FlowContext, dry_run: bool) -> Expected {
        let result = |verdict, by| Expected { verdict, by, allows: Vec::new() };
        if let (None, Some(strict)) = (&flow.source_identity, self.strict(pod, flow, dry_run)) {
            let id = PolicyId { kind: PolicyKind::PeerAuthentication, name: strict };
            return result(Err(Denied::Plaintext), Some((id, None)));
        }
        for policy in self.authorizations(pod, dry_run, &["DENY", "CUSTOM"]) {
            for (index, rule) in policy.rules.iter().enumerate() {
                if rule_matches(policy, rule, flow) {
                    return result(Err(Denied::ByRule), Some((id(policy), Some(index))));
                }
            }
        }
        let allows = self.authorizations(pod, dry_run, &["", "ALLOW"]);
        for policy in &allows {
            for (index, rule) in policy.rules.iter().enumerate() {
                if !asks_too_much(rule) && rule_matches(policy, rule, flow) {
                    return result(Ok(()), Some((id(policy), Some(index))));
                }
            }
        }
        if allows.is_empty() {
            return result(Ok(()), None);
        }
        let allows = allows.into_iter().map(id).collect();
        Expected { verdict: Err(Denied::NoRule), by: None, allows }
    }

    pub(super) fn has_dry_run_for(&self, pod: &Workload) -> bool {
        let actions = ["", "ALLOW", "DENY", "CUSTOM"];
        let policies = self.authorizations(pod, true, &actions);
        policies.iter().any(|policy| policy.dry_run)
            || self.peers(pod, true).iter().any(|(_, policy)| policy.dry_run)
    }

    /// The name of the policy that demands tunnels on the flow's port, if one does.
    fn strict(&self, pod: &Workload, flow: &FlowContext, dry_run: bool) -> Option<ObjectName> {
        let port = flow.destination_address.port().to_string();
        let mut peers = self.peers(pod, dry_run);
        // The most special first; there, what is only evaluated, then the oldest.
        peers.sort_by_key(|(level, spec)| (*level, !spec.dry_run, spec.created, spec.name.clone()));
        peers.dedup_by_key(|(level, _)| *level);
        for (_, spec) in peers {
            let of_port = spec.port_modes.get(&port).map_or("", |mode| &**mode);
            for mode in [of_port, &spec.mode] {
                match mode {
                    "STRICT" => return Some(spec.name.clone()),
                    "PERMISSIVE" | "DISABLE" => return None,
                    _ => {}
                }
            }
        }
        None
    }

    /// The PeerAuthentications for a pod with their levels: 0 selects it, 1 is its namespace's, 2 is
    /// the mesh's.
    fn peers(&self, pod: &Workload, dry_run: bool) -> Vec<(u8, &PeerAuthenticationSpec)> {
        let mut found = Vec::new();
        for manifest in self.manifests.values() {
            let Manifest::Peer(spec) = manifest else { continue };
            if spec.dry_run && !dry_run {
                continue;
            }
            let root = ROOTS.contains(&&*spec.name.namespace);
            let own = spec.name.namespace == pod.name.namespace;
            match (root, own, spec.selector.is_empty()) {
                (true, _, true) => found.push((2, spec)),
                (false, true, true) => found.push((1, spec)),
                (false, true, false) if selects(&spec.selector, pod) => found.push((0, spec)),
                _ => {}
            }
        }
        found
    }

    /// The AuthorizationPolicies for a pod with one of some actions, in the order in which they are
    /// asked.
    fn authorizations(
        &self,
        pod: &Workload,
        dry_run: bool,
        actions: &[&str],
    ) -> Vec<&AuthorizationPolicySpec> {
        let mut found = Vec::new();
        for manifest in self.manifests.values() {
            let Manifest::Authorization(spec) = manifest else { continue };
            let root = ROOTS.contains(&&*spec.name.namespace);
            let applies = (root || spec.name.namespace == pod.name.namespace)
                && selects(&spec.selector, pod)
                && !spec.targets
                && actions.contains(&&*spec.action)
                && (dry_run || !spec.dry_run);
            if applies {
                let first_label = spec.selector.keys().next().cloned();
                found.push(((!spec.dry_run, !root, first_label, spec.name.clone()), spec));
            }
        }
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        found.into_iter().map(|(_, spec)| spec).collect()
    }
}

fn id(spec: &AuthorizationPolicySpec) -> PolicyId {
    PolicyId { kind: PolicyKind::AuthorizationPolicy, name: spec.name.clone() }
}

fn selects(selector: &BTreeMap<String, String>, pod: &Workload) -> bool {
    selector.iter().all(|(key, value)| pod.labels.get(&**key).is_some_and(|own| **own == **value))
}

fn asks_too_much(rule: &RuleSpec) -> bool {
    !rule.unsupported.is_empty()
        || rule.from.iter().flatten().any(|from| !from.unsupported.is_empty())
        || rule.to.iter().flatten().any(|to| !to.unsupported.is_empty())
        || rule.when.iter().any(|when| when.key.starts_with("request."))
}

fn rule_matches(policy: &AuthorizationPolicySpec, rule: &RuleSpec, flow: &FlowContext) -> bool {
    let from = rule
        .from
        .as_ref()
        .is_none_or(|sources| sources.iter().any(|source| source_matches(policy, source, flow)));
    let to = rule.to.as_ref().is_none_or(|operations| {
        operations.iter().any(|operation| operation_matches(operation, flow))
    });
    from && to && rule.when.iter().all(|when| condition_matches(when, flow))
}

fn source_matches(
    policy: &AuthorizationPolicySpec,
    source: &SourceSpec,
    flow: &FlowContext,
) -> bool {
    let id = flow.source_identity.as_ref();
    let principal = id.map(|id| id.to_string().trim_start_matches("spiffe://").to_owned());
    let principal = principal.as_deref();
    let namespace = id.map(SpiffeId::namespace);
    let domain = id.map(|id| id.trust_domain().as_str());
    let account = id.map(|id| format!("{}/{}", id.namespace(), id.service_account()));
    let own = &policy.name.namespace;
    let is_account = |wanted: &String| {
        let full = if wanted.contains('/') { wanted.clone() } else { format!("{own}/{wanted}") };
        account.as_ref() == Some(&full)
    };
    both(&source.principals, &source.not_principals, |text| text_matches(text, principal))
        && both(&source.namespaces, &source.not_namespaces, |text| text_matches(text, namespace))
        && both(&source.service_accounts, &source.not_service_accounts, is_account)
        && both(&source.ip_blocks, &source.not_ip_blocks, |text| {
            block_has(text, flow.source_address)
        })
        && both(&source.trust_domains, &source.not_trust_domains, |text| text_matches(text, domain))
}

fn operation_matches(operation: &OperationSpec, flow: &FlowContext) -> bool {
    let port = flow.destination_address.port().to_string();
    both(&operation.ports, &operation.not_ports, |text| *text == port)
}

fn condition_matches(when: &ConditionSpec, flow: &FlowContext) -> bool {
    let id = flow.source_identity.as_ref();
    let principal = id.map(|id| id.to_string().trim_start_matches("spiffe://").to_owned());
    let port = flow.destination_address.port().to_string();
    both(&when.values, &when.not_values, |text| match &*when.key {
        "source.ip" => block_has(text, flow.source_address),
        "source.namespace" => text_matches(text, id.map(SpiffeId::namespace)),
        "source.principal" => text_matches(text, principal.as_deref()),
        "destination.ip" => block_has(text, flow.destination_address.ip()),
        "destination.port" => *text == port,
        _ => true,
    }) || when.key.starts_with("request.")
}

fn both(any_of: &[String], none_of: &[String], holds: impl Fn(&String) -> bool) -> bool {
    (any_of.is_empty() || any_of.iter().any(&holds)) && !none_of.iter().any(holds)
}

fn text_matches(pattern: &str, text: Option<&str>) -> bool {
    let Some(text) = text else { return false };
    if pattern == "*" {
        return !text.is_empty();
    }
    if let Some(end) = pattern.strip_prefix('*') {
        return text.ends_with(end);
    }
    if let Some(start) = pattern.strip_suffix('*') {
        return text.starts_with(start);
    }
    pattern == text
}

fn block_has(block: &str, address: IpAddr) -> bool {
    let (network, length) = block.split_once('/').unwrap_or((block, "128"));
    let network: IpAddr = network.parse().unwrap();
    let mut length: usize = length.parse().unwrap();
    if network.is_ipv6() && network.to_canonical().is_ipv4() {
        length -= 96;
    }
    let (network, address) = (bits(network.to_canonical()), bits(address.to_canonical()));
    network.len() == address.len() && network.iter().zip(&address).take(length).all(|(a, b)| a == b)
}

fn bits(address: IpAddr) -> Vec<bool> {
    let bytes = match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    bytes.iter().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1 == 1)).collect()
}
