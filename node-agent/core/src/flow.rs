//! One TCP flow, as policy decides it and as people see it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::certificate::NoCertificate;
use crate::enrolment::NotEnrolled;
use crate::hbone::Malformed;
use crate::identity::SpiffeId;
use crate::policy::{Denied, Grounds};
use crate::route::Refused;
use crate::term::Outlived;
use crate::workload::{ObjectName, Workload};

/// A flow's number, unique on its node while the agent runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FlowId(pub u64);

/// Which side of the flow this node's pod is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// The pod opened the connection.
    Outbound,
    /// The pod received the connection.
    Inbound,
}

/// What carries the flow between the two pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// An HBONE tunnel: encrypted, both ends authenticated.
    Hbone,
    /// Plain TCP, and why.
    Plaintext(PlaintextReason),
    /// Not known: the flow ended before a way was chosen.
    Undecided,
}

/// Why a flow is not in a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlaintextReason {
    /// The destination is no pod or service that discovery knows.
    UnknownDestination,
    /// The destination is a pod that is not enrolled.
    DestinationNotEnrolled(NotEnrolled),
    /// The destination is the calling pod itself, reached through a service.
    SamePod,
    /// The source is a pod that is not enrolled (inbound).
    SourceNotEnrolled(NotEnrolled),
    /// The source is no pod that discovery knows (inbound).
    UnknownSource,
    /// The source is an enrolled pod, and its connection came in plaintext all the same: it is
    /// older than the enrolment, or the other node's agent does not know of this pod yet.
    SourceBypassed,
    /// The source is the kubelet, at a port that it probes (inbound).
    Probe,
}

/// One end of a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Party {
    /// Address and port. The source port of a tunnelled flow is not known to its receiver: 0.
    pub address: SocketAddr,
    /// The pod, where discovery knows it.
    pub workload: Option<Arc<Workload>>,
    /// The identity: proved by TLS, or this node's own pod's; `None` for plaintext peers.
    pub identity: Option<SpiffeId>,
}

/// What policy decides on.
#[derive(Debug, Clone)]
pub struct FlowContext {
    /// Who calls. The address is the connection's real one, never a header's claim.
    pub source_address: IpAddr,
    /// The identity that TLS proved; `None` in plaintext.
    pub source_identity: Option<SpiffeId>,
    /// The pod that is called.
    pub destination: Arc<Workload>,
    /// The address that was dialled.
    pub destination_address: SocketAddr,
}

/// What TLS agreed on, in the names of the IANA registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TlsInfo {
    /// Such as `TLSv1.3`.
    pub version: &'static str,
    /// Such as `X25519MLKEM768`.
    pub group: &'static str,
    /// Such as `TLS_AES_256_GCM_SHA384`.
    pub cipher: &'static str,
}

/// Why a flow ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// Both sides finished.
    Finished,
    /// The side that opened the connection reset it.
    ResetBySource,
    /// The side that accepted the connection reset it.
    ResetByDestination,
    /// The host of the side that opened the connection no longer answers TCP.
    SourceSilent,
    /// The host of the side that accepted the connection no longer answers TCP.
    DestinationSilent,
    /// The side that was to read did not, and what waited for it no longer had room on this node.
    MemoryLimit,
    /// The other node's agent asked for something that is no stream.
    Malformed(Malformed),
    /// The routing decision: there was nowhere to go.
    Refused(Refused),
    /// The policy decision at the destination.
    Denied(Denied),
    /// The other node's agent answered this status instead of 200. With 401 it may also have taken its
    /// 200 back, when policy no longer permitted the flow.
    Rejected(u16),
    /// Nothing answered at the destination's tunnel port until the time limit: its node's agent has
    /// not enrolled it, for want of a certificate perhaps, or does not run. Plaintext instead would be
    /// what an attacker wants who keeps the port closed.
    DestinationNotReady,
    /// The connection to the destination, or to its tunnel port, could not be made.
    ConnectFailed(ConnectFailure),
    /// The TLS handshake or the peer's certificate failed.
    Tls(TlsFailure),
    /// The tunnel broke or answered no PING while the flow was open.
    TunnelLost,
    /// The tunnel was opened with a certificate that no longer proves who is at its end.
    TunnelOutlived(Outlived),
    /// The agent has no valid certificate for the pod's identity.
    NoCertificate(NoCertificate),
    /// The pod was deleted or withdrawn from the mesh before the flow could be decided.
    PodGone,
    /// The flow went in plaintext to an address that an enrolled pod was not known to have: it would
    /// go through a tunnel now.
    Strayed,
    /// The agent ended the flow when its drain deadline passed.
    Drained,
    /// A socket operation of the agent failed, or the flow's task panicked.
    Local,
}

