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

/// Sends small segments at once (TCP_NODELAY). What a listener accepts inherits it: the kernel clones
/// its `tcp_sock` (`inet_csk_clone_lock`), `nonagle` with it.
///
/// # Errors
/// The kernel's.
pub fn send_at_once(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(&socket.as_fd()).set_tcp_nodelay(true)
}

/// Makes closing a connection reset it: the other end sees an error and no end of data. So does the
/// death of the process (`__tcp_close` in net/ipv4/tcp.c asks for no more than the option). What a
/// listener accepts inherits it.
///
/// # Errors
/// The kernel's.
pub fn reset_on_close(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(&socket.as_fd()).set_linger(Some(Duration::ZERO))
}

/// Takes [`reset_on_close`] back: closing delivers what was sent.
///
/// # Errors
/// The kernel's.
pub fn deliver_on_close(socket: &impl AsFd) -> io::Result<()> {
    SockRef::from(&socket.as_fd()).set_linger(None)
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn connected(listener: &TcpListener) -> (TcpStream, TcpStream) {
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn what_a_listener_accepts_sends_at_once_as_it_does() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(!connected(&listener).1.nodelay().unwrap());
        send_at_once(&listener).unwrap();
        assert!(connected(&listener).1.nodelay().unwrap());
    }

    #[test]
    fn what_a_listener_accepts_is_reset_on_close_until_that_is_taken_back() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        reset_on_close(&listener).unwrap();

        let (mut client, mut server) = connected(&listener);
        server.write_all(b"half of it").unwrap();
        drop(server);
        let mut got = Vec::new();
        let error = client.read_to_end(&mut got).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);

        let (mut client, mut server) = connected(&listener);
        server.write_all(b"all of it").unwrap();
        deliver_on_close(&server).unwrap();
        drop(server);
        let mut got = Vec::new();
        client.read_to_end(&mut got).unwrap();
        assert_eq!(got, b"all of it");
    }
}
