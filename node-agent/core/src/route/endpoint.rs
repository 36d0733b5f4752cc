//! Which endpoint of a service a connection goes to.
//!
//! One that is out of date is never chosen: pods and slices are learned apart, so a slice may still name
//! a pod that is gone or has another address by now, and the old address may be somebody else's
//! ([`is_current`]).
//!
//! First those that may be chosen: the ready ones; with `internalTrafficPolicy: Local` those on the
//! caller's node; otherwise, where every ready endpoint says for whom it is meant and one is meant for
//! the caller's node or else its zone, those (as kube-proxy's `topologyModeFromHints` has it).
//!
//! Without affinity, any ready one, as the given random number says.
//!
//! With `sessionAffinity: ClientIP`, the one that ranks highest for this client by rendezvous
//! hashing (Thaler and Ravishankar, 1998): every (client, service, port, endpoint) has a fixed
//! weight, and the heaviest ready endpoint wins. kube-proxy keeps a table instead. The hash needs
//! no memory: workers share nothing and agree all the same, an agent that restarts or upgrades
//! sends a client where it went before, and no client can fill a table. An endpoint that goes moves
//! its own clients only, and they come back with it. The price: where a table holds a client until
//! the time-out, one new endpoint among n takes over one client in n + 1 at once. The time-out
//! itself needs no clock: an affinity that never lapses is one that lasts at least as long.

use std::net::{IpAddr, SocketAddr};

use crate::enrolment;
use crate::route::Refused;
use crate::workload::{Affinity, Endpoint, InternalTraffic, NodeName, Phase, Service, ServicePort};
use crate::world::World;

/// Who asks, and with which random number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller<'a> {
    /// The client's address.
    pub(super) source: IpAddr,
    /// Chooses where there is no affinity.
    pub(super) random: u64,
    /// The node that it is on.
    pub(super) node: Option<&'a NodeName>,
    /// The zone that this node is in.
    pub(super) zone: Option<&'a str>,
}

/// A ready endpoint for one port of a service, of the address family that was dialled (a service's
/// address of one family stands for its endpoints of that family).
///
/// # Errors
/// Why there is none.
pub(super) fn choose(
    world: &World,
    service: &Service,
    port: &ServicePort,
    ipv6: bool,
    caller: Caller<'_>,
) -> Result<SocketAddr, Refused> {
    // Asking of every endpoint for the sake of one would cost most connections more than it saves few.
    let any = pick(world, service, port, ipv6, caller, |_| true);
    let (endpoint, address) = any.ok_or(Refused::NoReadyEndpoint)?;
    if is_current(world, endpoint) {
        return Ok(address);
    }
    let current = |endpoint: &Endpoint| is_current(world, endpoint);
    let next = pick(world, service, port, ipv6, caller, current);
    next.map(|(_, address)| address).ok_or(Refused::OutOfDate)
}

/// Whether the endpoint leads to the pod that it stands for. Of a pod outside of the mesh it may lead
/// elsewhere, such as to its address in a second network: nothing is promised to it.
fn is_current(world: &World, endpoint: &Endpoint) -> bool {
    let Some(uid) = &endpoint.pod else {
        return true;
    };
    let Some(pod) = world.workload(uid).filter(|pod| pod.phase != Phase::Finished) else {
        return false;
    };
    let owner = world.workload_at(endpoint.address);
    owner.is_some_and(|owner| owner.uid == *uid) || enrolment::select(world, pod).is_err()
}

fn pick<'a>(
    world: &'a World,
    service: &Service,
    port: &ServicePort,
    ipv6: bool,
    caller: Caller<'_>,
    may_be: impl Fn(&Endpoint) -> bool,
) -> Option<(&'a Endpoint, SocketAddr)> {
    let endpoints = world.endpoints(&service.name);
    let all = || {
        let usable = |endpoint: &&Endpoint| {
            endpoint.ready && endpoint.address.is_ipv6() == ipv6 && may_be(endpoint)
        };
        endpoints.iter().filter(usable).filter_map(|endpoint| {
            let number = endpoint.ports.get(&port.name)?;
            Some((endpoint, SocketAddr::new(endpoint.address, *number)))
        })
    };
    let near = match service.internal_traffic {
        InternalTraffic::Local => Near::OnNode,
        InternalTraffic::Cluster => Near::of_hints(all().map(|(endpoint, _)| endpoint), caller),
    };
    let ready = || all().filter(move |(endpoint, _)| near.takes(endpoint, caller));
    match service.affinity {
        Affinity::ClientIp(_) => {
            let seed = seed(service, port, caller.source);
            ready().max_by_key(|(_, address)| (weight(seed, *address), *address))
        }
        Affinity::None => {
            let count = u64::try_from(ready().count()).ok()?;
            let nth = caller.random.checked_rem(count)?;
            ready().nth(usize::try_from(nth).ok()?)
        }
    }
}

/// Which endpoints are near enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Near {
    /// All.
    Anywhere,
    /// Those on the caller's node.
    OnNode,
    /// Those that are meant for the caller's node.
    ForNode,
    /// Those that are meant for the caller's zone.
    ForZone,
}

impl Near {
    fn of_hints<'a>(ready: impl Iterator<Item = &'a Endpoint>, caller: Caller<'_>) -> Self {
        let (mut by_node, mut by_zone) = (true, true);
        let (mut for_node, mut for_zone) = (false, false);
        for endpoint in ready {
            by_node &= !endpoint.hints.nodes.is_empty();
            by_zone &= !endpoint.hints.zones.is_empty();
            if !by_node && !by_zone {
                return Self::Anywhere;
            }
            for_node |= Self::ForNode.takes(endpoint, caller);
            for_zone |= Self::ForZone.takes(endpoint, caller);
        }
        if by_node && for_node {
            Self::ForNode
        } else if by_zone && for_zone {
            Self::ForZone
        } else {
            Self::Anywhere
        }
    }

    fn takes(self, endpoint: &Endpoint, caller: Caller<'_>) -> bool {
        match self {
            Self::Anywhere => true,
            Self::OnNode => caller.node.is_some() && endpoint.node.as_ref() == caller.node,
            Self::ForNode => caller.node.is_some_and(|node| endpoint.hints.nodes.contains(node)),
            Self::ForZone => {
                let mut zones = endpoint.hints.zones.iter();
                caller.zone.is_some_and(|zone| zones.any(|hint| &**hint == zone))
            }
        }
    }
}

fn seed(service: &Service, port: &ServicePort, client: IpAddr) -> u64 {
    let hash = fnv(FNV_OFFSET, service.name.namespace.as_bytes());
    let hash = fnv(hash, b"/");
    let hash = fnv(hash, service.name.name.as_bytes());
    let hash = fnv(hash, &port.port.to_be_bytes());
    hash_address(hash, client)
}

fn weight(seed: u64, endpoint: SocketAddr) -> u64 {
    let hash = hash_address(seed, endpoint.ip());
    mix(fnv(hash, &endpoint.port().to_be_bytes()))
}

fn hash_address(hash: u64, address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(v4) => fnv(hash, &v4.octets()),
        IpAddr::V6(v6) => fnv(hash, &v6.octets()),
    }
}

// FNV-1a is the hash because its result is the same in every release of adit on every machine;
// the standard library's hasher promises neither.
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME))
}

/// SplitMix64's finalizer: FNV alone leaves the high bits of neighbouring addresses alike, and the
/// highest weight would go to the same endpoint for most clients.
fn mix(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}
