//! What clients do, for use inside `Pod::run` or on a stream from `Pod::connect`.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aws_lc_rs::digest::{Context, Digest, SHA256};
use socket2::Socket;

/// Sends `payload`, finishes, and reads the answer to its end.
///
/// # Errors
/// The socket's.
pub fn exchange(mut stream: TcpStream, payload: &[u8]) -> Result<Vec<u8>> {
    stream.write_all(payload).context("cannot send")?;
    stream.shutdown(Shutdown::Write).context("cannot finish")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("cannot receive")?;
    Ok(answer)
}

/// Connects, sends and checks that the same comes back.
///
/// # Errors
/// The connection's, or the answer differs.
pub fn echo(to: SocketAddr, payload: &[u8]) -> Result<()> {
    let stream = TcpStream::connect_timeout(&to, Duration::from_secs(20))
        .with_context(|| format!("cannot connect to {to}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let answer = exchange(stream, payload).with_context(|| format!("echo at {to}"))?;
    ensure!(answer == payload, "the echo at {to} sent back {} other bytes", answer.len());
    Ok(())
}

/// What a connection's reader hears next: how many bytes (none: the end), or the kind of its error.
///
/// # Errors
/// The error's kind.
pub fn heard(stream: &mut TcpStream) -> Result<usize, io::ErrorKind> {
    read(stream, &mut [0; 1]).map_err(|error| error.kind())
}

/// Reads once; a read that was only interrupted is begun anew. The kernel interrupts one that has a
/// time-out also without a signal's handler, after SIGCONT or a thaw (signal(7)).
///
/// # Errors
/// The socket's.
pub fn read(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            heard => return heard,
        }
    }
}

/// Makes closing the stream send an RST.
///
/// # Errors
/// The socket's.
pub fn reset(stream: TcpStream) -> Result<()> {
    let socket = Socket::from(stream);
    socket.set_linger(Some(Duration::ZERO)).context("linger")
}

/// An endless reproducible sequence of bytes (xorshift64), the same for the same seed: what is
/// received can be checked without keeping what was sent.
#[derive(Debug, Clone)]
pub struct Pattern(u64);

impl Pattern {
    /// The sequence of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    /// Fills a buffer whose length is a multiple of eight with what comes next.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        for eight in buffer.chunks_exact_mut(8) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            eight.copy_from_slice(&self.0.to_le_bytes());
        }
    }
}

const CHUNK: usize = 64 * 1024;

/// Sends `chunks` times 64 KiB of a pattern, and says what their SHA-256 is.
///
/// # Errors
/// The socket's.
pub fn send_pattern(stream: &mut TcpStream, seed: u64, chunks: usize) -> Result<Digest> {
    let (mut pattern, mut sum) = (Pattern::new(seed), Context::new(&SHA256));
    let mut buffer = vec![0; CHUNK];
    for _ in 0..chunks {
        pattern.fill(&mut buffer);
        sum.update(&buffer);
        stream.write_all(&buffer).context("cannot send")?;
    }
    stream.shutdown(Shutdown::Write).context("cannot finish")?;
    Ok(sum.finish())
}

/// Receives `chunks` times 64 KiB of a pattern and the end of the stream, checks each byte, so that the
/// first wrong one is told, and says what the SHA-256 of what came is.
///
/// # Errors
/// The socket's, or what came differs.
pub fn receive_pattern(stream: &mut TcpStream, seed: u64, chunks: usize) -> Result<Digest> {
    let (mut pattern, mut sum) = (Pattern::new(seed), Context::new(&SHA256));
    let mut expected = vec![0; CHUNK];
    let mut buffer = vec![0; CHUNK];
    for chunk in 0..chunks {
        pattern.fill(&mut expected);
        stream
            .read_exact(&mut buffer)
            .with_context(|| format!("cannot receive chunk {chunk} of {chunks}"))?;
        sum.update(&buffer);
        ensure!(buffer == expected, "chunk {chunk} of {chunks} differs");
    }
    let more = read(stream, &mut buffer).context("cannot see the end")?;
    ensure!(more == 0, "{more} bytes more than were sent");
    Ok(sum.finish())
}
