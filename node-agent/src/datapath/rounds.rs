//! The agent's own sockets that come back to it.
//!
//! They never do: the connect programs know them by their tag. But the programs of another agent do
//! not, and where those act on a pod (which enrolment refuses, see [`super::attached`], but which can
//! begin later) each connection that this agent makes for the pod would be captured, accepted as one
//! of the pod's, and made again, for ever.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use adit_shared::key::MARK;
use socket2::Socket;

/// How long an address is remembered: what was captured is accepted at once.
const MEMORY: Duration = Duration::from_secs(10);

/// How many are.
const MOST: usize = 4096;

/// Another agent's programs captured a socket of this one's.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("another adit agent captured a connection that this one made for the pod")]
pub(super) struct Captured;

/// The sockets of one pod that came out marked.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    any: AtomicBool,
    sources: Mutex<VecDeque<(SocketAddr, Instant)>>,
}

impl Rounds {
    /// Looks at a socket of the agent's right after `connect`, before whoever was led astray by its
    /// mark can have been accepted on the same thread.
    ///
    /// # Errors
    /// [`Captured`], or the kernel's.
    pub(super) fn refuse_marked(&self, socket: &Socket) -> io::Result<()> {
        if socket.mark()? != MARK {
            return Ok(());
        }
        if let Some(source) = socket.local_addr()?.as_socket() {
            let now = Instant::now();
            let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
            sources.retain(|(_, at)| now.duration_since(*at) < MEMORY);
            sources.truncate(MOST);
            sources.push_front((source, now));
            self.any.store(true, Ordering::Release);
        }
        Err(io::Error::other(Captured))
    }

    /// Whether an accepted connection comes from such a socket.
    pub(super) fn is_from_one(&self, source: SocketAddr) -> bool {
        if !self.any.load(Ordering::Acquire) {
            return false;
        }
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.iter().any(|(own, at)| *own == source && at.elapsed() < MEMORY)
    }
}