/// Why a connection could not be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectFailure {
    /// Nothing listens there.
    Refused,
    /// No answer within the time limit.
    TimedOut,
    /// No route, or an ICMP error.
    Unreachable,
    /// This node ran out of file descriptors, ports or memory.
    Resources,
    /// The programs of another agent on this node captured the agent's own socket.
    Captured,
    /// Anything else the kernel said.
    Other,
}

/// Why a TLS handshake failed, as far as this side can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsFailure {
    /// The peer's chain does not end in the trust bundle.
    UntrustedIssuer,
    /// The peer's certificate has expired.
    Expired,
    /// The peer's certificate is not valid yet.
    NotYetValid,
    /// The peer presented no certificate.
    NoPeerCertificate,
    /// The certificate has not exactly one SPIFFE URI name of the form adit accepts.
    NotSpiffe,
    /// The peer's identity is of another trust domain.
    OtherTrustDomain,
    /// The peer proved another identity than discovery gave for the dialled address.
    WrongIdentity,
    /// The peer refused our certificate.
    RejectedByPeer,
    /// The peer speaks no TLS 1.3 with ALPN `h2`, or closed the connection in between.
    Protocol,
    /// The handshake was not finished within the time limit.
    TimedOut,
}

/// Everything there is to say of a flow: while it lives, and for good when it has ended.
#[derive(Debug, Clone)]
pub struct FlowRecord {
    /// The flow's number.
    pub id: FlowId,
    /// Which side this node's pod is on.
    pub direction: Direction,
    /// Who called.
    pub source: Party,
    /// Who was called: the endpoint, not the service.
    pub destination: Party,
    /// The service whose virtual address was dialled.
    pub service: Option<ObjectName>,
    /// What carried the flow.
    pub protocol: Protocol,
    /// What TLS agreed on, for a tunnelled flow.
    pub tls: Option<TlsInfo>,
    /// The grounds of the last decision of this node's agent on it; `None` while it is undecided,
    /// and for outbound flows, which the other agent decides.
    pub grounds: Option<Arc<Grounds>>,
    /// When the flow was accepted.
    pub started: SystemTime,
    /// How long it has lasted.
    pub duration: Duration,
    /// Payload bytes from source to destination.
    pub sent: u64,
    /// Payload bytes from destination to source.
    pub received: u64,
    /// Why it ended; `None` while it lives.
    pub end: Option<CloseReason>,
}

/// What a flow that lives has moved so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// The flow's number.
    pub id: FlowId,
    /// Payload bytes from source to destination.
    pub sent: u64,
    /// Payload bytes from destination to source.
    pub received: u64,
}

impl Moved {
    /// What was moved since an earlier time.
    #[must_use]
    pub const fn since(&self, earlier: &Self) -> Self {
        Self {
            id: self.id,
            sent: self.sent.saturating_sub(earlier.sent),
            received: self.received.saturating_sub(earlier.received),
        }
    }
}

impl FlowRecord {
    /// The grounds of a decision that no record of the flow has told before: it was let in, or it was
    /// refused, at once or later.
    #[must_use]
    pub fn decision(&self) -> Option<&Grounds> {
        let tells = matches!(self.end, None | Some(CloseReason::Denied(_)));
        self.grounds.as_deref().filter(|_| tells)
    }
}

impl Direction {
    /// `outbound` or `inbound`.
    #[must_use]
    pub const fn as_label(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

impl Protocol {
    /// `hbone`, `plaintext` or `undecided`.
    #[must_use]
    pub const fn as_label(self) -> &'static str {
        match self {
            Self::Hbone => "hbone",
            Self::Plaintext(_) => "plaintext",
            Self::Undecided => "undecided",
        }
    }
}

impl PlaintextReason {
    /// The spelling used by metrics, log lines and the command line.
    #[must_use]
    pub const fn as_label(self) -> &'static str {
        match self {
            Self::UnknownDestination => "unknown_destination",
            Self::DestinationNotEnrolled(why) => match why {
                NotEnrolled::NamespaceNotLabelled => "destination_namespace_not_labelled",
                NotEnrolled::PodOptedOut => "destination_opted_out",
                NotEnrolled::HostNetwork => "destination_host_network",
                NotEnrolled::Finished => "destination_finished",
                NotEnrolled::StaticPod => "destination_static_pod",
            },
            Self::SourceNotEnrolled(why) => match why {
                NotEnrolled::NamespaceNotLabelled => "source_namespace_not_labelled",
                NotEnrolled::PodOptedOut => "source_opted_out",
                NotEnrolled::HostNetwork => "source_host_network",
                NotEnrolled::Finished => "source_finished",
                NotEnrolled::StaticPod => "source_static_pod",
            },
            Self::SamePod => "same_pod",
            Self::UnknownSource => "unknown_source",
            Self::SourceBypassed => "source_bypassed",
            Self::Probe => "probe",
        }
    }
}

