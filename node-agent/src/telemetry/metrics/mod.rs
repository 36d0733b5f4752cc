//! Metrics.

use std::net::SocketAddr;

use serde::Deserialize;

/// The section `metrics` of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct MetricsSettings {
    /// Where `/metrics` and `/stats/prometheus` are served, in the node's network namespace.
    pub address: SocketAddr,
}

impl Default for MetricsSettings {
    fn default() -> Self {
        Self { address: SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 15020)) }
    }
}
