//! What a policy's manifest says, as text and lists: the input of
//! [`PeerAuthentication::try_new`](super::PeerAuthentication::try_new) and
//! [`AuthorizationPolicy::try_new`](super::AuthorizationPolicy::try_new), which check it. Field names
//! in errors are the manifest's own, such as `spec.rules[0].from[1].source.ipBlocks[0]`.
//!
//! A field that has no place here is named in the nearest `unsupported`, by its name in the
//! manifest. That is so for Istio's L7 fields and for fields that nobody knows (a misspelt
//! `principal` must not widen a rule).

use std::collections::BTreeMap;
use std::time::SystemTime;

use crate::workload::ObjectName;

/// A PeerAuthentication's manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerAuthenticationSpec {
    /// Namespace and name.
    pub name: ObjectName,
    /// `metadata.creationTimestamp`. A policy without one counts as older than any with one.
    pub created: Option<SystemTime>,
    /// The annotation `adit.dev/dry-run`.
    pub dry_run: bool,
    /// `spec.selector.matchLabels`; empty where there is no selector.
    pub selector: BTreeMap<String, String>,
    /// `spec.mtls.mode`; empty where it is absent.
    pub mode: String,
    /// `spec.portLevelMtls`: port → mode.
    pub port_modes: BTreeMap<String, String>,
    /// Paths of fields that are set and have no place here, such as `spec.portLevelTls`.
    pub unsupported: Vec<String>,
}

/// An AuthorizationPolicy's manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorizationPolicySpec {
    /// Namespace and name.
    pub name: ObjectName,
    /// `metadata.creationTimestamp`.
    pub created: Option<SystemTime>,
    /// The annotation `istio.io/dry-run`.
    pub dry_run: bool,
    /// `spec.selector.matchLabels`; empty where there is no selector.
    pub selector: BTreeMap<String, String>,
    /// Whether `spec.targetRef` or `spec.targetRefs` is set: then the policy is for a gateway or a
    /// waypoint, and nothing that adit stands in front of.
    pub targets: bool,
    /// `spec.action`; empty where it is absent, which is `ALLOW`.
    pub action: String,
    /// `spec.rules`; empty where there are none.
    pub rules: Vec<RuleSpec>,
    /// Paths of fields outside of the rules that are set and have no place here.
    pub unsupported: Vec<String>,
}

/// One of `spec.rules`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RuleSpec {
    /// `from[].source`; `None` where `from` is absent.
    pub from: Option<Vec<SourceSpec>>,
    /// `to[].operation`; `None` where `to` is absent.
    pub to: Option<Vec<OperationSpec>>,
    /// `when`.
    pub when: Vec<ConditionSpec>,
    /// Names of fields that are set and have no place here.
    pub unsupported: Vec<String>,
}

/// A `source`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SourceSpec {
    /// `principals`, as `<trust domain>/ns/<namespace>/sa/<service account>`.
    pub principals: Vec<String>,
    /// `notPrincipals`.
    pub not_principals: Vec<String>,
    /// `namespaces`.
    pub namespaces: Vec<String>,
    /// `notNamespaces`.
    pub not_namespaces: Vec<String>,
    /// `serviceAccounts`, as `<namespace>/<name>` or `<name>` in the policy's own namespace.
    pub service_accounts: Vec<String>,
    /// `notServiceAccounts`.
    pub not_service_accounts: Vec<String>,
    /// `ipBlocks`: addresses and CIDR ranges.
    pub ip_blocks: Vec<String>,
    /// `notIpBlocks`.
    pub not_ip_blocks: Vec<String>,
    /// `trustDomains`.
    pub trust_domains: Vec<String>,
    /// `notTrustDomains`.
    pub not_trust_domains: Vec<String>,
    /// Names of fields that are set and have no place here, such as `requestPrincipals`.
    pub unsupported: Vec<String>,
}

/// An `operation`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OperationSpec {
    /// `ports`.
    pub ports: Vec<String>,
    /// `notPorts`.
    pub not_ports: Vec<String>,
    /// Names of fields that are set and have no place here, such as `methods`.
    pub unsupported: Vec<String>,
}

/// A `when`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ConditionSpec {
    /// `key`, such as `source.ip`.
    pub key: String,
    /// `values`.
    pub values: Vec<String>,
    /// `notValues`.
    pub not_values: Vec<String>,
}

impl PeerAuthenticationSpec {
    /// The policy of this name that says nothing: it inherits.
    #[must_use]
    pub const fn new(name: ObjectName) -> Self {
        Self {
            name,
            created: None,
            dry_run: false,
            selector: BTreeMap::new(),
            mode: String::new(),
            port_modes: BTreeMap::new(),
            unsupported: Vec::new(),
        }
    }
}

impl AuthorizationPolicySpec {
    /// The policy of this name with `spec: {}`: it allows nothing.
    #[must_use]
    pub const fn new(name: ObjectName) -> Self {
        Self {
            name,
            created: None,
            dry_run: false,
            selector: BTreeMap::new(),
            targets: false,
            action: String::new(),
            rules: Vec::new(),
            unsupported: Vec::new(),
        }
    }
}
