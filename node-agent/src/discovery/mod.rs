//! The world as the agent knows it: sources feed it, everybody reads snapshots of it.

pub mod kubernetes;
pub mod manifests;
mod status;
pub mod translate;

use std::sync::Arc;

use adit_core::identity::TrustDomain;
use adit_core::world::{Changes, Delta, World};
use arc_swap::ArcSwap;
use tokio::sync::{broadcast, watch};

use crate::shutdown::Shutdown;
use crate::sys::process;

pub use status::{SourceStatus, StatusHandle};

/// The current world. Cheap to clone; loading a snapshot takes no lock.
#[derive(Debug, Clone)]
pub struct Worlds {
    current: Arc<ArcSwap<World>>,
    changes: broadcast::Sender<Arc<Changes>>,
    synced: watch::Sender<bool>,
}

/// Where the world comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A directory of manifests.
    Manifests(manifests::Settings),
    /// The API server.
    Kubernetes(kubernetes::Settings),
}

/// What discovery needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where the world comes from.
    pub source: Source,
    /// The namespaces whose policies are for the whole mesh.
    pub root_namespaces: Vec<Arc<str>>,
}

impl Source {
    /// Keeps the world like the source until the process drains.
    pub async fn run(
        self,
        trust_domain: TrustDomain,
        worlds: Worlds,
        status: StatusHandle,
        shutdown: Shutdown,
    ) {
        match self {
            Self::Manifests(settings) => {
                manifests::run(settings, trust_domain, worlds, status, shutdown).await;
            }
            Self::Kubernetes(settings) => {
                kubernetes::run(settings, trust_domain, worlds, status, shutdown).await;
            }
        }
    }
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Manifests(settings) => write!(f, "manifests {}", settings.directory.display()),
            Self::Kubernetes(settings) => settings.access.fmt(f),
        }
    }
}

impl Worlds {
    /// An empty world with the usual root namespaces.
    #[must_use]
    pub fn new() -> Self {
        Self::starting_from(World::default())
    }

    /// This world, to begin with.
    #[must_use]
    pub fn starting_from(world: World) -> Self {
        let (changes, _) = broadcast::channel(64);
        let current = Arc::new(ArcSwap::from_pointee(world));
        Self { current, changes, synced: watch::Sender::new(false) }
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

    /// Whether the source has listed everything once. Until then a pod that is not in the world may
    /// exist all the same, and nothing may be withdrawn on the grounds that it is missing.
    #[must_use]
    pub fn synced(&self) -> watch::Receiver<bool> {
        self.synced.subscribe()
    }

    /// Says that everything has been listed once. Called by the source after that publish.
    pub fn mark_synced(&self) {
        if self.synced.send_if_modified(|synced| !std::mem::replace(synced, true)) {
            process::return_free_memory();
        }
    }
}

impl Default for Worlds {
    fn default() -> Self {
        Self::new()
    }
}
