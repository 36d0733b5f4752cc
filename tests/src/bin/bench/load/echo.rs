//! The server of small messages: one thread that waits with epoll.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context as _, Result};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use super::{GLANCE, MESSAGE, Outcome, Run, listen, pin};

/// The number of the listener among what epoll tells of.
const LISTENER: u64 = u64::MAX;

/// What a server does with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Service {
    /// Sends back what comes, until the client closes.
    Echo,
    /// Sends one message back and closes.
    EchoOnce,
    /// Sends a byte at once and one for each so many that came.
    Acknowledge(usize),
}

struct Connection {
    stream: TcpStream,
    received: usize,
}

/// Runs a client in its pod against a server in the other, until the client has its outcome.
pub(super) fn against_echo(
    run: &Run<'_>,
    service: Service,
    client: impl FnOnce(SocketAddr) -> Result<Outcome> + Send,
) -> Result<Outcome> {
    let (listener, to) = listen(run.path.server)?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let server = scope.spawn(|| {
            run.path.server.run(|| {
                pin(run.cpu)?;
                serve(&listener, service, &stop).context("echo server")
            })
        });
        let outcome = run.path.client.run(|| {
            pin(run.cpu)?;
            client(to)
        });
        stop.store(true, Ordering::Relaxed);
        match server.join() {
            Ok(ended) => ended??,
            Err(panicked) => std::panic::resume_unwind(panicked),
        }
        outcome?
    })
}

/// Serves until `stop`.
pub(super) fn serve(listener: &TcpListener, service: Service, stop: &AtomicBool) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut free: Vec<usize> = Vec::new();
    let mut buffer = vec![0_u8; 64 << 10];
    let mut events = [EpollEvent::empty(); 64];
    while !stop.load(Ordering::Relaxed) {
        let ready = epoll.wait(&mut events, GLANCE)?;
        for event in events.iter().take(ready) {
            if event.data() == LISTENER {
                accept(listener, service, |connection| {
                    let index = free.pop().unwrap_or(connections.len());
                    let event = EpollEvent::new(EpollFlags::EPOLLIN, index as u64);
                    epoll.add(&connection.stream, event)?;
                    match connections.get_mut(index) {
                        Some(place) => *place = Some(connection),
                        None => connections.push(Some(connection)),
                    }
                    Ok(())
                })?;
                continue;
            }
            let index = usize::try_from(event.data()).map_err(io::Error::other)?;
            let Some(place) = connections.get_mut(index) else { continue };
            let Some(connection) = place else { continue };
            if !connection.serve(service, &mut buffer)? {
                *place = None;
                free.push(index);
            }
        }
    }
    Ok(())
}

fn accept(
    listener: &TcpListener,
    service: Service,
    mut keep: impl FnMut(Connection) -> io::Result<()>,
) -> io::Result<()> {
    loop {
        match listener.accept() {
            Ok((mut stream, _)) => {
                stream.set_nonblocking(true)?;
                stream.set_nodelay(true)?;
                if let Service::Acknowledge(_) = service {
                    stream.write_all(&[0])?;
                }
                keep(Connection { stream, received: 0 })?;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

impl Connection {
    /// Deals with what came. False: the connection has ended.
    fn serve(&mut self, service: Service, buffer: &mut [u8]) -> io::Result<bool> {
        let n = match self.stream.read(buffer) {
            Ok(0) => return Ok(false),
            Ok(n) => n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
            // A client that has seen enough leaves without its last answers.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(false),
            Err(error) => return Err(error),
        };
        let before = self.received;
        self.received += n;
        match service {
            Service::Echo | Service::EchoOnce => {
                if self.stream.write_all(buffer.get(..n).unwrap_or_default()).is_err() {
                    return Ok(false);
                }
            }
            Service::Acknowledge(every) => {
                let due = self.received / every - before / every;
                self.stream.write_all(&vec![0; due])?;
            }
        }
        Ok(service != Service::EchoOnce || self.received < MESSAGE)
    }
}
