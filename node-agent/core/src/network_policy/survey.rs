//! Which pods of a node are cut off from tunnels.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Direction, End, NetworkPolicy, Passage, isolating, passage};
use crate::enrolment::select;
use crate::workload::{ObjectName, Phase, Workload};
use crate::world::World;

/// A pod whose policies keep enrolled peers from port 15008.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// The pod.
    pub pod: ObjectName,
    /// Whether they keep what comes in or what goes out.
    pub direction: Direction,
    /// The policies that are for it.
    pub policies: Vec<ObjectName>,
    /// Whether the peers are let to other TCP ports. If not, no enrolled pod at all is let to any port,
    /// which may be what is meant.
    pub other_ports: bool,
    /// How many peers there are.
    pub peers: usize,
    /// One of them.
    pub peer: ObjectName,
}

/// Pods with the same policies and ports have the same peers.
type Group<'a> = (Direction, Vec<&'a ObjectName>, &'a [Arc<str>]);

/// What became of the enrolled pods as peers.
struct Peers<'a> {
    reached: Vec<&'a Arc<Workload>>,
    on_other_ports: Vec<&'a Arc<Workload>>,
    closed: Vec<&'a Arc<Workload>>,
}

/// The enrolled ones of these pods that are cut off from enrolled peers which their policies let to other
/// ports, or from all of them.
pub fn survey<'a>(
    world: &'a World,
    pods: impl IntoIterator<Item = &'a Arc<Workload>>,
) -> Vec<Closed> {
    let takes_part = |pod: &&Arc<Workload>| {
        pod.phase == Phase::Active && !pod.addresses.is_empty() && select(world, pod).is_ok()
    };
    let enrolled: Vec<&Arc<Workload>> = world.workloads().filter(takes_part).collect();
    let mut known: BTreeMap<Group<'a>, Peers<'a>> = BTreeMap::new();
    let mut found = Vec::new();
    for pod in pods.into_iter().filter(takes_part) {
        for direction in [Direction::Ingress, Direction::Egress] {
            let policies = isolating(world, direction, pod);
            if policies.is_empty() {
                continue;
            }
            let names: Vec<&ObjectName> = policies.iter().map(|policy| &policy.name).collect();
            let peers = known
                .entry((direction, names, &pod.tunnel_ports))
                .or_insert_with(|| Peers::of(world, direction, &policies, pod, &enrolled));
            found.extend(peers.closed_to(pod, direction, &policies));
        }
    }
    found.sort_by(|a, b| (&a.pod, a.direction).cmp(&(&b.pod, b.direction)));
    found
}

impl<'a> Peers<'a> {
    fn of(
        world: &World,
        direction: Direction,
        policies: &[&Arc<NetworkPolicy>],
        pod: &Workload,
        enrolled: &[&'a Arc<Workload>],
    ) -> Self {
        let mut peers =
            Self { reached: Vec::new(), on_other_ports: Vec::new(), closed: Vec::new() };
        for peer in enrolled {
            // Policies about addresses may treat a peer's two differently: the worse one counts.
            let by_address = peer.addresses.iter().map(|address| {
                let end = End { pod: Some(peer), address: *address };
                passage(world, direction, policies, pod, end)
            });
            let passages: Vec<Passage> = by_address.collect();
            let list = if passages.contains(&Passage::OtherPorts) {
                &mut peers.on_other_ports
            } else if passages.contains(&Passage::Closed) {
                &mut peers.closed
            } else {
                &mut peers.reached
            };
            list.push(peer);
        }
        peers
    }

    /// What is to be told of one pod of the group. It is no peer of its own: what it sends to itself no
    /// policy can block.
    fn closed_to(
        &self,
        pod: &Workload,
        direction: Direction,
        policies: &[&Arc<NetworkPolicy>],
    ) -> Option<Closed> {
        let others = |list: &[&'a Arc<Workload>]| -> Vec<&'a Arc<Workload>> {
            list.iter().copied().filter(|peer| peer.uid != pod.uid).collect()
        };
        let on_other_ports = others(&self.on_other_ports);
        let (peers, other_ports) = if !on_other_ports.is_empty() {
            (on_other_ports, true)
        } else if others(&self.reached).is_empty() {
            (others(&self.closed), false)
        } else {
            return None;
        };
        Some(Closed {
            pod: pod.name.clone(),
            direction,
            policies: policies.iter().map(|policy| policy.name.clone()).collect(),
            other_ports,
            peers: peers.len(),
            peer: peers.first()?.name.clone(),
        })
    }
}
