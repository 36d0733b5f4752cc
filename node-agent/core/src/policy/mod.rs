//! Whether a flow may reach its destination. Asked by the destination's agent, for every protocol.
//!
//! Policies are Istio's: [`spec`] is what a manifest says, [`PeerAuthentication`] and
//! [`AuthorizationPolicy`] the valid values of it, [`PolicySet`] all of them. A policy is compiled
//! when it comes, and a namespace's policies are indexed by the pods they are for; a decision is one
//! walk over those of its pod. [`decide`] takes the outcome, [`explain`] also writes down the way.

mod compile;
mod evaluate;
mod facts;
mod index;
mod invalid;
mod keyed;
mod matcher;
mod object;
#[cfg(any(test, feature = "testing"))]
mod reference;
mod rule;
mod select;
mod set;
pub mod spec;
mod trace;
mod verdict;
mod walk;

use std::net::SocketAddr;

pub use evaluate::Miss;
pub use index::Level;
pub use invalid::{Gap, GapReason, Invalid, Why};
pub use matcher::{IpBlock, Match, ServiceAccount, TextMatch};
pub use object::{
    Action, AuthorizationPolicy, Effect, MAX_RULES, Mode, PeerAuthentication, PolicyId, PolicyKind,
    Rule, Selector, Test,
};
#[cfg(any(test, feature = "testing"))]
pub use reference::check;
pub(crate) use set::Touched;
pub use set::{PolicySet, ROOT_NAMESPACES, Reach};
pub use trace::{Answer, Step, Trace};
pub use verdict::{Decision, Denied, DryRun, Grounds, Permit, RuleRef};

use crate::flow::FlowContext;
use crate::workload::{PodUid, Workload};
use crate::world::World;
use facts::Facts;
use trace::Scribe;
use walk::{Nobody, Outcome, Watcher, walk};

#[cfg(test)]
mod tests;

/// Decides on a flow.
#[must_use]
pub fn decide(world: &World, flow: &FlowContext) -> Decision {
    ask(world, flow, &mut Nobody, &mut Nobody)
}

/// Decides on a flow and says how the decision came about.
#[must_use]
pub fn explain(world: &World, flow: &FlowContext) -> Trace {
    let (mut enforced, mut dry_run) = (Scribe::default(), Scribe::default());
    let decision = ask(world, flow, &mut enforced, &mut dry_run);
    Trace { decision, steps: enforced.steps, dry_run: dry_run.steps }
}

/// The permit for a connection of the kubelet's to a port that the pod asks it to probe. Policies have
/// no say in it, as in a cluster without a mesh: a pod whose probes fail is taken from its services,
/// or ended. Whether the connection is the kubelet's, the caller has to know.
#[must_use]
pub fn probe(world: &World, pod: &PodUid, dialled: SocketAddr) -> Option<Permit> {
    let pod = world.workload(pod)?;
    let asked = pod.probed.contains(&dialled.port()) && pod.addresses.contains(&dialled.ip());
    asked.then_some(Permit { destination: dialled })
}

fn ask(
    world: &World,
    flow: &FlowContext,
    enforced: &mut impl Watcher,
    dry_run: &mut impl Watcher,
) -> Decision {
    let pod = match reached(world, flow) {
        Ok(pod) => pod,
        Err(denied) => return Decision::before_policies(denied),
    };
    let facts = Facts::of(flow);
    let policies = world.policies();
    let Outcome { verdict, by, missed } = walk(policies.enforced_on(pod), &facts, enforced);
    let dry_run = policies.dry_run_on(pod).map(|view| {
        let Outcome { verdict, by, .. } = walk(view, &facts, dry_run);
        DryRun { verdict, by }
    });
    let verdict = verdict.map(|()| Permit { destination: flow.destination_address });
    Decision { verdict, grounds: Grounds { by, missed, dry_run } }
}

/// The pod as it is now, if it is there and the dialled address is its own. No policy can allow
/// otherwise.
fn reached<'a>(world: &'a World, flow: &FlowContext) -> Result<&'a Workload, Denied> {
    let pod = world.workload(&flow.destination.uid).ok_or(Denied::UnknownPod)?;
    if !pod.addresses.contains(&flow.destination_address.ip()) {
        return Err(Denied::NotItsAddress);
    }
    Ok(pod)
}
