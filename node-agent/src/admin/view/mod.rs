//! What the admin API says, as values that serialize. Field names are stable: programs read them.
//! The command line reads the same values back, so a view can be younger or older than its reader:
//! unknown fields are ignored, and fields that were added later have defaults.

mod denial;
mod explain;
mod flow;
mod mesh;
mod network_policy;
mod policy;
mod status;

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use adit_core::workload::ObjectName;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::format_description::BorrowedFormatItem;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;
use time::{OffsetDateTime, UtcOffset};

pub use denial::{DenialView, DeniedView};
pub use explain::{ExplainView, ExplainedParty, ExplainedVerdict, RouteView};
pub use flow::{FlowState, FlowView, FollowEvent, PartyView, PodRef, TlsView, Verdict};
pub(in crate::admin) use mesh::state_label;
pub use mesh::{
    CertificateView, EndpointView, PodStateView, ServicePortView, ServiceView, TunnelView,
    WorkloadView,
};
pub use network_policy::{BlockedView, NetworkPoliciesView};
pub use policy::{PolicyCounts, PolicyState, PolicyView};
pub(in crate::admin) use policy::{count, policies};
pub use status::{
    CertificateCounts, DiscoveryView, DrainingView, Fact, NodeView, Problem, ReadinessView,
    RecordsView, Severity, StatusView,
};

const MILLISECONDS: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// A point in time: RFC 3339 in UTC with milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub SystemTime);

/// A namespace and a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRef {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

/// The answer to a change of the log filter, and to a question for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogLevelView {
    /// `level` and `target=level`, separated by commas.
    pub filter: String,
}

/// The answer to a drain, when it is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DrainView {
    /// How long flows were given to end.
    pub deadline_ms: u64,
    /// Flows that were ended because the deadline passed.
    pub cut: u64,
}

/// Every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorView {
    /// What is wrong.
    pub error: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        let nanoseconds = i128::try_from(since.as_nanos()).unwrap_or(0);
        let text = OffsetDateTime::from_unix_timestamp_nanos(nanoseconds)
            .ok()
            .and_then(|time| time.format(MILLISECONDS).ok());
        f.write_str(text.as_deref().unwrap_or("out of range"))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let time = OffsetDateTime::parse(&text, &Rfc3339)
            .map_err(|error| D::Error::custom(format!("{text:?} is no RFC 3339 time: {error}")))?
            .to_offset(UtcOffset::UTC);
        let nanoseconds = u64::try_from(time.unix_timestamp_nanos()).unwrap_or(0);
        Ok(Self(UNIX_EPOCH + Duration::from_nanos(nanoseconds)))
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        Self(time)
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl From<&ObjectName> for ObjectRef {
    fn from(name: &ObjectName) -> Self {
        Self { namespace: name.namespace.to_string(), name: name.name.to_string() }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observer::samples;

    #[test]
    fn a_time_is_written_with_milliseconds_and_read_back() {
        let time = Timestamp(samples::noon());
        let text = serde_json::to_string(&time).unwrap();
        assert_eq!(text, "\"2026-03-01T12:00:00.250Z\"");
        assert_eq!(serde_json::from_str::<Timestamp>(&text).unwrap(), time);
    }

    #[test]
    fn a_time_that_is_none_is_named() {
        let error = serde_json::from_str::<Timestamp>("\"noon\"").unwrap_err();
        assert!(error.to_string().contains("\"noon\""), "{error}");
    }
}
