//! Connections that are open and silent.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Context as _, Result};

use super::echo::{Service, serve};
use super::{Path, listen};

/// Who moves bytes on the flows at a time.
const MOVERS: usize = 16;

/// So many flows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flows {
    pub(crate) count: usize,
    /// What is moved on each, in bytes.
    pub(crate) bytes: usize,
}

/// When a measurement is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// All flows are open, and have carried one byte.
    Open,
    /// Each has carried `bytes` more.
    Used,
}

impl Flows {
    /// Opens the flows, moves the bytes, and measures after each.
    pub(crate) fn hold(
        &self,
        path: &Path<'_>,
        mut measure: impl FnMut(Moment) -> Result<()> + Send,
    ) -> Result<()> {
        let (listener, to) = listen(path.server)?;
        let stop = AtomicBool::new(false);
        thread::scope(|scope| {
            let server = scope.spawn(|| {
                path.server.run(|| serve(&listener, Service::Acknowledge(self.bytes), &stop))
            });
            let result = path.client.run(|| {
                let mut flows = Vec::with_capacity(self.count);
                for _ in 0..self.count {
                    let mut flow = TcpStream::connect(to).context("open a flow")?;
                    flow.read_exact(&mut [0]).context("open a flow")?;
                    flows.push(flow);
                }
                measure(Moment::Open)?;
                self.move_bytes(&mut flows).context("move bytes")?;
                measure(Moment::Used)
            });
            stop.store(true, Ordering::Relaxed);
            match server.join() {
                Ok(ended) => ended?.context("server of flows")?,
                Err(panicked) => std::panic::resume_unwind(panicked),
            }
            result?
        })
    }

    fn move_bytes(&self, flows: &mut [TcpStream]) -> io::Result<()> {
        let payload = vec![0_u8; self.bytes];
        let share = flows.len().div_ceil(MOVERS).max(1);
        thread::scope(|scope| {
            let movers: Vec<_> = flows
                .chunks_mut(share)
                .map(|flows| {
                    scope.spawn(|| flows.iter_mut().try_for_each(|flow| send(flow, &payload)))
                })
                .collect();
            movers.into_iter().try_for_each(|mover| match mover.join() {
                Ok(moved) => moved,
                Err(panicked) => std::panic::resume_unwind(panicked),
            })
        })
    }
}

/// Sends it all and waits until it has arrived.
fn send(flow: &mut TcpStream, payload: &[u8]) -> io::Result<()> {
    flow.write_all(payload)?;
    flow.read_exact(&mut [0])
}
