//! What the agent tells the outside of itself.

pub mod access_log;
pub mod log;
pub mod metrics;

pub use log::{LogFormat, LogSettings};
