//! `cargo xtask bench`: builds adit and the benchmark, and runs it as root.

use std::path::Path;

use anyhow::Result;
use clap::Args;

use crate::program::{Profile, Programs};
use crate::step::execute;
use crate::test::as_root;

/// What the benchmark is told; it knows its options itself.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The benchmark's own: `cargo xtask bench -- --help` tells them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS")]
    options: Vec<String>,
}

/// Runs it.
pub(crate) fn run(root: &Path, options: &Options) -> Result<()> {
    measure(root, Profile::Release, &options.options)
}

/// For CI: that all of it works is what counts there. Of a busy machine, and unoptimised, the figures say
/// nothing.
pub(crate) fn try_out(root: &Path) -> Result<()> {
    measure(root, Profile::Dev, &["--quick", "--force"].map(str::to_owned))
}

fn measure(root: &Path, profile: Profile, options: &[String]) -> Result<()> {
    let programs = Programs::build(root, profile)?;
    let mut bench = as_root(&programs.path("bench"))?;
    execute(bench.env("ADIT_BIN", programs.path("adit")).args(options))
}
