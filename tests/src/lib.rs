//! The end-to-end harness: nodes and pods are network namespaces, agents and the CA are real
//! processes with real eBPF programs.
//!
//! ```text
//!   pod ── veth ── node-a ── veth ─┐                 ┌─ veth ── node-b ── veth ── pod
//!                                  fabric (a bridge)
//!                                  └─ veth ── ca
//! ```
//!
//! Every name carries the id of its run, so that runs do not meet, and so that a run can remove
//! what a crashed one left. Nothing is made in the host's own network namespace.

pub mod agent;
pub mod bpf;
pub mod ca;
pub mod capture;
pub mod cgroup;
pub mod client;
pub mod cluster;
pub mod forge;
pub mod manifest;
pub mod netns;
pub mod pod;
pub mod process;
pub mod raw;
pub mod requirements;
pub mod run;
pub mod server;
pub mod view;
pub mod wait;

pub use cluster::{Cluster, Node};
pub use pod::{Pod, PodSpec};
