//! Workloads, services, certificates and tunnels.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use adit_core::enrolment;
use adit_core::workload::{Affinity, NodeName, Service, Workload};
use adit_core::world::World;
use serde::{Deserialize, Serialize};

use crate::admin::view::{ObjectRef, Timestamp, TlsView};
use crate::enrol::{PodState, PodStatus};
use crate::worker::TunnelStatus;

/// A pod that discovery knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadView {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// The node it runs on, if it is scheduled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Whether that is this agent's node.
    pub local: bool,
    /// Its identity.
    pub identity: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The controller it is known by, such as `deployment/cart`.
    pub owner: String,
    /// How it is reached: `hbone` or `plaintext`.
    pub protocol: String,
    /// Why it does not belong to the mesh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// How far its enrolment is, for pods of this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enrolment: Option<PodStateView>,
}

/// How far a pod's enrolment is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodStateView {
    /// `not_enrolled`, `awaiting_namespace`, `awaiting_certificate`, `enrolling`, `enrolled`,
    /// `withdrawing` or `failed`.
    pub state: String,
    /// The step that is being done or undone, or that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Since when.
    pub since: Timestamp,
}

/// A service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceView {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its virtual addresses; empty for a headless service.
    pub addresses: Vec<IpAddr>,
    /// Its TCP ports.
    pub ports: Vec<ServicePortView>,
    /// How long a client stays with its endpoint, where it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_affinity_seconds: Option<u64>,
    /// Its endpoints.
    pub endpoints: Vec<EndpointView>,
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicePortView {
    /// Its name; empty where a service has a single, unnamed port.
    pub name: String,
    /// The port on the virtual address.
    pub port: u16,
}

/// An endpoint of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointView {
    /// Its address.
    pub address: IpAddr,
    /// Port name → number.
    pub ports: BTreeMap<String, u16>,
    /// Whether new connections go there.
    pub ready: bool,
    /// The pod behind it, where discovery knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<ObjectRef>,
}

/// The certificate of an identity. Never its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CertificateView {
    /// The SPIFFE id.
    pub identity: String,
    /// `valid`, `expired`, `not_yet_valid` (the clock was set back), `requesting` (the first one is
    /// awaited) or `failed` (there never was one).
    pub state: String,
    /// The serial number in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// When its life begins.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Timestamp>,
    /// When its life ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<Timestamp>,
    /// How often it was renewed.
    pub renewals: u64,
    /// When it is to be renewed, or asked for again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_attempt: Option<Timestamp>,
    /// Why the last attempt failed; nothing once one succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// The same in one word, as flows and metrics say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error_reason: Option<String>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

/// A tunnel that is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TunnelView {
    /// `outbound`: dialled by this node; `inbound`: accepted by it.
    pub direction: String,
    /// The identity of this node's pod.
    pub local_identity: String,
    /// The identity that the other end proved.
    pub peer_identity: String,
    /// The other end's address.
    pub peer: SocketAddr,
    /// What TLS agreed on.
    pub tls: TlsView,
    /// Streams open now.
    pub streams: u32,
    /// Streams opened since it was made.
    pub streams_total: u64,
    /// When it was made.
    pub since: Timestamp,
    /// Whether it takes new streams.
    pub accepting: bool,
    /// The worker that owns it.
    pub worker: usize,
}

impl WorkloadView {
    /// A pod, seen from `node`. `status` is what enrolment says of it.
    pub(in crate::admin) fn new(
        world: &World,
        node: &NodeName,
        pod: &Workload,
        status: Option<&PodStatus>,
    ) -> Self {
        let selected = enrolment::select(world, pod);
        Self {
            namespace: pod.name.namespace.to_string(),
            name: pod.name.name.to_string(),
            uid: pod.uid.to_string(),
            node: pod.node.as_ref().map(ToString::to_string),
            local: pod.node.as_ref() == Some(node),
            identity: pod.identity.to_string(),
            addresses: pod.addresses.clone(),
            owner: format!("{}/{}", pod.owner.kind, pod.owner.name),
            protocol: if selected.is_ok() { "hbone" } else { "plaintext" }.to_owned(),
            reason: selected.err().map(|why| why.as_label().to_owned()),
            enrolment: status.map(PodStateView::from),
        }
    }
}

/// The spelling of a state.
pub(in crate::admin) const fn state_label(state: &PodState) -> &'static str {
    match state {
        PodState::NotEnrolled(_) => "not_enrolled",
        PodState::AwaitingNamespace => "awaiting_namespace",
        PodState::AwaitingCertificate => "awaiting_certificate",
        PodState::Enrolling(_) => "enrolling",
        PodState::Enrolled => "enrolled",
        PodState::Withdrawing(_) => "withdrawing",
        PodState::Failed { .. } => "failed",
    }
}

impl From<&PodStatus> for PodStateView {
    fn from(status: &PodStatus) -> Self {
        let (step, error) = match &status.state {
            PodState::NotEnrolled(why) if why.is_refusal() => (None, Some(why.to_string())),
            PodState::NotEnrolled(_)
            | PodState::AwaitingNamespace
            | PodState::AwaitingCertificate
            | PodState::Enrolled => (None, None),
            PodState::Enrolling(step) | PodState::Withdrawing(step) => (Some(*step), None),
            PodState::Failed { step, error } => (*step, Some(error.clone())),
        };
        Self {
            state: state_label(&status.state).to_owned(),
            step: step.map(|step| step.as_label().to_owned()),
            error,
            since: status.since.into(),
        }
    }
}

impl ServiceView {
    /// A service with its endpoints.
    pub(in crate::admin) fn new(world: &World, service: &Service) -> Self {
        let endpoints = world.endpoints(&service.name).iter();
        Self {
            namespace: service.name.namespace.to_string(),
            name: service.name.name.to_string(),
            addresses: service.vips.clone(),
            ports: service
                .ports
                .iter()
                .map(|port| ServicePortView { name: port.name.to_string(), port: port.port })
                .collect(),
            client_affinity_seconds: match service.affinity {
                Affinity::None => None,
                Affinity::ClientIp(time) => Some(time.as_secs()),
            },
            endpoints: endpoints
                .map(|endpoint| EndpointView {
                    address: endpoint.address,
                    ports: endpoint
                        .ports
                        .iter()
                        .map(|(name, port)| (name.to_string(), *port))
                        .collect(),
                    ready: endpoint.ready,
                    pod: world.workload_at(endpoint.address).map(|pod| ObjectRef::from(&pod.name)),
                })
                .collect(),
        }
    }
}

impl From<&TunnelStatus> for TunnelView {
    fn from(tunnel: &TunnelStatus) -> Self {
        Self {
            direction: tunnel.direction.as_label().to_owned(),
            local_identity: tunnel.local_identity.to_string(),
            peer_identity: tunnel.peer_identity.to_string(),
            peer: tunnel.peer,
            tls: TlsView {
                version: tunnel.tls.version.to_owned(),
                group: tunnel.tls.group.to_owned(),
                cipher: tunnel.tls.cipher.to_owned(),
            },
            streams: tunnel.streams,
            streams_total: tunnel.streams_total,
            since: tunnel.since.into(),
            accepting: tunnel.accepting,
            worker: tunnel.worker,
        }
    }
}
