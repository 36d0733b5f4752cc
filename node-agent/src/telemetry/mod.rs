//! The module `telemetry`.
