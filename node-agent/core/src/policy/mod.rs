//! Whether a flow may reach its destination. Asked by the destination's agent, for every protocol.
//!
//! Policies are Istio's: [`spec`] is what a manifest says, [`object`](PeerAuthentication) the valid
//! value of it, [`PolicySet`] all of them.

mod invalid;
mod matcher;
mod object;
mod rule;
mod select;
mod set;
pub mod spec;

pub use invalid::{Gap, GapReason, Invalid, Why};
pub use matcher::{IpBlock, Match, ServiceAccount, TextMatch};
pub use object::{
    Action, AuthorizationPolicy, Condition, Effect, MAX_RULES, Mode, Operation, PeerAuthentication,
    PolicyId, PolicyKind, Rule, Selector, Source,
};
pub(crate) use set::Touched;
pub use set::{PolicySet, ROOT_NAMESPACES, Reach};

use std::net::SocketAddr;

use crate::flow::FlowContext;
use crate::world::World;

/// The proof that a flow was decided and allowed. Only [`decide`] makes one, and the stage that
/// connects to the application takes it by value.
#[derive(Debug, PartialEq, Eq)]
pub struct Permit {
    destination: SocketAddr,
}

impl Permit {
    /// The address that the flow may connect to.
    #[must_use]
    pub const fn destination(&self) -> SocketAddr {
        self.destination
    }
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
}

impl Denied {
    /// The spelling used by metrics, log lines and the command line.
    #[must_use]
    pub const fn as_label(self) -> &'static str {
        match self {
            Self::NotItsAddress => "denied_not_its_address",
            Self::UnknownPod => "denied_unknown_pod",
        }
    }
}

/// Decides on a flow.
///
/// # Errors
/// Why it is denied.
pub fn decide(world: &World, flow: &FlowContext) -> Result<Permit, Denied> {
    let pod = world.workload(&flow.destination.uid).ok_or(Denied::UnknownPod)?;
    if !pod.addresses.contains(&flow.destination_address.ip()) {
        return Err(Denied::NotItsAddress);
    }
    Ok(Permit { destination: flow.destination_address })
}
