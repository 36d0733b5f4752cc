//! The network namespaces of the pods whose processes run on this node.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use adit_core::cgroup::pod_of;
use adit_core::workload::PodUid;

/// Where container runtimes keep network namespaces by name.
const NAMED: [&str; 2] = ["/run/netns", "/var/run/netns"];

/// A process of a pod.
#[derive(Debug)]
struct Found {
    /// When it started, in clock ticks since the boot.
    started: u64,
    /// The inode of its network namespace.
    inode: u64,
    /// `/proc/<pid>/ns/net`.
    path: PathBuf,
}

/// Paths of network namespaces: for each of the pods the one of its oldest process, for that is the
/// one the runtime started; one that came later may be a guest's. Pods without a process, and those in
/// the host's own namespace, are left out. Whether the namespace holds the pod's address is for whoever
/// opens it to see: it may have become another's since.
///
/// # Errors
/// /proc cannot be read.
pub fn network_namespaces(
    wanted: &dyn Fn(&PodUid) -> bool,
) -> io::Result<BTreeMap<PodUid, PathBuf>> {
    // Without the host's PID namespace, the first process is another's, and may not be looked at.
    let hosts = ["/proc/self/ns/net", "/proc/1/ns/net"].map(|path| inode(Path::new(path)).ok());
    let mut oldest: BTreeMap<PodUid, Found> = BTreeMap::new();
    for process in fs::read_dir("/proc")? {
        let process = process?.path();
        // A process that ends while it is looked at is none.
        let Some((uid, found)) = look_at(&process, wanted) else { continue };
        if hosts.contains(&Some(found.inode)) {
            continue;
        }
        match oldest.get(&uid) {
            Some(known) if known.started <= found.started => {}
            _ => drop(oldest.insert(uid, found)),
        }
    }
    let named = if oldest.is_empty() { BTreeMap::new() } else { names() };
    let lasting = |found: Found| named.get(&found.inode).cloned().unwrap_or(found.path);
    Ok(oldest.into_iter().map(|(uid, found)| (uid, lasting(found))).collect())
}

fn look_at(process: &Path, wanted: &dyn Fn(&PodUid) -> bool) -> Option<(PodUid, Found)> {
    let name = process.file_name()?.to_str()?;
    if !name.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let uid = pod_of(&fs::read_to_string(process.join("cgroup")).ok()?)?;
    if !wanted(&uid) {
        return None;
    }
    let path = process.join("ns/net");
    let found = Found {
        started: started(&fs::read_to_string(process.join("stat")).ok()?)?,
        inode: inode(&path).ok()?,
        path,
    };
    Some((uid, found))
}

/// Field 22 of /proc/PID/stat (proc_pid_stat(5)); the second one, in parentheses, may hold anything.
fn started(stat: &str) -> Option<u64> {
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}

fn inode(path: &Path) -> io::Result<u64> {
    Ok(fs::metadata(path)?.ino())
}

/// The named namespaces, by inode. A name outlives the process that a path in /proc leads through.
fn names() -> BTreeMap<u64, PathBuf> {
    let entries =
        NAMED.into_iter().flat_map(|directory| fs::read_dir(directory).into_iter().flatten());
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths.filter_map(|path| Some((inode(&path).ok()?, path))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_of_a_process_is_read_past_any_name() {
        let rest = "S 1 1 1 0 -1 4194560 1 0 0 0 1 2 0 0 20 0 1 0 4242 1000 1";
        for name in ["pause", "a) b", ") S 1"] {
            assert_eq!(started(&format!("7 ({name}) {rest}")), Some(4242), "{name}");
        }
        assert_eq!(started("7 (pause"), None);
        assert_eq!(started("7 (pause) S 1"), None);
    }

    #[test]
    fn a_process_outside_of_pods_is_not_looked_for() {
        assert!(look_at(Path::new("/proc/self"), &|_| true).is_none());
        assert!(network_namespaces(&|_| false).is_ok_and(|found| found.is_empty()));
    }
}
