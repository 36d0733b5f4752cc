//! Whether a connection to a pod was opened by this node's kubelet: by its own end of it, which is a
//! socket of the host's network namespace. Addresses prove nothing: every process of the node has them.

use std::io;
use std::net::{IpAddr, SocketAddr as Address};

use rtnetlink::sys::{Socket, SocketAddr};

use super::marked::{
    AF_INET, AF_INET6, IPPROTO_TCP, NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, messages,
};
use crate::sys::kubelet;

const NLM_F_REQUEST: u16 = 1;
/// INET_DIAG_NOCOOKIE (linux/inet_diag.h): whatever socket has the addresses.
const ANY_SOCKET: [u8; 8] = [0xff; 8];

/// Whether the kubelet opened the connection from `from` to `to`, and has not closed it. The calling
/// thread must be in the host's network namespace, on a tokio runtime.
///
/// # Errors
/// The kernel's.
pub async fn opened(from: Address, to: Address) -> io::Result<bool> {
    let Some(inode) = inode(from, to)? else {
        return Ok(false);
    };
    // The look-up above takes microseconds; looking through a process's files takes longer.
    let looked = tokio::task::spawn_blocking(move || kubelet::has_open(inode));
    looked.await.map_err(io::Error::other)
}

/// The inode of the TCP socket of this namespace with these ends; `None` if there is none, or nobody
/// has it open.
fn inode(local: Address, remote: Address) -> io::Result<Option<u32>> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let sent = socket.send(&request(local, remote), 0);
    sent?;
    let (answer, _from) = socket.recv_from_full()?;
    let answer = messages(&answer).find(|(kind, _)| *kind == SOCK_DIAG_BY_FAMILY);
    // Anything else is NLMSG_ERROR: no such socket.
    Ok(answer.and_then(|(_, body)| read(body, local, remote)))
}

/// `nlmsghdr` and `inet_diag_req_v2` for exactly one socket (linux/inet_diag.h).
fn request(local: Address, remote: Address) -> Vec<u8> {
    let family = if local.is_ipv4() { AF_INET } else { AF_INET6 };
    let mut body = vec![family, IPPROTO_TCP, 0, 0];
    body.extend(u32::MAX.to_ne_bytes()); // any state
    body.extend(ends(local, remote));
    body.extend([0; 4]); // any interface
    body.extend(ANY_SOCKET);

    let length = u32::try_from(16 + body.len()).unwrap_or(0);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    message.extend([0; 8]); // sequence number and port
    message.extend(body);
    message
}

/// The begin of an `inet_diag_sockid`: ports and addresses, in network byte order.
fn ends(local: Address, remote: Address) -> Vec<u8> {
    let mut ends = Vec::with_capacity(36);
    ends.extend(local.port().to_be_bytes());
    ends.extend(remote.port().to_be_bytes());
    for address in [local.ip(), remote.ip()] {
        match address {
            IpAddr::V4(address) => ends.extend(address.octets().into_iter().chain([0; 12])),
            IpAddr::V6(address) => ends.extend(address.octets()),
        }
    }
    ends
}

/// The inode in an `inet_diag_msg`, if it is about these ends: where no connection has them, the
/// kernel answers with a listener. A socket that its process has closed has inode 0.
fn read(message: &[u8], local: Address, remote: Address) -> Option<u32> {
    if message.get(4..40)? != ends(local, remote) {
        return None;
    }
    let inode = u32::from_ne_bytes(*message.get(68..)?.first_chunk()?);
    (inode != 0).then_some(inode)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn connected(listen: &str) -> (TcpListener, TcpStream) {
        let listener = TcpListener::bind(listen).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (listener, client)
    }

    #[test]
    fn the_socket_at_the_other_end_of_a_connection_is_found() {
        let (listener, client) = connected("127.0.0.1:0");
        let (from, to) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        let file = std::fs::metadata(format!("/proc/self/fd/{}", client.as_raw_fd())).unwrap();
        assert_eq!(inode(from, to).unwrap().map(u64::from), Some(file.ino()));
        drop(listener);
    }

    #[test]
    fn a_listener_with_that_port_is_not_a_connection() {
        let (listener, client) = connected("127.0.0.1:0");
        let stranger = "127.0.0.1:1".parse().unwrap();
        assert_eq!(inode(listener.local_addr().unwrap(), stranger).unwrap(), None);
        drop(client);
    }

    #[tokio::test]
    async fn a_process_that_is_not_the_kubelet_is_not_taken_for_it() {
        let (listener, client) = connected("127.0.0.1:0");
        let (from, to) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        assert!(!opened(from, to).await.unwrap());
        drop(listener);
    }
}
