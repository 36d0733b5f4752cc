//! Files that hold secrets: written once, readable by their owner only.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use super::PkiError;

/// The longest file that is read. A bundle of a hundred roots has about 100 kB.
const MAX_LEN: u64 = 1024 * 1024;

/// Makes a directory of mode 0700, or accepts one that is there if only its owner can use it.
pub(super) fn make_private_directory(path: &Path) -> Result<(), PkiError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(failed("create", path))?;
    let metadata = fs::metadata(path).map_err(failed("read", path))?;
    owner_only(metadata.mode(), path)
}

/// Writes a file that must not exist yet.
pub(super) fn write_new(path: &Path, text: &str, mode: u32) -> Result<(), PkiError> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let mut file = file.map_err(|source| {
        let path = path.to_owned();
        if source.kind() == io::ErrorKind::AlreadyExists {
            return PkiError::Exists { path };
        }
        PkiError::File { action: "create", path, source }
    })?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed("write", path))
}

/// Reads a file of no secrecy, of at most a mebibyte.
///
/// # Errors
/// [`PkiError::File`] or [`PkiError::Invalid`], naming the file.
pub fn read(path: &Path) -> Result<Vec<u8>, PkiError> {
    let file = fs::File::open(path).map_err(failed("open", path))?;
    read_open(file, path)
}

/// Reads a file that holds a secret.
///
/// # Errors
/// As [`read`], and [`PkiError::Exposed`] if others than its owner can use it.
pub fn read_private(path: &Path) -> Result<Vec<u8>, PkiError> {
    let file = fs::File::open(path).map_err(failed("open", path))?;
    let metadata = file.metadata().map_err(failed("read", path))?;
    owner_only(metadata.mode(), path)?;
    read_open(file, path)
}

fn read_open(file: fs::File, path: &Path) -> Result<Vec<u8>, PkiError> {
    let mut bytes = Vec::new();
    file.take(MAX_LEN + 1).read_to_end(&mut bytes).map_err(failed("read", path))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= MAX_LEN) {
        return Ok(bytes);
    }
    Err(PkiError::Invalid {
        origin: path.display().to_string(),
        problem: "is longer than a mebibyte",
    })
}

fn owner_only(mode: u32, path: &Path) -> Result<(), PkiError> {
    let mode = mode & 0o777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    Err(PkiError::Exposed { path: path.to_owned(), mode })
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PkiError {
    move |source| PkiError::File { action, path: path.to_owned(), source }
}
