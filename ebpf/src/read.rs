//! Reads of the kernel's contexts. Each field is read on its own and as wide as it is, as
//! `sock_addr_is_valid_access` and `sk_lookup_is_valid_access` (net/core/filter.c) ask for.

use core::ffi::c_void;

use adit_shared::steer::{self, Ends, Packet};
use aya_ebpf::bindings::bpf_hdr_start_off::BPF_HDR_START_NET;
use aya_ebpf::helpers::generated::{
    bpf_get_netns_cookie, bpf_setsockopt, bpf_sk_storage_get, bpf_skb_load_bytes_relative,
};
use aya_ebpf::programs::{SkLookupContext, SockAddrContext, SockOpsContext, TcContext};

use crate::maps::{AGENT_TAG, ENROLLED};

const AF_INET: u32 = 2;
const LOOPBACK_IFINDEX: u32 = 1;
const SOCK_STREAM: u32 = 1;
const SOL_SOCKET: i32 = 1;
const ETH_P_IP: u16 = 0x0800;
const ETH_P_IPV6: u16 = 0x86dd;

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

/// The packet that a device hands in, if it opens a TCP connection. Of no others anything is asked:
/// an IPv6 packet with extension headers before TCP, which no TCP of Linux sends, is one of them.
#[inline(always)]
pub(crate) fn opening(ctx: &TcContext) -> Option<Packet> {
    let from = ctx.skb.skb;
    let on_loopback = field!(from.ifindex) == LOOPBACK_IFINDEX;
    let (ends, tcp_at) = match u16::from_be(field!(from.protocol) as u16) {
        ETH_P_IP => ends4(ctx)?,
        ETH_P_IPV6 => ends6(ctx)?,
        _ => return None,
    };
    let [a, b, c, d, _, _, _, _, _, _, _, _, _, flags] = load::<14>(ctx, tcp_at)?;
    if !steer::opens(flags) {
        return None;
    }
    Some(Packet {
        ends,
        remote_port: u16::from_be_bytes([a, b]),
        local_port: u16::from_be_bytes([c, d]),
        protocol: steer::TCP,
        on_loopback,
    })
}

/// RFC 791, section 3.1. A fragment but the first has no TCP header, and the first of several is no
/// opening that anybody sends.
#[inline(always)]
fn ends4(ctx: &TcContext) -> Option<(Ends, u32)> {
    let header: [u32; 5] = load_words(ctx, 0)?;
    let [first, fragment, protocol, remote, local] = header;
    let [version_and_length, ..] = first.to_ne_bytes();
    let [_, _, high, low] = fragment.to_ne_bytes();
    let [_, protocol, _, _] = protocol.to_ne_bytes();
    let fragmented = u16::from_be_bytes([high, low]) & 0x3fff != 0;
    if u32::from(protocol) != steer::TCP || fragmented {
        return None;
    }
    let length = u32::from(version_and_length & 0x0f) * 4;
    Some((Ends::V4 { remote, local }, length))
}

/// RFC 8200, section 3.
#[inline(always)]
fn ends6(ctx: &TcContext) -> Option<(Ends, u32)> {
    let [_, second, a, b, c, d, e, f, g, h]: [u32; 10] = load_words(ctx, 0)?;
    let [_, _, next_header, _] = second.to_ne_bytes();
    if u32::from(next_header) != steer::TCP {
        return None;
    }
    Some((Ends::V6 { remote: [a, b, c, d], local: [e, f, g, h] }, 40))
}

#[inline(always)]
fn load<const N: usize>(ctx: &TcContext, offset: u32) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    // SAFETY: the context is the kernel's own, and there is room for as many bytes as are asked for.
    unsafe { load_into(ctx, offset, bytes.as_mut_ptr().cast(), N as u32) }.then_some(bytes)
}

#[inline(always)]
fn load_words<const N: usize>(ctx: &TcContext, offset: u32) -> Option<[u32; N]> {
    let mut words = [0; N];
    // SAFETY: the context is the kernel's own, and there is room for as many bytes as are asked for.
    unsafe { load_into(ctx, offset, words.as_mut_ptr().cast(), N as u32 * 4) }.then_some(words)
}

/// Reads from the network header on, whatever the device's own header is.
///
/// # Safety
/// `to` must have room for `length` bytes.
#[inline(always)]
unsafe fn load_into(ctx: &TcContext, offset: u32, to: *mut c_void, length: u32) -> bool {
    let skb = ctx.skb.skb.cast();
    // SAFETY: the context is the kernel's own; the caller answers for `to`.
    let answer =
        unsafe { bpf_skb_load_bytes_relative(skb, offset, to, length, BPF_HDR_START_NET as u32) };
    answer == 0
}
