//! What the agent tells the outside of itself: log lines, the access log, metrics, readiness.
//! Turns facts into text and numbers; collecting the facts is left to `observer` and `admin`.

pub mod access_log;
pub mod log;
pub mod metrics;
pub mod readiness;
mod sink;

pub use access_log::AccessLog;
pub use log::{LogControl, LogError, LogFormat, LogSettings};
pub use metrics::{FlowMeter, Metrics, Snapshot};
pub use readiness::{Guard, Readiness};

/// The domain that Kubernetes gives its services, unless a cluster was set up with another one.
const SERVICE_DOMAIN: &str = "svc.cluster.local";

/// A service's name as Istio's metrics and ztunnel's access log print it.
fn service_host(service: &adit_core::workload::ObjectName) -> String {
    format!("{}.{}.{SERVICE_DOMAIN}", service.name, service.namespace)
}

/// What decided, as everything prints it: the policy and rule, or `default` where no policy did.
pub(crate) fn deciding_policy(grounds: &adit_core::policy::Grounds) -> String {
    grounds.by.as_ref().map_or_else(|| "default".to_owned(), ToString::to_string)
}
