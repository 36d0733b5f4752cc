//! What can be wrong with a policy, and what adit cannot enforce of one that is right.

use std::fmt;

/// A field of a manifest that is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {value:?}: {why}")]
pub struct Invalid {
    /// The field's path, such as `spec.rules[0].to[0].operation.ports[1]`.
    pub field: String,
    /// What the manifest says there.
    pub value: String,
    /// What is wrong with it.
    pub why: Why,
}

/// What is wrong with a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Why {
    /// An empty text where something must be said.
    #[error("must not be empty")]
    Empty,
    /// A source, operation or condition without a field would match everything unnoticed.
    #[error("must have at least one field set")]
    NothingSet,
    /// DENY and CUSTOM policies without rules never match (Istio's validation refuses them too).
    #[error("never matches without rules; to match everything, give it one empty rule: [{{}}]")]
    NoRules,
    /// More than [`MAX_RULES`](super::MAX_RULES) rules.
    #[error("has more than 512 entries")]
    TooMany,
    /// No address.
    #[error("is not an IPv4 or IPv6 address, nor a range such as 10.0.0.0/8")]
    Address,
    /// A range's length is not a number or is too long for its address.
    #[error("the prefix length must be a number up to 32 (IPv4) or 128 (IPv6)")]
    PrefixLength,
    /// No port.
    #[error("is not a port: a number from 1 to 65535")]
    Port,
    /// No service account.
    #[error("is not <namespace>/<service account> or <service account>, without `*`")]
    ServiceAccount,
    /// Istio allows `serviceAccounts` only without `principals` and `namespaces`.
    #[error("cannot be set together with principals or namespaces")]
    ServiceAccountsWithOthers,
    /// No action of Istio's.
    #[error("is not one of ALLOW, DENY, AUDIT, CUSTOM")]
    Action,
    /// No mode of Istio's.
    #[error("is not one of UNSET, DISABLE, PERMISSIVE, STRICT")]
    Mode,
    /// A selector's label that cannot be matched.
    #[error("a label of a selector has a key, and no `*`")]
    Label,
    /// `portLevelMtls` only works together with a selector.
    #[error("only a policy with a selector can set modes of ports")]
    PortsWithoutSelector,
    /// `selector` and `targetRefs` at once.
    #[error("cannot be set together with targetRefs")]
    SelectorWithTargets,
}

/// Something in a valid policy that is not enforced as it is written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Gap {
    /// The field's path.
    pub field: String,
    /// What comes of it.
    pub why: GapReason,
}

/// What comes of something that is not enforced as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum GapReason {
    /// A field that needs HTTP, or that nobody knows, in an ALLOW rule.
    RuleNeverMatches,
    /// The same in a DENY or CUSTOM rule.
    FieldIgnored,
    /// A field outside of the rules that has no effect.
    NoEffect,
    /// The value can match no identity.
    ValueNeverMatches,
    /// Port 0 in a rule. Istio's validation lets it pass (`ValidatePorts` takes 0 to 65535), so it is no
    /// error.
    PortZero,
    /// Action AUDIT.
    Audit,
    /// Action CUSTOM.
    Custom,
    /// `targetRef` or `targetRefs`.
    Targets,
    /// Mode DISABLE.
    Disable,
    /// A PeerAuthentication with a selector in a root namespace.
    SelectorInRoot,
    /// An older PeerAuthentication is in force at the same place.
    Outranked,
}

impl Why {
    /// The error that a field is wrong in this way.
    #[must_use]
    pub fn at(self, field: impl Into<String>, value: impl Into<String>) -> Invalid {
        Invalid { field: field.into(), value: value.into(), why: self }
    }

    /// The spelling used by metrics, log lines and the command line.
    #[must_use]
    pub const fn as_label(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::NothingSet => "nothing_set",
            Self::NoRules => "no_rules",
            Self::TooMany => "too_many",
            Self::Address => "address",
            Self::PrefixLength => "prefix_length",
            Self::Port => "port",
            Self::ServiceAccount => "service_account",
            Self::ServiceAccountsWithOthers => "service_accounts_with_others",
            Self::Action => "action",
            Self::Mode => "mode",
            Self::Label => "label",
            Self::PortsWithoutSelector => "ports_without_selector",
            Self::SelectorWithTargets => "selector_with_targets",
        }
    }
}

impl GapReason {
    pub(super) fn at(self, field: &str) -> Gap {
        Gap { field: field.to_owned(), why: self }
    }

    /// The spelling used by metrics, log lines and the command line.
    #[must_use]
    pub const fn as_label(self) -> &'static str {
        match self {
            Self::RuleNeverMatches => "rule_never_matches",
            Self::FieldIgnored => "field_ignored",
            Self::NoEffect => "no_effect",
            Self::ValueNeverMatches => "value_never_matches",
            Self::PortZero => "port_zero",
            Self::Audit => "action_audit",
            Self::Custom => "action_custom",
            Self::Targets => "target_refs",
            Self::Disable => "mode_disable",
            Self::SelectorInRoot => "selector_in_root_namespace",
            Self::Outranked => "outranked",
        }
    }

    const fn explanation(self) -> &'static str {
        match self {
            Self::RuleNeverMatches => "cannot be enforced on a connection: the rule allows nothing",
            Self::FieldIgnored => {
                "cannot be enforced on a connection: the rule denies as if the field were absent"
            }
            Self::NoEffect => "is not known and has no effect",
            Self::ValueNeverMatches => {
                "matches no identity: write <trust domain>/ns/<namespace>/sa/<service account>, \
                 with `*` only at one end"
            }
            Self::PortZero => "no connection has port 0: the value matches none",
            Self::Audit => "AUDIT has no effect",
            Self::Custom => {
                "the external authorizer of a CUSTOM policy cannot be asked: what its rules match \
                 is denied"
            }
            Self::Targets => "is for a gateway or waypoint: the policy has no effect here",
            Self::Disable => "tunnels are still accepted: DISABLE is the same as PERMISSIVE",
            Self::SelectorInRoot => {
                "a PeerAuthentication with a selector has no effect in a root namespace"
            }
            Self::Outranked => "an older PeerAuthentication is in force at the same place",
        }
    }
}

impl fmt::Display for GapReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.explanation())
    }
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.why)
    }
}
