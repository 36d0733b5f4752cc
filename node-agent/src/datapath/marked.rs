//! Whether a namespace still has marked connections: by sock_diag(7).
//!
//! The rule and the routes serve connections as long as they live, and not only while new ones are
//! captured: without them the packets of an open one would leave the pod in plaintext, towards an
//! end that does not know it.

use std::io;

use adit_shared::key::{MARK, MARK_MASK};
use rtnetlink::sys::{Socket, SocketAddr};

use crate::sys::netns::Netns;

pub(super) const AF_INET: u8 = 2;
pub(super) const AF_INET6: u8 = 10;
pub(super) const IPPROTO_TCP: u8 = 6;
pub(super) const NETLINK_SOCK_DIAG: isize = 4;
pub(super) const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
const INET_DIAG_REQ_BYTECODE: u16 = 1;
const INET_DIAG_BC_MARK_COND: u8 = 10;
/// All states but TIME_WAIT, CLOSE and LISTEN: those that still send (net/tcp_states.h).
const OPEN_STATES: u32 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;

/// Whether there is an open TCP socket with adit's mark.
pub(super) fn any(netns: &Netns) -> io::Result<bool> {
    netns.within(any_here)?
}

/// The same for the namespace the calling thread is in.
pub(super) fn any_here() -> io::Result<bool> {
    Ok(any_of(AF_INET)? || any_of(AF_INET6)?)
}

fn any_of(family: u8) -> io::Result<bool> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let sent = socket.send(&request(family), 0);
    sent?;
    let mut found = false;
    loop {
        let (answer, _from) = socket.recv_from_full()?;
        for (kind, body) in messages(&answer) {
            match kind {
                NLMSG_DONE => return Ok(found),
                NLMSG_ERROR => {
                    let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                    return Err(io::Error::from_raw_os_error(-code));
                }
                _ => found = true,
            }
        }
    }
}

/// `nlmsghdr`, `inet_diag_req_v2`, and a filter of one condition (linux/inet_diag.h).
fn request(family: u8) -> Vec<u8> {
    let mut body = vec![family, IPPROTO_TCP, 0, 0];
    body.extend(OPEN_STATES.to_ne_bytes());
    body.extend([0; 48]); // any socket
    // inet_diag_bc_op { code, yes, no } and inet_diag_markcond { mark, mask }. `yes` is the way to
    // the end of the filter, `no` one beyond it.
    let filter_length = 4 + 8_u16;
    body.extend((4 + filter_length).to_ne_bytes());
    body.extend(INET_DIAG_REQ_BYTECODE.to_ne_bytes());
    body.extend([INET_DIAG_BC_MARK_COND, 12]);
    body.extend((filter_length + 4).to_ne_bytes());
    body.extend(MARK.to_ne_bytes());
    body.extend(MARK_MASK.to_ne_bytes());

    let length = u32::try_from(16 + body.len()).unwrap_or(0);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend(NLM_F_REQUEST_DUMP.to_ne_bytes());
    message.extend([0; 8]); // sequence number and port
    message.extend(body);
    message
}

/// The netlink messages in a datagram: kind and body.
pub(super) fn messages(mut data: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(*data.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes(*data.get(4..)?.first_chunk()?);
        let body = data.get(16..length)?;
        data = data.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_datagram_of_several_messages_is_taken_apart() {
        let mut data = Vec::new();
        for (kind, body) in [(20_u16, vec![1_u8; 5]), (3, vec![0; 4])] {
            let length = 16 + u32::try_from(body.len()).unwrap();
            data.extend(length.to_ne_bytes());
            data.extend(kind.to_ne_bytes());
            data.extend([0; 10]);
            data.extend(body);
            data.resize(data.len().next_multiple_of(4), 0);
        }
        let kinds: Vec<_> = messages(&data).map(|(kind, body)| (kind, body.len())).collect();
        assert_eq!(kinds, [(20, 5), (3, 4)]);
    }

    #[test]
    fn a_length_that_is_too_short_or_too_long_ends_it() {
        assert_eq!(messages(&[3, 0, 0, 0, 1, 0]).count(), 0);
        assert_eq!(messages(&[200, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).count(), 0);
    }
}
