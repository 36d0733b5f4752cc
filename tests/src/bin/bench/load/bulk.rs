//! Streams that carry as much as they can, or at a fixed rate.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::{Figure, Load, Outcome, Run, WARM_UP, listen, pin};

/// What is written or read in one system call, at most, in bytes.
const CHUNK: usize = 128 << 10;

/// Which way the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    ToServer,
    ToClient,
}

/// Streams at once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bulk {
    pub(crate) streams: usize,
    pub(crate) direction: Direction,
    /// Bits per second of each stream; as much as it can if none.
    pub(crate) rate: Option<u64>,
}

impl Load for Bulk {
    fn run(&self, run: &Run<'_>) -> Result<Outcome> {
        self.beside(run, |received| {
            thread::sleep(WARM_UP);
            let (bytes, cpu, began) =
                (received.load(Ordering::Relaxed), run.agents.cpu()?, Instant::now());
            thread::sleep(run.duration);
            let (took, cpu) = (began.elapsed(), run.agents.cpu()? - cpu);
            let bytes = (received.load(Ordering::Relaxed) - bytes) as f64;
            let rate = Figure {
                name: "throughput",
                unit: "Gbit/s",
                value: bytes * 8e-9 / took.as_secs_f64(),
            };
            Ok(Outcome { figures: vec![rate], done: bytes / 1e9, cpu })
        })
    }
}

impl Bulk {
    /// Carries bytes while `meanwhile` runs, which is given the count of those that arrived.
    pub(super) fn beside<T>(
        &self,
        run: &Run<'_>,
        meanwhile: impl FnOnce(&AtomicU64) -> Result<T>,
    ) -> Result<T> {
        let (listener, to) = listen(run.path.server)?;
        let (stop, received) = (AtomicBool::new(false), AtomicU64::new(0));
        let end = |stream: TcpStream, sends: bool| {
            if sends { self.send(stream, &stop) } else { receive(stream, &received) }
        };
        let serve = || {
            accept(self.streams, &listener, |stream| {
                end(stream, self.direction == Direction::ToClient)
            })
        };
        let connect = || {
            connect_all(self.streams, to, |stream| {
                end(stream, self.direction == Direction::ToServer)
            })
        };
        thread::scope(|scope| {
            let both = [
                scope.spawn(|| run.path.server.run(|| pin(run.cpu).and_then(|()| serve()))),
                scope.spawn(|| run.path.client.run(|| pin(run.cpu).and_then(|()| connect()))),
            ];
            let result = meanwhile(&received);
            stop.store(true, Ordering::Relaxed);
            for end in both {
                match end.join() {
                    Ok(ended) => ended??,
                    Err(panicked) => std::panic::resume_unwind(panicked),
                }
            }
            result
        })
    }

    fn send(&self, mut stream: TcpStream, stop: &AtomicBool) -> io::Result<()> {
        let chunk = vec![0x5a_u8; CHUNK];
        let pause = self.rate.map(|rate| Duration::from_secs_f64(CHUNK as f64 * 8.0 / rate as f64));
        let mut next = Instant::now();
        while !stop.load(Ordering::Relaxed) {
            stream.write_all(&chunk)?;
            if let Some(pause) = pause {
                next += pause;
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
        }
        stream.shutdown(Shutdown::Write)
    }
}

fn receive(mut stream: TcpStream, received: &AtomicU64) -> io::Result<()> {
    let mut buffer = vec![0_u8; CHUNK];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            n => received.fetch_add(n as u64, Ordering::Relaxed),
        };
    }
}

fn accept(
    streams: usize,
    listener: &TcpListener,
    work: impl Fn(TcpStream) -> io::Result<()> + Sync,
) -> Result<()> {
    on_threads(streams, || listener.accept().map(|(stream, _)| stream), work)
}

fn connect_all(
    streams: usize,
    to: std::net::SocketAddr,
    work: impl Fn(TcpStream) -> io::Result<()> + Sync,
) -> Result<()> {
    on_threads(streams, || TcpStream::connect(to), work)
}

fn on_threads(
    streams: usize,
    next: impl Fn() -> io::Result<TcpStream>,
    work: impl Fn(TcpStream) -> io::Result<()> + Sync,
) -> Result<()> {
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for _ in 0..streams {
            let stream = next().context("open a bulk stream")?;
            threads.push(scope.spawn(|| work(stream)));
        }
        for thread in threads {
            match thread.join() {
                Ok(ended) => ended.context("bulk stream")?,
                Err(panicked) => std::panic::resume_unwind(panicked),
            }
        }
        Ok(())
    })
}
