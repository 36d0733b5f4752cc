//! A flow, as `adit flows` shows it.

use std::fmt;
use std::net::IpAddr;

use adit_core::flow::{CloseReason, FlowRecord, Party, Protocol};
use serde::{Deserialize, Serialize};

use crate::admin::view::{ObjectRef, Timestamp, milliseconds};
use crate::telemetry::deciding_policy;

/// A flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowView {
    /// Unique on its node while the agent runs.
    pub id: u64,
    /// Whether it lives.
    pub state: FlowState,
    /// `outbound` or `inbound`: which side this node's pod is on.
    pub direction: String,
    /// Who called.
    pub source: PartyView,
    /// Who was called: the endpoint, not the service.
    pub destination: PartyView,
    /// The service whose virtual address was dialled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<ObjectRef>,
    /// `hbone`, `plaintext` or `undecided`.
    pub protocol: String,
    /// Why it is in plaintext.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plaintext_reason: Option<String>,
    /// What TLS agreed on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsView>,
    /// What was decided.
    pub verdict: Verdict,
    /// The policy and rule that decided, or `default`; nothing where this node's agent does not
    /// decide. Where no rule lets the flow in: the rule that came nearest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// What kept that rule from matching.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missed: Vec<String>,
    /// What the verdict would be if dry-run policies were enforced, where there are any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dry_run: Option<String>,
    /// When it was accepted.
    pub started: Timestamp,
    /// How long it lasted, or has lasted.
    pub duration_ms: u64,
    /// Payload bytes from source to destination.
    pub bytes_sent: u64,
    /// Payload bytes from destination to source.
    pub bytes_received: u64,
    /// Why it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<String>,
}

/// One end of a flow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PartyView {
    /// Its address.
    pub address: IpAddr,
    /// Its port; 0 where it is not known.
    pub port: u16,
    /// The pod, where discovery knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<PodRef>,
    /// The identity, where it is proved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
}

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// The controller it is known by, such as `deployment/cart`.
    pub owner: String,
}

/// What TLS agreed on, in the names of the IANA registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TlsView {
    /// Such as `TLSv1.3`.
    pub version: String,
    /// Such as `X25519MLKEM768`.
    pub group: String,
    /// Such as `TLS_AES_256_GCM_SHA384`.
    pub cipher: String,
}

/// Whether a flow lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FlowState {
    /// It lives.
    Open,
    /// It has ended.
    Ended,
}

/// What was decided on a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Not decided yet.
    Pending,
    /// It may pass, and did.
    Allowed,
    /// Policy at the destination refused it.
    Denied,
    /// There was nowhere to send it.
    Refused,
    /// It may pass, but could not be set up.
    Failed,
}

/// One line of the stream of flows. An empty line keeps the stream alive and means nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FollowEvent {
    /// A flow opened or ended.
    Flow(Box<FlowView>),
    /// The follower was too slow and lost so many events.
    Missed(u64),
    /// So many events never reached anybody: the workers were faster than the agent could record.
    Lost(u64),
}

impl FlowState {
    /// `open` or `ended`.
    #[must_use]
    pub const fn as_label(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Ended => "ended",
        }
    }
}

impl Verdict {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Pending, Self::Allowed, Self::Denied, Self::Refused, Self::Failed];

    /// The verdict on a flow.
    #[must_use]
    pub const fn of(flow: &FlowRecord) -> Self {
        match (flow.end, flow.protocol) {
            (None, Protocol::Undecided) => Self::Pending,
            (None, Protocol::Hbone | Protocol::Plaintext(_)) => Self::Allowed,
            (Some(end), _) => Self::of_end(end),
        }
    }

    const fn of_end(end: CloseReason) -> Self {
        match end {
            CloseReason::Finished
            | CloseReason::ResetBySource
            | CloseReason::ResetByDestination
            | CloseReason::SourceSilent
            | CloseReason::DestinationSilent
            | CloseReason::MemoryLimit
            | CloseReason::TunnelLost
            | CloseReason::TunnelOutlived(_)
            | CloseReason::Strayed
            | CloseReason::Drained => Self::Allowed,
            CloseReason::Denied(_) | CloseReason::Rejected(401) => Self::Denied,
            CloseReason::Refused(_) | CloseReason::Malformed(_) => Self::Refused,
            CloseReason::Rejected(_)
            | CloseReason::DestinationNotReady
            | CloseReason::ConnectFailed(_)
            | CloseReason::Tls(_)
            | CloseReason::NoCertificate(_)
            | CloseReason::PodGone
            | CloseReason::Local => Self::Failed,
        }
    }

    /// The spelling used everywhere.
    #[must_use]
    pub const fn as_label(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for PodRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl From<&Party> for PartyView {
    fn from(party: &Party) -> Self {
        Self {
            address: party.address.ip(),
            port: party.address.port(),
            pod: party.workload.as_ref().map(|pod| PodRef {
                namespace: pod.name.namespace.to_string(),
                name: pod.name.name.to_string(),
                uid: pod.uid.to_string(),
                owner: format!("{}/{}", pod.owner.kind, pod.owner.name),
            }),
            identity: party.identity.as_ref().map(ToString::to_string),
        }
    }
}

impl From<&FlowRecord> for FlowView {
    fn from(flow: &FlowRecord) -> Self {
        let grounds = flow.grounds.as_deref();
        Self {
            id: flow.id.0,
            state: if flow.end.is_none() { FlowState::Open } else { FlowState::Ended },
            direction: flow.direction.as_label().to_owned(),
            source: PartyView::from(&flow.source),
            destination: PartyView::from(&flow.destination),
            service: flow.service.as_ref().map(ObjectRef::from),
            protocol: flow.protocol.as_label().to_owned(),
            plaintext_reason: match flow.protocol {
                Protocol::Plaintext(why) => Some(why.as_label().to_owned()),
                Protocol::Hbone | Protocol::Undecided => None,
            },
            tls: flow.tls.map(|tls| TlsView {
                version: tls.version.to_owned(),
                group: tls.group.to_owned(),
                cipher: tls.cipher.to_owned(),
            }),
            verdict: Verdict::of(flow),
            policy: grounds.map(deciding_policy),
            missed: grounds.map_or_else(Vec::new, |grounds| {
                grounds.missed.iter().map(ToString::to_string).collect()
            }),
            dry_run: grounds.and_then(|grounds| grounds.dry_run.as_ref()).map(ToString::to_string),
            started: flow.started.into(),
            duration_ms: milliseconds(flow.duration),
            bytes_sent: flow.sent,
            bytes_received: flow.received,
            end: flow.end.map(|end| end.as_label().to_owned()),
        }
    }
}
