//! The two kinds of policy as plain, valid values. They are made from what a manifest says
//! ([`crate::policy::spec`]); what is not valid is refused with the field and its value, and what is valid but
//! not enforceable on a connection is carried as a [`Gap`].
//!
//! Semantics are those of Istio's API reference (security.istio.io/v1 `PeerAuthentication`,
//! `AuthorizationPolicy`, and "Authorization policy conditions") as Istio's ambient mode applies them
//! to connections.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use crate::policy::invalid::{Gap, GapReason, Invalid, Why};
use crate::policy::matcher::{IpBlock, Match, ServiceAccount, TextMatch, port};
use crate::policy::rule;
use crate::policy::spec::{AuthorizationPolicySpec, PeerAuthenticationSpec};
use crate::workload::ObjectName;

/// How many rules a policy may have, as Istio's schema has it.
pub const MAX_RULES: usize = 512;

/// A kind of policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PolicyKind {
    /// Whether plaintext is accepted.
    PeerAuthentication,
    /// Who may connect.
    AuthorizationPolicy,
}

/// A policy's kind and name, printed as `AuthorizationPolicy shop/cart`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyId {
    /// Its kind.
    pub kind: PolicyKind,
    /// Its namespace and name.
    pub name: ObjectName,
}

/// Labels that a pod must have, all of them. Without any it selects every pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selector(BTreeMap<Arc<str>, Arc<str>>);

/// What a PeerAuthentication says of plaintext. Istio's `UNSET` is the absence of a mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Tunnels are not wanted. As in Istio's ambient mode, where a tunnel is not the application's
    /// business, this is the same as [`Mode::Permissive`].
    Disable,
    /// Tunnels and plaintext are accepted.
    Permissive,
    /// Only tunnels are accepted.
    Strict,
}

/// Whether plaintext is accepted, for a mesh, a namespace or the pods that a selector names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerAuthentication {
    id: Arc<PolicyId>,
    created: Option<SystemTime>,
    dry_run: bool,
    selector: Selector,
    mode: Option<Mode>,
    port_modes: BTreeMap<u16, Option<Mode>>,
    gaps: Vec<Gap>,
}

/// What an AuthorizationPolicy does with the connections that its rules match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Lets them in, and nothing that no ALLOW policy of the pod matches.
    Allow,
    /// Refuses them, before ALLOW is asked.
    Deny,
    /// Has them logged in Istio; no effect here, and said so.
    Audit,
    /// Asks an external authorizer in Istio, which refuses them unless that agrees. There is none
    /// that could be asked about a connection, so they are refused, as Istio's sidecars do where the
    /// authorizer is unknown to them; to pass them on would open what the policy guards. (Istio's
    /// ztunnel reports the action as unsupported and passes them on.)
    Custom,
}

/// What adit makes of an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// The rules let in.
    Allow,
    /// The rules refuse.
    Deny,
}

/// Who may connect, to a mesh, a namespace or the pods that a selector names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorizationPolicy {
    id: Arc<PolicyId>,
    created: Option<SystemTime>,
    dry_run: bool,
    selector: Selector,
    effect: Option<Effect>,
    action: Action,
    rules: Vec<Rule>,
    gaps: Vec<Gap>,
}

/// One rule: it matches what one of its sources, one of its operations and all of its conditions
/// match; a part that is empty matches everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Rule {
    /// `from`.
    pub sources: Vec<Source>,
    /// `to`.
    pub operations: Vec<Operation>,
    /// `when`.
    pub conditions: Vec<Condition>,
    /// An ALLOW rule that says something that cannot be enforced.
    pub never: bool,
}

/// Where a connection comes from. All that is set must match.
///
/// A plaintext connection has no identity: nothing positive matches it, not even `*`, and no
/// negative match keeps it out.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Source {
    /// The identity, as `<trust domain>/ns/<namespace>/sa/<service account>`.
    pub principals: Match<TextMatch>,
    /// The identity's namespace.
    pub namespaces: Match<TextMatch>,
    /// The identity's namespace and service account.
    pub service_accounts: Match<ServiceAccount>,
    /// The connection's own source address.
    pub ip_blocks: Match<IpBlock>,
    /// The identity's trust domain.
    pub trust_domains: Match<TextMatch>,
}

/// What a connection is for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Operation {
    /// The port dialled: the pod's, not the service's.
    pub ports: Match<u16>,
}

