//! Servers inside pods, on threads, with the behaviours that the tests need.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::{Context as _, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Socket, Type};

use crate::client;
use crate::netns::Netns;

/// How often an idle server looks whether it is to stop, in milliseconds.
const GLANCE: u8 = 50;

/// A server that runs. Dropping it closes its port and its connections.
#[derive(Debug)]
pub struct Server {
    port: u16,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<Result<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    seen: Mutex<Vec<SocketAddr>>,
    open: Mutex<BTreeMap<usize, TcpStream>>,
}

impl Server {
    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The client addresses of all connections so far, in order, IPv4-mapped ones unmapped.
    #[must_use]
    pub fn seen(&self) -> Vec<SocketAddr> {
        lock(&self.shared.seen).clone()
    }

    /// How many connections there were.
    #[must_use]
    pub fn connections(&self) -> usize {
        lock(&self.shared.seen).len()
    }

    /// The addresses of the clients, without ports, each once.
    #[must_use]
    pub fn clients(&self) -> Vec<IpAddr> {
        let mut clients: Vec<IpAddr> = self.seen().iter().map(SocketAddr::ip).collect();
        clients.sort_unstable();
        clients.dedup();
        clients
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(acceptor) = self.acceptor.take() {
            let _panicked: thread::Result<Result<()>> = acceptor.join();
        }
        for stream in lock(&self.shared.open).values() {
            // The other side may have closed it already.
            let _closed: io::Result<()> = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Listens on a port of both families in a namespace and hands every connection to `handler` on a
/// thread of its own. The connection ends when the handler returns, not when it drops the stream.
///
/// # Errors
/// The port cannot be bound.
pub fn serve(
    netns: &Netns,
    port: u16,
    handler: impl Fn(TcpStream) + Send + Sync + 'static,
) -> Result<Server> {
    let listener = netns.run(|| listen(port))??;
    let port = listener.local_addr().context("local address")?.port();
    let shared = Arc::new(Shared::default());
    let for_thread = Arc::clone(&shared);
    let acceptor = netns.spawn(move || accept_all(&listener, &for_thread, &Arc::new(handler)))?;
    let acceptor = Some(thread::spawn(move || match acceptor.join() {
        Ok(result) => result?,
        Err(panicked) => std::panic::resume_unwind(panicked),
    }));
    Ok(Server { port, shared, acceptor })
}

fn listen(port: u16) -> Result<TcpListener> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, None)?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    let any = SocketAddr::from(([0_u16; 8], port));
    socket.bind(&any.into()).with_context(|| format!("cannot bind port {port}"))?;
    socket.listen(1024)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn accept_all<H: Fn(TcpStream) + Send + Sync + 'static>(
    listener: &TcpListener,
    shared: &Arc<Shared>,
    handler: &Arc<H>,
) -> Result<()> {
    while !shared.stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, peer)) => {
                stream.set_nonblocking(false)?;
                let number = remember(shared, &stream, peer);
                let (handler, shared) = (Arc::clone(handler), Arc::clone(shared));
                thread::spawn(move || {
                    handler(stream);
                    // Now the last handle goes, and the connection with it.
                    lock(&shared.open).remove(&number);
                });
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let mut wanted = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
                poll(&mut wanted, PollTimeout::from(GLANCE)).context("poll")?;
            }
            // The client gave up between its SYN and our accept.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => return Err(error).context("accept"),
        }
    }
    Ok(())
}

/// Keeps a second handle, so that the connection can be ended from outside its handler.
fn remember(shared: &Shared, stream: &TcpStream, peer: SocketAddr) -> usize {
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let number = {
        let mut seen = lock(&shared.seen);
        seen.push(peer);
        seen.len()
    };
    if let Ok(second) = stream.try_clone() {
        lock(&shared.open).insert(number, second);
    }
    number
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends back what comes until the client finishes, then finishes too.
pub fn echo(mut stream: TcpStream) {
    let mut buffer = vec![0_u8; 64 * 1024];
    while let Ok(read) = client::read(&mut stream, &mut buffer) {
        let chunk = buffer.get(..read).unwrap_or_default();
        if chunk.is_empty() || stream.write_all(chunk).is_err() {
            break;
        }
    }
    let _closed: io::Result<()> = stream.shutdown(Shutdown::Write);
}

/// Speaks first, as SMTP or MySQL servers do, then echoes.
pub fn greet(mut stream: TcpStream) {
    if stream.write_all(b"220 ready\n").is_ok() {
        echo(stream);
    }
}

/// Answers one HTTP/1.1 request with the client's address and closes.
pub fn http(mut stream: TcpStream) {
    let mut request = Vec::new();
    let mut buffer = [0_u8; 4096];
    while !request.windows(4).any(|four| four == b"\r\n\r\n") {
        match client::read(&mut stream, &mut buffer) {
            Ok(read) if read > 0 => {
                request.extend_from_slice(buffer.get(..read).unwrap_or_default())
            }
            _ => return,
        }
    }
    let Ok(peer) = stream.peer_addr() else {
        return;
    };
    let body = format!("hello, {}\n", peer.ip().to_canonical());
    let length = body.len();
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
    let _written: io::Result<()> = stream.write_all(answer.as_bytes());
}
