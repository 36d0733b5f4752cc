//! What the files said when they were last read, which of it is in force, and what changed.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::hash::BuildHasher;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use adit_core::identity::TrustDomain;
use adit_core::policy::PolicyId;
use adit_core::world::Delta;

use crate::discovery::manifests::document::{Place, Reading, Rejected};
use crate::discovery::manifests::watch::{FileId, file_id};
use crate::discovery::manifests::{document, files};
use crate::discovery::translate::{Key, Object, Snapshot};

/// How long a directory that was emptied is not believed.
const EMPTIED: Duration = Duration::from_secs(30);

/// Said of something of which nobody knows what it was before the agent started.
const UNKNOWN: &str = "; what it said before this agent started is not known, and not in force";

/// Said of a file that held something and no longer has any text. It may have been truncated to be
/// written anew, or by a disk that is full.
const NO_TEXT: &str = "the file is empty: what it said stays in force. To withdraw that, delete the \
                       file, or write a comment into it";

/// After so long a file that does not come to rest is read, if it twice says the same.
const UNRESTED: Duration = Duration::from_secs(1);

/// The outcome of one scan.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// What changed.
    pub(super) deltas: Vec<Delta>,
    /// Files that exist.
    pub(super) files: usize,
    /// Objects in force.
    pub(super) objects: usize,
    /// What is wrong.
    pub(super) errors: Vec<String>,
    /// Why what is in force is not what the directory says.
    pub(super) stale: Option<String>,
    /// Policies whose newest version is wrong, and how.
    pub(super) rejected: BTreeMap<PolicyId, String>,
    /// Whether the directory has been listed at least once.
    pub(super) listed: bool,
    /// Whether it should be looked at again soon.
    pub(super) troubled: bool,
    /// Whether files that were being written are still to be read.
    pub(super) unrested: bool,
    /// The files that symbolic links lead to.
    pub(super) link_targets: BTreeSet<PathBuf>,
}

/// The files as they were last read.
#[derive(Debug)]
pub(super) struct Catalog {
    directory: PathBuf,
    trust_domain: TrustDomain,
    hasher: RandomState,
    files: BTreeMap<OsString, FileState>,
    /// The files that were being written when they were last looked at: since when that is so, and the
    /// digest of what they said.
    unrested: BTreeMap<OsString, (Instant, Option<u64>)>,
    snapshot: Snapshot,
    objects: usize,
    /// Contradictions between objects, from the last time that anything changed.
    conflicts: Vec<String>,
    listed: bool,
    /// The directory that was listed last, and since when it is suspiciously empty.
    identity: Option<FileId>,
    emptied: Option<Instant>,
    /// What was last logged and still holds.
    told: BTreeSet<String>,
}

#[derive(Debug, Default)]
struct FileState {
    /// Of the text that was read; `None` if it could not be.
    digest: Option<u64>,
    entries: Vec<Entry>,
    errors: Vec<String>,
    rejected: Vec<(PolicyId, String)>,
    /// Whether something in it has been wrong ever since the agent started, so that nobody knows what
    /// it said before.
    history_unknown: bool,
}

#[derive(Debug)]
struct Entry {
    place: Place,
    content: Content,
}

#[derive(Debug)]
enum Content {
    /// As the file says.
    Good(Object),
    /// The file is wrong: as it said before.
    Kept(Object),
    /// The file has been wrong since the agent started, and may have said anything before: a policy
    /// that opens nothing up.
    Closed(Object),
    /// The file is wrong, and it never said anything else, or cannot even be told what it is.
    Nothing,
}

impl Catalog {
    pub(super) fn new(directory: PathBuf, trust_domain: TrustDomain) -> Self {
        Self {
            directory,
            trust_domain,
            hasher: RandomState::new(),
            files: BTreeMap::new(),
            unrested: BTreeMap::new(),
            snapshot: Snapshot::default(),
            objects: 0,
            conflicts: Vec::new(),
            listed: false,
            identity: None,
            emptied: None,
            told: BTreeSet::new(),
        }
    }

