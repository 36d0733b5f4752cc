//! `cargo xtask image`: adit as a static program, and an image that holds nothing else.

mod again;
pub(crate) mod archive;
mod program;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use clap::Args;

use archive::{Entry, Image};

use crate::program::target;

/// What deploy/ names; whoever has a registry names it otherwise.
pub(crate) const REFERENCE: &str = concat!("localhost/adit:", env!("CARGO_PKG_VERSION"));

/// Its labels.
const LABELS: [(&str, &str); 3] = [
    ("org.opencontainers.image.title", "adit"),
    ("org.opencontainers.image.version", env!("CARGO_PKG_VERSION")),
    ("org.opencontainers.image.licenses", "Apache-2.0"),
];

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
    /// Build the program once more, from a copy of the sources elsewhere, and compare
    #[arg(long, conflicts_with = "dev")]
    check: bool,
}

impl Options {
    /// For a cluster of tests.
    pub(crate) const fn dev(dev: bool) -> Self {
        Self { output: None, dev, check: false }
    }
}

/// Builds the program and writes the archive; returns where it is.
#[expect(clippy::print_stdout, reason = "a task talks to its user")]
pub(crate) fn run(root: &Path, options: &Options) -> Result<PathBuf> {
    let program = if options.dev { program::build_quickly(root)? } else { program::build(root)? };
    if options.check {
        again::check(root, &program)?;
    }
    let image = Image {
        reference: REFERENCE,
        entrypoint: &["/usr/bin/adit"],
        labels: LABELS.to_vec(),
        entries: BTreeMap::from([
            ("usr/bin/adit", Entry::Program(program)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_containerfile_gives_its_image_the_same_labels() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let containerfile = fs::read_to_string(root.join("Containerfile")).unwrap();
        for (key, value) in LABELS {
            assert!(containerfile.contains(&format!("{key}=\"{value}\"")), "{key}");
        }
    }
}
