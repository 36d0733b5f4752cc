//! Mounts the agent needs: the file system of BPF pins.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use nix::mount::MsFlags;
use nix::sys::statfs::{FsType, statfs};
use nix::sys::statvfs::{FsFlags, statvfs};

const BPFFS: &str = "/sys/fs/bpf";
/// linux/magic.h
const BPF_FS_MAGIC: FsType = FsType(0xcafe_4a11);

/// Makes a directory for pins, on a bpffs. Mounts one at `/sys/fs/bpf` if the directory is to be
/// below it and none is there.
///
/// # Errors
/// The kernel's; or the place is on no bpffs.
pub fn make_pin_directory(directory: &Path) -> io::Result<()> {
    if directory.starts_with(BPFFS) && !is_bpffs(Path::new(BPFFS))? {
        mount("bpf", Path::new(BPFFS))?;
    }
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    if !is_bpffs(directory)? {
        return Err(io::Error::other(format!(
            "{} is not on a bpffs: choose a directory below {BPFFS}",
            directory.display()
        )));
    }
    Ok(())
}

/// Whether a path is on a bpffs.
///
/// # Errors
/// The kernel's.
pub fn is_bpffs(path: &Path) -> io::Result<bool> {
    Ok(statfs(path)?.filesystem_type() == BPF_FS_MAGIC)
}

/// Mounts a file system that has no device.
///
/// # Errors
/// The kernel's.
pub fn mount(kind: &'static str, place: &Path) -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let context = |error: nix::Error| {
        let why = io::Error::from(error);
        io::Error::new(why.kind(), format!("mount {kind} at {}: {why}", place.display()))
    };
    nix::mount::mount(Some(kind), place, Some(kind), flags, None::<&str>).map_err(context)
}

/// Makes /proc/sys writable where a container runtime has mounted it read-only, as for every container
/// that is not privileged. Only the mount namespace of this process sees the difference.
///
/// # Errors
/// The kernel's.
pub fn make_sysctls_writable() -> io::Result<()> {
    let sysctls = Path::new("/proc/sys");
    if !statvfs(sysctls)?.flags().contains(FsFlags::ST_RDONLY) {
        return Ok(());
    }
    // mount(2): of a bind mount's own flags, those that are not named are taken away.
    let flags = MsFlags::MS_REMOUNT
        | MsFlags::MS_BIND
        | MsFlags::MS_NOSUID
        | MsFlags::MS_NODEV
        | MsFlags::MS_NOEXEC;
    nix::mount::mount(None::<&str>, sysctls, None::<&str>, flags, None::<&str>)?;
    Ok(())
}

/// Removes a directory of pins with everything in it; one that is not there is removed already.
///
/// # Errors
/// The kernel's; or the directory is on no bpffs: then nothing is removed.
pub fn remove_pin_directory(directory: &Path) -> io::Result<()> {
    if directory.exists() && !is_bpffs(directory)? {
        return Err(io::Error::other("not a directory of pins: nothing was removed"));
    }
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