    /// Reads the directory and says what changed since the last time. While the directory cannot be
    /// read, everything stays as it is; and while it is empty and was not, as [`Catalog::suspect`]
    /// says.
    pub(super) fn scan(&mut self, now: Instant) -> Scan {
        let identity = file_id(&self.directory);
        let listing = match files::list(&self.directory) {
            Ok(listing) => listing,
            Err(error) => {
                return self.keep(format!("{}: {error}", self.directory.display()));
            }
        };
        if let Some(why) = self.suspect(&listing, identity, now) {
            return self.keep(why);
        }
        self.identity = identity;
        let gone = |name: &OsString| !listing.files.contains_key(name);
        let mut changed = !self.listed || self.files.keys().any(gone);
        let mut before = std::mem::take(&mut self.files);
        let index = Index::of(&before);
        let mut files = BTreeMap::new();
        let unrested = std::mem::take(&mut self.unrested);
        for (name, text) in listing.files {
            let old = before.get(&name);
            let new = match text {
                Ok(text) => {
                    let digest = Some(self.hasher.hash_one(&text));
                    let (since, last) = *unrested.get(&name).unwrap_or(&(now, None));
                    let settled = now.duration_since(since) >= UNRESTED && last == digest;
                    let writing = self.listed && !settled && listing.unrested.contains(&name);
                    let truncated = || old.is_some_and(FileState::holds) && text.trim().is_empty();
                    if old.is_some_and(|old| old.digest == digest) {
                        None
                    } else if writing {
                        self.unrested.insert(name.clone(), (since, digest));
                        None
                    } else if truncated() {
                        Some(self.unread(&name, digest, NO_TEXT, old))
                    } else {
                        changed = true;
                        Some(self.read(&name, digest, &text, old, &index))
                    }
                }
                Err(error) => Some(self.unread(&name, None, &error, old)),
            };
            files.insert(name, new);
        }
        for (name, new) in files {
            if let Some(state) = new.or_else(|| before.remove(&name)) {
                self.files.insert(name, state);
            }
        }
        self.listed = true;
        let deltas = if changed { self.settle() } else { Vec::new() };
        Scan { deltas, link_targets: listing.link_targets, ..self.report() }
    }

    /// Why an empty directory is not believed, if it is not: a volume that was unmounted, or a copy
    /// that failed, would withdraw every pod of the node. One that is another directory than before is
    /// not believed until there is a file in it; the same one, which lost several files at once, is
    /// after [`EMPTIED`].
    fn suspect(
        &mut self,
        listing: &files::Listing,
        identity: Option<FileId>,
        now: Instant,
    ) -> Option<String> {
        if !listing.files.is_empty() || self.files.is_empty() {
            self.emptied = None;
            return None;
        }
        let since = *self.emptied.get_or_insert(now);
        let directory = self.directory.display();
        if identity != self.identity {
            return Some(format!(
                "{directory}: replaced by an empty directory: what the former one said stays in force \
                 until there is a manifest, be it an empty file"
            ));
        }
        let seconds = EMPTIED.as_secs();
        let sudden = self.files.len() > 1 && now.duration_since(since) < EMPTIED;
        sudden.then(|| {
            format!("{directory}: emptied at once: what was there stays in force for {seconds} s")
        })
    }

    /// Everything stays as it is.
    fn keep(&mut self, why: String) -> Scan {
        self.tell(&why);
        let mut scan = self.report();
        scan.troubled = true;
        scan.errors.insert(0, why.clone());
        scan.stale = Some(why);
        scan
    }

    fn report(&self) -> Scan {
        let errors = self.files.values().flat_map(|file| &file.errors);
        Scan {
            files: self.files.len(),
            objects: self.objects,
            unrested: !self.unrested.is_empty(),
            errors: errors.chain(&self.conflicts).cloned().collect(),
            rejected: self.files.values().flat_map(|file| &file.rejected).cloned().collect(),
            listed: self.listed,
            ..Scan::default()
        }
    }

    /// Logs what has not been logged since it last ceased to be so.
    pub(super) fn tell(&mut self, error: &str) {
        if self.told.insert(error.to_owned()) {
            tracing::warn!(directory = %self.directory.display(), error, "manifests");
        }
    }

    /// Forgets that anything else than these was logged.
    pub(super) fn told_only(&mut self, errors: &[String]) {
        let errors: BTreeSet<&String> = errors.iter().collect();
        self.told.retain(|told| errors.contains(told));
    }

    /// A file that says nothing: everything of it stays as it was.
    fn unread(
        &mut self,
        name: &OsString,
        digest: Option<u64>,
        error: &str,
        old: Option<&FileState>,
    ) -> FileState {
        let error = format!("{}: {error}", name.display());
        self.tell(&error);
        FileState {
            digest,
            entries: old.map(FileState::copy_entries).unwrap_or_default(),
            errors: vec![error],
            rejected: old.map(|old| old.rejected.clone()).unwrap_or_default(),
            history_unknown: self.history_unknown(old),
        }
    }

    /// Reads a file that is new or changed. Each of its errors is logged: once per change.
    fn read(
        &self,
        name: &OsString,
        digest: Option<u64>,
        text: &str,
        old: Option<&FileState>,
        index: &Index<'_>,
    ) -> FileState {
        let file = name.display();
        let json = Path::new(name).extension().is_some_and(|extension| extension == "json");
        let readings = document::read_all(text, json, &self.trust_domain);
        let history_unknown = self.history_unknown(old);
        let mut state = FileState { digest, ..FileState::default() };
        for Reading { place, key, result } in readings {
            let content = match result {
                Ok(object) => Content::Good(object),
                Err(Rejected { error, closed }) => {
                    let document = place.document;
                    let last = index.last_good(old, place, key.as_ref());
                    state.history_unknown |= history_unknown && last.is_none_or(is_closed);
                    let nameless = key.is_none() && last.is_none();
                    let policy = key.or_else(|| last.map(Object::key)).and_then(|key| key.policy());
                    let error = match policy {
                        Some(policy) => {
                            let named = format!("{policy}: {error}");
                            state.rejected.push((policy, error));
                            named
                        }
                        None => error,
                    };
                    let content = match (last, closed.filter(|_| history_unknown)) {
                        (Some(last), None) => Content::Kept(last.clone()),
                        (Some(last), Some(_)) if !is_closed(last) => Content::Kept(last.clone()),
                        (_, Some(closed)) => Content::Closed(closed),
                        (None, None) => Content::Nothing,
                    };
                    let unknown = if nameless && history_unknown { UNKNOWN } else { "" };
                    state.errors.push(format!("{file}: document {document}: {error}{unknown}"));
                    let in_force = content.as_label();
                    tracing::warn!(%file, document, error, in_force, "manifest is invalid");
                    content
                }
            };
            state.entries.push(Entry { place, content });
        }
        state
    }

