//! A flow that might be, as `adit explain` tells of it.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::admin::view::{BlockedView, ObjectRef};

/// Everything that leads to the verdict on a flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainView {
    /// Who calls.
    pub source: ExplainedParty,
    /// Who is called: the endpoint, not the service.
    pub destination: ExplainedParty,
    /// The port at the destination.
    pub port: u16,
    /// The service that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ObjectRef>,
    /// How the flow gets there.
    pub route: RouteView,
    /// NetworkPolicies of the cluster that keep the tunnel from being made. The verdict is without them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocked: Vec<BlockedView>,
    /// What is decided.
    pub verdict: ExplainedVerdict,
    /// Why, where it is not `allowed`: the close reason that such a flow has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The policy and rule that decide, or `default`; nothing where no policy is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// What kept the nearest rule (`policy`) from matching.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missed: Vec<String>,
    /// What the verdict would be if dry-run policies were enforced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dry_run: Option<String>,
    /// Every policy that was considered, in order.
    #[serde(default)]
    pub considered: Vec<String>,
    /// What should be known besides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// One end of the flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExplainedParty {
    /// Its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// The pod, where discovery knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<ObjectRef>,
    /// The node it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The identity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Whether it belongs to the mesh.
    pub enrolled: bool,
    /// Why it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_enrolled: Option<String>,
}

/// How the flow gets there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteView {
    /// `hbone`, `plaintext` or `none`.
    pub protocol: String,
    /// Why it is plaintext, or why there is no way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What TLS proves to whom.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<String>,
}

/// What is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExplainedVerdict {
    /// It may pass.
    Allowed,
    /// Policy at the destination refuses it.
    Denied,
    /// There is nowhere to send it.
    Refused,
    /// The destination does not belong to the mesh: nobody decides.
    NotEnforced,
}

impl ExplainedVerdict {
    /// For people.
    #[must_use]
    pub const fn as_label(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Refused => "refused",
            Self::NotEnforced => "not enforced",
        }
    }
}
