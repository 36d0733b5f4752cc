//! `cargo xtask image`: adit as a static program, and an image that holds nothing else.

pub(crate) mod archive;

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::step::{cargo, execute};
use archive::{Entry, Image};

/// What deploy/ names; whoever has a registry names it otherwise.
pub(crate) const REFERENCE: &str = concat!("localhost/adit:", env!("CARGO_PKG_VERSION"));

/// The archive may be no larger, in bytes.
const LARGEST: u64 = 30 << 20;

/// What the task is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Where to write the archive [default: target/image/adit.tar]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Build without optimisation, quicker
    #[arg(long)]
    dev: bool,
}

impl Options {
    /// For a cluster of tests.
    pub(crate) const fn dev(dev: bool) -> Self {
        Self { output: None, dev }
    }
}

/// Builds the program and writes the archive; returns where it is.
#[expect(clippy::print_stdout, reason = "a task talks to its user")]
pub(crate) fn run(root: &Path, options: &Options) -> Result<PathBuf> {
    let program = build(root, options.dev)?;
    let bytes = fs::read(&program).with_context(|| format!("cannot read {}", program.display()))?;
    if is_dynamic(&bytes) {
        bail!("{} needs a dynamic loader: it would not start in the image", program.display());
    }
    let image = Image {
        reference: REFERENCE,
        entrypoint: &["/usr/bin/adit"],
        labels: vec![
            ("org.opencontainers.image.title", "adit"),
            ("org.opencontainers.image.version", env!("CARGO_PKG_VERSION")),
            ("org.opencontainers.image.licenses", "Apache-2.0"),
        ],
        entries: BTreeMap::from([
            ("usr/bin/adit", Entry::Program(bytes)),
            ("tmp", Entry::Directory(0o1777)),
        ]),
    };
    let path = match &options.output {
        Some(path) => path.clone(),
        None => target(root).join("image").join("adit.tar"),
    };
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).context("cannot make the archive's directory")?;
    }
    archive::write(&image, &path)?;
    let size = fs::metadata(&path)?.len();
    println!("{} {REFERENCE} {:.1} MB", path.display(), size as f64 / f64::from(1 << 20));
    if size > LARGEST && !options.dev {
        bail!("the archive is larger than {} MB", LARGEST >> 20);
    }
    Ok(path)
}

/// Builds `adit` without a dynamic loader and without the paths of this machine.
fn build(root: &Path, dev: bool) -> Result<PathBuf> {
    let triple = format!("{}-unknown-linux-gnu", env::consts::ARCH);
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    let home = home.context("neither CARGO_HOME nor HOME is set")?;
    let mut flags = vec!["-C".to_owned(), "target-feature=+crt-static".to_owned()];
    for (from, to) in [(root, "/adit"), (&*home, "/cargo")] {
        flags.push(format!("--remap-path-prefix={}={to}", from.display()));
    }
    let mut command = cargo(root, &["build", "--quiet", "--locked", "-p", "adit"]);
    // With a target, the flags are not for build scripts and macros, which cargo shares with others.
    command.args(["--target", &triple]);
    command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"));
    let profile = if dev { "dev" } else { "release" };
    command.args(["--profile", profile]);
    command.env(format!("CARGO_PROFILE_{}_STRIP", profile.to_uppercase()), "symbols");
    execute(&mut command)?;
    let folder = if dev { "debug" } else { "release" };
    Ok(target(root).join(triple).join(folder).join("adit"))
}

/// Whether an ELF file has a program header PT_INTERP (elf(5)); true also for what is no ELF file.
fn is_dynamic(elf: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    let half = |at: usize| Some(u16::from_le_bytes(elf.get(at..at + 2)?.try_into().ok()?));
    let word = |at: usize| Some(u32::from_le_bytes(elf.get(at..at + 4)?.try_into().ok()?));
    let headers = || {
        // ELF64: e_phoff, e_phentsize, e_phnum.
        let start = usize::try_from(word(0x20)?).ok()?;
        let (size, count) = (usize::from(half(0x36)?), usize::from(half(0x38)?));
        (0..count).map(|index| word(start + index * size)).collect::<Option<Vec<u32>>>()
    };
    let is_elf64 = elf.starts_with(b"\x7fELF\x02\x01");
    !is_elf64 || headers().is_none_or(|kinds| kinds.contains(&PT_INTERP))
}

/// Cargo's directory for what it builds.
pub(crate) fn target(root: &Path) -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |path| root.join(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_with_an_interpreter_is_dynamic() {
        // The test itself is.
        let own = fs::read(env::current_exe().unwrap()).unwrap();
        assert!(is_dynamic(&own));
        assert!(is_dynamic(b"#!/bin/sh\n"));
        assert!(is_dynamic(b""));
    }

    #[test]
    fn a_program_without_one_is_not() {
        let mut elf = vec![0; 0x78];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[0x20] = 0x40; // e_phoff
        elf[0x36] = 0x38; // e_phentsize
        elf[0x38] = 1; // e_phnum
        elf[0x40] = 1; // PT_LOAD
        assert!(!is_dynamic(&elf));
        elf[0x40] = 3; // PT_INTERP
        assert!(is_dynamic(&elf));
    }
}
