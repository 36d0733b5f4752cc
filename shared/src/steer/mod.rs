//! The decisions of the programs, without the kernel.

use crate::key::{HBONE_PORT, INWARD_MARK, MAX_WORKERS, ROLES, Role};
use crate::value::{PodConfig, V4, V6};

/// The IP protocol number of TCP.
pub const TCP: u32 = 6;
const FIN: u8 = 0x01;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const ACK: u8 = 0x10;
const LOOPBACK6: V6 = [0, 0, 0, 1_u32.to_be()];

/// What the connect hook does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connect {
    /// The connection goes where it would have gone.
    Pass,
    /// The agent opened it: it goes where it would have gone.
    Agent,
    /// The connection is marked, which routes it to the agent.
    Mark,
}

/// Whether a connection is captured: a stream socket (MPTCP and TCP alike) of an enrolled pod that
/// is not the agent's. Loopback and own addresses need no case here: the kernel consults the `local`
/// routing table before the rule that the mark is for.
#[inline(always)]
#[must_use]
pub const fn connect(stream: bool, enrolled: bool, agent: bool) -> Connect {
    match (stream && enrolled, agent) {
        (false, _) => Connect::Pass,
        (true, true) => Connect::Agent,
        (true, false) => Connect::Mark,
    }
}

/// Whether an accepted socket is an application's that the agent connected to.
#[inline(always)]
#[must_use]
pub const fn accepted_from_agent(mark: u32, enrolled: bool) -> bool {
    mark == INWARD_MARK && enrolled
}

/// The two ends of a packet, as the pod's namespace sees it arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// IPv4.
    V4 {
        /// Where it comes from.
        remote: V4,
        /// Where it goes to.
        local: V4,
    },
    /// IPv6.
    V6 {
        /// Where it comes from.
        remote: V6,
        /// Where it goes to.
        local: V6,
    },
}

/// A packet that looks for a listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Its addresses.
    pub ends: Ends,
    /// The port it comes from.
    pub remote_port: u16,
    /// The port it goes to.
    pub local_port: u16,
    /// Its IP protocol number.
    pub protocol: u32,
    /// Whether the kernel says that it came in on the loopback interface.
    pub on_loopback: bool,
}

/// Whether a TCP segment with these flags opens a connection (RFC 9293, section 3.1: the 14th byte of
/// its header). The kernel looks for a listener for no other (`tcp_rcv_state_process`), but for the
/// acknowledgement of a SYN cookie.
#[inline(always)]
#[must_use]
pub const fn opens(flags: u8) -> bool {
    flags & (FIN | SYN | RST | ACK) == SYN
}

/// What the look-up hook does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Steer {
    /// The kernel looks for a socket as ever.
    Pass,
    /// The agent's listener of this role takes the connection.
    To(Role),
}

/// Which listener takes a new connection.
///
/// The order matters. A packet to an address that the agent does not know as the pod's own is taken
/// for one that the pod sent, so equal ends come first: the agent's own connection to such an address
/// has them, because the kernel picks the destination as its source, and must not come back to the
/// agent. `on_loopback` is only asked where it can be trusted: a connection to the pod's own address
/// travels over the loopback interface but reports the address's (`rt_iif`, net/ipv4/route.c); the
/// agent's connection to the pod's application reports the loopback interface, as it is bound to it.
#[inline(always)]
#[must_use]
pub fn steer(pod: &PodConfig, packet: &Packet) -> Steer {
    if packet.protocol != TCP {
        return Steer::Pass;
    }
    let (same, to, from) = match packet.ends {
        Ends::V4 { remote, local } => (remote == local, whose4(pod, local), whose4(pod, remote)),
        Ends::V6 { remote, local } => {
            (same6(&remote, &local), whose6(pod, &local), whose6(pod, &remote))
        }
    };
    match (to, from) {
        _ if same => Steer::Pass,
        (Whose::Foreign, _) => Steer::To(Role::Outbound),
        (Whose::Loopback, _) => Steer::Pass,
        (Whose::Own, _) if packet.on_loopback => Steer::Pass,
        (Whose::Own, Whose::Own | Whose::Loopback) => Steer::Pass,
        (Whose::Own, Whose::Foreign) if packet.local_port == HBONE_PORT => Steer::To(Role::Hbone),
        (Whose::Own, Whose::Foreign) => Steer::To(Role::Plaintext),
    }
}

/// The worker that takes a new connection: always the same for the same four values, because with
/// SYN cookies (net.ipv4.tcp_syncookies) the ACK of the handshake looks the listener up again.
#[inline(always)]
#[must_use]
pub fn worker(pod: &PodConfig, packet: &Packet) -> u32 {
    let ports = (u32::from(packet.remote_port) << 16) | u32::from(packet.local_port);
    let hash = match packet.ends {
        Ends::V4 { remote, local } => mix(mix(mix(0, remote), local), ports),
        Ends::V6 { remote: [a, b, c, d], local: [e, f, g, h] } => mix(
            mix(mix(0, a ^ b.rotate_left(8)), c ^ d.rotate_left(16)),
            mix(mix(e ^ f.rotate_left(8), g ^ h.rotate_left(16)), ports),
        ),
    };
    // The upper half: the multiplications of `mix` leave the low bits the weakest.
    // Zero is excluded in a way that leaves no panic, which the verifier would not load.
    (hash >> 16).checked_rem(pod.workers.min(MAX_WORKERS)).unwrap_or(0)
}

/// The place of a listener in [`crate::names::LISTENERS`]. It does not depend on how many workers
/// there are, so that an agent with another number of them finds no listener of its own displaced.
#[inline(always)]
#[must_use]
pub const fn slot(pod: u32, role: Role, worker: u32) -> u32 {
    pod.wrapping_mul(ROLES).wrapping_add(role as u32).wrapping_mul(MAX_WORKERS).wrapping_add(worker)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    Own,
    Loopback,
    Foreign,
}

#[inline(always)]
fn whose4(pod: &PodConfig, address: V4) -> Whose {
    let [first, _, _, _] = address.to_ne_bytes();
    if first == 127 {
        return Whose::Loopback;
    }
    let mut own = false;
    for (place, known) in (0_u32..).zip(pod.v4.iter()) {
        own |= place < pod.v4_count && *known == address;
    }
    if own { Whose::Own } else { Whose::Foreign }
}

#[inline(always)]
fn whose6(pod: &PodConfig, address: &V6) -> Whose {
    if same6(address, &LOOPBACK6) {
        return Whose::Loopback;
    }
    let mut own = false;
    for (place, known) in (0_u32..).zip(pod.v6.iter()) {
        own |= place < pod.v6_count && same6(known, address);
    }
    if own { Whose::Own } else { Whose::Foreign }
}

/// Word by word: `==` on arrays may become a call to `bcmp`, which BPF does not have.
#[inline(always)]
const fn same6(left: &V6, right: &V6) -> bool {
    let [a, b, c, d] = *left;
    let [e, f, g, h] = *right;
    (a ^ e) | (b ^ f) | (c ^ g) | (d ^ h) == 0
}

/// One round of MurmurHash3's mixing (public domain).
#[inline(always)]
const fn mix(hash: u32, word: u32) -> u32 {
    let word = word.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
    (hash ^ word).rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64)
}

#[cfg(test)]
mod tests;
