//! Every way to open a connection that a socket has: each is captured, goes to where it was dialled,
//! and shows the application native names.

use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use adit_e2e::capture::Capture;
use adit_e2e::{Node, Pod, client, raw, server};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, Type};

use crate::support::{Scene, cannot_run};

const PORT4: u16 = 8004;
const PORT6: u16 = 8006;

fn scene(ns: &str) -> Option<Scene> {
    Scene::shared("sockets", ns)
}

/// A client and a server, both enrolled, and how the server is dialled in each family.
struct Case {
    scene: Scene,
    client: Pod,
    server: Pod,
    echoes: [server::Server; 2],
}

impl Case {
    fn new(ns: &str) -> Option<Self> {
        let scene = scene(ns)?;
        let (client, server) = scene.pair();
        let echoes = [PORT4, PORT6].map(|port| server.serve(port, server::echo).unwrap());
        Some(Self { scene, client, server, echoes })
    }

    fn destinations(&self) -> [SocketAddr; 2] {
        [self.server.at4(PORT4), self.server.at6(PORT6)]
    }

    fn own(&self, to: SocketAddr) -> IpAddr {
        if to.is_ipv4() { self.client.v4().into() } else { self.client.v6().into() }
    }

    /// Opens a connection in each family inside the client and asserts that it goes through a tunnel,
    /// with its bytes, and that the server sees the client's address.
    #[track_caller]
    fn tunnelled(&self, open: impl Fn(SocketAddr) -> io::Result<Socket> + Sync) {
        for to in self.destinations() {
            let stream = self.client.run(|| open(to)).unwrap();
            let stream = TcpStream::from(stream.unwrap());
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            assert_eq!(stream.peer_addr().unwrap(), to);
            let text = format!("to {to}");
            assert_eq!(client::exchange(stream, text.as_bytes()).unwrap(), text.as_bytes());
        }
        self.were_tunnelled();
    }

    /// Asserts that what went to each family's port did so through a tunnel.
    #[track_caller]
    fn were_tunnelled(&self) {
        for (to, echo) in self.destinations().into_iter().zip(&self.echoes) {
            let flow = self.scene.outbound(&self.client, &self.server, to.port());
            assert_eq!(flow.protocol, "hbone", "{to}");
            assert_eq!(flow.destination.address, to.ip());
            assert_eq!(echo.clients(), [self.own(to)], "{to}");
        }
    }
}

fn stream(to: SocketAddr) -> io::Result<Socket> {
    Socket::new(Domain::for_address(to), Type::STREAM, None)
}

#[test]
fn a_source_port_of_the_applications_choice_is_kept() {
    let Some(case) = Case::new("source-port") else {
        return;
    };
    let own = [IpAddr::V4(case.client.v4()), IpAddr::V6(case.client.v6())];

    case.tunnelled(|to| {
        let socket = stream(to)?;
        let from = SocketAddr::new(own[usize::from(to.is_ipv6())], 5555);
        socket.bind(&from.into())?;
        socket.connect(&to.into())?;
        assert_eq!(socket.local_addr()?.as_socket(), Some(from));
        Ok(socket)
    });
}

/// Without adit such a connection cannot leave the pod. It may as well: the agent's leaves from the
/// pod's own address.
#[test]
fn a_source_address_of_loopback_is_no_way_round_the_tunnel() {
    let Some(case) = Case::new("source-loopback") else {
        return;
    };

    case.tunnelled(|to| {
        let socket = stream(to)?;
        let from: IpAddr = match to {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        };
        socket.bind(&SocketAddr::new(from, 0).into())?;
        socket.connect(&to.into())?;
        Ok(socket)
    });
}

#[test]
fn a_socket_that_is_bound_to_the_pods_interface_is_captured() {
    let Some(case) = Case::new("bound-eth0") else {
        return;
    };

    case.tunnelled(|to| {
        let socket = stream(to)?;
        socket.bind_device(Some(b"eth0"))?;
        socket.connect(&to.into())?;
        Ok(socket)
    });
}

