//! The few system calls that no library covers, and namespaces, mounts and limits. Everything unsafe
//! of the agent is in this module.

pub mod bpf;
pub mod cgroup;
pub mod errno;
pub mod interfaces;
pub mod kubelet;
pub mod locks;
pub mod mount;
pub mod netns;
pub mod pods;
pub mod process;
pub mod sockopt;
