//! Short connections: connect, one message there and back, the server closes, the client closes.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use socket2::{Domain, Socket, Type};

use super::echo::{Service, against_echo};
use super::{Figure, Latencies, Load, MESSAGE, Outcome, Run, WARM_UP};

/// How long nothing may happen.
const STALLED: u16 = 10_000;

/// So many at a time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Connections {
    pub(crate) at_once: usize,
    /// How many in all, however long they take; else as many as the time allows.
    pub(crate) total: Option<usize>,
}

struct Connection {
    stream: TcpStream,
    asked: bool,
    received: usize,
    begun: Instant,
}

impl Load for Connections {
    /// Any error of any connection is an error of the run.
    fn run(&self, run: &Run<'_>) -> Result<Outcome> {
        against_echo(run, Service::EchoOnce, |to| {
            self.connect(run, to).context("client of short connections")
        })
    }
}

impl Connections {
    fn connect(&self, run: &Run<'_>, to: SocketAddr) -> Result<Outcome> {
        let mut client = Client::new(self.at_once, to)?;
        client.work(|_done, began| began.elapsed() < WARM_UP)?;
        let (cpu, began) = (run.agents.cpu()?, Instant::now());
        let latencies = client.work(|done, began| match self.total {
            Some(total) => done < total,
            None => began.elapsed() < run.duration,
        })?;
        let (took, cpu) = (began.elapsed(), run.agents.cpu()? - cpu);
        let done = latencies.len() as f64;
        let rate = Figure { name: "rate", unit: "conn/s", value: done / took.as_secs_f64() };
        let took = Figure { name: "took", unit: "s", value: took.as_secs_f64() };
        let took = self.total.map(|_| took);
        let figures = [rate].into_iter().chain(took).chain(latencies.figures()).collect();
        Ok(Outcome { figures, done, cpu })
    }
}

struct Client {
    to: SocketAddr,
    epoll: Epoll,
    connections: Vec<Connection>,
}

impl Client {
    fn new(at_once: usize, to: SocketAddr) -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let mut client = Self { to, epoll, connections: Vec::new() };
        for number in 0..at_once {
            let connection = client.begin(number)?;
            client.connections.push(connection);
        }
        Ok(client)
    }

    fn begin(&self, number: usize) -> io::Result<Connection> {
        let begun = Instant::now();
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        match socket.connect(&self.to.into()) {
            Err(error) if error.raw_os_error() != Some(Errno::EINPROGRESS as i32) => {
                return Err(error);
            }
            Ok(()) | Err(_) => {}
        }
        let stream = TcpStream::from(socket);
        self.epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLOUT, number as u64))?;
        Ok(Connection { stream, asked: false, received: 0, begun })
    }

    /// Opens another connection for each that has ended, for as long as `go_on` says, which is told
    /// how many have ended since when.
    fn work(&mut self, go_on: impl Fn(usize, Instant) -> bool) -> Result<Latencies> {
        let began = Instant::now();
        let mut latencies = Latencies::default();
        let mut events = [EpollEvent::empty(); 64];
        while go_on(latencies.len(), began) {
            let ready = self.epoll.wait(&mut events, STALLED)?;
            if ready == 0 {
                bail!("nothing happened for {:?}", Duration::from_millis(STALLED.into()));
            }
            for event in events.iter().take(ready) {
                let number = usize::try_from(event.data())?;
                latencies.extend(self.progress(number)?);
            }
        }
        Ok(latencies)
    }

    /// Goes on with one connection. If it has ended: how long it took; another one is begun.
    fn progress(&mut self, number: usize) -> Result<Option<Duration>> {
        let connection = self.connections.get_mut(number).context("an unknown connection")?;
        if !connection.progress(&self.epoll, number)? {
            return Ok(None);
        }
        let next = self.begin(number)?;
        let place = self.connections.get_mut(number).context("an unknown connection")?;
        Ok(Some(std::mem::replace(place, next).begun.elapsed()))
    }
}

impl Connection {
    /// Whether the connection has ended.
    fn progress(&mut self, epoll: &Epoll, number: usize) -> Result<bool> {
        if !self.asked {
            if let Some(error) = self.stream.take_error()? {
                return Err(error).context("connect");
            }
            self.stream.write_all(&[0; MESSAGE]).context("send")?;
            self.asked = true;
            let mut event = EpollEvent::new(EpollFlags::EPOLLIN, number as u64);
            epoll.modify(&self.stream, &mut event)?;
            return Ok(false);
        }
        let mut buffer = [0; 2 * MESSAGE];
        match self.stream.read(&mut buffer) {
            Ok(0) if self.received == MESSAGE => Ok(true),
            Ok(0) => bail!("closed after {} bytes", self.received),
            Ok(n) => {
                self.received += n;
                Ok(false)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error).context("receive"),
        }
    }
}
