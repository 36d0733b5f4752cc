//! Which places of the file system wake the next scan.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

/// The most directories behind symbolic links that are watched; changes in others are found by the
/// periodic scan.
const MAX_FOLLOWED: usize = 64;

/// Watches the manifest directory; its parent, to see it come and go or be swapped; and the
/// directories that links from it lead to.
pub(super) struct Watch {
    directory: PathBuf,
    parent: PathBuf,
    wake: Arc<Notify>,
    /// `None` where this host has no inotify instance left.
    watcher: Result<RecommendedWatcher, String>,
    /// Watched directories, and which ones they were when the watch was set.
    watched: BTreeMap<PathBuf, FileId>,
    link_targets: Arc<ArcSwap<BTreeSet<PathBuf>>>,
}

/// Device and inode.
pub(super) type FileId = (u64, u64);

/// No directory's: inode numbers start at 1.
const RENEW: FileId = (0, 0);

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("watched", &self.watched).finish_non_exhaustive()
    }
}

impl Watch {
    pub(super) fn new(directory: &Path) -> Self {
        // A relative path's parent is the empty path, which inotify does not take.
        let directory = std::path::absolute(directory).unwrap_or_else(|_| directory.to_owned());
        let parent = directory.parent().unwrap_or(&directory).to_owned();
        let wake = Arc::new(Notify::new());
        let link_targets = Arc::new(ArcSwap::default());
        let filter = Filter {
            directory: directory.clone(),
            parent: parent.clone(),
            link_targets: Arc::clone(&link_targets),
        };
        let waker = Arc::clone(&wake);
        let handler = move |event: notify::Result<Event>| {
            // An error of the watch is a reason to look as well.
            if event.map_or(true, |event| filter.wants(&event)) {
                waker.notify_one();
            }
        };
        let watcher = notify::recommended_watcher(handler);
        Self {
            directory,
            parent,
            wake,
            watcher: watcher.map_err(|error| error.to_string()),
            watched: BTreeMap::new(),
            link_targets,
        }
    }

    /// Notified when something has changed.
    pub(super) fn wake(&self) -> Arc<Notify> {
        Arc::clone(&self.wake)
    }

    /// Watches these files too, in place of the ones before. Whether [`Watch::aim`] has new places
    /// to watch because of it.
    pub(super) fn follow(&mut self, link_targets: BTreeSet<PathBuf>) -> bool {
        if **self.link_targets.load() == link_targets {
            return false;
        }
        self.link_targets.store(Arc::new(link_targets));
        self.wanted().iter().any(|path| !self.watched.contains_key(path))
    }

    /// Lets the next [`Watch::aim`] set every watch anew. `notify` drops a watch by its path when it
    /// reads that the directory was deleted, and so it can drop the watch of a directory that has
    /// taken the place since. Nothing tells of that.
    pub(super) fn renew(&mut self) {
        self.watched.values_mut().for_each(|id| *id = RENEW);
    }

    /// Watches what is there now. A directory that was replaced by another one of its name is
    /// watched anew, for a watch belongs to the directory and not to the name. What cannot be
    /// watched is returned, except for directories that are absent: the scan reports those.
    pub(super) fn aim(&mut self) -> Option<String> {
        let wanted = self.wanted();
        let watcher = match &mut self.watcher {
            Ok(watcher) => watcher,
            Err(error) => return Some(format!("changes are found late: no inotify: {error}")),
        };
        let mut trouble = None;
        let stale: Vec<PathBuf> = self
            .watched
            .iter()
            .filter(|(path, id)| !wanted.contains(*path) || file_id(path) != Some(**id))
            .map(|(path, _)| path.clone())
            .collect();
        for path in stale {
            self.watched.remove(&path);
            // It fails for a directory that is gone, whose watch went with it.
            let _gone: notify::Result<()> = watcher.unwatch(&path);
        }
        for path in wanted {
            let Some(id) = file_id(&path) else { continue };
            if self.watched.contains_key(&path) {
                continue;
            }
            match watcher.watch(&path, RecursiveMode::NonRecursive) {
                // Looked up before and after, the watch is the one of this directory.
                Ok(()) if file_id(&path) == Some(id) => {
                    self.watched.insert(path, id);
                }
                Ok(()) => self.wake.notify_one(),
                Err(error) => {
                    trouble = Some(format!("changes are found late: {error}"));
                }
            }
        }
        trouble
    }

    fn wanted(&self) -> BTreeSet<PathBuf> {
        let targets = self.link_targets.load();
        let followed = targets.iter().filter_map(|target| target.parent());
        let followed: BTreeSet<&Path> = followed.collect();
        let own = [self.directory.as_path(), self.parent.as_path()];
        let followed = followed.into_iter().take(MAX_FOLLOWED);
        own.into_iter().chain(followed).map(Path::to_owned).collect()
    }
}

struct Filter {
    directory: PathBuf,
    parent: PathBuf,
    link_targets: Arc<ArcSwap<BTreeSet<PathBuf>>>,
}

impl Filter {
    /// Not for opening and reading, which the scan itself does; nor for what else goes on beside
    /// the directory or beside the target of a link.
    fn wants(&self, event: &Event) -> bool {
        let changes = match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
            EventKind::Access(_) => false,
            EventKind::Any
            | EventKind::Create(_)
            | EventKind::Modify(_)
            | EventKind::Remove(_)
            | EventKind::Other => true,
        };
        let of_interest = |path: &PathBuf| {
            path == &self.directory
                || path == &self.parent
                || path.parent() == Some(&self.directory)
                || self.link_targets.load().contains(path)
        };
        changes && (event.paths.is_empty() || event.paths.iter().any(of_interest))
    }
}

/// What a path leads to.
pub(super) fn file_id(path: &Path) -> Option<FileId> {
    let metadata = fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}
