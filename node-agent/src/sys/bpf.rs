//! The calls of bpf(2) that aya does not offer.
#![expect(unsafe_code, reason = "bpf(2) takes structures by pointer")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::libc;

const MAP_UPDATE_ELEM: libc::c_int = 2;
const OBJ_GET: libc::c_int = 7;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const PROG_QUERY: libc::c_int = 16;
const LINK_DETACH: libc::c_int = 34;
const BPF_LINK_TYPE_NETNS: u32 = 5;

/// Attaches a value to a socket in a `BPF_MAP_TYPE_SK_STORAGE`. aya's call for it borrows the map
/// exclusively, which would be a lock on the workers' path.
///
/// # Errors
/// The kernel's.
pub fn store_in_socket(map: &impl AsFd, socket: &impl AsFd, value: u32) -> io::Result<()> {
    let key = socket.as_fd().as_raw_fd();
    #[repr(C)]
    struct Attributes {
        map: libc::c_int,
        padding: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    let attributes = Attributes {
        map: map.as_fd().as_raw_fd(),
        padding: 0,
        key: (&raw const key).expose_provenance() as u64,
        value: (&raw const value).expose_provenance() as u64,
        flags: 0,
    };
    // SAFETY: the structure is as long as the kernel reads, and what it points to lives.
    unsafe { call(MAP_UPDATE_ELEM, &attributes) }?;
    Ok(())
}

/// Opens what is pinned at a path.
///
/// # Errors
/// The kernel's.
pub fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    #[repr(C)]
    struct Attributes {
        path: u64,
        fd: u32,
        flags: u32,
    }
    let attributes = Attributes { path: path.as_ptr().expose_provenance() as u64, fd: 0, flags: 0 };
    // SAFETY: the structure is as long as the kernel reads, and what it points to lives.
    let fd = unsafe { call(OBJ_GET, &attributes) }?;
    // SAFETY: the kernel made the descriptor for this call.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The inode of the network namespace that a link is attached to; `None` once it is gone.
///
/// # Errors
/// The kernel's; `InvalidInput` for a link of another kind.
pub fn link_netns(link: &impl AsFd) -> io::Result<Option<u32>> {
    /// `struct bpf_link_info` with its member `netns`; the kernel fills as much as there is room for.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        kind: u32,
        id: u32,
        program: u32,
        padding: u32,
        netns_inode: u32,
        attach_type: u32,
    }
    impl Info {
        const LENGTH: u32 = 24;
    }
    const { assert!(size_of::<Info>() == Info::LENGTH as usize) };
    #[repr(C)]
    struct Attributes {
        fd: libc::c_int,
        length: u32,
        info: u64,
    }
    let mut info = Info::default();
    let attributes = Attributes {
        fd: link.as_fd().as_raw_fd(),
        length: Info::LENGTH,
        info: (&raw mut info).expose_provenance() as u64,
    };
    // SAFETY: the kernel writes at most `length` bytes to `info`, which lives.
    unsafe { call(OBJ_GET_INFO_BY_FD, &attributes) }?;
    if info.kind != BPF_LINK_TYPE_NETNS {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "the link is not attached to a network namespace",
        ));
    }
    Ok((info.netns_inode != 0).then_some(info.netns_inode))
}

/// Detaches a pinned link, before its pin is removed: the kernel frees a link that nobody holds some
/// time later (`bpf_link_put_deferred`), and until then its program runs on. A link that is not there,
/// or whose target is gone, is detached already.
///
/// # Errors
/// The kernel's.
pub fn detach_pinned(path: &Path) -> io::Result<()> {
    let link = match open_pin(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened?,
    };
    #[repr(C)]
    struct Attributes {
        fd: libc::c_int,
    }
    let attributes = Attributes { fd: link.as_raw_fd() };
    // SAFETY: the structure is as long as the kernel reads.
    unsafe { call(LINK_DETACH, &attributes) }?;
    Ok(())
}

/// Where programs are attached (`enum bpf_attach_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum AttachType {
    /// `BPF_CGROUP_SOCK_OPS`.
    CgroupSockOps = 3,
    /// `BPF_CGROUP_INET4_BIND`.
    CgroupInet4Bind = 8,
    /// `BPF_CGROUP_INET6_BIND`.
    CgroupInet6Bind = 9,
    /// `BPF_CGROUP_INET4_CONNECT`.
    CgroupInet4Connect = 10,
    /// `BPF_CGROUP_INET6_CONNECT`.
    CgroupInet6Connect = 11,
    /// `BPF_SK_LOOKUP`.
    SkLookup = 36,
}

/// The ids of the programs that are attached to a cgroup or a network namespace, links included, but
/// not those of a cgroup's ancestors.
///
/// # Errors
/// The kernel's.
pub fn attached_programs(target: &impl AsFd, kind: AttachType) -> io::Result<Vec<u32>> {
    /// More than the kernel attaches: 64 to a cgroup (`BPF_CGROUP_MAX_PROGS`) and to a network
    /// namespace (`netns_bpf_max_progs`).
    const MOST: u32 = 64;
    /// The whole of `query` in `union bpf_attr`: the kernel writes to the members it knows.
    #[repr(C)]
    #[derive(Default)]
    struct Attributes {
        target: libc::c_int,
        kind: u32,
        query_flags: u32,
        attach_flags: u32,
        programs: u64,
        count: u32,
        padding: u32,
        program_flags: u64,
        links: u64,
        link_flags: u64,
        revision: u64,
    }
    const { assert!(size_of::<Attributes>() == 64) };
    let mut programs = vec![0_u32; MOST as usize];
    let mut attributes = Attributes {
        target: target.as_fd().as_raw_fd(),
        kind: kind as u32,
        programs: programs.as_mut_ptr().expose_provenance() as u64,
        count: MOST,
        ..Attributes::default()
    };
    // SAFETY: the kernel writes at most `count` ids to `programs`, and to `attributes`; both live.
    unsafe { call_mut(PROG_QUERY, &mut attributes) }?;
    programs.truncate(attributes.count as usize);
    Ok(programs)
}

/// # Safety
/// `attributes` must be what the command expects, and every pointer in it valid for it.
unsafe fn call<T>(command: libc::c_int, attributes: &T) -> io::Result<libc::c_int> {
    // SAFETY: the caller answers for the attributes, which the kernel only reads.
    unsafe { call_raw(command, std::ptr::from_ref(attributes).cast_mut()) }
}

/// [`call`] for a command with answers in its attributes.
///
/// # Safety
/// As there.
unsafe fn call_mut<T>(command: libc::c_int, attributes: &mut T) -> io::Result<libc::c_int> {
    // SAFETY: the caller answers for the attributes.
    unsafe { call_raw(command, attributes) }
}

/// # Safety
/// As for [`call`]; the kernel writes to the attributes if the command says so.
unsafe fn call_raw<T>(command: libc::c_int, attributes: *mut T) -> io::Result<libc::c_int> {
    // SAFETY: the caller answers for the attributes, which are as long as the kernel is told.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, attributes, size_of::<T>()) };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    libc::c_int::try_from(answer).map_err(io::Error::other)
}