/// A further condition.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Condition {
    /// `source.ip`.
    SourceIp(Match<IpBlock>),
    /// `source.namespace`.
    SourceNamespace(Match<TextMatch>),
    /// `source.principal`.
    SourcePrincipal(Match<TextMatch>),
    /// `destination.ip`: the pod's address that was dialled.
    DestinationIp(Match<IpBlock>),
    /// `destination.port`.
    DestinationPort(Match<u16>),
}

impl PeerAuthentication {
    /// Checks a manifest.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn try_new(spec: PeerAuthenticationSpec) -> Result<Self, Vec<Invalid>> {
        let mut wrong = Vec::new();
        let mut gaps = Vec::new();
        let mut mode = |field: &str, text: &str, wrong: &mut Vec<Invalid>| match Mode::parse(text) {
            Ok(mode) => {
                if mode == Some(Mode::Disable) {
                    gaps.push(GapReason::Disable.at(field));
                }
                mode
            }
            Err(why) => {
                wrong.push(why.at(field, text));
                None
            }
        };
        let whole = mode("spec.mtls.mode", &spec.mode, &mut wrong);
        let mut port_modes = BTreeMap::new();
        for (number, text) in &spec.port_modes {
            let field = format!("spec.portLevelMtls[{number}]");
            let mode = mode(&format!("{field}.mode"), text, &mut wrong);
            match port(number) {
                Ok(0) | Err(_) => wrong.push(Why::Port.at(field, number)),
                Ok(number) => {
                    port_modes.insert(number, mode);
                }
            }
        }
        if spec.selector.is_empty() && !spec.port_modes.is_empty() {
            wrong.push(Why::PortsWithoutSelector.at("spec.portLevelMtls", ""));
        }
        let selector = Selector::check(&spec.selector, &mut wrong);
        for field in spec.unsupported {
            gaps.push(Gap { field, why: GapReason::NoEffect });
        }
        if !wrong.is_empty() {
            return Err(wrong);
        }
        let id = PolicyId { kind: PolicyKind::PeerAuthentication, name: spec.name };
        Ok(Self {
            id: Arc::new(id),
            created: spec.created,
            dry_run: spec.dry_run,
            selector,
            mode: whole,
            port_modes,
            gaps,
        })
    }

    /// Its kind and name.
    #[must_use]
    pub const fn id(&self) -> &Arc<PolicyId> {
        &self.id
    }

    /// When it was created; the oldest of several at the same place is in force.
    #[must_use]
    pub const fn created(&self) -> Option<SystemTime> {
        self.created
    }

    /// Whether it is only evaluated.
    #[must_use]
    pub const fn dry_run(&self) -> bool {
        self.dry_run
    }

    /// The pods it is for.
    #[must_use]
    pub const fn selector(&self) -> &Selector {
        &self.selector
    }

    /// Its mode; `None` inherits.
    #[must_use]
    pub const fn mode(&self) -> Option<Mode> {
        self.mode
    }

    /// The modes of single ports; `None` takes the policy's.
    #[must_use]
    pub const fn port_modes(&self) -> &BTreeMap<u16, Option<Mode>> {
        &self.port_modes
    }

    /// What of it is not enforced as it is written. Where it stands may add to that: see
    /// [`PolicySet::gaps`](crate::policy::PolicySet::gaps).
    #[must_use]
    pub fn gaps(&self) -> &[Gap] {
        &self.gaps
    }
}

