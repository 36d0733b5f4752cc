//! Whether NetworkPolicies of the cluster let the tunnel pass.

use std::net::SocketAddr;

use adit_core::network_policy::{self, Blocked, Direction, End};
use adit_core::workload::{ObjectName, Workload};
use adit_core::world::World;

use super::Caller;
use crate::admin::view::{BlockedView, ObjectRef};

/// What is in the way of a tunnel from this caller to this address of a pod.
pub(super) fn blocked(
    world: &World,
    caller: &Caller,
    callee: &Workload,
    to: SocketAddr,
) -> Vec<BlockedView> {
    let from = caller.workload.as_deref();
    if from.is_none() && !caller.has_address {
        return Vec::new();
    }
    let source = End { pod: from, address: caller.address };
    let destination = End { pod: Some(callee), address: to.ip() };
    let blocked = network_policy::tunnel(world, source, destination);
    let view = |Blocked { direction, policies, other_ports }: Blocked| {
        let caller = from.map_or_else(|| caller.address.to_string(), |pod| pod.name.to_string());
        let (pod, peer) = match (direction, from) {
            (Direction::Egress, Some(from)) => (&from.name, callee.name.to_string()),
            (Direction::Ingress, _) | (Direction::Egress, None) => (&callee.name, caller),
        };
        BlockedView {
            pod: ObjectRef::from(pod),
            direction: direction.as_label().to_owned(),
            policies: policies.iter().map(|name: &ObjectName| ObjectRef::from(name)).collect(),
            other_ports,
            peers: 1,
            peer,
        }
    };
    blocked.into_iter().map(view).collect()
}
