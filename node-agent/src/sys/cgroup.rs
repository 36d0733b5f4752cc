//! The cgroup2 hierarchy's place.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where it is mounted if nobody else has mounted it.
const OWN_MOUNT: &str = "/run/adit/cgroup2";

/// The root of the cgroup2 hierarchy: `/sys/fs/cgroup`, or `/sys/fs/cgroup/unified` where version 1
/// is mounted too. Mounts it if it is mounted nowhere.
///
/// # Errors
/// It cannot be mounted, or what is mounted is not its root.
pub fn root() -> io::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    // kernel/cgroup/cgroup.c: `cgroup.events` is CFTYPE_NOT_ON_ROOT.
    let is_root = |place: &PathBuf| !place.join("cgroup.events").exists();
    let mut found = find(&mounts);
    let root = match found.iter().position(is_root) {
        Some(place) => found.swap_remove(place),
        None => found.pop().map_or_else(mount_own, Ok)?,
    };
    if !is_root(&root) {
        return Err(io::Error::other(format!(
            "{} is only this container's part of the cgroup2 hierarchy: run adit in the host's \
             cgroup namespace, or mount the host's there",
            root.display()
        )));
    }
    Ok(root)
}

fn mount_own() -> io::Result<PathBuf> {
    let root = Path::new(OWN_MOUNT);
    fs::create_dir_all(root)?;
    crate::sys::mount::mount("cgroup2", root)?;
    Ok(root.to_path_buf())
}

/// The cgroup2 mounts in a mountinfo file (proc_pid_mountinfo(5)) that may be of the root: as seen
/// from a container with a cgroup namespace of its own, the host's is above everything (`/../..`).
fn find(mountinfo: &str) -> Vec<PathBuf> {
    let places = mountinfo.lines().filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        if after.split(' ').next()? != "cgroup2" {
            return None;
        }
        let mut fields = before.split(' ').skip(3);
        let (root, place) = (fields.next()?, fields.next()?);
        let above = root.split('/').all(|name| name.is_empty() || name == "..");
        above.then(|| PathBuf::from(unescape(place)))
    });
    places.collect()
}

/// mountinfo writes space, tab, newline and backslash as three octal digits.
fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let code = after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code {
            Some(code) => {
                out.push(char::from(code));
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                out.push('\\');
                rest = after;
            }
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
24 20 0:22 / /sys/fs/cgroup rw,relatime shared:5 - tmpfs tmpfs rw,mode=755
25 24 0:23 / /sys/fs/cgroup/cpu rw shared:6 - cgroup cgroup rw,cpu
26 24 0:24 / /sys/fs/cgroup/unified rw shared:7 - cgroup2 cgroup2 rw
";

    #[test]
    fn the_hierarchy_is_found_beside_those_of_version_1() {
        assert_eq!(find(HYBRID), [PathBuf::from("/sys/fs/cgroup/unified")]);
    }

    #[test]
    fn a_mount_of_a_part_of_it_is_not_taken() {
        let part = "26 24 0:24 /kubepods /mnt rw - cgroup2 cgroup2 rw\n";
        assert_eq!(find(part), [] as [PathBuf; 0]);
        assert_eq!(find(&format!("{part}{HYBRID}")), find(HYBRID));
    }

    #[test]
    fn the_hosts_hierarchy_is_found_from_a_container_with_a_cgroup_namespace() {
        let own = "30 24 0:24 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n";
        let hosts = "31 24 0:24 /../../.. /host/cgroup ro - cgroup2 cgroup2 rw\n";
        let expected = [PathBuf::from("/sys/fs/cgroup"), PathBuf::from("/host/cgroup")];
        assert_eq!(find(&format!("{own}{hosts}")), expected);
    }

    #[test]
    fn a_space_in_the_place_is_read() {
        let mounts = "26 24 0:24 / /a\\040b\\134c rw - cgroup2 cgroup2 rw\n";
        assert_eq!(find(mounts), [PathBuf::from("/a b\\c")]);
    }

    #[test]
    fn damaged_lines_are_passed_over() {
        assert_eq!(find("- cgroup2\n - \n1 2 3 - cgroup2\n"), [] as [PathBuf; 0]);
        assert_eq!(unescape("a\\9"), "a\\9");
    }
}
