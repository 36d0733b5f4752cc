//! One agent at a directory of pins at a time.
//!
//! The lock is flock(2) on the directory itself, which a bpffs takes like any file system: it ends
//! with the process, and leaves nothing behind. A planned hand-over between two agents would pass
//! the lock on before the old one drains; nothing but the lock keeps two from running side by side.

use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::datapath::maps::failed;
use crate::datapath::{DatapathError, Settings};
use crate::sys::{locks, mount};

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
                let holder = locks::holder(&directory).map_or_else(
                    || "another process".to_owned(),
                    |(pid, command)| format!("process {pid} ({command})"),
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
