//! Which flows that live are decided again after a change, and what becomes of them.

use crate::flow::{CloseReason, FlowContext};
use crate::policy::{self, Decision, Denied, Grounds};
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
