//! Which loopback socket stands behind an address of the cluster.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpStream;

use super::{FakePod, lock};
use crate::datapath::Dial;

/// The addresses of a cluster. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct FakeNetwork(Arc<Network>);

/// A connection that was made to an application on a client's behalf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inward {
    /// The client's address, as the application should see it.
    pub source: IpAddr,
    /// The application's address.
    pub destination: SocketAddr,
}

#[derive(Debug, Default)]
struct Network {
    state: Mutex<State>,
    /// Bound and never listening: a connection to it is refused.
    closed: OnceLock<Socket>,
}

#[derive(Debug, Default)]
struct State {
    servers: BTreeMap<SocketAddr, SocketAddr>,
    /// Pods whose incoming connections come to the agent.
    looked_up: BTreeMap<IpAddr, Weak<FakePod>>,
    /// A client's loopback address → where it wanted to go.
    originals: HashMap<SocketAddr, SocketAddr>,
    inward: Vec<Inward>,
}

impl FakeNetwork {
    /// A network without addresses.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a server that listens on `loopback` at an address of the cluster.
    pub fn serve(&self, address: SocketAddr, loopback: SocketAddr) {
        lock(&self.0.state).servers.insert(address, loopback);
    }

    /// Takes a server away; connections to its address are refused.
    pub fn remove(&self, address: SocketAddr) {
        lock(&self.0.state).servers.remove(&address);
    }

    /// Connects as a client that no agent captures.
    ///
    /// # Errors
    /// The connection's; refused if nothing is at `destination`.
    pub async fn connect(&self, source: IpAddr, destination: SocketAddr) -> io::Result<TcpStream> {
        self.dial(source, destination)?.connect().await
    }

    /// The connections made by [`PodSockets::inward`](crate::datapath::PodSockets::inward) so far.
    #[must_use]
    pub fn inward(&self) -> Vec<Inward> {
        lock(&self.0.state).inward.clone()
    }

    /// From outside the pod: to the agent if it looks the pod's connections up.
    pub(super) fn dial(&self, source: IpAddr, destination: SocketAddr) -> io::Result<Dial> {
        let pod = lock(&self.0.state).looked_up.get(&destination.ip()).and_then(Weak::upgrade);
        let to = match pod {
            Some(pod) => pod.inbound(destination.port()),
            None => self.server(destination),
        };
        self.dial_to(source, destination, to)
    }

    /// To the pod's own application, on a client's behalf.
    pub(super) fn dial_inward(&self, source: IpAddr, destination: SocketAddr) -> io::Result<Dial> {
        let to = self.server(destination);
        let inward = Inward { source, destination };
        lock(&self.0.state).inward.push(inward);
        self.dial_to(source, destination, to)
    }

    /// To a loopback address, or one where connections are refused.
    pub(super) fn dial_to(
        &self,
        source: IpAddr,
        destination: SocketAddr,
        to: Option<SocketAddr>,
    ) -> io::Result<Dial> {
        let to = to.map_or_else(|| self.closed(), Ok)?;
        let local = match to.ip() {
            IpAddr::V4(_) if source.is_ipv4() && source.is_loopback() => source,
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        };
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.bind(&SocketAddr::new(local, 0).into())?;
        if let Some(from) = socket.local_addr()?.as_socket() {
            lock(&self.0.state).originals.insert(from, destination);
        }
        Ok(Dial { socket, to, rounds: None })
    }

    pub(super) fn original(&self, client: SocketAddr) -> Option<SocketAddr> {
        lock(&self.0.state).originals.get(&client).copied()
    }

    pub(super) fn look_up(&self, address: IpAddr, pod: Weak<FakePod>) {
        lock(&self.0.state).looked_up.insert(address, pod);
    }

    pub(super) fn look_up_no_more(&self, address: IpAddr) {
        lock(&self.0.state).looked_up.remove(&address);
    }

    fn server(&self, address: SocketAddr) -> Option<SocketAddr> {
        lock(&self.0.state).servers.get(&address).copied()
    }

    fn closed(&self) -> io::Result<SocketAddr> {
        if self.0.closed.get().is_none() {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
            socket.bind(&SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0).into())?;
            let _another_was_first: Result<(), Socket> = self.0.closed.set(socket);
        }
        let socket = self.0.closed.get();
        let address = socket.map(Socket::local_addr).transpose()?;
        address
            .and_then(|address| address.as_socket())
            .ok_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable))
    }
}