/// Without adit the packets of such a socket come in again on lo and are dropped as martians; with it the
/// answers come in by way of the pod's own address, which the kernel counts as eth0. Neither gets
/// anywhere, and nothing leaves the pod.
#[test]
fn a_socket_that_is_bound_to_the_loopback_interface_gets_nowhere_as_ever() {
    let Some(case) = Case::new("bound-lo") else { return };
    let own = case.client.serve(8080, server::echo).unwrap();
    let between = case.scene.cluster.capture().unwrap();
    let connect = |to: SocketAddr, patience| {
        let socket = stream(to)?;
        socket.bind_device(Some(b"lo"))?;
        socket.connect_timeout(&to.into(), patience)?;
        client::exchange(TcpStream::from(socket), b"near").map_err(io::Error::other)
    };

    for to in [(Ipv4Addr::LOCALHOST, 8080).into(), (Ipv6Addr::LOCALHOST, 8080).into()] {
        let heard = case.client.run(|| connect(to, Duration::from_secs(10))).unwrap();
        assert_eq!(heard.unwrap(), b"near");
    }
    for to in case.destinations() {
        let heard = case.client.run(|| connect(to, Duration::from_secs(2))).unwrap();
        assert_eq!(heard.unwrap_err().kind(), io::ErrorKind::TimedOut, "{to}");
    }

    assert_eq!(own.connections(), 2);
    assert!(case.echoes.iter().all(|echo| echo.connections() == 0));
    let left = between.finish().unwrap();
    let client4 = case.client.v4().octets();
    assert!(left.find(|frame| is_syn(frame) && frame.get(26..30) == Some(&client4[..])).is_none());
}

/// A mark of the application's own, adit's mark for its own sockets among them, decides nothing.
#[test]
fn a_mark_of_the_applications_own_changes_nothing() {
    let Some(case) = Case::new("own-mark") else { return };

    for mark in [1, 0x111, 0x1111, 0x539, u32::MAX] {
        case.tunnelled(|to| {
            let socket = stream(to)?;
            socket.set_mark(mark)?;
            socket.connect(&to.into())?;
            Ok(socket)
        });
    }
}

#[test]
fn fast_open_with_the_data_in_sendto_delivers_it_once_and_in_order() {
    let Some(case) = Case::new("fastopen-sendto") else {
        return;
    };

    fast_open(&case, |to| {
        let socket = stream(to)?;
        socket.send_to_with_flags(b"first, ", &to.into(), nix::libc::MSG_FASTOPEN)?;
        Ok(socket)
    });
}

#[test]
fn fast_open_by_socket_option_delivers_its_data_once_and_in_order() {
    let Some(case) = Case::new("fastopen-option") else {
        return;
    };

    fast_open(&case, |to| {
        let socket = stream(to)?;
        setsockopt(&socket, sockopt::TcpFastOpenConnect, &true)?;
        socket.connect(&to.into())?;
        socket.send(b"first, ")?;
        Ok(socket)
    });
}

/// Tries it as the kernel is set up, and then with every listener of the pod taking data with the
/// SYN, without a cookie: the agent's listener does so too.
#[track_caller]
fn fast_open(case: &Case, open: impl Fn(SocketAddr) -> io::Result<Socket> + Sync) {
    for setting in ["1", "1543"] {
        case.client.netns().sysctl(&[("net/ipv4/tcp_fastopen", setting)]).unwrap();
        let capture = Capture::start(case.client.netns()).unwrap();
        for to in case.destinations() {
            let mut stream = TcpStream::from(case.client.run(|| open(to)).unwrap().unwrap());
            assert_eq!(stream.peer_addr().unwrap(), to);
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            stream.write_all(b"second, ").unwrap();
            let heard = client::exchange(stream, b"last").unwrap();
            assert_eq!(String::from_utf8_lossy(&heard), "first, second, last");
        }
        let packets = capture.finish().unwrap();
        let early = packets.find(|frame| is_syn(frame) && frame.ends_with(b"first, "));
        assert_eq!(early.is_some(), setting != "1", "data in the SYN");
    }
    case.were_tunnelled();
}

#[test]
fn an_mptcp_client_falls_back_to_tcp_and_no_subflow_leaves() {
    let Some(case) = Case::new("mptcp") else { return };
    let inside = Capture::start(case.client.netns()).unwrap();
    let between = case.scene.cluster.capture().unwrap();

    case.tunnelled(|to| {
        let socket =
            Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::MPTCP)).unwrap();
        socket.connect(&to.into())?;
        Ok(socket)
    });

    let asked = inside.finish().unwrap();
    assert!(asked.find(|frame| is_syn(frame) && has_mptcp(frame)).is_some(), "it did not ask");
    let left = between.finish().unwrap();
    assert!(left.find(is_syn).is_some(), "the capture saw no connection");
    assert!(left.find(|frame| is_tcp(frame) && has_mptcp(frame)).is_none());
}

#[test]
fn a_socket_that_is_connected_again_goes_to_its_second_destination() {
    let Some(case) = Case::new("again") else { return };
    let [other] = case.scene.pods([case.scene.pod("other", Node::B)]);
    let _first = other.serve(PORT4, server::echo).unwrap();
    let _first6 = other.serve(PORT6, server::echo).unwrap();

    case.tunnelled(|to| {
        let before = if to.is_ipv4() { other.at4(PORT4) } else { other.at6(PORT6) };
        let socket = stream(to)?;
        socket.connect(&before.into())?;
        (&socket).write_all(b"one")?;
        (&socket).read_exact(&mut [0; 3])?;
        raw::disconnect(&socket)?;
        socket.connect(&to.into())?;
        Ok(socket)
    });

    for port in [PORT4, PORT6] {
        assert_eq!(case.scene.outbound(&case.client, &other, port).protocol, "hbone");
    }
}