impl CloseReason {
    /// The spelling used by metrics, log lines and the command line.
    #[must_use]
    pub const fn as_label(self) -> &'static str {
        match self {
            Self::Finished => "finished",
            Self::ResetBySource => "reset_by_source",
            Self::ResetByDestination => "reset_by_destination",
            Self::Refused(why) => why.as_label(),
            Self::Denied(why) => why.as_label(),
            Self::Rejected(400) => "rejected_by_peer_400",
            Self::Rejected(401) => "denied_by_peer",
            Self::Rejected(503) => "unavailable_at_peer",
            Self::Rejected(_) => "rejected_by_peer",
            Self::DestinationNotReady => "destination_not_ready",
            Self::ConnectFailed(why) => why.as_label(),
            Self::Tls(why) => why.as_label(),
            Self::SourceSilent => "source_silent",
            Self::DestinationSilent => "destination_silent",
            Self::MemoryLimit => "memory_limit",
            Self::Malformed(why) => why.as_label(),
            Self::TunnelLost => "tunnel_lost",
            Self::TunnelOutlived(what) => what.as_label(),
            Self::NoCertificate(why) => match why {
                NoCertificate::Awaited => "no_certificate_awaited",
                NoCertificate::Expired => "no_certificate_expired",
                NoCertificate::NotYetValid => "no_certificate_not_yet_valid",
                NoCertificate::Unreachable => "no_certificate_ca_unreachable",
                NoCertificate::TimedOut => "no_certificate_ca_timed_out",
                NoCertificate::Unauthenticated => "no_certificate_ca_unauthenticated",
                NoCertificate::PermissionDenied => "no_certificate_ca_permission_denied",
                NoCertificate::Failed => "no_certificate_ca_failed",
                NoCertificate::BadAnswer => "no_certificate_ca_bad_answer",
                NoCertificate::NotValidNow => "no_certificate_ca_not_valid_now",
                NoCertificate::CaExpired => "no_certificate_ca_expired",
                NoCertificate::Local => "no_certificate_local",
            },
            Self::PodGone => "pod_gone",
            Self::Strayed => "destination_is_enrolled",
            Self::Drained => "drained",
            Self::Local => "local_error",
        }
    }

    /// Whether the flow did what its ends wanted; a reset is theirs to choose.
    #[must_use]
    pub const fn is_ordinary(self) -> bool {
        matches!(self, Self::Finished | Self::ResetBySource | Self::ResetByDestination)
    }
}

impl ConnectFailure {
    /// The spelling used by metrics, log lines and the command line.
    #[must_use]
    pub const fn as_label(self) -> &'static str {
        match self {
            Self::Refused => "connect_refused",
            Self::TimedOut => "connect_timed_out",
            Self::Unreachable => "connect_unreachable",
            Self::Resources => "connect_no_resources",
            Self::Captured => "captured_by_another_agent",
            Self::Other => "connect_failed",
        }
    }
}

impl TlsFailure {
    /// The spelling used by metrics, log lines and the command line.
    #[must_use]
    pub const fn as_label(self) -> &'static str {
        match self {
            Self::UntrustedIssuer => "tls_untrusted_issuer",
            Self::Expired => "tls_certificate_expired",
            Self::NotYetValid => "tls_certificate_not_yet_valid",
            Self::NoPeerCertificate => "tls_no_peer_certificate",
            Self::NotSpiffe => "tls_not_spiffe",
            Self::OtherTrustDomain => "tls_other_trust_domain",
            Self::WrongIdentity => "tls_wrong_identity",
            Self::RejectedByPeer => "tls_rejected_by_peer",
            Self::Protocol => "tls_protocol",
            Self::TimedOut => "tls_timed_out",
        }
    }
}

impl fmt::Display for FlowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
