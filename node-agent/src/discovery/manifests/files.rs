//! The files of a manifest directory.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The largest file that is read.
const MAX_FILE: u64 = 16 << 20;

/// A file that was written to within so short a time may not be whole yet. Less than the source waits
/// for a change to come to rest.
const REST: Duration = Duration::from_millis(40);

/// What a directory holds.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Each file's text, or why it cannot be read, in the order of the names.
    pub(super) files: BTreeMap<OsString, Result<String, String>>,
    /// Those of them that may still be being written.
    pub(super) unrested: BTreeSet<OsString>,
    /// The files that symbolic links lead to.
    pub(super) link_targets: BTreeSet<PathBuf>,
}

/// Reads a directory.
pub(super) fn list(directory: &Path) -> io::Result<Listing> {
    let mut listing = Listing::default();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if !is_manifest(&name) {
            continue;
        }
        let path = entry.path();
        let link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
        if let (true, Ok(target)) = (link, fs::canonicalize(&path)) {
            listing.link_targets.insert(target);
        }
        match read(&path) {
            Ok(Some(text)) => {
                if was_just_written(&path) {
                    listing.unrested.insert(name.clone());
                }
                listing.files.insert(name, Ok(text));
            }
            // A directory with such a name.
            Ok(None) => {}
            // Gone since it was listed.
            Err(Unreadable::Io(error)) if error.kind() == ErrorKind::NotFound && !link => {}
            Err(Unreadable::Io(error)) if error.kind() == ErrorKind::NotFound => {
                listing.files.insert(name, Err("a symbolic link to nowhere".to_owned()));
            }
            Err(error) => {
                listing.files.insert(name, Err(error.to_string()));
            }
        }
    }
    Ok(listing)
}

/// Whether a file was written to so short a while ago, or is by its server's clock yet to be. Asked after
/// it was read.
fn was_just_written(path: &Path) -> bool {
    let written = fs::metadata(path).and_then(|metadata| metadata.modified());
    let rested = |at| SystemTime::now().duration_since(at).is_ok_and(|age| age >= REST);
    written.is_ok_and(|at| !rested(at))
}

fn is_manifest(name: &OsStr) -> bool {
    let hidden = name.as_encoded_bytes().starts_with(b".");
    let extension = Path::new(name).extension().and_then(OsStr::to_str);
    !hidden && matches!(extension, Some("yaml" | "yml" | "json"))
}

#[derive(Debug, thiserror::Error)]
enum Unreadable {
    #[error("not a regular file")]
    Special,
    #[error("larger than {} MiB", MAX_FILE >> 20)]
    TooLarge,
    #[error("not UTF-8: byte {0}")]
    NotText(usize),
    #[error("{0}")]
    Io(#[from] io::Error),
}

fn read(path: &Path) -> Result<Option<String>, Unreadable> {
    // Asked before opening: to open a FIFO would wait for its writer.
    let metadata = fs::metadata(path)?;
    if metadata.is_dir() {
        return Ok(None);
    }
    if !metadata.is_file() {
        return Err(Unreadable::Special);
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_FILE) {
        return Err(Unreadable::TooLarge);
    }
    let text = String::from_utf8(bytes);
    let text = text.map_err(|error| Unreadable::NotText(error.utf8_error().valid_up_to()))?;
    Ok(Some(text))
}
