//! Cgroups of the cgroup2 hierarchy, to put processes into.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Where the cgroup2 hierarchy is mounted.
///
/// # Errors
/// It is not.
pub fn root() -> io::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let place = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let place = fields.next()?;
        (fields.next()? == "cgroup2").then(|| PathBuf::from(place))
    });
    place.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "cgroup2 is not mounted"))
}

/// A cgroup below the root. Dropping it removes it, if it is empty.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Makes one.
    ///
    /// # Errors
    /// The kernel's.
    pub fn create(name: &str) -> io::Result<Self> {
        let path = root()?.join(name);
        fs::create_dir(&path)?;
        Ok(Self { path })
    }

    /// Moves a process into it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn take(&self, pid: u32) -> io::Result<()> {
        fs::write(self.processes(), pid.to_string())
    }

    /// The file to write a pid to.
    #[must_use]
    pub fn processes(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A process that is still in it keeps it.
        let _removed: io::Result<()> = fs::remove_dir(&self.path);
    }
}
