//! The label set of Istio's TCP metrics, as ztunnel exports it.

use std::fmt::{self, Write};
use std::sync::Arc;

use adit_core::flow::{CloseReason, Direction, FlowRecord, Party, Protocol};
use prometheus_client::encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder};

use crate::telemetry::service_host;

/// What Istio says where it does not know.
const UNKNOWN: &str = "unknown";
/// What stands for all label sets beyond the limit.
const OTHER: &str = "other";

/// The labels of one series. Texts are shared: a clone is cheap.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct TrafficLabels {
    reporter: &'static str,
    source: PartyLabels,
    destination: PartyLabels,
    service: ServiceLabels,
    response_flags: &'static str,
    security: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct PartyLabels {
    workload: Arc<str>,
    namespace: Arc<str>,
    canonical_service: Arc<str>,
    canonical_revision: Arc<str>,
    principal: Arc<str>,
    cluster: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct ServiceLabels {
    host: Arc<str>,
    name: Arc<str>,
    namespace: Arc<str>,
}

impl TrafficLabels {
    /// The labels of a flow that lives.
    pub(super) fn of(cluster: &Arc<str>, flow: &FlowRecord) -> Self {
        Self {
            reporter: match flow.direction {
                Direction::Outbound => "source",
                Direction::Inbound => "destination",
            },
            source: PartyLabels::of(cluster, &flow.source),
            destination: PartyLabels::of(cluster, &flow.destination),
            service: ServiceLabels::of(flow),
            response_flags: "-",
            security: match flow.protocol {
                Protocol::Hbone => "mutual_tls",
                Protocol::Plaintext(_) | Protocol::Undecided => "none",
            },
        }
    }

    /// The labels of the same flow once it has ended like this, if they are others.
    pub(super) fn ended(&self, end: CloseReason) -> Option<Self> {
        let response_flags = response_flags(end);
        let other = self.response_flags != response_flags;
        other.then(|| Self { response_flags, ..self.clone() })
    }

    /// The bucket for everything beyond the limit.
    pub(super) fn collapsed(&self) -> Self {
        let other = PartyLabels::all(OTHER);
        Self {
            source: other.clone(),
            destination: other,
            service: ServiceLabels::all(OTHER),
            ..self.clone()
        }
    }
}

impl PartyLabels {
    fn of(cluster: &Arc<str>, party: &Party) -> Self {
        let mut labels = Self::all(UNKNOWN);
        if let Some(pod) = &party.workload {
            labels.workload = Arc::clone(&pod.owner.name);
            labels.namespace = Arc::clone(&pod.name.namespace);
            labels.canonical_service = Arc::from(pod.canonical_name());
            labels.canonical_revision = Arc::from(pod.canonical_revision());
            labels.cluster = Arc::clone(cluster);
        }
        if let Some(identity) = &party.identity {
            labels.principal = Arc::from(identity.to_string());
        }
        labels
    }

    fn all(text: &str) -> Self {
        let text: Arc<str> = Arc::from(text);
        Self {
            workload: Arc::clone(&text),
            namespace: Arc::clone(&text),
            canonical_service: Arc::clone(&text),
            canonical_revision: Arc::clone(&text),
            principal: Arc::clone(&text),
            cluster: text,
        }
    }

    /// ztunnel's `app` and `version` are the canonical names as well.
    fn named(&self) -> [(&'static str, &str); 8] {
        [
            ("workload", &self.workload),
            ("workload_namespace", &self.namespace),
            ("canonical_service", &self.canonical_service),
            ("canonical_revision", &self.canonical_revision),
            ("principal", &self.principal),
            ("app", &self.canonical_service),
            ("version", &self.canonical_revision),
            ("cluster", &self.cluster),
        ]
    }
}

impl ServiceLabels {
    fn of(flow: &FlowRecord) -> Self {
        flow.service.as_ref().map_or_else(
            || Self::all(UNKNOWN),
            |service| Self {
                host: Arc::from(service_host(service)),
                name: Arc::clone(&service.name),
                namespace: Arc::clone(&service.namespace),
            },
        )
    }

    fn all(text: &str) -> Self {
        let text: Arc<str> = Arc::from(text);
        Self { host: Arc::clone(&text), name: Arc::clone(&text), namespace: text }
    }
}

/// ztunnel's flags: denied by policy, could not connect, neither.
const fn response_flags(end: CloseReason) -> &'static str {
    match end {
        CloseReason::Denied(_) | CloseReason::Rejected(401) => "DENY",
        CloseReason::Refused(_)
        | CloseReason::Rejected(_)
        | CloseReason::DestinationNotReady
        | CloseReason::ConnectFailed(_)
        | CloseReason::Tls(_)
        | CloseReason::NoCertificate(_)
        | CloseReason::Malformed(_)
        | CloseReason::PodGone => "CONNECT",
        CloseReason::Finished
        | CloseReason::ResetBySource
        | CloseReason::ResetByDestination
        | CloseReason::SourceSilent
        | CloseReason::DestinationSilent
        | CloseReason::MemoryLimit
        | CloseReason::TunnelLost
        | CloseReason::TunnelOutlived(_)
        | CloseReason::Strayed
        | CloseReason::Drained
        | CloseReason::Local => "-",
    }
}

/// A label whose key has two parts.
struct Prefixed<'a>(&'a str, (&'a str, &'a str));

impl EncodeLabel for Prefixed<'_> {
    fn encode(
        &self,
        mut encoder: prometheus_client::encoding::LabelEncoder<'_>,
    ) -> Result<(), fmt::Error> {
        let Self(prefix, (key, value)) = self;
        let mut name = encoder.encode_label_key()?;
        name.write_str(prefix)?;
        name.write_str(key)?;
        let mut text = name.encode_label_value()?;
        text.write_str(value)?;
        text.finish()
    }
}

impl EncodeLabelSet for TrafficLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), fmt::Error> {
        let mut label = |prefix, pair| Prefixed(prefix, pair).encode(encoder.encode_label());
        label("", ("reporter", self.reporter))?;
        for pair in self.source.named() {
            label("source_", pair)?;
        }
        for pair in self.destination.named() {
            label("destination_", pair)?;
        }
        label("", ("destination_service", &self.service.host))?;
        label("", ("destination_service_name", &self.service.name))?;
        label("", ("destination_service_namespace", &self.service.namespace))?;
        label("", ("request_protocol", "tcp"))?;
        label("", ("response_flags", self.response_flags))?;
        label("", ("connection_security_policy", self.security))
    }
}
