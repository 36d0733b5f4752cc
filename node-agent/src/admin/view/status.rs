//! The agent as a whole: what it is, how it is, and what to do where it is not well.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::admin::view::{
    CertificateView, DeniedView, PolicyCounts, PolicyState, PolicyView, Timestamp,
};

/// The agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusView {
    /// Whether there is no problem of severity `error`.
    pub healthy: bool,
    /// What is wrong and what to do; errors first.
    pub problems: Vec<Problem>,
    /// What it is.
    pub node: NodeView,
    /// Whether it is ready.
    pub readiness: ReadinessView,
    /// State of enrolment → pods of this node.
    pub pods: BTreeMap<String, u64>,
    /// State → certificates.
    pub certificates: CertificateCounts,
    /// Flows open now.
    pub flows_open: u64,
    /// Direction → tunnels open now.
    pub tunnels_open: BTreeMap<String, u64>,
    /// What feeds the agent.
    pub discovery: DiscoveryView,
    /// How many policies there are.
    #[serde(default)]
    pub policies: PolicyCounts,
    /// What policy has refused lately.
    #[serde(default)]
    pub denied: DeniedView,
    /// Whether what `adit flows` shows is complete.
    pub records: RecordsView,
    /// Facts about the kernel's side.
    #[serde(default)]
    pub datapath: Vec<Fact>,
    /// How the end comes, once the agent was told to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draining: Option<DrainingView>,
}

/// An agent that takes nothing new.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DrainingView {
    /// When the flows that are left then are cut.
    pub until: Timestamp,
    /// Flows that are still open.
    pub flows_left: u64,
}

/// What the agent is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeView {
    /// The node's name.
    pub name: String,
    /// The cluster's name.
    pub cluster: String,
    /// The trust domain.
    pub trust_domain: String,
    /// The agent's version.
    pub version: String,
    /// When the agent started.
    pub started: Timestamp,
    /// How long ago that is.
    pub uptime_seconds: u64,
}

/// Whether the agent is ready, as its readiness endpoint says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReadinessView {
    /// Whether nothing is missing.
    pub ready: bool,
    /// What is missing.
    #[serde(default)]
    pub missing: Vec<String>,
}

/// State → certificates.
pub type CertificateCounts = BTreeMap<String, u64>;

/// What feeds the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DiscoveryView {
    /// Such as `manifests /etc/adit/manifests`.
    pub source: String,
    /// When something changed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub updated: Option<Timestamp>,
    /// How long ago that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<u64>,
    /// Namespaces known.
    pub namespaces: u64,
    /// Pods known, of all nodes.
    pub workloads: u64,
    /// Services known.
    pub services: u64,
    /// What is rejected now, one by one.
    #[serde(default)]
    pub errors: Vec<String>,
    /// Which of them says that what is in force is not what the source says now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale: Option<String>,
}

/// Whether what `adit flows` shows is complete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordsView {
    /// Flow records that were lost since the start.
    pub dropped: u64,
    /// Ended flows that are kept now.
    pub kept: u64,
    /// Clients that follow the stream of flows.
    pub followers: u64,
    /// Events that some follower was too slow for, since the start.
    #[serde(default)]
    pub missed: u64,
}

/// A name and a value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Fact {
    /// What it is about.
    pub name: String,
    /// What is the case.
    pub value: String,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub help: String,
}

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Flows fail, or are not protected as asked for.
    Error,
    /// It works, but somebody should look.
    Warning,
}

