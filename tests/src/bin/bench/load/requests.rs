//! Requests and answers on connections that stay open: on each the next request follows the answer.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};

use super::echo::{Service, against_echo};
use super::{Bulk, Figure, Latencies, Load, MESSAGE, Outcome, Run, WARM_UP};

/// Connections with requests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Requests {
    pub(crate) connections: usize,
    /// What runs beside them.
    pub(crate) beside: Option<Bulk>,
}

struct Connection {
    stream: TcpStream,
    received: usize,
    sent: Instant,
}

impl Load for Requests {
    fn run(&self, run: &Run<'_>) -> Result<Outcome> {
        match self.beside {
            None => self.requests(run),
            Some(bulk) => bulk.beside(run, |received| {
                let (before, began) = (received.load(Ordering::Relaxed), Instant::now());
                let mut outcome = self.requests(run)?;
                let bytes = (received.load(Ordering::Relaxed) - before) as f64;
                let value = bytes * 8e-9 / began.elapsed().as_secs_f64();
                outcome.figures.push(Figure { name: "bulk beside", unit: "Gbit/s", value });
                Ok(outcome)
            }),
        }
    }
}

impl Requests {
    fn requests(&self, run: &Run<'_>) -> Result<Outcome> {
        against_echo(run, Service::Echo, |to| self.ask(run, to).context("client of requests"))
    }

    fn ask(&self, run: &Run<'_>, to: SocketAddr) -> Result<Outcome> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let mut connections = Vec::new();
        for number in 0..self.connections {
            let mut stream = TcpStream::connect(to)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, number as u64))?;
            let sent = Instant::now();
            stream.write_all(&[0; MESSAGE])?;
            connections.push(Connection { stream, received: 0, sent });
        }
        let mut answers = |until: Instant| -> Result<Latencies> {
            let mut latencies = Latencies::default();
            let mut events = [EpollEvent::empty(); 64];
            while Instant::now() < until {
                let ready = epoll.wait(&mut events, 1000_u16)?;
                if ready == 0 {
                    bail!("no answer for a second");
                }
                for event in events.iter().take(ready) {
                    let index = usize::try_from(event.data())?;
                    let connection = connections.get_mut(index).context("an unknown connection")?;
                    latencies.extend(connection.go_on()?);
                }
            }
            Ok(latencies)
        };
        answers(Instant::now() + WARM_UP)?;
        let (cpu, began) = (run.agents.cpu()?, Instant::now());
        let latencies = answers(began + run.duration)?;
        let (took, cpu) = (began.elapsed(), run.agents.cpu()? - cpu);
        let done = latencies.len() as f64;
        let rate = Figure { name: "rate", unit: "req/s", value: done / took.as_secs_f64() };
        let figures = [rate].into_iter().chain(latencies.figures()).collect();
        Ok(Outcome { figures, done, cpu })
    }
}

impl Connection {
    /// If the answer is whole: sends the next request, and says how long this one took.
    fn go_on(&mut self) -> Result<Option<Duration>> {
        if !self.receive()? {
            return Ok(None);
        }
        let now = Instant::now();
        let took = now - std::mem::replace(&mut self.sent, now);
        self.stream.write_all(&[0; MESSAGE])?;
        Ok(Some(took))
    }

    /// Whether the answer is whole.
    fn receive(&mut self) -> Result<bool> {
        let mut buffer = [0; MESSAGE];
        match self.stream.read(&mut buffer) {
            Ok(0) => bail!("the connection was closed"),
            Ok(n) => self.received += n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        let whole = self.received >= MESSAGE;
        if whole {
            self.received -= MESSAGE;
        }
        Ok(whole)
    }
}
