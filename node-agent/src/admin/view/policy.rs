//! Policies, as `adit policies` shows them.

use std::collections::BTreeMap;

use adit_core::enrolment;
use adit_core::policy::{AuthorizationPolicy, Mode, PeerAuthentication, PolicyId, Reach};
use adit_core::workload::NodeName;
use adit_core::world::World;
use serde::{Deserialize, Serialize};

use crate::admin::view::{ObjectRef, Timestamp};
use crate::observer::Hits;

/// A policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyView {
    /// `PeerAuthentication` or `AuthorizationPolicy`.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `mesh`, `namespace` or `workload`; `none` where it is for no pod at all.
    pub scope: String,
    /// The labels of the pods it is for, as `key=value` between commas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// `ALLOW`, `DENY`, `AUDIT` or `CUSTOM`; of a PeerAuthentication its mode. `None` where no version
    /// was ever valid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// The modes of single ports.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<u16, String>,
    /// How many rules an AuthorizationPolicy has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<u64>,
    /// Whether it is evaluated and not enforced.
    pub dry_run: bool,
    /// Whether a version of it is in force: a policy that was never valid is not.
    pub in_force: bool,
    /// Whether what is in force is the narrowest reading of an invalid version, because the last good
    /// one is not known since the agent started.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub closed: bool,
    /// Whether all of it is enforced as it is written.
    pub state: PolicyState,
    /// Why it is not `valid`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<String>,
    /// When it was created.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// The pods of this node that it is enforced for.
    pub workloads: Vec<ObjectRef>,
    /// Pods of this node that it selects and that are not in the mesh: nobody enforces it there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outside: Vec<ObjectRef>,
    /// How often it decided on a flow of this node since the agent started.
    pub hits: u64,
    /// When it did so last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_hit: Option<Timestamp>,
    /// How often it would have decided if dry-run policies were enforced.
    pub dry_run_hits: u64,
}

/// Whether a policy is enforced as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PolicyState {
    /// All of it.
    Valid,
    /// All but what `reasons` say.
    Partial,
    /// Its newest version is wrong. The last good one is in force, if there was one.
    Invalid,
}

/// How many policies there are, and in which state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyCounts {
    /// All that are known, invalid ones included.
    pub total: u64,
    /// Those that are only evaluated.
    pub dry_run: u64,
    /// Those of which something is not enforced.
    pub partial: u64,
    /// Those whose newest version is wrong.
    pub invalid: u64,
}

impl PolicyState {
    /// `valid`, `partial` or `invalid`.
    #[must_use]
    pub const fn as_label(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Partial => "partial",
            Self::Invalid => "invalid",
        }
    }
}

/// What comes of a policy that has been invalid since the agent started.
const CLOSED: &str =
    "its last good version is not known to this agent: what is invalid opens nothing up";

/// All policies, and those that are not even known because they were never valid, by namespace,
/// name and kind.
pub(in crate::admin) fn policies(
    world: &World,
    node: &NodeName,
    rejected: &BTreeMap<PolicyId, String>,
    hits: &Hits,
) -> Vec<PolicyView> {
    let known = world.policies();
    let peer = known.peer_authentications().map(|policy| of_peer(policy));
    let authorization = known.authorization_policies().map(|policy| of_authorization(policy));
    let mut list: Vec<PolicyView> = peer
        .chain(authorization)
        .map(|(id, view)| {
            let view = reached(world, node, id, view);
            counted(hits, id, judged(world, rejected, id, view))
        })
        .collect();
    let never = rejected.iter().filter(|(id, _)| !known.contains(id));
    list.extend(never.map(|(id, error)| PolicyView {
        in_force: false,
        state: PolicyState::Invalid,
        reasons: vec![error.clone()],
        ..blank(id)
    }));
    list.sort_by(|a, b| (&a.namespace, &a.name, &a.kind).cmp(&(&b.namespace, &b.name, &b.kind)));
    list
}