    /// Whether nobody knows what a file may have said before it became as it was last read.
    fn history_unknown(&self, old: Option<&FileState>) -> bool {
        old.map_or(!self.listed, |old| old.history_unknown)
    }

    /// Puts the objects of all files together: the first one in the order of the files wins, and
    /// what a file says now comes before what another one said before.
    fn settle(&mut self) -> Vec<Delta> {
        let mut chosen: BTreeMap<Key, (&OsString, &Object)> = BTreeMap::new();
        let mut conflicts = Vec::new();
        for (name, entry) in entries(&self.files) {
            let Content::Good(object) = &entry.content else {
                continue;
            };
            let key = object.key();
            if let Some((first, _)) = chosen.get(&key) {
                conflicts.push(format!(
                    "{}: document {}: {key} is already in {}; ignored here",
                    name.display(),
                    entry.place.document,
                    first.display()
                ));
            } else {
                chosen.insert(key, (name, object));
            }
        }
        for (name, entry) in entries(&self.files) {
            if let Content::Kept(object) | Content::Closed(object) = &entry.content {
                chosen.entry(object.key()).or_insert((name, object));
            }
        }
        let objects = chosen.values().map(|(_, object)| *object);
        let (snapshot, problems) = Snapshot::assemble(objects);
        conflicts.extend(problems.iter().map(ToString::to_string));
        self.objects = chosen.len();
        let deltas = self.snapshot.deltas_to(&snapshot);
        self.snapshot = snapshot;
        for conflict in &conflicts {
            self.tell(conflict);
        }
        self.conflicts = conflicts;
        deltas
    }
}

impl Content {
    /// What is in force, for the log.
    const fn as_label(&self) -> &'static str {
        match self {
            Self::Good(_) => "this",
            Self::Kept(_) => "last_good",
            Self::Closed(_) => "closed",
            Self::Nothing => "nothing",
        }
    }
}

impl FileState {
    /// Whether anything of it is in force.
    fn holds(&self) -> bool {
        self.entries.iter().any(|entry| entry.object().is_some())
    }

    fn copy_entries(&self) -> Vec<Entry> {
        let copy = |entry: &Entry| Entry {
            place: entry.place,
            content: match &entry.content {
                Content::Good(object) => Content::Good(object.clone()),
                Content::Kept(object) => Content::Kept(object.clone()),
                Content::Closed(object) => Content::Closed(object.clone()),
                Content::Nothing => Content::Nothing,
            },
        };
        self.entries.iter().map(copy).collect()
    }
}

impl Entry {
    fn object(&self) -> Option<&Object> {
        match &self.content {
            Content::Good(object) | Content::Kept(object) | Content::Closed(object) => Some(object),
            Content::Nothing => None,
        }
    }
}

fn entries(files: &BTreeMap<OsString, FileState>) -> impl Iterator<Item = (&OsString, &Entry)> {
    files.iter().flat_map(|(name, file)| file.entries.iter().map(move |entry| (name, entry)))
}

fn is_closed(object: &Object) -> bool {
    match object {
        Object::PeerAuthentication(policy) => policy.is_closed(),
        Object::AuthorizationPolicy(policy) => policy.is_closed(),
        Object::Namespace(_)
        | Object::Node(_)
        | Object::Pod(_)
        | Object::Service(_)
        | Object::Slice(_)
        | Object::NetworkPolicy(_) => false,
    }
}

/// What all files said before this scan.
struct Index<'a>(BTreeMap<Key, &'a Object>);

impl<'a> Index<'a> {
    fn of(files: &'a BTreeMap<OsString, FileState>) -> Self {
        let mut index = BTreeMap::new();
        for object in entries(files).filter_map(|(_, entry)| entry.object()) {
            index.entry(object.key()).or_insert(object);
        }
        Self(index)
    }

    /// The last good version of an object that is wrong now: found by its name, or if that cannot
    /// be read, by where it stands.
    fn last_good(
        &self,
        old: Option<&'a FileState>,
        place: Place,
        key: Option<&Key>,
    ) -> Option<&'a Object> {
        match key {
            Some(key) => self.0.get(key).copied(),
            None => {
                let mut entries = old?.entries.iter();
                entries.find(|entry| entry.place == place)?.object()
            }
        }
    }
}
