//! The source for hosts without an API server: a directory of ordinary Kubernetes YAML, watched.
//!
//! Read are the files `*.yaml`, `*.yml` and `*.json` in the directory itself, symbolic links
//! followed, names that start with a dot left out (so that a ConfigMap's `..data` is looked at only
//! through the links to it). One scan reads all of them and publishes all changes as one batch:
//! whoever replaces a directory atomically never sees a mixture of old and new.
//!
//! A file that is being written keeps its last state until it rests, or says the same for a second: half
//! of a policy may be a valid policy.
//!
//! What is wrong is reported and left out, document by document, while the last good version of it
//! stays in force. That matters for security and not only for comfort: a pod that vanished from the
//! world for a mistyped line would drop out of the mesh and talk plaintext. So it is with the directory
//! itself: one that vanished, or lost everything at once, is not believed at first.

mod catalog;
mod document;
mod files;
mod watch;
mod yaml;

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use adit_core::identity::TrustDomain;
use adit_core::world::Delta;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::discovery::manifests::catalog::{Catalog, Scan};
use crate::discovery::manifests::watch::Watch;
use crate::discovery::{SourceStatus, StatusHandle, Worlds, lapses};
use crate::shutdown::{Phase, Shutdown};

/// A scan waits until nothing has changed for this long, so that a file that is just being written
/// is read once and whole.
const QUIET: Duration = Duration::from_millis(50);

/// But no longer than this, so that a file that never rests does not hold up the others.
const PATIENCE: Duration = Duration::from_millis(150);

/// The safety net for what inotify cannot see, such as a change far behind a symbolic link.
const RESCAN: Duration = Duration::from_secs(10);

/// The same while the directory is absent or cannot be watched.
const RETRY: Duration = Duration::from_secs(1);

/// Which directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The directory.
    pub directory: PathBuf,
}

/// Keeps the world like the directory until the agent drains.
pub async fn run(
    settings: Settings,
    trust_domain: TrustDomain,
    worlds: Worlds,
    status: StatusHandle,
    mut shutdown: Shutdown,
) {
    let mut source = Source {
        watch: Watch::new(&settings.directory),
        catalog: Catalog::new(settings.directory, trust_domain),
    };
    let wake = source.watch.wake();
    let mut lapses = lapses();
    loop {
        let scanned = tokio::task::spawn_blocking(move || {
            let scan = source.scan();
            (source, scan)
        });
        let scan;
        (source, scan) = match scanned.await {
            Ok(done) => done,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            // The runtime ends.
            Err(_cancelled) => return,
        };
        let wait = match &scan {
            Scan { unrested: true, .. } => QUIET,
            Scan { troubled: true, .. } => RETRY,
            Scan { .. } => RESCAN,
        };
        publish(scan, &worlds, &status);
        tokio::select! {
            () = shutdown.reached(Phase::Draining) => return,
            // A change that this misses is found all the same: the directory is read again.
            _ = lapses.tick() => worlds.publish([Delta::Lapse]),
            changed = rested(&wake, wait) => if !changed {
                source.watch.renew();
            }
        }
    }
}

/// Waits until the directory has changed and come to rest, but no longer than `wait` for a change.
/// Whether there was one.
async fn rested(wake: &Notify, wait: Duration) -> bool {
    if tokio::time::timeout(wait, wake.notified()).await.is_err() {
        return false;
    }
    let patience = Instant::now() + PATIENCE;
    loop {
        let quiet = patience.min(Instant::now() + QUIET);
        if tokio::time::timeout_at(quiet, wake.notified()).await.is_err() || quiet == patience {
            return true;
        }
    }
}

fn publish(scan: Scan, worlds: &Worlds, status: &StatusHandle) {
    let changed = !scan.deltas.is_empty();
    worlds.publish(scan.deltas);
    status.update(SourceStatus {
        files: scan.files,
        objects: scan.objects,
        errors: scan.errors,
        stale: scan.stale,
        rejected: scan.rejected,
        network_policies_lack: None,
        last_change: if changed { Some(SystemTime::now()) } else { status.load().last_change },
    });
    if scan.listed {
        worlds.mark_synced();
    }
}

#[derive(Debug)]
struct Source {
    watch: Watch,
    catalog: Catalog,
}

impl Source {
    /// Watches first and reads then, so that nothing changes unseen in between; and reads again if
    /// reading led to further places to watch.
    fn scan(&mut self) -> Scan {
        let mut unwatched = self.watch.aim();
        let mut scan = self.catalog.scan(std::time::Instant::now());
        if self.watch.follow(std::mem::take(&mut scan.link_targets)) {
            let more = self.watch.aim();
            unwatched = unwatched.or(more);
            let earlier = std::mem::take(&mut scan.deltas);
            scan = self.catalog.scan(std::time::Instant::now());
            scan.deltas.splice(0..0, earlier);
        }
        if let Some(error) = unwatched {
            scan.troubled = true;
            self.catalog.tell(&error);
            scan.errors.insert(0, error);
        }
        self.catalog.told_only(&scan.errors);
        scan
    }
}

/// What a file with this text alone says of the world, and what is wrong with it.
#[cfg(any(test, feature = "testing"))]
#[must_use]
pub fn read_text(text: &str, json: bool, trust_domain: &TrustDomain) -> (Vec<Delta>, Vec<String>) {
    use crate::discovery::translate::Snapshot;
    use std::collections::BTreeMap;

    let (mut objects, mut errors) = (BTreeMap::new(), Vec::new());
    for reading in document::read_all(text, json, trust_domain) {
        match reading.result {
            Ok(object) => drop(objects.entry(object.key()).or_insert(object)),
            Err(rejected) => errors.push(rejected.error),
        }
    }
    let (snapshot, problems) = Snapshot::assemble(objects.values());
    errors.extend(problems.iter().map(ToString::to_string));
    (Snapshot::default().deltas_to(&snapshot), errors)
}

#[cfg(test)]
mod tests;
