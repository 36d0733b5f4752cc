//! Log lines.

use serde::Deserialize;

/// The section `log` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct LogSettings {
    /// How a line looks.
    pub format: LogFormat,
    /// Which lines are written: `level` and `target=level`, separated by commas.
    pub filter: String,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people: time, level, target, message, `key=value`.
    #[default]
    Text,
    /// For programs: one JSON object a line, the fields on its top level.
    Json,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info".to_owned() }
    }
}
