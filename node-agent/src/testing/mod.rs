//! What tests of the agent share.

pub mod agent;
pub mod cluster;
pub mod fuzz;

pub use agent::{TestAgent, TestCa, TestSettings};
