//! Reads of the kernel's contexts. Each field is read on its own and as wide as it is, as
//! `sock_addr_is_valid_access` and `sk_lookup_is_valid_access` (net/core/filter.c) ask for.

use core::ffi::c_void;

use adit_shared::steer::{Ends, Packet};
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_setsockopt, bpf_sk_storage_get};
use aya_ebpf::programs::{SkLookupContext, SockAddrContext, SockOpsContext};

use crate::maps::{AGENT_TAG, ENROLLED};

const AF_INET: u32 = 2;
const LOOPBACK_IFINDEX: u32 = 1;
const SOCK_STREAM: u32 = 1;
const SOL_SOCKET: i32 = 1;

/// Reads a field of a context.
macro_rules! field {
    ($context:ident . $($field:tt)+) => {
        // SAFETY: the context is the kernel's own, and lives while the program runs.
        unsafe { core::ptr::read_volatile(&raw const (*$context).$($field)+) }
    };
}

/// Whether the socket belongs to an enrolled pod's network namespace.
#[inline(always)]
pub(crate) fn enrolled(context: *mut c_void) -> bool {
    // SAFETY: the context is the kernel's own.
    let cookie = unsafe { bpf_get_netns_cookie(context) };
    ENROLLED.get_ptr(cookie).is_some()
}

/// Whether it is a stream socket. MPTCP has another protocol number than TCP, and the same type.
#[inline(always)]
pub(crate) fn stream(ctx: &SockAddrContext) -> bool {
    let from = ctx.sock_addr;
    field!(from.type_) == SOCK_STREAM
}

/// Whether the socket is the agent's.
#[inline(always)]
pub(crate) fn tagged(ctx: &SockAddrContext) -> bool {
    const LOOK_ONLY: u64 = 0; // not BPF_SK_STORAGE_GET_F_CREATE
    let from = ctx.sock_addr;
    let socket = field!(from.__bindgen_anon_1.sk);
    let map = (&raw const AGENT_TAG).cast_mut().cast();
    // SAFETY: both pointers are the kernel's; without a value nothing is created.
    let value = unsafe { bpf_sk_storage_get(map, socket.cast(), core::ptr::null_mut(), LOOK_ONLY) };
    !value.is_null()
}

/// The mark of a full socket.
#[inline(always)]
pub(crate) fn mark(ctx: &SockOpsContext) -> Option<u32> {
    let from = ctx.ops;
    // Read once: the verifier takes every read for a socket of its own that may be missing.
    let socket = field!(from.__bindgen_anon_2.sk);
    if socket.is_null() {
        return None;
    }
    Some(field!(socket.mark))
}

/// Sets an integer socket option of level SOL_SOCKET.
#[inline(always)]
pub(crate) fn set_option(context: *mut c_void, option: i32, mut value: i32) -> bool {
    // SAFETY: the context is the kernel's own, and `value` lives on this program's stack.
    let answer = unsafe {
        bpf_setsockopt(
            context,
            SOL_SOCKET,
            option,
            (&raw mut value).cast(),
            size_of::<i32>() as i32,
        )
    };
    answer == 0
}

/// The packet that looks for a socket.
///
/// Every field is read, of both families, before anything is asked about one: the verifier refuses a
/// context pointer that was computed ("dereference of modified ctx ptr"), which is what the compiler
/// makes of reads in two branches. Volatile reads stay where they are.
#[inline(always)]
pub(crate) fn packet(ctx: &SkLookupContext) -> Packet {
    let from = ctx.lookup;
    let remote4 = field!(from.remote_ip4);
    let local4 = field!(from.local_ip4);
    let remote6 = [
        field!(from.remote_ip6[0]),
        field!(from.remote_ip6[1]),
        field!(from.remote_ip6[2]),
        field!(from.remote_ip6[3]),
    ];
    let local6 = [
        field!(from.local_ip6[0]),
        field!(from.local_ip6[1]),
        field!(from.local_ip6[2]),
        field!(from.local_ip6[3]),
    ];
    let ends = if field!(from.family) == AF_INET {
        Ends::V4 { remote: remote4, local: local4 }
    } else {
        Ends::V6 { remote: remote6, local: local6 }
    };
    Packet {
        ends,
        remote_port: u16::from_be(field!(from.remote_port)),
        local_port: field!(from.local_port) as u16, // in host order, and never more than 16 bits
        protocol: field!(from.protocol),
        on_loopback: field!(from.ingress_ifindex) == LOOPBACK_IFINDEX,
    }
}
