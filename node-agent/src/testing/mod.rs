//! What tests of the agent share.

pub mod agent;
pub mod cluster;

pub use agent::{TestAgent, TestCa};
