//! What `adit … -o json` prints, as far as the tests look at it. A field that is missing there is
//! an error, so that a renamed one does not go unnoticed.

use std::net::IpAddr;

use serde::Deserialize;

/// A flow.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Flow {
    /// `outbound` or `inbound`.
    pub direction: String,
    /// Who called.
    pub source: Party,
    /// Who was called.
    pub destination: Party,
    /// The service that was dialled.
    pub service: Option<String>,
    /// `hbone`, `plaintext` or `undecided`.
    pub protocol: String,
    /// Why it is plaintext.
    pub reason: Option<String>,
    /// What TLS agreed on.
    pub tls: Option<Tls>,
    /// Payload bytes from source to destination.
    pub sent: u64,
    /// Payload bytes from destination to source.
    pub received: u64,
    /// Why it ended; none while it lives.
    pub end: Option<String>,
}

/// One end of a flow.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Party {
    /// Address and port.
    pub address: std::net::SocketAddr,
    /// `namespace/name` of the pod.
    pub workload: Option<String>,
    /// Its identity.
    pub identity: Option<String>,
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

/// A pod of the node.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadView {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// How far its enrolment is.
    pub state: String,
    /// Why it is not enrolled, or what failed.
    pub reason: Option<String>,
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
}

impl Flow {
    /// Whether it is between these pods, seen from this side.
    #[must_use]
    pub fn is(&self, direction: &str, source: &str, destination: &str) -> bool {
        self.direction == direction
            && self.source.workload.as_deref() == Some(source)
            && self.destination.workload.as_deref() == Some(destination)
    }

    /// Whether it is to this port.
    #[must_use]
    pub fn to_port(&self, port: u16) -> bool {
        self.destination.address.port() == port
    }
}

impl WorkloadView {
    /// `namespace/name`.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Whether nothing more is going to happen to it.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        matches!(self.state.as_str(), "enrolled" | "not_enrolled")
    }
}
