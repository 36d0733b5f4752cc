//! The kubelet of this node, and which sockets are its own.
//!
//! It is known by what no pod can have: root's rights in the host's network namespace, outside of every
//! pod's cgroup, and its name. Another process of that kind could do to the node whatever it wants.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use adit_core::cgroup::is_in_a_pod;

/// The names of processes that a kubelet is, or is a part of (k3s, MicroK8s).
const NAMES: [&str; 4] = ["kubelet", "k3s-server", "k3s-agent", "kubelite"];

/// The process that had the last socket: most likely it has the next one too. 0 is none.
static LAST: AtomicU32 = AtomicU32::new(0);

/// Whether the kubelet has the socket with this inode open. It reads /proc: not for a thread that
/// serves connections.
#[must_use]
pub fn has_open(inode: u32) -> bool {
    let Ok(host) = network_namespace(Path::new("/proc/self")) else {
        return false;
    };
    let socket = PathBuf::from(format!("socket:[{inode}]"));
    let has = |pid: u32| {
        let process = PathBuf::from(format!("/proc/{pid}"));
        is_kubelet(&process, host).unwrap_or(false) && files(&process).any(|file| file == socket)
    };
    let last = LAST.load(Ordering::Relaxed);
    if last != 0 && has(last) {
        return true;
    }
    let found = processes().find(|pid| has(*pid));
    if let Some(pid) = found {
        LAST.store(pid, Ordering::Relaxed);
    }
    found.is_some()
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// What the open files of a process are, as proc_pid_fd(5) names them.
fn files(process: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(process.join("fd")).into_iter().flatten();
    entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
}

fn is_kubelet(process: &Path, host: u64) -> io::Result<bool> {
    let name = fs::read_to_string(process.join("comm"))?;
    Ok(NAMES.contains(&name.trim_end())
        && is_roots(&fs::read_to_string(process.join("status"))?)
        && network_namespace(process)? == host
        && !is_in_a_pod(&fs::read_to_string(process.join("cgroup"))?))
}

/// Whether all four user ids of a process are root's (proc_pid_status(5)).
fn is_roots(status: &str) -> bool {
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    ids.is_some_and(|ids| ids.split_whitespace().eq(["0"; 4]))
}

fn network_namespace(process: &Path) -> io::Result<u64> {
    Ok(fs::metadata(process.join("ns/net"))?.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_of_another_name_is_no_kubelet() {
        let host = network_namespace(Path::new("/proc/self")).unwrap();
        assert!(!is_kubelet(Path::new("/proc/self"), host).unwrap());
    }

    #[test]
    fn only_root_is_root() {
        assert!(is_roots("Name:\tkubelet\nUid:\t0\t0\t0\t0\n"));
        assert!(!is_roots("Name:\tkubelet\nUid:\t1000\t0\t0\t0\n"));
        assert!(!is_roots("Name:\tkubelet\nUid:\t100000\t100000\t100000\t100000\n"));
        assert!(!is_roots("Name:\tUid:\n"));
    }

    #[test]
    fn the_open_sockets_of_a_process_are_seen() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
        let name = fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
        assert!(name.to_string_lossy().starts_with("socket:["));
        assert!(files(Path::new("/proc/self")).any(|file| file == name));
    }
}
