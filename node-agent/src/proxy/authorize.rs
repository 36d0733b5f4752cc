//! The second stage: may the flow reach its destination?

use std::sync::Arc;

use adit_core::flow::{CloseReason, FlowContext};
use adit_core::policy::{self, Decision, Denied, Permit};

use super::Stages;
use super::accept::Arrived;
use super::flows::Flow;

/// Decides on a flow that is registered already, so that no change of the world can miss it.
pub(super) fn inbound(
    stages: &Stages,
    flow: &Flow,
    arrived: &Arrived,
) -> Result<Permit, CloseReason> {
    let world = stages.worlds.load();
    let destination = world.workload(&arrived.pod.uid);
    let destination = destination.ok_or(CloseReason::Denied(Denied::UnknownPod))?;
    let context = FlowContext {
        source_address: arrived.source.ip(),
        source_identity: arrived.tunnel.as_ref().map(|tunnel| tunnel.peer.clone()),
        destination: Arc::clone(destination),
        destination_address: arrived.dialled,
    };
    let Decision { verdict, grounds } = policy::decide(&world, &context);
    flow.decided(context, grounds, verdict.is_ok());
    verdict.map_err(CloseReason::Denied)
}
