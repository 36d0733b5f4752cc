//! The source for clusters: the API server, listed once and watched from then on.
//!
//! A feed per kind tells what it hears; the hub puts it together. The world is published when every
//! kind that something is decided by has been listed once, and from then on in small batches. While the API server is away, what it
//! said last stays in force: flows go on, and `adit status` says since when it is not up to date.
//!
//! Objects are translated as they come and not kept as they are: the specification of a pod is
//! dropped here.

mod access;
mod failure;
mod feed;
mod hub;
mod resource;
mod standing;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use adit_core::identity::TrustDomain;
use adit_core::world::Delta;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use crate::discovery::kubernetes::feed::{Feed, News};
use crate::discovery::kubernetes::hub::Hub;
use crate::discovery::kubernetes::resource::Resource;
use crate::discovery::translate::Kind;
use crate::discovery::{StatusHandle, Worlds, lapses};
use crate::shutdown::{Phase, Shutdown};

pub use access::{Access, AccessError, SILENCE, own_namespace};
pub use standing::{Standing, Standings};

/// What an agent needs to know.
pub const AGENT: &[Kind] = &[
    Kind::Namespace,
    Kind::Node,
    Kind::Pod,
    Kind::Service,
    Kind::EndpointSlice,
    Kind::PeerAuthentication,
    Kind::AuthorizationPolicy,
    Kind::NetworkPolicy,
];

/// What a CA needs to know: which pods run where.
pub const CA: &[Kind] = &[Kind::Pod];

/// The policies, for whoever tells what becomes of them.
pub const POLICIES: &[Kind] = &[Kind::PeerAuthentication, Kind::AuthorizationPolicy];

/// Changes that come within this time are published together: a new world costs the same for one
/// change and for a hundred.
const BATCH: Duration = Duration::from_millis(20);

/// News that wait for the hub; beyond them the watches are read no further. Each may be an object as it
/// came, a pod with all of its specification, of tens of kilobytes in memory.
const NEWS: usize = 64;

/// Where the API server is, and what of it is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The way to it.
    pub access: Access,
    /// The kinds.
    pub kinds: &'static [Kind],
}

/// Keeps the world like the API server until the process drains.
pub async fn run(
    settings: Settings,
    trust_domain: TrustDomain,
    worlds: Worlds,
    status: StatusHandle,
    shutdown: Shutdown,
) {
    let nobody_asks = Standings::default();
    run_with_standings(settings, trust_domain, worlds, status, &nobody_asks, shutdown).await;
}

/// The same, and keeps how policies stand beside their specification; they are told after the world.
pub async fn run_with_standings(
    settings: Settings,
    trust_domain: TrustDomain,
    worlds: Worlds,
    status: StatusHandle,
    standings: &Standings,
    mut shutdown: Shutdown,
) {
    let (sender, mut news) = mpsc::channel(NEWS);
    let mut hub = Hub::new(settings.kinds, trust_domain);
    let mut feeds = JoinSet::new();
    let back = Arc::new(Notify::new());
    for kind in settings.kinds {
        let access = settings.access.clone();
        let feed = Feed::new(Resource::of(*kind), access, sender.clone(), Arc::clone(&back));
        feeds.spawn(feed.run());
    }
    drop(sender);
    let mut batch = Vec::new();
    let mut lapses = lapses();
    loop {
        tokio::select! {
            () = shutdown.reached(Phase::Draining) => return,
            came = gather(&mut news, &mut batch) => if !came { return },
            // What has been gathered by then is not left to wait for more.
            _ = lapses.tick() => worlds.publish([Delta::Lapse]),
        }
        let now = SystemTime::now();
        let changes = standings.changes(&batch);
        for (kind, news) in batch.drain(..) {
            hub.take(kind, news, now);
        }
        worlds.publish(hub.take_deltas(now));
        status.update(hub.status());
        if hub.is_synced() {
            worlds.mark_synced();
        }
        standings.apply(changes, |key| hub.knows(key));
    }
}

/// Waits for news and for what comes shortly after it, but for no more than fits. Whether there will
/// be more.
async fn gather(news: &mut mpsc::Receiver<(Kind, News)>, batch: &mut Vec<(Kind, News)>) -> bool {
    if news.recv_many(batch, NEWS).await == 0 {
        return false;
    }
    let until = tokio::time::Instant::now() + BATCH;
    while batch.len() < NEWS {
        match tokio::time::timeout_at(until, news.recv_many(batch, NEWS)).await {
            Ok(0) | Err(_) => break,
            Ok(_) => {}
        }
    }
    true
}
