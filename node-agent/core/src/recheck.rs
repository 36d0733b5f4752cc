//! Which flows that live are decided again after a change, and what becomes of them.

use crate::flow::{CloseReason, FlowContext};
use crate::policy::{self, Denied};
use crate::world::{Changes, World};

/// Why a flow that was permitted must end, if it must. `changes` is what the world's last change
/// touched, or `None` if that is not known: then every flow is looked at.
#[must_use]
pub fn recheck(
    world: &World,
    changes: Option<&Changes>,
    flow: &FlowContext,
) -> Option<CloseReason> {
    if changes.is_some_and(|changes| !changes.touch(&flow.destination.uid)) {
        return None;
    }
    match policy::decide(world, flow) {
        Ok(_permit) => None,
        Err(Denied::UnknownPod) => Some(CloseReason::PodGone),
        Err(denied) => Some(CloseReason::Denied(denied)),
    }
}
