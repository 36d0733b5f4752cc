//! Packets with addresses that nobody honest has: none of them opens a connection.

use std::net::{IpAddr, SocketAddr};

use adit_e2e::capture::Capture;
use adit_e2e::wait::{SOON, wait_until};
use adit_e2e::{Node, forge, server};

use crate::sockets::tcp_header;
use crate::support::Scene;

const STRANGER: u16 = 4321;

/// Whether a frame is a SYN-ACK from this port to anybody but the pod itself. IPv6 knows no martian
/// sources: the application's kernel answers a packet that claims to be the pod's own, to the pod itself,
/// which resets the connection that it knows nothing of.
fn answers(frame: &[u8], port: u16, own: IpAddr) -> bool {
    let answer = || {
        let header = tcp_header(frame)?;
        let from = frame.get(header..header + 2)?;
        let flags = frame.get(header + 13)?;
        let to_itself = match own {
            IpAddr::V4(own) => frame.get(30..34)? == own.octets(),
            IpAddr::V6(own) => frame.get(38..54)? == own.octets(),
        };
        Some(from == port.to_be_bytes() && flags & 0x12 == 0x12 && !to_itself)
    };
    answer().unwrap_or(false)
}

#[test]
fn a_packet_from_the_wire_with_a_local_or_foreign_address_is_never_accepted() {
    let Some(scene) = Scene::shared("sockets", "forged") else { return };
    // The pod trusts everybody, as far as its kernel lets it.
    let spec = scene
        .pod("server", Node::B)
        .sysctl("net/ipv4/conf/all/rp_filter", "0")
        .sysctl("net/ipv4/conf/default/rp_filter", "0");
    let [server] = scene.pods([spec]);
    let own = [IpAddr::V4(server.v4()), IpAddr::V6(server.v6())];

    for (own, loopback, stranger, foreign) in [
        (own[0], "127.0.0.1", "203.0.113.9", "198.51.100.7"),
        (own[1], "::1", "2001:db8::9", "2001:db8::7"),
    ] {
        let [loopback, stranger, foreign] =
            [loopback, stranger, foreign].map(|text| text.parse::<IpAddr>().unwrap());
        for (port, control) in [(8080, 8081), (15008, 8082)] {
            let app = server.serve(port, server::greet).unwrap();
            let _control = server.serve(control, server::greet).unwrap();
            let capture = Capture::start(server.netns()).unwrap();
            for (from, to) in
                [(own, own), (loopback, own), (stranger, loopback), (stranger, foreign)]
            {
                let from = SocketAddr::new(from, STRANGER);
                server.inject(&forge::syn(from, SocketAddr::new(to, port))).unwrap();
            }
            // The same packet with honest addresses shows that such packets arrive.
            let honest = SocketAddr::new(stranger, STRANGER);
            server.inject(&forge::syn(honest, SocketAddr::new(own, control))).unwrap();
            wait_until("an answer to the honest packet", SOON, || {
                capture.any(|frame| answers(frame, control, own))
            })
            .unwrap();

            let seen = capture.finish().unwrap();
            assert!(seen.find(|frame| answers(frame, port, own)).is_none(), "{own} {port}");
            assert_eq!(app.connections(), 0);
        }
    }
    let flows = scene.cluster.agent(Node::B).flows().unwrap();
    let forged = flows.iter().find(|flow| {
        let from = flow.source.address;
        flow.destination.is(&server.full_name()) && (from.is_loopback() || own.contains(&from))
    });
    assert!(forged.is_none(), "{forged:?}");
}
