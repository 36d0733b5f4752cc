//! `cargo xtask bench`: builds adit and the benchmark for release, and runs it as root.

use std::path::Path;

use anyhow::Result;
use clap::Args;

use crate::step::execute;
use crate::test::{as_root, build};

/// What the benchmark is told; it knows its options itself.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The benchmark's own: `cargo xtask bench -- --help` tells them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    options: Vec<String>,
}

impl Options {
    /// For CI: that everything works is what counts there, not the figures of a busy machine.
    pub(crate) fn quick() -> Self {
        Self { options: ["--quick", "--force"].map(str::to_owned).into() }
    }
}

/// Runs it.
pub(crate) fn run(root: &Path, options: &Options) -> Result<()> {
    let adit = build(root, &["--release", "-p", "adit"], "adit")?;
    let bench = build(root, &["--release", "-p", "adit-e2e", "--bin", "bench"], "bench")?;
    execute(as_root(&bench)?.env("ADIT_BIN", adit).args(&options.options))
}
