//! What a decision says: may the flow reach its destination, on what grounds, and what would the
//! policies that are only evaluated say.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use super::evaluate::Miss;
use super::object::PolicyId;

/// The proof that a flow was decided and allowed. Only [`decide`](super::decide) makes one, and the
/// stage that connects to the application takes it by value.
#[derive(Debug, PartialEq, Eq)]
pub struct Permit {
    pub(super) destination: SocketAddr,
}

/// Why a flow may not reach its destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The dialled address is not one of the pod's.
    #[error("the dialled address is not an address of the pod")]
    NotItsAddress,
    /// The pod is no longer known.
    #[error("the pod is no longer known")]
    UnknownPod,
    /// Plaintext, where a PeerAuthentication demands a tunnel.
    #[error("plaintext is not accepted")]
    Plaintext,
    /// A rule that refuses matches.
    #[error("a rule refuses it")]
    ByRule,
    /// There are ALLOW policies for the pod, and no rule of theirs matches.
    #[error("no rule allows it")]
    NoRule,
}

/// The decision on a flow.
#[derive(Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether it may reach its destination.
    pub verdict: Result<Permit, Denied>,
    /// Why.
    pub grounds: Grounds,
}

/// The grounds of a decision.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Grounds {
    /// The policy that decided, and its rule: the one that matched, or for [`Denied::NoRule`] the
    /// one that came nearest. `None` is the default: no policy had a say.
    pub by: Option<RuleRef>,
    /// For [`Denied::NoRule`], what kept the nearest rule from matching.
    pub missed: Vec<Miss>,
    /// What the verdict would be if the dry-run policies were in force; `None` if none is for the
    /// pod.
    pub dry_run: Option<DryRun>,
}

/// A policy, and one of its rules by its place in `spec.rules`. Printed as
/// `AuthorizationPolicy shop/cart rule 2`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleRef {
    /// The policy.
    pub policy: Arc<PolicyId>,
    /// The rule; `None` for a PeerAuthentication, and for an ALLOW policy that has none.
    pub rule: Option<usize>,
}

/// What the verdict would be with the dry-run policies in force. Printed as
/// `would deny by AuthorizationPolicy shop/cart rule 2`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DryRun {
    /// Whether the flow could reach its destination.
    pub verdict: Result<(), Denied>,
    /// The policy that would decide; as in [`Grounds::by`].
    pub by: Option<RuleRef>,
}

impl Permit {
    /// The address that the flow may connect to.
    #[must_use]
    pub const fn destination(&self) -> SocketAddr {
        self.destination
    }
}

impl Denied {
    /// The spelling used by metrics, log lines and the command line.
    #[must_use]
    pub const fn as_label(self) -> &'static str {
        match self {
            Self::NotItsAddress => "denied_not_its_address",
            Self::UnknownPod => "denied_unknown_pod",
            Self::Plaintext => "denied_plaintext",
            Self::ByRule => "denied_by_rule",
            Self::NoRule => "denied_no_rule",
        }
    }
}

impl Decision {
    /// A refusal that no policy could have prevented.
    pub(super) fn before_policies(denied: Denied) -> Self {
        Self { verdict: Err(denied), grounds: Grounds::default() }
    }
}

impl fmt::Display for RuleRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.policy, f)?;
        self.rule.map_or(Ok(()), |rule| write!(f, " rule {rule}"))
    }
}

impl fmt::Display for DryRun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.verdict.is_ok() { "would allow by " } else { "would deny by " })?;
        match &self.by {
            Some(by) => fmt::Display::fmt(by, f),
            None => f.write_str("default"),
        }
    }
}
