//! The load: what a client pod and a server pod do with each other, the same on every path. Each
//! end is one thread (one a stream for bulk), which waits with epoll, so that the load itself costs
//! as little as it can.

mod bulk;
mod connections;
mod echo;
mod flows;
mod requests;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use adit_e2e::Pod;
use anyhow::{Context as _, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use socket2::{Domain, Socket, Type};

use crate::agents::{Agents, Cpu};

pub(crate) use bulk::{Bulk, Direction};
pub(crate) use connections::Connections;
pub(crate) use flows::{Flows, Moment};
pub(crate) use requests::Requests;

/// How long a load runs before it is measured.
pub(crate) const WARM_UP: Duration = Duration::from_millis(300);

/// What a small request and its answer are, in bytes.
pub(crate) const MESSAGE: usize = 64;

/// How often a thread that waits looks whether it is to stop, in milliseconds.
const GLANCE: u8 = 50;

/// Two pods, on different nodes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Path<'a> {
    pub(crate) client: &'a Pod,
    pub(crate) server: &'a Pod,
}

/// What the measuring of one run needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run<'a> {
    pub(crate) path: Path<'a>,
    /// For the agents' time on the processors.
    pub(crate) agents: &'a Agents<'a>,
    /// How long is measured.
    pub(crate) duration: Duration,
    /// The one processor of everything, or all of them.
    pub(crate) cpu: Option<usize>,
}

/// What one run gave.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) figures: Vec<Figure>,
    /// What was done meanwhile, in the unit that the agents' time is told by: GB, requests or
    /// connections.
    pub(crate) done: f64,
    /// What the agents spent meanwhile.
    pub(crate) cpu: Cpu,
}

/// One number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    pub(crate) value: f64,
}

/// Work that can be done on any path.
pub(crate) trait Load {
    fn run(&self, run: &Run<'_>) -> Result<Outcome>;
}

/// A listener on a free port of a pod.
fn listen(pod: &Pod) -> Result<(TcpListener, SocketAddr)> {
    let listener = pod.run(|| -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)).into())?;
        socket.listen(4096)?;
        Ok(socket.into())
    });
    let listener = listener?.context("listen in the server's pod")?;
    let port = listener.local_addr()?.port();
    Ok((listener, pod.at4(port)))
}

/// Keeps the calling thread, and those it starts, on one processor.
pub(crate) fn pin(cpu: Option<usize>) -> Result<()> {
    let Some(cpu) = cpu else { return Ok(()) };
    let mut set = CpuSet::new();
    set.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &set).context("pin a thread of the load")
}

/// Latencies, to be told as percentiles.
#[derive(Debug, Default)]
struct Latencies(Vec<Duration>);

impl Latencies {
    fn extend(&mut self, latency: Option<Duration>) {
        self.0.extend(latency);
    }

    /// The median and the 99th percentile, in microseconds.
    fn figures(mut self) -> [Figure; 2] {
        self.0.sort_unstable();
        let at = |percent: usize| {
            let index = self.0.len().saturating_sub(1) * percent / 100;
            self.0.get(index).map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e6)
        };
        [
            Figure { name: "p50", unit: "us", value: at(50) },
            Figure { name: "p99", unit: "us", value: at(99) },
        ]
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}
