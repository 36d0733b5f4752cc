//! What the cluster's NetworkPolicies keep from port 15008.

use adit_core::network_policy::{Closed, Direction};
use serde::{Deserialize, Serialize};

use crate::admin::view::ObjectRef;

/// So many policies are named where all of them are in the way together.
const NAMED: usize = 3;

/// The answer to what stands in the way of this node's enrolled pods.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkPoliciesView {
    /// Why not all policies may be known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lack: Option<String>,
    /// The pods that are cut off.
    #[serde(default)]
    pub blocked: Vec<BlockedView>,
}

/// NetworkPolicies of the cluster that keep tunnels from coming in to a pod, or from going out of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockedView {
    /// The pod that they are for.
    pub pod: ObjectRef,
    /// `ingress`: into it; `egress`: out of it.
    pub direction: String,
    /// All that are for the pod in this direction: one of them that let TCP port 15008 pass would do.
    pub policies: Vec<ObjectRef>,
    /// Whether they let the same peers use some other TCP port.
    pub other_ports: bool,
    /// How many peers are kept from the tunnel.
    pub peers: u64,
    /// One of them, a pod or an address.
    pub peer: String,
}

impl BlockedView {
    /// `port 15008 into shop/web`.
    #[must_use]
    pub fn what(&self) -> String {
        let way = if self.is_outward() { "out of" } else { "into" };
        format!("port {} {way} {}", adit_core::hbone::TUNNEL_PORT, self.pod)
    }

    /// `NetworkPolicy shop/web`, or several.
    #[must_use]
    pub fn whose(&self) -> String {
        let names: Vec<String> =
            self.policies.iter().take(NAMED).map(ToString::to_string).collect();
        let kind = if self.policies.len() == 1 { "NetworkPolicy" } else { "NetworkPolicies" };
        let more = match self.policies.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!("{kind} {}{more}", names.join(", "))
    }

    /// `from shop/client`, or `to` it.
    #[must_use]
    pub fn with_whom(&self) -> String {
        let way = if self.is_outward() { "to" } else { "from" };
        let more = match self.peers {
            0 | 1 => String::new(),
            peers => format!(" and {} more", peers - 1),
        };
        format!("{way} {}{more}", self.peer)
    }

    fn is_outward(&self) -> bool {
        self.direction == Direction::Egress.as_label()
    }
}

impl From<&Closed> for BlockedView {
    fn from(closed: &Closed) -> Self {
        Self {
            pod: ObjectRef::from(&closed.pod),
            direction: closed.direction.as_label().to_owned(),
            policies: closed.policies.iter().map(ObjectRef::from).collect(),
            other_ports: closed.other_ports,
            peers: u64::try_from(closed.peers).unwrap_or(u64::MAX),
            peer: closed.peer.to_string(),
        }
    }
}
