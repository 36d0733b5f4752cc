//! The cluster's own NetworkPolicies (`networking.k8s.io/v1`), as far as they stand in the way of tunnels.
//! Between enrolled pods every connection comes to TCP port 15008, whatever port the application has: a
//! policy that lists ports and not this one cuts them off. adit does not enforce these policies and
//! decides nothing by them; it tells of them ([`tunnel`], [`survey()`]).
//!
//! What they mean is read from the Kubernetes API reference, `NetworkPolicySpec`. What enforces them, a
//! CNI plugin, may not do so at all, and may have policies of its own kinds beside them, of which nothing is
//! known here.

mod selector;
mod survey;

use std::net::IpAddr;
use std::sync::Arc;

use crate::hbone::TUNNEL_PORT;
use crate::policy::IpBlock;
use crate::workload::{ObjectName, Workload};
use crate::world::World;

pub use selector::{LabelSelector, Operator, Requirement};
pub use survey::{Closed, survey};

/// A NetworkPolicy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkPolicy {
    /// Its namespace and name.
    pub name: ObjectName,
    /// The pods of its namespace that it is for.
    pub pods: LabelSelector,
    /// What may come in to them; `None` if the policy says nothing of that direction.
    pub ingress: Option<Vec<Rule>>,
    /// What may go out of them.
    pub egress: Option<Vec<Rule>>,
}

/// What one rule of a policy allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The other ends; empty: all.
    pub peers: Vec<Peer>,
    /// The TCP ports; `None`: all. Ports of other protocols are left out, so a rule for those alone has
    /// an empty list.
    pub ports: Option<Vec<Ports>>,
}

/// Other ends of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// Pods.
    Pods {
        /// Of these namespaces; `None`: of the policy's own.
        namespaces: Option<LabelSelector>,
        /// With these labels.
        pods: LabelSelector,
    },
    /// Addresses.
    Addresses {
        /// In this range …
        block: IpBlock,
        /// … and in none of these.
        except: Vec<IpBlock>,
    },
}

/// TCP ports of the destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ports {
    /// Every one.
    All,
    /// From the first to the last one.
    Range(u16, u16),
    /// The one that the destination's containers call by this name.
    Named(Arc<str>),
}

/// What of a pod's traffic a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// What comes in.
    Ingress,
    /// What goes out.
    Egress,
}

/// One end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End<'a> {
    /// The pod, where it is one that is known.
    pub pod: Option<&'a Workload>,
    /// Its address.
    pub address: IpAddr,
}

/// Policies that keep a tunnel from being made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    /// At which end: [`Direction::Ingress`] at the destination.
    pub direction: Direction,
    /// All that are for the pod at that end; none of them lets the tunnel pass, and one that did would be
    /// enough.
    pub policies: Vec<ObjectName>,
    /// Whether they let the other end have some other TCP port, so that it is meant to be let in.
    pub other_ports: bool,
}

impl Direction {
    /// The spelling of the command line.
    #[must_use]
    pub const fn as_label(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// What keeps a tunnel from one end to the other from being made: nothing, or the policies at one of them or
/// at both.
#[must_use]
pub fn tunnel(world: &World, source: End<'_>, destination: End<'_>) -> Vec<Blocked> {
    let out = source.pod.and_then(|pod| at(world, Direction::Egress, pod, destination));
    let into = destination.pod.and_then(|pod| at(world, Direction::Ingress, pod, source));
    out.into_iter().chain(into).collect()
}

fn at(world: &World, direction: Direction, pod: &Workload, peer: End<'_>) -> Option<Blocked> {
    let policies = isolating(world, direction, pod);
    let passage = passage(world, direction, &policies, pod, peer);
    let other_ports = match passage {
        Passage::Open => return None,
        Passage::OtherPorts => true,
        Passage::Closed => false,
    };
    let policies = policies.iter().map(|policy| policy.name.clone()).collect();
    Some(Blocked { direction, policies, other_ports })
}

/// How far a peer gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Passage {
    /// To port 15008.
    Open,
    /// To some other TCP port.
    OtherPorts,
    /// Nowhere.
    Closed,
}

/// The policies that isolate a pod in a direction. A pod of the host's network has none: to those, what
/// policies do is not defined.
fn isolating<'a>(
    world: &'a World,
    direction: Direction,
    pod: &Workload,
) -> Vec<&'a Arc<NetworkPolicy>> {
    if pod.host_network {
        return Vec::new();
    }
    let own = world.network_policies(&pod.name.namespace);
    own.filter(|policy| policy.rules(direction).is_some() && policy.pods.matches(&pod.labels))
        .collect()
}

/// What these policies of a pod, all that isolate it in this direction, let pass. They add up.
fn passage(
    world: &World,
    direction: Direction,
    policies: &[&Arc<NetworkPolicy>],
    pod: &Workload,
    peer: End<'_>,
) -> Passage {
    if policies.is_empty() {
        return Passage::Open;
    }
    let destination = match direction {
        Direction::Ingress => Some(pod),
        Direction::Egress => peer.pod,
    };
    let mut passage = Passage::Closed;
    for policy in policies {
        let rules = policy.rules(direction).unwrap_or_default();
        for rule in rules.iter().filter(|rule| rule.is_for(world, policy, peer)) {
            if rule.admits_tunnel(destination) {
                return Passage::Open;
            }
            if rule.ports.as_ref().is_none_or(|ports| !ports.is_empty()) {
                passage = Passage::OtherPorts;
            }
        }
    }
    passage
}

impl NetworkPolicy {
    fn rules(&self, direction: Direction) -> Option<&[Rule]> {
        match direction {
            Direction::Ingress => self.ingress.as_deref(),
            Direction::Egress => self.egress.as_deref(),
        }
    }
}

impl Rule {
    fn is_for(&self, world: &World, policy: &NetworkPolicy, end: End<'_>) -> bool {
        self.peers.is_empty() || self.peers.iter().any(|peer| peer.is(world, policy, end))
    }

    fn admits_tunnel(&self, destination: Option<&Workload>) -> bool {
        let Some(ports) = &self.ports else {
            return true;
        };
        ports.iter().any(|ports| match ports {
            Ports::All => true,
            Ports::Range(first, last) => (*first..=*last).contains(&TUNNEL_PORT),
            Ports::Named(name) => destination.is_some_and(|pod| pod.tunnel_ports.contains(name)),
        })
    }
}

impl Peer {
    fn is(&self, world: &World, policy: &NetworkPolicy, end: End<'_>) -> bool {
        match self {
            Self::Pods { namespaces, pods } => end.pod.is_some_and(|pod| {
                let namespace = &pod.name.namespace;
                let there = match namespaces {
                    None => *namespace == policy.name.namespace,
                    Some(selector) => world
                        .namespace(namespace)
                        .is_some_and(|namespace| selector.matches(&namespace.labels)),
                };
                there && pods.matches(&pod.labels)
            }),
            Self::Addresses { block, except } => {
                block.contains(end.address)
                    && !except.iter().any(|block| block.contains(end.address))
            }
        }
    }
}

#[cfg(test)]
mod tests;
