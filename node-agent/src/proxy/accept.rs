//! The first stage: what is known of a connection when it is accepted.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use adit_core::flow::{CloseReason, TlsFailure};
use adit_core::hbone::{self, Malformed};
use adit_core::term::{Outlived, Standing};
use adit_core::workload::ObjectName;
use tokio::net::TcpStream;

use crate::datapath::EnrolledPod;
use crate::sys::sockopt;
use crate::tunnel::{Ends, Incoming};

/// A connection that an enrolled pod opened.
pub(crate) struct Captured {
    /// The pod.
    pub(crate) pod: Arc<EnrolledPod>,
    /// Its connection.
    pub(crate) tcp: TcpStream,
    /// The pod's end of it.
    pub(crate) source: SocketAddr,
    /// Where the pod wanted to connect to.
    pub(crate) dialled: SocketAddr,
}

/// A connection or stream to an enrolled pod.
pub(crate) struct Arrived {
    /// The pod.
    pub(crate) pod: Arc<EnrolledPod>,
    /// Where it comes from. In a tunnel the port is 0: the source's own is not known here.
    pub(crate) source: SocketAddr,
    /// The tunnel, for a stream in one.
    pub(crate) tunnel: Option<Rc<Ends>>,
    /// Where the source wants to connect to.
    pub(crate) dialled: SocketAddr,
    /// The service that the source says it dialled.
    pub(crate) claimed_service: Option<ObjectName>,
}

/// A request in a tunnel, read.
pub(crate) enum Requested {
    /// For a stream.
    Stream(Arrived),
    /// For what goes nowhere: no stream, which arrived at the pod's tunnel port, or one in a tunnel
    /// that has outlived what proved its ends.
    Refused {
        /// Whence, and to which pod.
        arrived: Arrived,
        /// What is wrong with it.
        reason: CloseReason,
    },
}

impl Captured {
    /// Asks the socket who is at its ends.
    ///
    /// What a pod opens to itself is never steered here: who dials one of the pod's own addresses
    /// found the listener's own port. To carry that on would be to connect to the listener, for ever.
    /// Nor is what the agent opens for the pod, except by another agent's programs.
    pub(crate) fn new(pod: Arc<EnrolledPod>, tcp: TcpStream) -> io::Result<Self> {
        let dialled = pod.sockets.original_destination(&tcp)?;
        let source = canonical(tcp.peer_addr()?);
        if is_own(&pod, dialled.ip(), source.ip()) || pod.sockets.is_own(source) {
            return Err(refuse(&tcp));
        }
        Ok(Self { pod, tcp, source, dialled })
    }
}

impl Arrived {
    /// A plaintext connection. `listener` is the port of the agent's own listener: who dials that
    /// wants no application.
    pub(crate) fn plaintext(
        pod: Arc<EnrolledPod>,
        tcp: &TcpStream,
        listener: u16,
    ) -> io::Result<Self> {
        let dialled = pod.sockets.original_destination(tcp)?;
        let source = canonical(tcp.peer_addr()?);
        if dialled.port() == listener && is_own(&pod, dialled.ip(), source.ip()) {
            return Err(refuse(tcp));
        }
        Ok(Self { pod, source, tunnel: None, dialled, claimed_service: None })
    }
}

impl Requested {
    /// Reads a request that came through a tunnel to `pod` that stands so.
    pub(crate) fn read(
        pod: &Arc<EnrolledPod>,
        (ends, standing): (&Rc<Ends>, Standing),
        request: &Incoming,
    ) -> Self {
        let authority = request.authority.as_deref().ok_or(Malformed::Method);
        let dialled = authority.and_then(hbone::parse_authority);
        // The tunnel's own address: a header could claim any.
        let source = SocketAddr::new(ends.peer_address.ip(), 0);
        let arrived = Arrived {
            pod: Arc::clone(pod),
            source,
            tunnel: Some(Rc::clone(ends)),
            dialled: dialled.unwrap_or_else(|_malformed| tunnel_port(pod, source.ip())),
            claimed_service: request.forwarded.as_deref().and_then(hbone::parse_forwarded_host),
        };
        let reason = match (dialled, standing) {
            (Err(why), _) => CloseReason::Malformed(why),
            (Ok(_), Standing::Serves | Standing::Drains) => return Self::Stream(arrived),
            (Ok(_), Standing::Expired | Standing::Ended(Outlived::Certificate)) => {
                CloseReason::Tls(TlsFailure::Expired)
            }
            (Ok(_), Standing::Ended(Outlived::Trust)) => {
                CloseReason::Tls(TlsFailure::UntrustedIssuer)
            }
        };
        Self::Refused { arrived, reason }
    }
}

/// Whether a pod dials itself. On loopback the source is the dialled address; from another loopback
/// address it is so one round later.
fn is_own(pod: &EnrolledPod, dialled: IpAddr, source: IpAddr) -> bool {
    dialled == source || pod.addresses.contains(&dialled)
}

/// Where the tunnels of a pod arrive, in the family of their source.
pub(super) fn tunnel_port(pod: &EnrolledPod, source: IpAddr) -> SocketAddr {
    let mut own = pod.addresses.iter().copied();
    let own = own.find(|ip| ip.is_ipv4() == source.is_ipv4()).unwrap_or(source);
    SocketAddr::new(own, hbone::TUNNEL_PORT)
}

/// Resets a connection, and says so.
fn refuse(tcp: &TcpStream) -> io::Error {
    let reset = sockopt::reset_on_close(tcp);
    reset.err().unwrap_or_else(|| io::ErrorKind::ConnectionRefused.into())
}

/// IPv4 connections reach a dual-stack listener as IPv4-mapped addresses.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
