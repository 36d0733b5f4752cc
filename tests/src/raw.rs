//! What neither std nor socket2 can do with a socket.
#![expect(unsafe_code, reason = "io_uring reads from pointers; some addresses have no safe type")]

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;

use io_uring::{IoUring, opcode, types};
use nix::libc;
use socket2::{Domain, SockAddr, SockAddrStorage, Socket, Type};

/// AF_PACKET, as wide as an address has it.
const PACKET: libc::sa_family_t = 17;

/// Dissolves the association of a connected socket, by `connect` to an address of family AF_UNSPEC
/// (connect(2)); it can be connected again.
///
/// # Errors
/// The kernel's.
pub fn disconnect(socket: &Socket) -> io::Result<()> {
    let storage = SockAddrStorage::zeroed(); // AF_UNSPEC is 0
    let length = storage.size_of();
    // SAFETY: the storage is as long as it says.
    let nowhere = unsafe { SockAddr::new(storage, length) };
    socket.connect(&nowhere)
}

/// Connects a socket by an io_uring of its own, and waits for it.
///
/// # Errors
/// `Unsupported` where the kernel lets nobody make an io_uring; else the connection's.
pub fn connect_by_io_uring(socket: &Socket, to: SocketAddr) -> io::Result<()> {
    let mut ring = IoUring::new(2).map_err(|error| {
        io::Error::new(io::ErrorKind::Unsupported, format!("io_uring: {error}"))
    })?;
    let to = SockAddr::from(to);
    let socket = types::Fd(socket.as_raw_fd());
    let connect = opcode::Connect::new(socket, to.as_ptr().cast(), to.len()).build();
    // SAFETY: socket and address live until the completion below.
    unsafe { ring.submission().push(&connect) }.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    let done = ring.completion().next().map(|entry| entry.result());
    match done {
        Some(result) if result >= 0 => Ok(()),
        Some(error) => Err(io::Error::from_raw_os_error(-error)),
        None => Err(io::Error::other("no completion")),
    }
}

/// The hardware address of an interface of the calling thread's network namespace.
///
/// # Errors
/// The kernel's; or there is no such interface.
pub fn mac_of(interface: &str) -> io::Result<[u8; 6]> {
    let addresses = nix::ifaddrs::getifaddrs()?;
    let mut links = addresses.filter(|entry| entry.interface_name == interface);
    let mac = links.find_map(|entry| entry.address?.as_link_addr()?.addr());
    mac.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no interface {interface}")))
}

/// Sends an IP packet out of an interface of the calling thread's network namespace, whatever its
/// addresses are (packet(7)).
///
/// # Errors
/// The kernel's.
pub fn send_packet(interface: &str, to: [u8; 6], packet: &[u8]) -> io::Result<()> {
    let v6 = packet.first().is_some_and(|first| first >> 4 == 6);
    let ethertype: u16 = if v6 { 0x86dd } else { 0x0800 };
    let [a, b, c, d, e, f] = to;
    let link = libc::sockaddr_ll {
        sll_family: PACKET,
        sll_protocol: ethertype.to_be(),
        sll_ifindex: nix::net::if_::if_nametoindex(interface)?.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [a, b, c, d, e, f, 0, 0],
    };
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>());
    let length = length.map_err(io::Error::other)?;
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: a sockaddr_ll is an address that fits into the storage.
    unsafe { *storage.view_as::<libc::sockaddr_ll>() = link };
    // SAFETY: the storage holds an address of this length.
    let address = unsafe { SockAddr::new(storage, length) };
    let socket = Socket::new(Domain::PACKET, Type::DGRAM, None)?;
    socket.send_to(packet, &address)?;
    Ok(())
}
