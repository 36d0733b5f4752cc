//! What tests of the agent share.

pub mod cluster;
