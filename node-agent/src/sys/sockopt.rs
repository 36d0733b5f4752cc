//! Socket options.
#![expect(unsafe_code, reason = "SO_NETNS_COOKIE is in neither nix nor socket2")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::Duration;

use nix::libc;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::IpBindAddressNoPort;
use socket2::{SockRef, Socket};

/// asm-generic/socket.h; since Linux 5.14.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// The cookie of the network namespace that a socket was made in.
///
/// # Errors
/// The kernel's.
pub fn netns_cookie(socket: &impl AsFd) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = 8;
    // SAFETY: both pointers are to live values, and `length` is the size of the first.
    let answer = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if answer == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// Lets a socket have addresses that are not the namespace's. One flag of the kernel's
/// (`inet_sk(sk)->transparent`) serves both families.
///
/// # Errors
/// The kernel's.
pub fn set_transparent(socket: &Socket, v6: bool) -> io::Result<()> {
    if v6 { socket.set_ip_transparent_v6(true) } else { socket.set_ip_transparent_v4(true) }
}

/// Lets `bind` to an address leave the choice of the port to `connect`, which then only has to be
/// unique together with the destination (IP_BIND_ADDRESS_NO_PORT; for IPv6 sockets too).
///
/// # Errors
/// The kernel's.
pub fn set_bind_address_no_port(socket: &impl AsFd) -> io::Result<()> {
    setsockopt(&socket.as_fd(), IpBindAddressNoPort, &true)?;
    Ok(())
}

/// Makes closing a connection reset it: the other end sees an error and no end of data.
///
/// # Errors
/// The kernel's.
pub fn reset_on_close(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(&socket.as_fd()).set_linger(Some(Duration::ZERO))
}
