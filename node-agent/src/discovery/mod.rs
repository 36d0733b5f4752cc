//! The world as the agent knows it: sources feed it, everybody reads snapshots of it.

use std::sync::Arc;

use adit_core::world::{Changes, Delta, World};
use arc_swap::ArcSwap;
use tokio::sync::broadcast;

/// The current world. Cheap to clone; loading a snapshot takes no lock.
#[derive(Debug, Clone)]
pub struct Worlds {
    current: Arc<ArcSwap<World>>,
    changes: broadcast::Sender<Arc<Changes>>,
}

impl Worlds {
    /// An empty world.
    #[must_use]
    pub fn new() -> Self {
        let (changes, _) = broadcast::channel(64);
        Self { current: Arc::default(), changes }
    }

    /// The world now.
    #[must_use]
    pub fn load(&self) -> Arc<World> {
        self.current.load_full()
    }

    /// What each later [`Worlds::publish`] touches. A receiver that lags must look at everything.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Changes>> {
        self.changes.subscribe()
    }

    /// Applies changes and tells the subscribers. Called by one source only.
    pub fn publish(&self, deltas: impl IntoIterator<Item = Delta>) {
        let (world, changes) = self.load().apply(deltas);
        if changes == Changes::default() {
            return;
        }
        self.current.store(Arc::new(world));
        let _receivers = self.changes.send(Arc::new(changes));
    }
}

impl Default for Worlds {
    fn default() -> Self {
        Self::new()
    }
}
