//! IP packets with any addresses: what a stranger on the wire can make.

use std::net::SocketAddr;

const SYN: u8 = 0x02;

/// A packet that opens a TCP connection.
///
/// # Panics
/// The addresses are of different families.
#[must_use]
#[expect(clippy::panic, reason = "a mistake in a test")]
pub fn syn(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let mut tcp = Vec::new();
    tcp.extend(from.port().to_be_bytes());
    tcp.extend(to.port().to_be_bytes());
    tcp.extend([0x12, 0x34, 0x56, 0x78, 0, 0, 0, 0]); // sequence number, no acknowledgement
    tcp.extend([5 << 4, SYN, 0xff, 0xff, 0, 0, 0, 0]); // five words; window; checksum; urgent
    match (from, to) {
        (SocketAddr::V4(from), SocketAddr::V4(to)) => {
            let ends = [from.ip().octets(), to.ip().octets()].concat();
            seal(&mut tcp, &ends);
            let mut packet = vec![0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 6, 0, 0];
            packet.extend(ends);
            let sum = checksum(&packet).to_be_bytes();
            drop(packet.splice(10..12, sum));
            packet.extend(tcp);
            packet
        }
        (SocketAddr::V6(from), SocketAddr::V6(to)) => {
            let ends = [from.ip().octets(), to.ip().octets()].concat();
            seal(&mut tcp, &ends);
            let mut packet = vec![0x60, 0, 0, 0, 0, 20, 6, 64];
            packet.extend(ends);
            packet.extend(tcp);
            packet
        }
        mixed => panic!("{mixed:?} are of different families"),
    }
}

/// Enters the checksum (RFC 9293, section 3.1): of the addresses, the protocol, the length and the
/// segment. The two families' pseudo-headers add up alike.
fn seal(tcp: &mut Vec<u8>, ends: &[u8]) {
    let mut summed = ends.to_vec();
    summed.extend([0, 6, 0, 20]);
    summed.extend(&*tcp);
    let sum = checksum(&summed).to_be_bytes();
    drop(tcp.splice(16..18, sum));
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|two| match two {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        rest => rest.first().map_or(0, |high| u32::from(*high) << 8),
    });
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    !u16::try_from(folded).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_over_a_sealed_packet_is_zero() {
        let packet = syn("192.0.2.1:1".parse().unwrap(), "192.0.2.2:80".parse().unwrap());
        assert_eq!(packet.len(), 40);
        assert_eq!(checksum(&packet[..20]), 0);
        let pseudo = [&packet[12..20], &[0, 6, 0, 20], &packet[20..]].concat();
        assert_eq!(checksum(&pseudo), 0);
    }
}
