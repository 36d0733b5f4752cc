//! One agent at a directory of pins at a time.
//!
//! The lock is flock(2) on the directory itself, which a bpffs takes like any file system: it ends
//! with the process, and leaves nothing behind. A planned hand-over between two agents would pass
//! the lock on before the old one drains; nothing but the lock keeps two from running side by side.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::stat::{major, minor};

use crate::datapath::maps::failed;
use crate::datapath::{DatapathError, Settings};
use crate::sys::mount;

/// Held by the agent whose pins they are.
#[derive(Debug)]
pub struct PinsLock {
    _directory: File,
}

impl PinsLock {
    /// Makes the directory of pins if it is missing, and locks it.
    ///
    /// # Errors
    /// Another process holds it, which the error names; or the kernel's.
    pub fn take(settings: &Settings) -> Result<Self, DatapathError> {
        let base = &settings.pins;
        mount::make_pin_directory(base)
            .map_err(|source| failed("make the directory of pins", source))?;
        Self::of(base)
    }

    /// Locks a directory that is there.
    pub(super) fn of(base: &Path) -> Result<Self, DatapathError> {
        let what = || format!("lock the directory of pins {}", base.display());
        let io_failed = |source: io::Error| failed(what(), source);
        let directory = File::open(base).map_err(io_failed)?;
        match directory.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = holder(&directory).map_or_else(
                    || "another process".to_owned(),
                    |pid| format!("process {pid} ({})", command(pid)),
                );
                return Err(DatapathError::Locked { pins: base.to_owned(), holder });
            }
            Err(TryLockError::Error(source)) => return Err(io_failed(source)),
        }
        // Whoever held it before may have removed the directory in between.
        let (locked, there) = (directory.metadata(), fs::metadata(base));
        match (locked.map_err(io_failed)?, there.map_err(io_failed)?) {
            (locked, there) if locked.ino() == there.ino() => Ok(Self { _directory: directory }),
            _ => Err(io_failed(io::Error::other("it was replaced meanwhile: try again"))),
        }
    }
}

/// Who holds the lock of a file (proc_locks(5)); `None` where that cannot be seen.
fn holder(file: &File) -> Option<u32> {
    let metadata = file.metadata().ok()?;
    let (device, inode) = (metadata.dev(), metadata.ino());
    let file = format!("{:02x}:{:02x}:{inode}", major(device), minor(device));
    holder_in(&fs::read_to_string("/proc/locks").ok()?, &file)
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
