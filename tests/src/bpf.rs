//! Another product's eBPF program at the root of the cgroup2 hierarchy.
#![expect(unsafe_code, reason = "bpf(2) takes structures by pointer")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};

use nix::libc;

use crate::cgroup;

const PROG_LOAD: libc::c_int = 5;
const LINK_CREATE: libc::c_int = 28;
const PROG_TYPE_CGROUP_SOCK_ADDR: u32 = 18;
const CGROUP_INET4_CONNECT: u32 = 10;
const CGROUP_INET6_CONNECT: u32 = 11;

/// Programs that refuse every connection of the machine to one port, until this is dropped.
#[derive(Debug)]
pub struct PortBan {
    _links: [OwnedFd; 2],
}

impl PortBan {
    /// Attaches them.
    ///
    /// # Errors
    /// The kernel's.
    pub fn attach(port: u16) -> io::Result<Self> {
        let root = File::open(cgroup::root()?)?;
        let link = |kind| {
            let program = load(kind, port)?;
            let attributes = [program.as_raw_fd(), root.as_raw_fd(), kind.cast_signed(), 0];
            // SAFETY: program, target, attach type and flags are what this command reads.
            let link = unsafe { call(LINK_CREATE, &attributes) }?;
            // SAFETY: the kernel made the descriptor for this call.
            Ok::<_, io::Error>(unsafe { OwnedFd::from_raw_fd(link) })
        };
        Ok(Self { _links: [link(CGROUP_INET4_CONNECT)?, link(CGROUP_INET6_CONNECT)?] })
    }
}

/// `return ctx->user_port != htons(port)`, in the encoding of linux/bpf.h.
fn load(kind: u32, port: u16) -> io::Result<OwnedFd> {
    let instruction = |code: u8, registers: u8, offset: i16, immediate: i32| {
        let [low, high] = offset.to_le_bytes();
        let [a, b, c, d] = immediate.to_le_bytes();
        [code, registers, low, high, a, b, c, d]
    };
    let program = [
        instruction(0x61, 0x12, 24, 0), // r2 = *(u32 *)(r1 + offsetof(bpf_sock_addr, user_port))
        instruction(0xb7, 0x00, 0, 1),  // r0 = 1
        instruction(0x55, 0x02, 1, i32::from(port.to_be())), // if r2 != port goto +1
        instruction(0xb7, 0x00, 0, 0),  // r0 = 0
        instruction(0x95, 0x00, 0, 0),  // exit
    ];
    #[repr(C)]
    struct Attributes {
        kind: u32,
        count: u32,
        instructions: u64,
        licence: u64,
        log: [u64; 2],
        version_and_flags: u64,
        name: [u8; 16],
        interface: u32,
        attach_type: u32,
    }
    let attributes = Attributes {
        kind: PROG_TYPE_CGROUP_SOCK_ADDR,
        count: 5,
        instructions: program.as_ptr().expose_provenance() as u64,
        licence: c"GPL".as_ptr().expose_provenance() as u64,
        log: [0; 2],
        version_and_flags: 0,
        name: [0; 16],
        interface: 0,
        attach_type: kind,
    };
    // SAFETY: the structure is what the command reads, and what it points to lives.
    let program = unsafe { call(PROG_LOAD, &attributes) }?;
    // SAFETY: the kernel made the descriptor for this call.
    Ok(unsafe { OwnedFd::from_raw_fd(program) })
}

/// # Safety
/// `attributes` must be what the command expects, and every pointer in it valid for it.
unsafe fn call<T>(command: libc::c_int, attributes: &T) -> io::Result<libc::c_int> {
    let length = size_of::<T>();
    // SAFETY: the caller answers for the attributes; the kernel reads `length` bytes of them.
    let answer =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attributes), length) };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    libc::c_int::try_from(answer).map_err(io::Error::other)
}
