//! Where an outbound flow goes: [`plan`].

mod endpoint;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::enrolment;
use crate::flow::PlaintextReason;
use crate::identity::SpiffeId;
use crate::route::endpoint::Caller;
use crate::workload::{ObjectName, PodUid, Workload};
use crate::world::World;

/// What the agent is to do with an outbound connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// Open a stream in a tunnel.
    Tunnel(Hop),
    /// Connect from the pod's own address, without a tunnel.
    Plaintext(Direct),
    /// Reset it.
    Refuse(Refused),
}

/// A destination behind a tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// The pod's address and port: the CONNECT authority. The tunnel goes to this address, port
    /// 15008.
    pub destination: SocketAddr,
    /// The only identity the tunnel's other end may prove.
    pub identity: SpiffeId,
    /// The pod.
    pub workload: Arc<Workload>,
    /// The service whose virtual address was dialled.
    pub service: Option<ObjectName>,
}

/// A destination without a tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Direct {
    /// Where to connect.
    pub destination: SocketAddr,
    /// Why there is no tunnel.
    pub reason: PlaintextReason,
    /// The pod, where discovery knows one.
    pub workload: Option<Arc<Workload>>,
    /// The service whose virtual address was dialled.
    pub service: Option<ObjectName>,
}

/// Why there is nowhere to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The service does not have the dialled port.
    #[error("the service has no such TCP port")]
    NoSuchPort,
    /// No endpoint of the service is ready.
    #[error("no endpoint of the service is ready")]
    NoReadyEndpoint,
    /// It is not known who is there now, and plaintext could reach a pod to which a tunnel has to lead:
    /// the pod that had the address until a short while ago was enrolled, or the service's ready
    /// endpoints lead to no pod that they stand for.
    #[error("what is known of the destination is out of date")]
    OutOfDate,
}

impl Refused {
    /// The spelling used by metrics, log lines and the command line.
    #[must_use]
    pub const fn as_label(self) -> &'static str {
        match self {
            Self::NoSuchPort => "no_such_service_port",
            Self::NoReadyEndpoint => "no_ready_endpoint",
            Self::OutOfDate => "destination_out_of_date",
        }
    }

    /// Whether there may be somewhere to go in a moment, without anybody changing anything.
    #[must_use]
    pub const fn may_pass(self) -> bool {
        matches!(self, Self::OutOfDate)
    }
}

/// A connection that a pod opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query<'a> {
    /// The pod that opens it, where one is known.
    pub caller: Option<&'a PodUid>,
    /// Where the application connects to.
    pub dialled: SocketAddr,
    /// The pod's own address that the connection comes from: session affinity holds by it.
    pub source: IpAddr,
    /// Chooses among endpoints.
    pub random: u64,
}

/// Where a connection goes. A service's virtual address leads to one of its ready endpoints, which
/// may be the calling pod itself; every other address leads to itself.
#[must_use]
pub fn plan(world: &World, query: &Query<'_>) -> Plan {
    // `::ffff:10.0.0.1` on an IPv6 socket is the IPv4 address (RFC 4291, section 2.5.5.2).
    let dialled = SocketAddr::new(query.dialled.ip().to_canonical(), query.dialled.port());
    let Some(service) = world.service_at(dialled.ip()) else {
        return to_pod_or_outside(world, query, dialled, None);
    };
    let mut ports = service.ports.iter();
    let Some(port) = ports.find(|port| port.port == dialled.port()) else {
        return Plan::Refuse(Refused::NoSuchPort);
    };
    let source = query.source.to_canonical();
    let node = query.caller.and_then(|uid| world.workload(uid)?.node.as_ref());
    let zone = node.and_then(|node| world.zone(node));
    let caller = Caller { source, random: query.random, node, zone };
    match endpoint::choose(world, service, port, dialled.is_ipv6(), caller) {
        Ok(endpoint) => to_pod_or_outside(world, query, endpoint, Some(service.name.clone())),
        Err(why) => Plan::Refuse(why),
    }
}

/// Why a connection to a pod of this node came without a tunnel. The destination is asked first: who
/// knows that it has left the mesh dials it so.
#[must_use]
pub fn came_in_plaintext(
    world: &World,
    source: Option<&Workload>,
    destination: Option<&Workload>,
) -> PlaintextReason {
    if let Some(Err(why)) = destination.map(|pod| enrolment::select(world, pod)) {
        return PlaintextReason::DestinationNotEnrolled(why);
    }
    match source.map(|pod| enrolment::select(world, pod)) {
        None => PlaintextReason::UnknownSource,
        Some(Err(why)) => PlaintextReason::SourceNotEnrolled(why),
        Some(Ok(())) => PlaintextReason::SourceBypassed,
    }
}

fn to_pod_or_outside(
    world: &World,
    query: &Query<'_>,
    destination: SocketAddr,
    service: Option<ObjectName>,
) -> Plan {
    let Some(workload) = world.workload_at(destination.ip()).map(Arc::clone) else {
        let last = world.last_owner(destination.ip());
        if last.is_some_and(|pod| enrolment::select(world, pod).is_ok()) {
            return Plan::Refuse(Refused::OutOfDate);
        }
        let reason = PlaintextReason::UnknownDestination;
        return Plan::Plaintext(Direct { destination, reason, workload: None, service });
    };
    if query.caller == Some(&workload.uid) {
        // Back to the pod itself: no wire to protect, and no tunnel could be dialled, because what
        // a pod sends to its own address is never taken for inbound.
        let (reason, workload) = (PlaintextReason::SamePod, Some(workload));
        return Plan::Plaintext(Direct { destination, reason, workload, service });
    }
    match enrolment::select(world, &workload) {
        Ok(()) => {
            let identity = workload.identity.clone();
            Plan::Tunnel(Hop { destination, identity, workload, service })
        }
        Err(why) => {
            let reason = PlaintextReason::DestinationNotEnrolled(why);
            Plan::Plaintext(Direct { destination, reason, workload: Some(workload), service })
        }
    }
}

#[cfg(test)]
mod tests;
