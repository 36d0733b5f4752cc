//! This process: its rights and limits.
#![cfg_attr(
    target_env = "gnu",
    expect(unsafe_code, reason = "the allocator's settings have no wrapper")
)]

use std::io;

#[cfg(target_env = "gnu")]
use nix::libc;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::geteuid;

/// Whether it runs as root.
#[must_use]
pub fn is_root() -> bool {
    geteuid().is_root()
}

/// Raises the limit of open files as far as it goes, and says how far that is. Every flow takes two
/// of them.
///
/// # Errors
/// The kernel's.
pub fn raise_open_files() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

/// Lets all threads share this many heaps. By default glibc gives each thread one of its own, and
/// memory that was needed on one is not there for the others: flows took twice as much. To be called
/// before the first thread is started.
#[cfg(target_env = "gnu")]
pub fn share_heaps(heaps: u8) {
    // SAFETY: the call changes a number of the allocator's and nothing else.
    let _unsupported = unsafe { libc::mallopt(libc::M_ARENA_MAX, heaps.into()) };
}

/// Only glibc has heaps per thread.
#[cfg(not(target_env = "gnu"))]
pub const fn share_heaps(_heaps: u8) {}

/// Gives the memory back to the kernel that is free now. What a list of thousands of objects took while
/// it was read lies between what is kept of it, where glibc would hold it for ever.
#[cfg(target_env = "gnu")]
pub fn return_free_memory() {
    // SAFETY: the call takes the allocator's locks and touches nothing that is in use.
    let _something = unsafe { libc::malloc_trim(0) };
}

/// Only glibc has to be asked.
#[cfg(not(target_env = "gnu"))]
pub const fn return_free_memory() {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_the_hard_one_afterwards() {
        let raised = raise_open_files().unwrap();
        assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (raised, raised));
    }
}
