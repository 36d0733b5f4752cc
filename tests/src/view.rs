//! What `adit … -o json` prints, as far as the tests look at it. A field that is missing there is
//! an error, so that a renamed one does not go unnoticed.

use std::net::IpAddr;

use serde::Deserialize;

/// A flow.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Flow {
    /// Its number.
    pub id: u64,
    /// `open` or `ended`.
    pub state: String,
    /// `outbound` or `inbound`.
    pub direction: String,
    /// Who called.
    pub source: Party,
    /// Who was called.
    pub destination: Party,
    /// The service that was dialled.
    pub service: Option<Object>,
    /// `hbone`, `plaintext` or `undecided`.
    pub protocol: String,
    /// Why it is plaintext.
    pub plaintext_reason: Option<String>,
    /// What TLS agreed on.
    pub tls: Option<Tls>,
    /// `allowed`, `denied`, `refused` or `failed`.
    pub verdict: String,
    /// The policy that decided, or `default`.
    pub policy: Option<String>,
    /// What kept the nearest rule from matching.
    #[serde(default)]
    pub missed: Vec<String>,
    /// What dry-run policies would have done.
    pub dry_run: Option<String>,
    /// Payload bytes from source to destination.
    pub bytes_sent: u64,
    /// Payload bytes from destination to source.
    pub bytes_received: u64,
    /// Why it ended; none while it lives.
    pub end: Option<String>,
}

/// One end of a flow.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Party {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// The pod.
    pub pod: Option<Object>,
    /// Its identity.
    pub identity: Option<String>,
}

/// The name of a namespaced object.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Object {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// What TLS agreed on.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tls {
    /// Such as `TLSv1.3`.
    pub version: String,
    /// Such as `X25519MLKEM768`.
    pub group: String,
    /// Such as `TLS_AES_256_GCM_SHA384`.
    pub cipher: String,
}

/// A pod of the cluster.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    /// Its UID.
    pub uid: String,
    /// How it is reached: `hbone` or `plaintext`.
    pub protocol: String,
    /// Why it does not belong to the mesh.
    pub reason: Option<String>,
    /// How far its enrolment is, for pods of the agent's node.
    pub enrolment: Option<Enrolment>,
}

/// How far a pod's enrolment is.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Enrolment {
    /// Such as `enrolled` or `awaiting_certificate`.
    pub state: String,
    /// Why it failed.
    pub error: Option<String>,
}

/// A certificate.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Certificate {
    /// The identity.
    pub identity: String,
    /// Such as `valid`.
    pub state: String,
    /// Its serial number.
    pub serial: Option<String>,
    /// Why the last attempt to get one failed.
    pub last_error: Option<String>,
    /// The same in one word.
    pub last_error_reason: Option<String>,
}

/// A tunnel.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tunnel {
    /// `outbound` or `inbound`.
    pub direction: String,
    /// The identity of this node's pod.
    pub local_identity: String,
    /// The identity that the other end proved.
    pub peer_identity: String,
    /// Streams open now.
    pub streams: u32,
    /// Streams opened since it was made.
    pub streams_total: u64,
    /// Whether it takes new streams.
    pub accepting: bool,
}

/// A policy.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// `PeerAuthentication` or `AuthorizationPolicy`.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `mesh`, `namespace`, `workload` or `none`.
    pub scope: String,
    /// Its action or mode.
    pub action: Option<String>,
    /// Whether it is only evaluated.
    pub dry_run: bool,
    /// Whether a version of it is in force.
    pub in_force: bool,
    /// Whether that is the narrowest reading of an invalid one.
    #[serde(default)]
    pub closed: bool,
    /// `valid`, `partial` or `invalid`.
    pub state: String,
    /// Why it is not valid.
    #[serde(default)]
    pub reasons: Vec<String>,
    /// The pods of the agent's node that it is for.
    pub workloads: Vec<Object>,
    /// How often it decided.
    pub hits: u64,
    /// How often it would have.
    pub dry_run_hits: u64,
}

impl Policy {
    /// Whether it is the one of this kind, namespace and name.
    #[must_use]
    pub fn is(&self, (kind, namespace, name): (&str, &str, &str)) -> bool {
        (&*self.kind, &*self.namespace, &*self.name) == (kind, namespace, name)
    }
}

impl Flow {
    /// Whether it is between these pods (`namespace/name`), seen from this side.
    #[must_use]
    pub fn is(&self, direction: &str, source: &str, destination: &str) -> bool {
        self.direction == direction && self.source.is(source) && self.destination.is(destination)
    }

    /// Whether it is to this port.
    #[must_use]
    pub fn to_port(&self, port: u16) -> bool {
        self.destination.port == port
    }
}

impl Party {
    /// Whether it is this pod (`namespace/name`).
    #[must_use]
    pub fn is(&self, full_name: &str) -> bool {
        self.pod.as_ref().is_some_and(|pod| pod.to_string() == full_name)
    }
}

impl std::fmt::Display for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Workload {
    /// How far its enrolment is, for pods of the agent's node.
    #[must_use]
    pub fn state(&self) -> Option<&str> {
        self.enrolment.as_ref().map(|enrolment| enrolment.state.as_str())
    }
}
