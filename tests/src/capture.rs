//! A packet capture in a namespace: what a stranger on the network between the nodes can see.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use socket2::{Domain, Protocol, Socket, Type};

use crate::netns::Netns;

/// Enough for a burst of the link while the reader waits for a processor.
const BUFFER: usize = 64 << 20;
const GLANCE: u8 = 20;

/// A capture that runs, on every interface of a namespace. Dropping it ends it.
#[derive(Debug)]
pub struct Capture {
    stop: Arc<AtomicBool>,
    packets: Arc<Mutex<Vec<Vec<u8>>>>,
    thread: Option<JoinHandle<Result<Result<()>>>>,
}

impl Capture {
    /// Begins to capture whole frames.
    ///
    /// # Errors
    /// The socket's.
    pub fn start(netns: &Netns) -> Result<Self> {
        let socket = netns.run(open)??;
        let stop = Arc::new(AtomicBool::new(false));
        let packets = Arc::new(Mutex::new(Vec::new()));
        let (stopped, into) = (Arc::clone(&stop), Arc::clone(&packets));
        let thread = netns.spawn(move || collect(&socket, &stopped, &into))?;
        Ok(Self { stop, packets, thread: Some(thread) })
    }

    /// Ends it, and returns the frames in order. A frame is seen once on each interface it passes.
    ///
    /// # Errors
    /// The socket's.
    pub fn finish(mut self) -> Result<Packets> {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            match thread.join() {
                Ok(result) => result??,
                Err(panicked) => std::panic::resume_unwind(panicked),
            }
        }
        let mut packets = self.packets.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Packets(std::mem::take(&mut *packets)))
    }

    /// Whether a frame that satisfies a condition has been seen so far.
    #[must_use]
    pub fn any(&self, condition: impl Fn(&[u8]) -> bool) -> bool {
        let packets = self.packets.lock().unwrap_or_else(PoisonError::into_inner);
        packets.iter().any(|packet| condition(packet))
    }

    /// Whether a frame with these bytes has been seen so far.
    #[must_use]
    pub fn has(&self, needle: &[u8]) -> bool {
        let packets = self.packets.lock().unwrap_or_else(PoisonError::into_inner);
        packets.iter().any(|packet| contains(packet, needle))
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Captured frames.
#[derive(Debug)]
pub struct Packets(Vec<Vec<u8>>);

impl Packets {
    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All their bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.iter().map(Vec::len).sum()
    }

    /// The frames that contain these bytes.
    #[must_use]
    pub fn with(&self, needle: &[u8]) -> Vec<&[u8]> {
        let matching = self.0.iter().filter(|packet| contains(packet, needle));
        matching.map(Vec::as_slice).collect()
    }

    /// The first frame that satisfies a condition.
    #[must_use]
    pub fn find(&self, condition: impl Fn(&[u8]) -> bool) -> Option<&[u8]> {
        let mut packets = self.0.iter().map(Vec::as_slice);
        packets.find(|packet| condition(packet))
    }
}

fn contains(packet: &[u8], needle: &[u8]) -> bool {
    packet.windows(needle.len()).any(|window| window == needle)
}

fn open() -> Result<Socket> {
    // ETH_P_ALL in network byte order, as packet(7) wants it.
    let every = u16::to_be(0x0003);
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(every))))
        .context("packet socket")?;
    setsockopt(&socket, RcvBufForce, &BUFFER).context("SO_RCVBUFFORCE")?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn collect(socket: &Socket, stop: &AtomicBool, into: &Mutex<Vec<Vec<u8>>>) -> Result<()> {
    let mut buffer = vec![0_u8; 256 * 1024];
    loop {
        match io::Read::read(&mut &*socket, &mut buffer) {
            Ok(length) => {
                let frame = buffer.get(..length).unwrap_or_default().to_vec();
                into.lock().unwrap_or_else(PoisonError::into_inner).push(frame);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
                let mut wanted = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
                poll(&mut wanted, PollTimeout::from(GLANCE)).context("poll")?;
            }
            // The interface went down, or the buffer overflowed once: go on.
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(nix::libc::ENETDOWN | nix::libc::ENOBUFS)
                ) => {}
            Err(error) => return Err(error).context("capture"),
        }
    }
}

/// Bytes as `hexdump -C` shows them, at most `limit` of them.
#[must_use]
pub fn hexdump(bytes: &[u8], limit: usize) -> String {
    let mut text = String::new();
    for (line, row) in
        bytes.get(..limit.min(bytes.len())).unwrap_or_default().chunks(16).enumerate()
    {
        let hex: Vec<String> = row.iter().map(|byte| format!("{byte:02x}")).collect();
        let shown: String = row
            .iter()
            .map(
                |byte| {
                    if byte.is_ascii_graphic() || *byte == b' ' { char::from(*byte) } else { '.' }
                },
            )
            .collect();
        text.push_str(&format!("{:04x}  {:<47}  |{shown}|\n", line * 16, hex.join(" ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hexdump_shows_offset_bytes_and_text() {
        let dump = hexdump(b"secret\x00\xff and more than sixteen", 18);
        let mut lines = dump.lines();
        assert_eq!(
            lines.next(),
            Some("0000  73 65 63 72 65 74 00 ff 20 61 6e 64 20 6d 6f 72  |secret.. and mor|")
        );
        assert_eq!(lines.next().map(|line| &line[..9]), Some("0010  65 "));
    }
}
