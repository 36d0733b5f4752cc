//! The kernel's error numbers that `io::ErrorKind` has no name for.

pub use nix::libc::{
    EACCES, EAFNOSUPPORT, EEXIST, EINPROGRESS, EINVAL, ENODEV, ENOENT, EOPNOTSUPP, ESRCH,
};
