//! The second stage: may the flow reach its destination?

use std::sync::Arc;

use adit_core::flow::{CloseReason, FlowContext};
use adit_core::policy::{self, Decision, Denied, Permit};
use adit_core::world::World;

use super::Stages;
use super::accept::Arrived;
use super::flows::Flow;
use crate::datapath::kubelet;

/// The permit of a plaintext connection that is the kubelet's, to a port that the pod asks it to probe.
/// Nobody else is asked for: another process of the node is a plaintext peer like any other.
pub(super) async fn probe(stages: &Stages, flow: &Flow, arrived: &Arrived) -> Option<Permit> {
    if arrived.tunnel.is_some() || !may_be_probe(&stages.worlds.load(), arrived) {
        return None;
    }
    match kubelet::opened(arrived.source, arrived.dialled).await {
        Ok(true) => {}
        Ok(false) => return None,
        Err(error) => {
            tracing::warn!(pod = %arrived.pod.name, %error, "cannot see whether a connection is the kubelet's: taken for a stranger's");
            return None;
        }
    }
    let permit = policy::probe(&stages.worlds.load(), &arrived.pod.uid, arrived.dialled)?;
    flow.is_probe();
    Some(permit)
}

/// Not what comes from a pod's own address: most does, and its end is not in the host's namespace.
fn may_be_probe(world: &World, arrived: &Arrived) -> bool {
    world.workload_at(arrived.source.ip()).is_none_or(|source| source.host_network)
        && policy::probe(world, &arrived.pod.uid, arrived.dialled).is_some()
}

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
