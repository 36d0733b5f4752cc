//! Whether the same sources, built in another directory, give the same program.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use sha2::{Digest as _, Sha256};

use super::program;
use crate::program::target;
use crate::step::{cargo, execute};

/// Has a copy of the checkout build the program, by the copy's own `cargo xtask image`, and compares. The copy
/// goes if they are the same.
#[expect(clippy::print_stdout, reason = "a task talks to its user")]
pub(super) fn check(root: &Path, first: &[u8]) -> Result<()> {
    let copy = target(root).join("image").join("another").join("checkout");
    copy_sources(root, &copy)?;
    let mut command = cargo(&copy, &["xtask", "image", "--output", "adit.tar"]);
    command.env_remove("CARGO_TARGET_DIR").env_remove("CARGO_MANIFEST_DIR");
    execute(&mut command)?;
    let second = program::path(&copy.join("target"));
    let second = fs::read(&second).with_context(|| format!("cannot read {}", second.display()))?;
    if let Some(at) = difference(first, &second) {
        bail!(
            "the same sources gave two programs, {} and {} bytes long, which differ from byte {at} on; the other one is below {}",
            first.len(),
            second.len(),
            copy.display()
        );
    }
    let digest: String = Sha256::digest(first).iter().map(|byte| format!("{byte:02x}")).collect();
    println!("    the same program from {}: sha256 {digest}", copy.display());
    fs::remove_dir_all(&copy).with_context(|| format!("cannot remove {}", copy.display()))
}

/// Copies what git knows and does not ignore, as it stands in the checkout.
fn copy_sources(root: &Path, copy: &Path) -> Result<()> {
    let mut list = Command::new("git");
    list.current_dir(root).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let listed = list.output().context("cannot start git")?;
    if !listed.status.success() {
        bail!("git ls-files: {}", String::from_utf8_lossy(&listed.stderr).trim_end());
    }
    let names = listed.stdout.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    for name in names.map(|name| PathBuf::from(std::ffi::OsStr::from_bytes(name))) {
        let (from, to) = (root.join(&name), copy.join(&name));
        if !from.is_file() {
            continue; // deleted, not committed
        }
        let directory = to.parent().unwrap_or(copy);
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot make {}", directory.display()))?;
        fs::copy(&from, &to).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    Ok(())
}

/// The first byte in which two programs differ.
fn difference(first: &[u8], second: &[u8]) -> Option<usize> {
    let differs = first.iter().zip(second).position(|(a, b)| a != b);
    differs.or_else(|| (first.len() != second.len()).then(|| first.len().min(second.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_the_same_only_to_their_last_byte() {
        assert_eq!(difference(b"same", b"same"), None);
        assert_eq!(difference(b"same", b"sane"), Some(2));
        assert_eq!(difference(b"same", b"same, longer"), Some(4));
    }
}
