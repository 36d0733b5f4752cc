//! What the committed object was built from and with: `ebpf/adit.bpf.toml`.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// The record. It is written as TOML of plain `key = "value"` lines, and read as such.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// A hash of the sources.
    pub sources: String,
    /// A hash of the object.
    pub object: String,
    /// The version of rustc.
    pub rustc: String,
    /// The version of its LLVM.
    pub llvm: String,
    /// The version of bpf-linker.
    pub linker: String,
}

impl Record {
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{} is damaged", path.display()))
    }

    fn parse(text: &str) -> Result<Self> {
        let value = |key: &str| {
            text.lines()
                .filter_map(|line| line.split_once('='))
                .find(|(name, _)| name.trim() == key)
                .map(|(_, value)| value.trim().trim_matches('"').to_owned())
                .with_context(|| format!("no line `{key} = \"…\"`"))
        };
        Ok(Self {
            sources: value("sources")?,
            object: value("object")?,
            rustc: value("rustc")?,
            llvm: value("llvm")?,
            linker: value("bpf-linker")?,
        })
    }

    pub(super) fn write(&self, path: &Path) -> Result<()> {
        fs::write(path, self.to_text()).with_context(|| format!("write {}", path.display()))
    }

    fn to_text(&self) -> String {
        let Self { sources, object, rustc, llvm, linker } = self;
        format!(
            "# Written by `cargo xtask ebpf`. Do not edit.\n\
             sources = \"{sources}\"\n\
             object = \"{object}\"\n\
             rustc = \"{rustc}\"\n\
             llvm = \"{llvm}\"\n\
             bpf-linker = \"{linker}\"\n"
        )
    }

    pub(super) fn same_toolchain(&self, other: &Self) -> bool {
        let versions = |record: &Self| {
            let Self { sources: _, object: _, rustc, llvm, linker } = record;
            [rustc.clone(), llvm.clone(), linker.clone()]
        };
        versions(self) == versions(other)
    }
}

/// A hash over everything of this repository's that the object depends on: the sources of `ebpf` and
/// `shared`, their manifests, and the versions in the lock file of what they use.
pub(super) fn hash_sources(root: &Path) -> Result<String> {
    let mut files = vec![root.join("ebpf/Cargo.toml"), root.join("shared/Cargo.toml")];
    collect(&root.join("ebpf/src"), &mut files)?;
    collect(&root.join("shared/src"), &mut files)?;
    // Tests are no part of the object, and change more often than it does.
    files.retain(|path| path.file_name().is_none_or(|name| name != "tests.rs"));
    files.sort();

    let mut hash = Hash::new();
    for path in files {
        let name = path.strip_prefix(root).unwrap_or(&path);
        hash.add(name.to_string_lossy().as_bytes());
        hash.add(&fs::read(&path).with_context(|| format!("read {}", path.display()))?);
    }
    let lock = root.join("Cargo.lock");
    let lock = fs::read_to_string(&lock).with_context(|| format!("read {}", lock.display()))?;
    for package in lock.split("[[package]]") {
        if package.trim_start().starts_with("name = \"aya-ebpf") {
            hash.add(package.trim().as_bytes());
        }
    }
    Ok(hash.finish())
}

/// A hash of one file's bytes.
pub(super) fn hash_file(path: &Path) -> Result<String> {
    let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    let mut hash = Hash::new();
    hash.add(&bytes);
    Ok(hash.finish())
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("read {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        } else {
            bail!("{} is not a Rust source", path.display());
        }
    }
    Ok(())
}

/// FNV-1a of 128 bits. It finds a forgotten rebuild; nobody is kept from forging it, who could just
/// as well forge the object, and CI compares the object's bytes.
struct Hash(u128);

impl Hash {
    const fn new() -> Self {
        Self(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }

    /// Adds one field, its length first, so that fields cannot run into one another.
    fn add(&mut self, bytes: &[u8]) {
        let length = (bytes.len() as u64).to_le_bytes();
        for byte in length.iter().chain(bytes) {
            self.0 = (self.0 ^ u128::from(*byte)).wrapping_mul(0x0100_0000_0000_0000_0000_013b);
        }
    }

    fn finish(&self) -> String {
        let mut text = String::new();
        let _always_fits: std::fmt::Result = write!(text, "{:032x}", self.0);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let record = sample();
        assert_eq!(Record::parse(&record.to_text()).unwrap(), record);
    }

    #[test]
    fn a_record_without_a_version_is_damaged() {
        let text = sample().to_text().replace("llvm", "lvm");
        let error = Record::parse(&text).unwrap_err().to_string();
        assert!(error.contains("llvm"), "{error}");
    }

    #[test]
    fn another_version_is_another_toolchain_and_other_sources_are_not() {
        let record = sample();
        let mut other = sample();
        other.sources = "x".to_owned();
        assert!(record.same_toolchain(&other));
        other.linker = "x".to_owned();
        assert!(!record.same_toolchain(&other));
    }

    #[test]
    fn moving_a_byte_from_one_field_to_the_next_changes_the_hash() {
        let hash = |fields: [&str; 2]| {
            let mut hash = Hash::new();
            for field in fields {
                hash.add(field.as_bytes());
            }
            hash.finish()
        };
        assert_ne!(hash(["ab", "c"]), hash(["a", "bc"]));
    }

    fn sample() -> Record {
        Record {
            sources: "1".to_owned(),
            object: "2".to_owned(),
            rustc: "1.96.0".to_owned(),
            llvm: "22.1.8".to_owned(),
            linker: "0.13.0".to_owned(),
        }
    }
}
