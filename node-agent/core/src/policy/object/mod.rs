//! The two kinds of policy as plain, valid values. They are made from what a manifest says
//! ([`crate::policy::spec`]); what is not valid is refused with the field and its value, and what is
//! valid but not enforceable on a connection is carried as a [`Gap`](crate::policy::Gap).
//!
//! Semantics are those of Istio's API reference (security.istio.io/v1 `PeerAuthentication`,
//! `AuthorizationPolicy`, and "Authorization policy conditions") as Istio's ambient mode applies them
//! to connections.

mod authorization;
mod peer;

pub use authorization::{Action, AuthorizationPolicy, Effect, MAX_RULES, Rule, Test};
pub use peer::{Mode, PeerAuthentication};

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crate::policy::invalid::{Invalid, Why};
use crate::workload::ObjectName;

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