/// How many of them there are.
pub(in crate::admin) fn count(list: &[PolicyView]) -> PolicyCounts {
    let count = |test: fn(&PolicyView) -> bool| {
        u64::try_from(list.iter().filter(|view| test(view)).count()).unwrap_or(u64::MAX)
    };
    PolicyCounts {
        total: count(|_| true),
        dry_run: count(|view| view.dry_run),
        partial: count(|view| view.state == PolicyState::Partial),
        invalid: count(|view| view.state == PolicyState::Invalid),
    }
}

fn blank(id: &PolicyId) -> PolicyView {
    PolicyView {
        kind: id.kind.as_label().to_owned(),
        namespace: id.name.namespace.to_string(),
        name: id.name.name.to_string(),
        scope: "none".to_owned(),
        selector: None,
        action: None,
        ports: BTreeMap::new(),
        rules: None,
        dry_run: false,
        in_force: true,
        closed: false,
        state: PolicyState::Valid,
        reasons: Vec::new(),
        created: None,
        workloads: Vec::new(),
        outside: Vec::new(),
        hits: 0,
        last_hit: None,
        dry_run_hits: 0,
    }
}

fn of_peer(policy: &PeerAuthentication) -> (&PolicyId, PolicyView) {
    let mode = |mode: Option<Mode>| mode.map_or("UNSET", Mode::as_label).to_owned();
    let ports = policy.port_modes().iter();
    let view = PolicyView {
        selector: selector(policy.selector()),
        action: Some(mode(policy.mode())),
        ports: ports.map(|(port, given)| (*port, mode(*given))).collect(),
        dry_run: policy.dry_run(),
        created: policy.created().map(Timestamp),
        ..blank(policy.id())
    };
    (policy.id(), view)
}

fn of_authorization(policy: &AuthorizationPolicy) -> (&PolicyId, PolicyView) {
    let view = PolicyView {
        selector: selector(policy.selector()),
        action: Some(policy.action().as_label().to_owned()),
        rules: Some(u64::try_from(policy.rules().len()).unwrap_or(u64::MAX)),
        dry_run: policy.dry_run(),
        created: policy.created().map(Timestamp),
        ..blank(policy.id())
    };
    (policy.id(), view)
}

fn selector(selector: &adit_core::policy::Selector) -> Option<String> {
    (!selector.is_empty()).then(|| selector.to_string())
}

fn reached(world: &World, node: &NodeName, id: &PolicyId, view: PolicyView) -> PolicyView {
    let Some(reach) = world.policies().reach(id) else {
        return view;
    };
    let scope = match &reach {
        Reach { selector, .. } if !selector.is_empty() => "workload",
        Reach { namespace: Some(_), .. } => "namespace",
        Reach { namespace: None, .. } => "mesh",
    };
    let (mut workloads, mut outside) = (Vec::new(), Vec::new());
    for pod in world.workloads_on(node).filter(|pod| reach.covers(pod)) {
        let list = match enrolment::select(world, pod) {
            Ok(()) => &mut workloads,
            Err(_why) => &mut outside,
        };
        list.push(ObjectRef::from(&pod.name));
    }
    workloads.sort();
    outside.sort();
    PolicyView { scope: scope.to_owned(), workloads, outside, ..view }
}

fn judged(
    world: &World,
    rejected: &BTreeMap<PolicyId, String>,
    id: &PolicyId,
    view: PolicyView,
) -> PolicyView {
    if let Some(error) = rejected.get(id) {
        let closed = world.policies().is_closed(id);
        let mut reasons = vec![error.clone()];
        reasons.extend(closed.then(|| CLOSED.to_owned()));
        return PolicyView { state: PolicyState::Invalid, closed, reasons, ..view };
    }
    let reasons: Vec<String> = world.policies().gaps(id).iter().map(ToString::to_string).collect();
    let state = if reasons.is_empty() { PolicyState::Valid } else { PolicyState::Partial };
    PolicyView { state, reasons, ..view }
}

fn counted(hits: &Hits, id: &PolicyId, view: PolicyView) -> PolicyView {
    let Some(hit) = hits.get(id) else {
        return view;
    };
    PolicyView {
        hits: hit.enforced,
        last_hit: hit.last.map(Timestamp),
        dry_run_hits: hit.dry_run,
        ..view
    }
}