#[test]
fn a_connect_by_io_uring_is_captured() {
    let Some(case) = Case::new("io-uring") else { return };
    let probe = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let refused = raw::connect_by_io_uring(&probe, nobody).unwrap_err();
    if refused.kind() == io::ErrorKind::Unsupported {
        return cannot_run(&refused.to_string());
    }

    case.tunnelled(|to| {
        let socket = stream(to)?;
        raw::connect_by_io_uring(&socket, to)?;
        Ok(socket)
    });
}

/// The kernel's ports of proxies are nothing special, neither to call nor to serve, and neither is
/// that of the agent's own tunnels for a client inside the mesh.
#[test]
fn applications_may_serve_the_ports_that_proxies_use() {
    let Some(scene) = scene("proxy-ports") else { return };
    let (client, server) = scene.pair();

    for port in [22, 15001, 15006, 15008] {
        let echo = server.serve(port, server::echo).unwrap();
        let own = client.serve(port, server::greet).unwrap();
        for to in [server.at4(port), server.at6(port)] {
            client.run(|| client::echo(to, b"special?")).unwrap().unwrap();
        }
        assert_eq!(echo.clients(), [IpAddr::V4(client.v4()), IpAddr::V6(client.v6())]);
        assert_eq!(own.connections(), 0, "{port}");
        assert_eq!(scene.outbound(&client, &server, port).protocol, "hbone");
    }
}

/// A strangers' plaintext reaches them as well, but on the port of the tunnels.
#[test]
fn plaintext_from_outside_reaches_the_ports_that_proxies_use_but_not_that_of_tunnels() {
    let Some(scene) = scene("outside-ports") else { return };
    let [server] = scene.pods([scene.pod("server", Node::B)]);
    let outside = scene.cluster.outside();

    for port in [22, 15001, 15006] {
        let echo = server.serve(port, server::echo).unwrap();
        for to in [server.at4(port), server.at6(port)] {
            outside.run(|| client::echo(to, b"hello")).unwrap().unwrap();
        }
        assert_eq!(echo.clients(), scene.cluster.outside_addresses());
    }
    let hidden = server.serve(15008, server::greet).unwrap();
    for to in [server.at4(15008), server.at6(15008)] {
        let heard = outside.run(|| {
            let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(10)).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            stream.write_all(b"no handshake of TLS at all").unwrap();
            let mut heard = Vec::new();
            let _reset_or_closed: io::Result<usize> = stream.read_to_end(&mut heard);
            heard
        });
        let heard = heard.unwrap();
        assert!(!heard.windows(3).any(|three| three == b"220"), "{heard:?}");
    }
    assert_eq!(hidden.connections(), 0);
}

/// The offset of the TCP header in a frame of Ethernet with IPv4 or IPv6.
pub(crate) fn tcp_header(frame: &[u8]) -> Option<usize> {
    match (frame.get(12..14)?, frame.get(14)?) {
        ([0x08, 0x00], first) if frame.get(23) == Some(&6) => {
            Some(14 + usize::from(first & 0x0f) * 4)
        }
        ([0x86, 0xdd], _) if frame.get(20) == Some(&6) => Some(14 + 40),
        _ => None,
    }
}

fn is_tcp(frame: &[u8]) -> bool {
    tcp_header(frame).is_some()
}

/// Whether it opens a connection.
fn is_syn(frame: &[u8]) -> bool {
    let flags = tcp_header(frame).and_then(|header| frame.get(header + 13));
    flags.is_some_and(|flags| flags & 0x12 == 0x02)
}

/// Whether it has the TCP option of MPTCP (kind 30, RFC 8684).
fn has_mptcp(frame: &[u8]) -> bool {
    let options = || {
        let header = tcp_header(frame)?;
        let length = usize::from(frame.get(header + 12)? >> 4) * 4;
        frame.get(header + 20..header + length)
    };
    let mut options = options().unwrap_or_default();
    while let Some((kind, rest)) = options.split_first() {
        match (kind, rest.first()) {
            (30, _) => return true,
            (1, _) => options = rest,
            (0, _) | (_, None) => return false,
            (_, Some(length)) => {
                options = options.get(usize::from(*length).max(2)..).unwrap_or_default();
            }
        }
    }
    false
}
