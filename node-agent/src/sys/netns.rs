//! Network namespaces: opening one, telling it from others, and doing something inside it.

use std::cell::Cell;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::libc;
use nix::sched::{CloneFlags, setns, unshare};
use socket2::{Domain, Socket, Type};

use crate::sys::sockopt;

/// Where all threads of this process live when they are not [`Netns::within`] another.
static HOME: OnceLock<File> = OnceLock::new();

thread_local! {
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// An open network namespace. It lives while this does.
#[derive(Debug)]
pub struct Netns {
    file: File,
    path: PathBuf,
    inode: u64,
    cookie: u64,
}

impl Netns {
    /// Opens the network namespace at a path such as `/proc/1/ns/net` or `/run/netns/a`.
    ///
    /// # Errors
    /// The kernel's; `EINVAL` for a file that is no network namespace.
    pub fn open(path: &Path) -> io::Result<Self> {
        // Non-blocking, so that a FIFO in its place cannot hold the agent.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(path)?;
        let inode = file.metadata()?.ino();
        let mut netns = Self { file, path: path.to_path_buf(), inode, cookie: 0 };
        netns.cookie = netns.within(|| {
            let socket = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
            sockopt::netns_cookie(&socket)
        })??;
        Ok(netns)
    }

    /// The path it was opened at.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its inode on nsfs. The kernel gives the number to another namespace once this one is gone.
    #[must_use]
    pub const fn inode(&self) -> u64 {
        self.inode
    }

    /// Its cookie (`SO_NETNS_COOKIE`), which is never given to another one.
    #[must_use]
    pub const fn cookie(&self) -> u64 {
        self.cookie
    }

    /// Whether it is the one that this process, or the machine's first process, lives in.
    ///
    /// # Errors
    /// The kernel's.
    pub fn is_a_hosts(&self) -> io::Result<bool> {
        let home = home()?.metadata()?.ino();
        // Not seen without the host's PID namespace; then it is another's process.
        let first = fs::metadata("/proc/1/ns/net").map(|file| file.ino());
        Ok(self.inode == home || first.is_ok_and(|first| self.inode == first))
    }

    /// Does `f` inside the namespace, on the calling thread, and comes back. `f` must not wait: on a
    /// runtime's thread everything else of the thread would wait too. A process whose thread cannot
    /// come back is ended at once, because what that thread does next would happen to the pod.
    ///
    /// # Errors
    /// The namespace cannot be entered, or the thread is inside another one already.
    pub fn within<T>(&self, f: impl FnOnce() -> T) -> io::Result<T> {
        let home = home()?;
        if INSIDE.replace(true) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the thread is inside another network namespace already",
            ));
        }
        let way_back = WayBack(home);
        setns(&self.file, CloneFlags::CLONE_NEWNET)?;
        let result = f();
        drop(way_back);
        Ok(result)
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Moves the calling thread to a new network namespace, for good. It goes when the thread ends.
///
/// # Errors
/// The kernel's.
pub fn leave_for_a_new_one() -> io::Result<()> {
    // Threads know where the process lives before the first of them leaves.
    home()?;
    unshare(CloneFlags::CLONE_NEWNET)?;
    Ok(())
}

/// Finds a namespace by its inode: among the named ones, and those that processes live in.
#[must_use]
pub fn find(inode: u64) -> Option<Netns> {
    let named = ["/run/netns", "/var/run/netns"]
        .into_iter()
        .flat_map(|directory| entries(Path::new(directory)));
    let of_processes = entries(Path::new("/proc")).map(|process| process.join("ns/net"));
    named
        .chain(of_processes)
        .find(|path| fs::metadata(path).is_ok_and(|file| file.ino() == inode))
        .and_then(|path| Netns::open(&path).ok())
        .filter(|netns| netns.inode == inode)
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries.filter_map(|entry| entry.ok().map(|entry| entry.path()))
}

fn home() -> io::Result<&'static File> {
    if let Some(home) = HOME.get() {
        return Ok(home);
    }
    // No thread has entered another namespace before this was read once.
    let home = File::open("/proc/self/ns/net")?;
    Ok(HOME.get_or_init(|| home))
}

struct WayBack(&'static File);

impl Drop for WayBack {
    fn drop(&mut self) {
        if let Err(error) = setns(self.0, CloneFlags::CLONE_NEWNET) {
            tracing::error!(%error, "a thread cannot leave a pod's network namespace: aborting");
            std::process::abort();
        }
        INSIDE.set(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_namespace_is_refused() {
        let error = Netns::open(Path::new("/proc/self/status")).unwrap_err();
        // EINVAL, or EPERM where the tests are not run as root.
        assert!(error.raw_os_error().is_some(), "{error}");
    }

    #[test]
    fn a_namespace_that_does_not_exist_is_refused() {
        let error = Netns::open(Path::new("/run/netns/no-such-name")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
