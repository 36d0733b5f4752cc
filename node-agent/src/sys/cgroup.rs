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
    let found = find(&mounts);
    let root = match found {
        Some(root) => root,
        None => mount_own()?,
    };
    // kernel/cgroup/cgroup.c: `cgroup.events` is CFTYPE_NOT_ON_ROOT.
    if root.join("cgroup.events").exists() {
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

/// The first cgroup2 mount in a mountinfo file (proc_pid_mountinfo(5)).
fn find(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        if after.split(' ').next()? != "cgroup2" {
            return None;
        }
        let mut fields = before.split(' ').skip(3);
        let (root, place) = (fields.next()?, fields.next()?);
        (root == "/").then(|| PathBuf::from(unescape(place)))
    })
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
        assert_eq!(find(HYBRID), Some(PathBuf::from("/sys/fs/cgroup/unified")));
    }

    #[test]
    fn a_mount_of_a_part_of_it_is_not_taken() {
        let part = "26 24 0:24 /kubepods /mnt rw - cgroup2 cgroup2 rw\n";
        assert_eq!(find(part), None);
        assert_eq!(find(&format!("{part}{HYBRID}")), find(HYBRID));
    }

    #[test]
    fn a_space_in_the_place_is_read() {
        let mounts = "26 24 0:24 / /a\\040b\\134c rw - cgroup2 cgroup2 rw\n";
        assert_eq!(find(mounts), Some(PathBuf::from("/a b\\c")));
    }

    #[test]
    fn damaged_lines_are_passed_over() {
        assert_eq!(find("- cgroup2\n - \n1 2 3 - cgroup2\n"), None);
        assert_eq!(unescape("a\\9"), "a\\9");
    }
}
