//! AuthorizationPolicy.

use std::sync::Arc;
use std::time::SystemTime;

use super::{PolicyId, PolicyKind, Selector};
use crate::policy::invalid::{Gap, GapReason, Invalid, Why};
use crate::policy::matcher::{IpBlock, Match, ServiceAccount, TextMatch};
use crate::policy::rule;
use crate::policy::spec::AuthorizationPolicySpec;

/// How many rules a policy may have, as Istio's schema has it.
pub const MAX_RULES: usize = 512;

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
    rules: Arc<[Rule]>,
    gaps: Vec<Gap>,
    closed: bool,
}

/// One rule: it matches what one of its sources, one of its operations and all of its conditions
/// match; a part that is empty matches everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Rule {
    /// `from`: the tests of each source. All of them must hold.
    pub sources: Box<[Box<[Test]>]>,
    /// `to`: the tests of each operation. All of them must hold.
    pub operations: Box<[Box<[Test]>]>,
    /// `when`.
    pub conditions: Box<[Test]>,
    /// An ALLOW rule that says something that cannot be enforced.
    pub never: bool,
}

/// A test on a connection.
///
/// A plaintext connection has no identity: nothing positive matches it, not even `*`, and no
/// negative match keeps it out.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Test {
    /// The identity, as `<trust domain>/ns/<namespace>/sa/<service account>`.
    Principal(Match<TextMatch>),
    /// The identity's namespace.
    Namespace(Match<TextMatch>),
    /// The identity's namespace and service account.
    ServiceAccount(Match<ServiceAccount>),
    /// The identity's trust domain.
    TrustDomain(Match<TextMatch>),
    /// The connection's own source address.
    SourceIp(Match<IpBlock>),
    /// The pod's address that was dialled.
    DestinationIp(Match<IpBlock>),
    /// The port that was dialled: the pod's, not the service's.
    Port(Match<u16>),
}

impl AuthorizationPolicy {
    /// Checks a manifest.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn try_new(spec: AuthorizationPolicySpec) -> Result<Self, Vec<Invalid>> {
        let (policy, wrong) = Self::check(spec);
        if wrong.is_empty() { Ok(policy) } else { Err(wrong) }
    }

    /// The narrowest reading of a manifest that is not valid, for one whose last good version is not
    /// known: what may have been in force is not opened up. `unread` are the paths of fields that could
    /// not even be read as what they should be.
    ///
    /// An ALLOW rule with something invalid in it lets nothing in, and so does the whole policy if
    /// something outside of its rules is invalid. A DENY rule denies as if the invalid field were absent,
    /// and if the list of rules is what is invalid, everything; so does a policy whose action is invalid.
    /// A label of the selector that is invalid counts as absent.
    #[must_use]
    pub fn closed(spec: AuthorizationPolicySpec, unread: &[String]) -> Self {
        let (mut policy, wrong) = Self::check(spec);
        // What such a policy says can be read: it never matches.
        let wrong = wrong.iter().filter(|wrong| wrong.why != Why::NoRules);
        let wrong = wrong.map(|wrong| &*wrong.field).chain(unread.iter().map(|field| &**field));
        let wrong: Vec<&str> = wrong.collect();
        if wrong.iter().any(|field| ["spec", "spec.action"].contains(field)) {
            (policy.action, policy.effect) = (Action::Deny, Some(Effect::Deny));
            policy.rules = Arc::new([Rule::default()]);
        }
        let mut rules = policy.rules.to_vec();
        for field in wrong {
            let rule = rule_of(field).and_then(|index| rules.get_mut(index));
            match (policy.effect, rule) {
                (Some(Effect::Allow), Some(rule)) => rule.never = true,
                (Some(Effect::Allow), None) => rules.iter_mut().for_each(|rule| rule.never = true),
                (Some(Effect::Deny), None) if field == "spec.rules" => {
                    rules = vec![Rule::default()];
                }
                (Some(Effect::Deny) | None, _) => {}
            }
        }
        policy.rules = rules.into();
        policy.closed = true;
        policy
    }

    /// The policy without what is wrong with it, and that.
    fn check(spec: AuthorizationPolicySpec) -> (Self, Vec<Invalid>) {
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
        let targets = spec.targets && spec.selector.is_empty();
        let effect = if targets { None } else { action.effect() };
        let mut checked = rule::Checked {
            namespace: Arc::clone(&spec.name.namespace),
            allow: action == Action::Allow,
            wrong,
            gaps,
        };
        let rules = spec.rules.iter().enumerate();
        let rules = rules.map(|(index, rule)| checked.rule(index, rule)).collect();
        let id = PolicyId { kind: PolicyKind::AuthorizationPolicy, name: spec.name };
        let policy = Self {
            id: Arc::new(id),
            created: spec.created,
            dry_run: spec.dry_run,
            selector,
            effect,
            action,
            rules,
            gaps: checked.gaps,
            closed: false,
        };
        (policy, checked.wrong)
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

    /// Whether it is [the narrowest reading](Self::closed) of a manifest that is not valid.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.closed
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

/// The rule that a field is in, by its place in `spec.rules`.
fn rule_of(field: &str) -> Option<usize> {
    let (index, _) = field.strip_prefix("spec.rules[")?.split_once(']')?;
    index.parse().ok()
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
