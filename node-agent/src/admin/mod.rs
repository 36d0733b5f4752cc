//! The windows of the agent: HTTP + JSON on a Unix socket for `adit status` and its like, and
//! metrics and readiness on TCP ports. Looks at what others know; the only things it changes are the
//! log filter and, when told to, the end of the process.
//!
//! # The API
//!
//! | | |
//! |---|---|
//! | `GET /v1/status` | [`view::StatusView`] |
//! | `GET /v1/workloads`, `/v1/services` | lists, by namespace and name |
//! | `GET /v1/certs`, `/v1/tunnels` | lists |
//! | `GET /v1/policies` | list, by namespace and name; `?namespace=`, `?workload=` |
//! | `GET /v1/explain?source=…&destination=…` | [`view::ExplainView`]; see [`explain::Question`] |
//! | `GET /v1/flows` | list, oldest first; filters: see [`filter::FlowFilter`] |
//! | `GET /v1/flows?follow=true` | the same, then what comes: a [`view::FollowEvent`] a line |
//! | `GET`, `PUT /v1/log-level` | [`view::LogLevelView`] |
//! | `POST /v1/drain?deadlineMs=30000` | [`view::DrainView`], when it is over |
//! | `POST /v1/cni` | [`crate::cni::Request`] → [`crate::cni::Answer`], when the pod may start or not |
//!
//! Errors are [`view::ErrorView`].

pub mod explain;
pub mod filter;
mod follow;
mod http;
mod routes;
mod scrape;
mod socket;
pub mod view;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use adit_core::flow::FlowRecord;
use adit_core::identity::TrustDomain;
use adit_core::policy::PolicyId;
use adit_core::workload::NodeName;
use futures_util::future::BoxFuture;
use serde::Deserialize;

use crate::admin::view::{CertificateView, Fact, Problem};
use crate::cni::{Answer, Request};
use crate::discovery::Worlds;
use crate::enrol::PodStatus;
use crate::observer::Observer;
use crate::telemetry::{LogControl, Metrics, Readiness};
use crate::worker::TunnelStatus;

pub use http::{ListenError, listen};
pub use scrape::{metrics, readiness};
pub use socket::{Allow, Socket, SocketError, owner_or_root};

/// The section `admin` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct AdminSettings {
    /// The path of the socket. Its directory is made with mode 0700 if it is missing.
    pub socket: PathBuf,
}

/// The section `readiness` of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct ReadinessSettings {
    /// Where `/healthz/ready` is served, in the node's network namespace.
    pub address: SocketAddr,
}

/// The socket's path, unless it is configured.
pub const DEFAULT_SOCKET: &str = "/run/adit/adit.sock";

impl Default for AdminSettings {
    fn default() -> Self {
        Self { socket: PathBuf::from(DEFAULT_SOCKET) }
    }
}

impl Default for ReadinessSettings {
    fn default() -> Self {
        Self { address: SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 15021)) }
    }
}

/// What this agent is.
#[derive(Debug, Clone)]
pub struct NodeFacts {
    /// The node's name.
    pub node: NodeName,
    /// The cluster's name.
    pub cluster: String,
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// When the agent started.
    pub started: SystemTime,
}

/// How discovery is.
#[derive(Debug, Clone, Default)]
pub struct DiscoveryFacts {
    /// Such as `manifests /etc/adit/manifests`.
    pub source: String,
    /// When something changed last.
    pub updated: Option<SystemTime>,
    /// What is rejected now, one by one.
    pub errors: Vec<String>,
    /// Which of them says that what is in force is not what the source says now.
    pub stale: Option<String>,
    /// Policies whose newest version is wrong, and how.
    pub rejected: BTreeMap<PolicyId, String>,
    /// Why not all NetworkPolicies of the cluster may be known.
    pub network_policies_lack: Option<String>,
}

/// The parts of the agent that are looked at. Composed by `app`.
pub trait Sources: Send + Sync + 'static {
    /// The flows that live now.
    fn flows(&self) -> BoxFuture<'_, Vec<FlowRecord>>;
    /// The tunnels that are open now.
    fn tunnels(&self) -> BoxFuture<'_, Vec<TunnelStatus>>;
    /// The pods of this node.
    fn pods(&self) -> BoxFuture<'_, Vec<PodStatus>>;
    /// The certificates of this node's identities.
    fn certificates(&self) -> Vec<CertificateView>;
    /// How discovery is.
    fn discovery(&self) -> DiscoveryFacts;
    /// What the kernel's side found and did.
    fn datapath(&self) -> Vec<Fact>;
    /// What is wrong that the other answers do not show.
    fn problems(&self) -> BoxFuture<'_, Vec<Problem>>;
    /// When the flows that are left are cut, while the agent drains.
    fn draining_until(&self) -> Option<SystemTime>;
    /// Whether a pod that is being made may start, as soon as that is known.
    fn admit(&self, request: Request) -> BoxFuture<'_, Answer>;
    /// Takes no new flow, lets the open ones end until the deadline has passed, ends the rest, and
    /// says how many those were. The process may end afterwards.
    fn drain(&self, deadline: Duration) -> BoxFuture<'_, usize>;
}

/// Everything the windows look through.
pub struct State {
    /// What this agent is.
    pub facts: NodeFacts,
    /// The parts that are looked at.
    pub sources: Box<dyn Sources>,
    /// The world.
    pub worlds: Worlds,
    /// Recent flows and those to come.
    pub observer: Observer,
    /// Metrics.
    pub metrics: Metrics,
    /// Readiness.
    pub readiness: Readiness,
    /// The log.
    pub log: LogControl,
}

/// Shared by all requests.
pub type Shared = Arc<State>;

#[cfg(test)]
pub(crate) mod tests;
