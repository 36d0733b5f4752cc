//! Which worker carries a tunnel that a peer dialled: the one that carries the fewest.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use super::{Command, Link};
use crate::tunnel::AcceptedTunnel;

/// All workers, as one of them sees them. Weak: the threads must not keep each other alive.
#[derive(Clone)]
pub(super) struct Peers(Weak<[Link]>);

impl Peers {
    /// The workers behind these links.
    pub(super) fn new(links: &Arc<[Link]>) -> Self {
        Self(Arc::downgrade(links))
    }

    /// Hands a tunnel to the worker that carries the fewest.
    pub(super) fn give(&self, tunnel: AcceptedTunnel) {
        let Some(links) = self.0.upgrade() else {
            return;
        };
        if let Some(link) = links.iter().min_by_key(|link| link.load()) {
            // Counted here, so that two tunnels at once do not go to the same worker.
            link.load.fetch_add(1, Ordering::Relaxed);
            link.send(Command::Tunnel(Box::new(tunnel)));
        }
    }

    /// How many workers there are.
    pub(super) fn count(&self) -> usize {
        self.0.upgrade().map_or(1, |links| links.len())
    }

    /// The load of one worker, for it to count down.
    pub(super) fn load(&self, index: usize) -> Arc<AtomicUsize> {
        let links = self.0.upgrade();
        let link = links.as_deref().and_then(|links| links.get(index));
        link.map_or_else(Arc::default, |link| Arc::clone(&link.load))
    }
}
