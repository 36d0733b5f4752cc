//! The access log.

use serde::Deserialize;

/// The section `accessLog` of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct AccessLogSettings {
    /// Whether flow ends are logged.
    pub enabled: bool,
}

impl Default for AccessLogSettings {
    fn default() -> Self {
        Self { enabled: true }
    }
}
