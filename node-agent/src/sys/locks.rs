//! Who holds a lock.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;

use nix::sys::stat::{major, minor};

/// Who holds the flock(2) of a file: the process and its command (proc_locks(5)); `None` where that
/// cannot be seen.
#[must_use]
pub fn holder(file: &File) -> Option<(u32, String)> {
    let metadata = file.metadata().ok()?;
    let (device, inode) = (metadata.dev(), metadata.ino());
    let file = format!("{:02x}:{:02x}:{inode}", major(device), minor(device));
    let pid = holder_in(&fs::read_to_string("/proc/locks").ok()?, &file)?;
    Some((pid, command(pid)))
}

/// `1: FLOCK  ADVISORY  WRITE 708 00:13:11220 0 EOF`
fn holder_in(locks: &str, file: &str) -> Option<u32> {
    let lines = locks.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut pids = lines.filter_map(|fields| match *fields {
        [_number, "FLOCK", _kind, _access, pid, of, ..] if of == file => pid.parse().ok(),
        _ => None,
    });
    // A process of another PID namespace has none here.
    pids.find(|pid| *pid != 0)
}

fn command(pid: u32) -> String {
    let name = fs::read_to_string(format!("/proc/{pid}/comm"));
    name.map_or_else(|_gone| "?".to_owned(), |name| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_holder_of_a_lock_is_found_among_others() {
        let locks = "1: POSIX  ADVISORY  WRITE 11 00:1a:77 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 0 00:1a:77 0 EOF\n\
                     2: -> FLOCK  ADVISORY  WRITE 12 00:1a:77 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 13 00:1b:77 0 EOF\n\
                     4: FLOCK  ADVISORY  WRITE 14 00:1a:77 0 EOF\n";
        assert_eq!(holder_in(locks, "00:1a:77"), Some(14));
        assert_eq!(holder_in(locks, "00:1a:78"), None);
    }
}