impl AuthorizationPolicy {
    /// Checks a manifest.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn try_new(spec: AuthorizationPolicySpec) -> Result<Self, Vec<Invalid>> {
        let mut wrong = Vec::new();
        let mut gaps = Vec::new();
        let action = Action::parse(&spec.action).unwrap_or_else(|why| {
            wrong.push(why.at("spec.action", &spec.action));
            Action::Allow
        });
        match action {
            Action::Allow | Action::Deny => {}
            Action::Audit => gaps.push(GapReason::Audit.at("spec.action")),
            Action::Custom => gaps.push(GapReason::Custom.at("spec.action")),
        }
        if spec.targets {
            gaps.push(GapReason::Targets.at("spec.targetRefs"));
        }
        if spec.targets && !spec.selector.is_empty() {
            wrong.push(Why::SelectorWithTargets.at("spec.selector", ""));
        }
        for field in spec.unsupported {
            gaps.push(Gap { field, why: GapReason::NoEffect });
        }
        if spec.rules.is_empty() && matches!(action, Action::Deny | Action::Custom) {
            wrong.push(Why::NoRules.at("spec.rules", ""));
        }
        if spec.rules.len() > MAX_RULES {
            wrong.push(Why::TooMany.at("spec.rules", spec.rules.len().to_string()));
        }
        let selector = Selector::check(&spec.selector, &mut wrong);
        let effect = if spec.targets { None } else { action.effect() };
        let mut checked = rule::Checked {
            namespace: Arc::clone(&spec.name.namespace),
            allow: action == Action::Allow,
            wrong,
            gaps,
        };
        let rules = spec.rules.into_iter().enumerate();
        let rules = rules.map(|(index, rule)| checked.rule(index, rule)).collect();
        if !checked.wrong.is_empty() {
            return Err(checked.wrong);
        }
        let id = PolicyId { kind: PolicyKind::AuthorizationPolicy, name: spec.name };
        Ok(Self {
            id: Arc::new(id),
            created: spec.created,
            dry_run: spec.dry_run,
            selector,
            effect,
            action,
            rules,
            gaps: checked.gaps,
        })
    }

    /// Its kind and name.
    #[must_use]
    pub const fn id(&self) -> &Arc<PolicyId> {
        &self.id
    }

    /// When it was created.
    #[must_use]
    pub const fn created(&self) -> Option<SystemTime> {
        self.created
    }

    /// Whether it is only evaluated.
    #[must_use]
    pub const fn dry_run(&self) -> bool {
        self.dry_run
    }

    /// The pods it is for.
    #[must_use]
    pub const fn selector(&self) -> &Selector {
        &self.selector
    }

    /// What its manifest says it does.
    #[must_use]
    pub const fn action(&self) -> Action {
        self.action
    }

    /// What it does; `None` if it does nothing.
    #[must_use]
    pub const fn effect(&self) -> Option<Effect> {
        self.effect
    }

    /// Its rules. An ALLOW policy without any lets nothing in.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// What of it is not enforced as it is written.
    #[must_use]
    pub fn gaps(&self) -> &[Gap] {
        &self.gaps
    }
}

impl Selector {
    fn check(labels: &BTreeMap<String, String>, wrong: &mut Vec<Invalid>) -> Self {
        let checked = labels.iter().filter_map(|(key, value)| {
            if key.is_empty() || key.contains('*') || value.contains('*') {
                wrong.push(Why::Label.at("spec.selector.matchLabels", format!("{key}={value}")));
                return None;
            }
            Some((Arc::from(&**key), Arc::from(&**value)))
        });
        Self(checked.collect())
    }

    /// Whether it has no labels and so selects every pod.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Its labels, by key.
    pub fn labels(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
        self.0.iter()
    }

    /// Whether it selects a pod with these labels.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<Arc<str>, Arc<str>>) -> bool {
        self.0.iter().all(|(key, value)| labels.get(key) == Some(value))
    }
}

impl Mode {
    fn parse(text: &str) -> Result<Option<Self>, Why> {
        match text {
            "" | "UNSET" => Ok(None),
            "DISABLE" => Ok(Some(Self::Disable)),
            "PERMISSIVE" => Ok(Some(Self::Permissive)),
            "STRICT" => Ok(Some(Self::Strict)),
            _ => Err(Why::Mode),
        }
    }

    /// Istio's spelling.
    #[must_use]
    pub const fn as_label(self) -> &'static str {
        match self {
            Self::Disable => "DISABLE",
            Self::Permissive => "PERMISSIVE",
            Self::Strict => "STRICT",
        }
    }
}

impl Action {
    fn parse(text: &str) -> Result<Self, Why> {
        match text {
            "" | "ALLOW" => Ok(Self::Allow),
            "DENY" => Ok(Self::Deny),
            "AUDIT" => Ok(Self::Audit),
            "CUSTOM" => Ok(Self::Custom),
            _ => Err(Why::Action),
        }
    }

    const fn effect(self) -> Option<Effect> {
        match self {
            Self::Allow => Some(Effect::Allow),
            Self::Deny | Self::Custom => Some(Effect::Deny),
            Self::Audit => None,
        }
    }

    /// Istio's spelling.
    #[must_use]
    pub const fn as_label(self) -> &'static str {
        match self {
            Self::Allow => "ALLOW",
            Self::Deny => "DENY",
            Self::Audit => "AUDIT",
            Self::Custom => "CUSTOM",
        }
    }
}

impl PolicyKind {
    /// The Kubernetes kind.
    #[must_use]
    pub const fn as_label(self) -> &'static str {
        match self {
            Self::PeerAuthentication => "PeerAuthentication",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
        }
    }
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_label())
    }
}

impl fmt::Display for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (key, value)) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{key}={value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
