//! Which flows that live are decided again after a change, and what becomes of them.

use crate::flow::{CloseReason, FlowContext};
use crate::policy::{self, Decision, Denied, Grounds};
use crate::route::{self, Plan, Query};
use crate::workload::PodUid;
use crate::world::{Changes, World};

/// What a change means for a flow that was permitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recheck {
    /// It does not concern the flow.
    Untouched,
    /// The flow is still permitted, on these grounds.
    Permitted(Grounds),
    /// The flow must end, for this reason and on these grounds.
    Ended(CloseReason, Grounds),
}

/// Decides a flow again if a change concerns it. `changes` is what the world's last change touched,
/// or `None` if that is not known: then every flow is decided again.
#[must_use]
pub fn recheck(world: &World, changes: Option<&Changes>, flow: &FlowContext) -> Recheck {
    if changes.is_some_and(|changes| !changes.touch(&flow.destination.uid)) {
        return Recheck::Untouched;
    }
    let Decision { verdict, grounds } = policy::decide(world, flow);
    match verdict {
        Ok(_permit) => Recheck::Permitted(grounds),
        Err(Denied::UnknownPod) => Recheck::Ended(CloseReason::PodGone, grounds),
        Err(denied) => Recheck::Ended(CloseReason::Denied(denied), grounds),
    }
}

/// Whether a flow that a pod has opened in plaintext has to end, since it would go through a tunnel by
/// what is known after a change: to another pod than `destination`, the one that was known to have the
/// address when the flow began, if any was. The flow to a pod that has only been enrolled since lives on.
#[must_use]
pub fn has_strayed(
    world: &World,
    changes: Option<&Changes>,
    query: &Query<'_>,
    destination: Option<&PodUid>,
) -> bool {
    let moved = |changes: &Changes| !changes.workloads.is_empty() || !changes.services.is_empty();
    if !changes.is_none_or(moved) {
        return false;
    }
    match route::plan(world, query) {
        Plan::Tunnel(hop) => Some(&hop.workload.uid) != destination,
        Plan::Plaintext(_) | Plan::Refuse(_) => false,
    }
}
