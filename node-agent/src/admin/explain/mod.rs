//! What would become of a flow: the question that `adit explain` asks, answered from the world as it
//! is now, by the same code that decides on flows.

mod blocked;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use adit_core::enrolment;
use adit_core::flow::FlowContext;
use adit_core::hbone::TUNNEL_PORT;
use adit_core::identity::SpiffeId;
use adit_core::policy::{self, Answer, Mode, Step};
use adit_core::route::{self, Plan, Query};
use adit_core::workload::{ObjectName, Phase, Workload};
use adit_core::world::World;

use crate::admin::view::{ExplainView, ExplainedParty, ExplainedVerdict, ObjectRef, RouteView};
use crate::telemetry::deciding_policy;

/// Of a policy without a matching rule, so many rules are told with what was in their way.
const TOLD_RULES: usize = 5;

/// The question, made from query parameters of the same names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// A pod `namespace/name`, an identity or an address.
    pub source: String,
    /// The same, or a service, and a port.
    pub destination: String,
    /// `hbone` or `plaintext`; otherwise what such a flow would take.
    pub protocol: Option<Carrier>,
}

/// What is to carry the flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// A tunnel.
    Hbone,
    /// Nothing but TCP.
    Plaintext,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadQuestion {
    /// There is no parameter of this name.
    #[error("there is no parameter {0:?}; there are source, destination and protocol")]
    Unknown(String),
    /// A parameter is missing.
    #[error("the parameter {0} is missing")]
    Missing(&'static str),
    /// The destination has no port.
    #[error("{0:?} has no port: write namespace/name:port, address:port or [address]:port")]
    NoPort(String),
    /// No way to carry a flow.
    #[error("protocol: {0:?} is not hbone or plaintext")]
    Protocol(String),
    /// Not of any form that names something.
    #[error("{0:?} is not a pod (namespace/name), an identity (spiffe://…) or an address")]
    Form(String),
    /// A name without a bearer.
    #[error("no pod {0} is known")]
    NoSuchPod(String),
    /// A name without a bearer, for a destination.
    #[error("no pod or service {0} is known")]
    NoSuchDestination(String),
    /// An identity without a pod.
    #[error("no pod with the identity {0} is known")]
    NoPodOfIdentity(SpiffeId),
    /// The service cannot be dialled like this.
    #[error("service {0} has no virtual address: name one of its pods")]
    Headless(ObjectName),
    /// A tunnel needs an identity.
    #[error("{0} has no identity, so that it cannot open a tunnel: ask for plaintext")]
    NoIdentity(String),
}

/// Who calls.
struct Caller {
    address: IpAddr,
    /// Whether the address is the caller's; else nothing is known of it.
    has_address: bool,
    workload: Option<Arc<Workload>>,
    identity: Option<SpiffeId>,
}

impl Question {
    /// Reads query parameters.
    ///
    /// # Errors
    /// The first one that is missing or means nothing.
    pub fn parse(mut parameters: BTreeMap<String, String>) -> Result<Self, BadQuestion> {
        let mut take = |name| parameters.remove(name);
        let (source, destination) = (take("source"), take("destination"));
        let protocol = match take("protocol").as_deref() {
            None => None,
            Some("hbone") => Some(Carrier::Hbone),
            Some("plaintext") => Some(Carrier::Plaintext),
            Some(other) => return Err(BadQuestion::Protocol(other.to_owned())),
        };
        if let Some((name, _)) = parameters.pop_first() {
            return Err(BadQuestion::Unknown(name));
        }
        Ok(Self {
            source: source.ok_or(BadQuestion::Missing("source"))?,
            destination: destination.ok_or(BadQuestion::Missing("destination"))?,
            protocol,
        })
    }
}

/// The answer.
///
/// # Errors
/// Something that the question names is not known, or it contradicts itself.
pub fn explain(world: &World, question: &Question) -> Result<ExplainView, BadQuestion> {
    let dialled = dialled(world, &question.destination)?;
    let caller = caller(world, &question.source, dialled.is_ipv6())?;
    let uid = caller.workload.as_ref().map(|pod| &pod.uid);
    let query = Query { caller: uid, dialled, source: caller.address, random: 0 };
    let plan = route::plan(world, &query);
    let (to, service) = match &plan {
        Plan::Tunnel(hop) => (hop.destination, hop.service.clone()),
        Plan::Plaintext(direct) => (direct.destination, direct.service.clone()),
        Plan::Refuse(_) => (dialled, world.service_at(dialled.ip()).map(|s| s.name.clone())),
    };
    let callee = world.workload_at(to.ip()).map(Arc::clone);
    let route = chosen(world, question, &caller, callee.as_ref(), &plan)?;
    let mut view = ExplainView {
        source: party(
            world,
            caller.has_address.then_some(caller.address),
            caller.workload.as_ref(),
        ),
        destination: party(world, Some(to.ip()), callee.as_ref()),
        port: to.port(),
        service: service.as_ref().map(ObjectRef::from),
        route,
        blocked: Vec::new(),
        verdict: ExplainedVerdict::NotEnforced,
        reason: None,
        policy: None,
        missed: Vec::new(),
        dry_run: None,
        considered: Vec::new(),
        notes: notes(world, &caller, service.as_ref()),
    };
    view.source.identity = caller.identity.as_ref().map(ToString::to_string);
    if let Plan::Refuse(why) = &plan {
        view.verdict = ExplainedVerdict::Refused;
        view.reason = Some(why.as_label().to_owned());
        return Ok(view);
    }
    if let Some(callee) = callee.filter(|pod| enrolment::select(world, pod).is_ok()) {
        if view.route.protocol == "hbone" {
            view.blocked = blocked::blocked(world, &caller, &callee, to);
        }
        decide(world, &mut view, &caller, (callee, to));
    }
    Ok(view)
}

fn decide(
    world: &World,
    view: &mut ExplainView,
    caller: &Caller,
    (destination, destination_address): (Arc<Workload>, SocketAddr),
) {
    let tunnelled = view.route.protocol == "hbone";
    let flow = FlowContext {
        source_address: caller.address,
        source_identity: caller.identity.clone().filter(|_| tunnelled),
        destination,
        destination_address,
    };
    let trace = policy::explain(world, &flow);
    let grounds = &trace.decision.grounds;
    view.policy = Some(deciding_policy(grounds));
    view.missed = grounds.missed.iter().map(ToString::to_string).collect();
    view.dry_run = grounds.dry_run.as_ref().map(ToString::to_string);
    let trial = trace.dry_run.iter().filter(|step| step.dry_run);
    view.considered = trace.steps.iter().chain(trial).map(said).collect();
    match &trace.decision.verdict {
        Ok(_permit) => view.verdict = ExplainedVerdict::Allowed,
        Err(why) => {
            view.verdict = ExplainedVerdict::Denied;
            view.reason = Some(why.as_label().to_owned());
        }
    }
}

/// What a policy said, with its name.
fn said(step: &Step) -> String {
    let Step { policy, dry_run, answer } = step;
    let trial = if *dry_run { " (dry run)" } else { "" };
    let answer = match answer {
        Answer::Mode { level, mode } => {
            let mode = mode.map_or("UNSET, asks further", Mode::as_label);
            format!("{mode} for the {}", level.as_label())
        }
        Answer::Matched { action, rule } => format!("{}: rule {rule} matches", action.as_label()),
        Answer::NotMatched { action, rules } if rules.is_empty() => {
            format!("{}: has no rules", action.as_label())
        }
        Answer::NotMatched { action, rules } => {
            let told = rules.iter().take(TOLD_RULES).enumerate().map(|(rule, misses)| {
                let misses: Vec<String> = misses.iter().map(ToString::to_string).collect();
                format!("rule {rule}: {}", misses.join(", "))
            });
            let more = rules.len().saturating_sub(TOLD_RULES);
            let more = (more > 0).then(|| format!("and {more} more rules"));
            let told: Vec<String> = told.chain(more).collect();
            format!("{}: no rule matches: {}", action.as_label(), told.join("; "))
        }
    };
    format!("{policy}{trial}: {answer}")
}

/// Where the destination is dialled.
fn dialled(world: &World, text: &str) -> Result<SocketAddr, BadQuestion> {
    let no_port = || BadQuestion::NoPort(text.to_owned());
    if let Ok(address) = text.parse::<SocketAddr>() {
        let port = Some(address.port()).filter(|port| *port > 0).ok_or_else(no_port)?;
        return Ok(SocketAddr::new(address.ip().to_canonical(), port));
    }
    let (name, port) = text.rsplit_once(':').ok_or_else(no_port)?;
    let port = port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(no_port)?;
    if let Ok(identity) = SpiffeId::parse(name) {
        let pod = pod_of(world, &identity);
        let pod = pod.ok_or(BadQuestion::NoPodOfIdentity(identity))?;
        let address = pod.addresses.first().ok_or_else(|| no_address(pod))?;
        return Ok(SocketAddr::new(*address, port));
    }
    let object = object(name).ok_or_else(|| BadQuestion::Form(name.to_owned()))?;
    if let Some(pod) = pod_named(world, &object) {
        let address = pod.addresses.first().ok_or_else(|| no_address(pod))?;
        return Ok(SocketAddr::new(*address, port));
    }
    let service = world.service(&object);
    let service = service.ok_or_else(|| BadQuestion::NoSuchDestination(object.to_string()))?;
    let vip = service.vips.first().ok_or_else(|| BadQuestion::Headless(object.clone()))?;
    Ok(SocketAddr::new(*vip, port))
}

fn caller(world: &World, text: &str, ipv6: bool) -> Result<Caller, BadQuestion> {
    if let Ok(address) = text.parse::<IpAddr>() {
        let address = address.to_canonical();
        let workload = world.workload_at(address).map(Arc::clone);
        let identity = workload.as_ref().map(|pod| pod.identity.clone());
        return Ok(Caller { address, has_address: true, workload, identity });
    }
    let (pod, identity) = match SpiffeId::parse(text) {
        Ok(identity) => (pod_of(world, &identity), identity),
        Err(_) => {
            let object = object(text).ok_or_else(|| BadQuestion::Form(text.to_owned()))?;
            let pod = pod_named(world, &object);
            let pod = pod.ok_or_else(|| BadQuestion::NoSuchPod(object.to_string()))?;
            (Some(pod), pod.identity.clone())
        }
    };
    let addresses = pod.map_or(&[][..], |pod| &pod.addresses);
    let address = addresses.iter().find(|address| address.is_ipv6() == ipv6);
    let nobodys: IpAddr =
        if ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    Ok(Caller {
        address: address.copied().unwrap_or(nobodys),
        has_address: address.is_some(),
        workload: pod.map(Arc::clone),
        identity: Some(identity),
    })
}

/// What carries the flow: as the question says, or as the caller's agent would have it.
fn chosen(
    world: &World,
    question: &Question,
    caller: &Caller,
    callee: Option<&Arc<Workload>>,
    plan: &Plan,
) -> Result<RouteView, BadQuestion> {
    let plain = |reason: Option<&str>| RouteView {
        protocol: "plaintext".to_owned(),
        reason: reason.map(str::to_owned),
        tls: None,
    };
    if let Plan::Refuse(why) = plan {
        let reason = Some(why.as_label().to_owned());
        return Ok(RouteView { protocol: "none".to_owned(), reason, tls: None });
    }
    let tunnel = || -> Result<RouteView, BadQuestion> {
        let without = || BadQuestion::NoIdentity(question.source.clone());
        let identity = caller.identity.as_ref().ok_or_else(without)?;
        let tls = callee.map(|callee| {
            format!(
                "TLS 1.3 to port {TUNNEL_PORT}: the source proves {identity}, {} must prove {}",
                callee.name, callee.identity
            )
        });
        Ok(RouteView { protocol: "hbone".to_owned(), reason: None, tls })
    };
    match (question.protocol, plan) {
        (Some(Carrier::Hbone), _) => tunnel(),
        (Some(Carrier::Plaintext), _) => Ok(plain(Some("asked_for"))),
        (None, Plan::Plaintext(direct)) => Ok(plain(Some(direct.reason.as_label()))),
        (None, Plan::Tunnel(_)) => match &caller.workload {
            // An identity that was asked for by its name is proved in a tunnel or not at all.
            None if caller.identity.is_some() => tunnel(),
            None => Ok(plain(Some("unknown_source"))),
            Some(pod) => match enrolment::select(world, pod) {
                Ok(()) => tunnel(),
                Err(why) => Ok(plain(Some(&format!("source_{}", why.as_label())))),
            },
        },
        (None, Plan::Refuse(_)) => Ok(plain(None)),
    }
}

fn notes(world: &World, caller: &Caller, service: Option<&ObjectName>) -> Vec<String> {
    let mut notes = Vec::new();
    if !caller.has_address {
        notes.push(format!(
            "no pod has the identity of the source: rules about addresses are asked with {}",
            caller.address
        ));
    }
    if let Some(service) = service {
        let ready = world.endpoints(service).iter().filter(|endpoint| endpoint.ready).count();
        if ready > 1 {
            notes.push(format!(
                "service {service} has {ready} ready endpoints; this is the answer of one of them"
            ));
        }
    }
    notes
}

fn party(world: &World, address: Option<IpAddr>, pod: Option<&Arc<Workload>>) -> ExplainedParty {
    let selected = pod.map(|pod| enrolment::select(world, pod));
    ExplainedParty {
        address,
        pod: pod.map(|pod| ObjectRef::from(&pod.name)),
        node: pod.and_then(|pod| pod.node.as_ref()).map(ToString::to_string),
        identity: pod.map(|pod| pod.identity.to_string()),
        enrolled: selected.is_some_and(|selected| selected.is_ok()),
        not_enrolled: match selected {
            None => Some("not_a_pod".to_owned()),
            Some(Ok(())) => None,
            Some(Err(why)) => Some(why.as_label().to_owned()),
        },
    }
}

fn object(text: &str) -> Option<ObjectName> {
    let (namespace, name) = text.split_once('/')?;
    let sound = !namespace.is_empty() && !name.is_empty() && !name.contains('/');
    sound.then(|| ObjectName::new(namespace, name))
}

/// The pod of this name that runs; a finished one only if there is no other.
fn pod_named<'a>(world: &'a World, name: &ObjectName) -> Option<&'a Arc<Workload>> {
    let named = || world.workloads().filter(|pod| pod.name == *name);
    named().find(|pod| pod.phase == Phase::Active).or_else(|| named().next())
}

fn pod_of<'a>(world: &'a World, identity: &SpiffeId) -> Option<&'a Arc<Workload>> {
    let mut pods = world.workloads();
    pods.find(|pod| pod.identity == *identity && pod.phase == Phase::Active)
}

fn no_address(pod: &Workload) -> BadQuestion {
    BadQuestion::NoSuchDestination(format!("{} with an address", pod.name))
}

#[cfg(test)]
mod tests;