impl Severity {
    /// `error` or `warning`.
    #[must_use]
    pub const fn as_label(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

impl StatusView {
    /// Fills in `problems` and `healthy` from the rest and these details.
    #[must_use]
    pub(in crate::admin) fn judged(
        mut self,
        found: Vec<Problem>,
        certificates: &[CertificateView],
    ) -> Self {
        let mut problems = Vec::new();
        if let Some(draining) = &self.draining {
            problems.push(Problem::error(
                format!(
                    "the agent drains: it takes no new connections, {} open flows may go on until {}",
                    draining.flows_left, draining.until
                ),
                "start the next agent; until then connections of this node's pods wait",
            ));
        } else if !self.readiness.ready {
            problems.push(Problem::error(
                format!("not ready: waiting for {}", self.readiness.missing.join(", ")),
                "right after a start this ends by itself; else look at the agent's log",
            ));
        }
        problems.extend(found);
        for certificate in certificates {
            problems.extend(Problem::of_certificate(certificate));
        }
        for error in &self.discovery.errors {
            let what = format!("discovery: {error}");
            problems.push(if self.discovery.stale.as_ref() == Some(error) {
                Problem::error(
                    what,
                    "bring it back; meanwhile the last state that was seen is in force",
                )
            } else {
                Problem::warning(what, "correct the object; everything else stays in force")
            });
        }
        if let (true, [first, ..]) = (self.denied.is_most(), &*self.denied.by) {
            let DeniedView { window_seconds, of, flows, .. } = self.denied;
            problems.push(Problem::warning(
                format!(
                    "policy refused {flows} of the {of} flows of the last {} minutes: {first}",
                    window_seconds / 60
                ),
                "`adit flows --verdict denied` lists them, `adit explain SRC DST:PORT` says what kept one out",
            ));
        }
        if self.records.dropped > 0 {
            problems.push(Problem::warning(
                format!(
                    "{} flow records were lost since the start: flows and metrics are incomplete",
                    self.records.dropped
                ),
                "the node has more connections than its control threads can record; give the agent more CPU",
            ));
        }
        problems.sort_by_key(|problem| problem.severity);
        self.healthy = problems.iter().all(|p| p.severity > Severity::Error);
        self.problems = problems;
        self
    }
}

impl Problem {
    pub(in crate::admin) fn error(what: String, help: &str) -> Self {
        Self { severity: Severity::Error, what, help: help.to_owned() }
    }

    /// Nothing but two commands needs them.
    pub(in crate::admin) fn of_network_policies(lack: Option<&String>) -> Option<Self> {
        let lack = lack?;
        Some(Self::warning(
            format!("NetworkPolicies of the cluster are not known: {lack}"),
            "`adit explain` and `adit doctor` do not notice one that blocks port 15008; everything else \
             works. deploy/agent-rbac.yaml has the permission",
        ))
    }

    fn warning(what: String, help: &str) -> Self {
        Self { severity: Severity::Warning, ..Self::error(what, help) }
    }

    /// What is partly enforced is told in one line: how each is, `adit policies` tells. A policy that
    /// is not in force leaves open what it was to close; one of which the last good version is not known
    /// may close what it was to leave open.
    pub(in crate::admin) fn of_policies(policies: &[PolicyView]) -> Vec<Self> {
        let name = |policy: &PolicyView| {
            let PolicyView { kind, namespace, name, .. } = policy;
            format!("{kind} {namespace}/{name}")
        };
        let unenforced = policies.iter().filter(|policy| !policy.in_force);
        let mut problems: Vec<Self> = unenforced
            .map(|policy| {
                Self::error(
                    format!("{} is invalid and not in force", name(policy)),
                    "correct it; `adit policies` says what is wrong with it",
                )
            })
            .collect();
        let closed = policies.iter().filter(|policy| policy.closed);
        problems.extend(closed.map(|policy| {
            Self::error(
                format!(
                    "{} has been invalid since the agent started: it may refuse more than it should",
                    name(policy)
                ),
                "correct it; `adit policies` says what is wrong with it",
            )
        }));
        let partial = policies.iter().filter(|policy| policy.state == PolicyState::Partial);
        let partial: Vec<String> = partial.map(name).collect();
        if let [first, others @ ..] = &*partial {
            let others = match others.len() {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            problems.push(Self::warning(
                format!("not enforced as it is written: {first}{others}"),
                "`adit policies` says what of it is not, and what comes of that",
            ));
        }
        problems
    }

    /// A certificate that works but could not be renewed is a warning: there is time.
    fn of_certificate(certificate: &CertificateView) -> Option<Self> {
        let CertificateView { identity, state, last_error, help, .. } = certificate;
        let usual = "look at the CA: is it up, and does it know this node and its pods?";
        let help = help.as_deref().unwrap_or(usual);
        match (state.as_str(), last_error) {
            // A first certificate that is awaited shows with the pods that wait for it.
            ("valid", None) | ("requesting" | "failed", _) => None,
            ("valid", Some(error)) => Some(Self::warning(
                format!("certificate of {identity} could not be renewed: {error}"),
                help,
            )),
            (state, error) => {
                let error = error.as_deref().unwrap_or("the CA has not answered");
                Some(Self::error(format!("certificate of {identity} is {state}: {error}"), help))
            }
        }
    }
}
