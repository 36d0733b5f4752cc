//! The agent's sockets in a pod's namespace. Each is tagged as the agent's before it connects or
//! listens, so that the connect programs never send it back to the agent.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;

use adit_shared::key::INWARD_MARK;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpStream;

use crate::datapath::maps::Maps;
use crate::datapath::rounds::Rounds;
use crate::datapath::{Dial, Listeners, PodSockets};
use crate::sys::errno;
use crate::sys::interfaces::Device;
use crate::sys::netns::Netns;
use crate::sys::sockopt;

const BACKLOG: i32 = 4096;
const LOOPBACK: &[u8] = b"lo";

/// A pod's sockets.
#[derive(Debug)]
pub(super) struct KernelSockets {
    netns: Arc<Netns>,
    maps: Arc<Maps>,
    rounds: Arc<Rounds>,
}

impl KernelSockets {
    pub(super) fn new(netns: Arc<Netns>, maps: Arc<Maps>) -> Self {
        Self { netns, maps, rounds: Arc::default() }
    }

    /// The listeners of all workers.
    ///
    /// `outside` is the interface that everything from outside comes through, where there is one such.
    /// The listeners for what comes from outside are bound to it, and the sockets they accept inherit
    /// that (`inet_request_bound_dev_if`). Otherwise the agent's own connection to the application
    /// (client:P → pod:port, on lo), whose port the kernel may choose equal to the client's, would be
    /// taken for a packet of the accepted socket, which has the same four values; a socket that is
    /// bound to another interface does not match (`inet_match`, include/net/inet_hashtables.h). The
    /// look-up program's choice is not subject to the binding. The other half of it, that packets from
    /// outside are not taken for the application's socket, is the accept program's.
    pub(super) fn listeners(
        &self,
        workers: usize,
        outside: Option<&Device>,
    ) -> io::Result<Vec<Listeners>> {
        let open = || {
            let worker = |_| {
                Ok(Listeners {
                    outbound: listener(&self.maps, None)?,
                    hbone: listener(&self.maps, outside)?,
                    plaintext: listener(&self.maps, outside)?,
                })
            };
            (0..workers).map(worker).collect()
        };
        self.netns.within(open)?
    }

    fn socket(&self, to: SocketAddr) -> io::Result<Socket> {
        let socket = stream(Domain::for_address(to))?;
        self.maps.tag(&socket)?;
        Ok(socket)
    }
}

impl PodSockets for KernelSockets {
    fn original_destination(&self, accepted: &TcpStream) -> io::Result<SocketAddr> {
        accepted.local_addr().map(canonical)
    }

    fn is_own(&self, source: SocketAddr) -> bool {
        self.rounds.is_from_one(source)
    }

    fn outward(&self, destination: SocketAddr) -> io::Result<Dial> {
        let to = canonical(destination);
        let socket = self.netns.within(|| self.socket(to))??;
        Ok(Dial { socket, to, rounds: Some(Arc::clone(&self.rounds)) })
    }

    fn inward(&self, source: IpAddr, destination: SocketAddr) -> io::Result<Dial> {
        let (source, to) = (source.to_canonical(), canonical(destination));
        if source.is_ipv4() != to.is_ipv4() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{source} and {to} are of different families"),
            ));
        }
        let socket = self.netns.within(|| {
            let socket = self.socket(to)?;
            // The client's address is not the pod's.
            sockopt::set_transparent(&socket, to.is_ipv6())?;
            sockopt::set_bind_address_no_port(&socket)?;
            // Bound to lo and marked, table 100 routes it to lo, from where the look-up program
            // lets it pass to the application.
            socket.set_mark(INWARD_MARK)?;
            socket.bind_device(Some(LOOPBACK))?;
            socket.bind(&SocketAddr::new(source, 0).into())?;
            io::Result::Ok(socket)
        })??;
        // Marked on purpose.
        Ok(Dial { socket, to, rounds: None })
    }
}

/// A listener on a port of the kernel's choice, which only the look-up program leads to: whoever
/// connects to that port directly is steered like any other connection.
pub(super) fn listener(maps: &Maps, device: Option<&Device>) -> io::Result<TcpListener> {
    // One dual-stack listener takes both families, also where disable_ipv6=1; only a kernel without
    // IPv6 needs the other one.
    let (socket, v6) = match stream(Domain::IPV6) {
        Ok(socket) => (socket, true),
        Err(error) if error.raw_os_error() == Some(errno::EAFNOSUPPORT) => {
            (stream(Domain::IPV4)?, false)
        }
        Err(error) => return Err(error),
    };
    let any: IpAddr = if v6 {
        socket.set_only_v6(false)?;
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    };
    sockopt::set_transparent(&socket, v6)?;
    // So that its accepted sockets do not keep applications from binding the port dialled.
    socket.set_reuse_address(true)?;
    if let Some(device) = device {
        socket.bind_device(Some(device.name.as_bytes()))?;
    }
    socket.bind(&SocketAddr::new(any, 0).into())?;
    maps.tag(&socket)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn stream(domain: Domain) -> io::Result<Socket> {
    Socket::new(domain, Type::STREAM.cloexec().nonblocking(), Some(Protocol::TCP))
}

/// An IPv4-mapped address as the IPv4 address that it is.
fn canonical(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(v4) => SocketAddr::new(v4.into(), address.port()),
        IpAddr::V6(_) => address, // with its scope
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_address_becomes_ipv4_and_a_scope_is_kept() {
        let mapped = "[::ffff:10.0.0.1]:80".parse().unwrap();
        assert_eq!(canonical(mapped), "10.0.0.1:80".parse().unwrap());
        let scoped = "[fe80::1%3]:80".parse().unwrap();
        assert_eq!(canonical(scoped), scoped);
    }
}
