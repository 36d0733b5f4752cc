//! The decisions of adit, without I/O.
//!
//! # Contract
//!
//! Nothing here opens a socket, reads a clock, draws a random number, logs or counts. A question is
//! a function of its arguments ([`policy::decide`], [`route::plan`]). What lives over time is a
//! machine with four methods: `handle(input, now)`, `handle_timeout(now)`, `poll_timeout()` (the next
//! deadline and why it exists) and `poll_command()` (what the driver must do now). Randomness and
//! time are arguments, so a test drives hours in microseconds. Errors are closed enums whose
//! `as_label` is the one spelling used by metrics, log lines and the command line alike.
#![deny(missing_docs)]
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

pub mod admission;
pub mod announce;
pub mod certificate;
pub mod cgroup;
pub mod enrolment;
pub mod flow;
pub mod hbone;
pub mod identity;
pub mod issuance;
pub mod network_policy;
pub mod policy;
pub mod pool;
pub mod recheck;
pub mod root_rotation;
pub mod rotation;
pub mod route;
pub mod term;
pub mod workload;
pub mod world;
