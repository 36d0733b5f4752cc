//! The world as the agent knows it: sources feed it, everybody reads snapshots of it.

pub mod kubernetes;
pub mod manifests;
mod status;
pub mod translate;

use std::sync::Arc;
use std::time::Duration;

use adit_core::identity::TrustDomain;
use adit_core::world::{Changes, Delta, World};
use arc_swap::ArcSwap;
use tokio::sync::{broadcast, watch};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use crate::shutdown::Shutdown;
use crate::sys::process;

pub use status::{SourceStatus, StatusHandle};

/// How often a source tells of [`Delta::Lapse`]: for as long as one kind of object may be behind the
/// others without anybody noticing ([`kubernetes::SILENCE`]).
const LAPSE: Duration = kubernetes::SILENCE;

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

/// When a source is to tell of [`Delta::Lapse`].
fn lapses() -> Interval {
    let mut lapses = interval_at(Instant::now() + LAPSE, LAPSE);
    lapses.set_missed_tick_behavior(MissedTickBehavior::Delay);
    lapses
}

impl Default for Worlds {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::path::PathBuf;

    use super::*;
    use crate::shutdown;
    use crate::testing::cluster::pod;

    #[tokio::test(start_paused = true)]
    async fn every_source_forgets_in_time_who_had_an_address() {
        let address: IpAddr = "10.0.0.1".parse().unwrap();
        let web = pod("shop", "web", "n1", address);
        let gone = Delta::WorkloadGone(web.uid.clone());
        let (world, _) = World::default().apply([Delta::Workload(web), gone]);
        let nowhere = PathBuf::from("/nonexistent");
        let manifests = manifests::Settings { directory: nowhere.clone() };
        let access = kubernetes::Access { kubeconfig: Some(nowhere) };
        let server = kubernetes::Settings { access, kinds: kubernetes::AGENT };
        for source in [Source::Manifests(manifests), Source::Kubernetes(server)] {
            let worlds = Worlds::starting_from(world.clone());
            let (_trigger, shutdown) = shutdown::channel();
            let domain = TrustDomain::parse("cluster.local").unwrap();
            let running = source.run(domain, worlds.clone(), StatusHandle::new(), shutdown);
            let running = tokio::spawn(running);
            let mut changes = worlds.subscribe();
            for remembered in [true, false] {
                assert!(worlds.load().last_owner(address).is_some());
                let lapse = tokio::time::timeout(LAPSE * 2, changes.recv());
                assert!(lapse.await.unwrap().unwrap().lapsed);
                assert_eq!(worlds.load().last_owner(address).is_some(), remembered);
            }
            running.abort();
        }
    }
}
