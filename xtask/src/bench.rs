//! `cargo xtask bench`: builds adit and the benchmark for release, and runs it as root.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::step::execute;
use crate::test::{as_root, build};

/// What the benchmark is told.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Fewer and shorter rounds, for CI
    #[arg(long)]
    quick: bool,
    /// Measure on a busy machine too
    #[arg(long)]
    force: bool,
    /// Write the figures to a file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// What to print
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// How often each path is measured
    #[arg(long)]
    rounds: Option<usize>,
    /// Only work whose name contains one of these
    only: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

impl Options {
    /// For CI: that everything works is what counts there, not the figures of a busy machine.
    pub(crate) const fn quick() -> Self {
        let (json, output, rounds) = (None, Output::Table, None);
        Self { quick: true, force: true, json, output, rounds, only: Vec::new() }
    }
}

/// Runs it.
pub(crate) fn run(root: &Path, options: &Options) -> Result<()> {
    let adit = build(root, &["--release", "-p", "adit"], "adit")?;
    let bench = build(root, &["--release", "-p", "adit-e2e", "--bin", "bench"], "bench")?;
    let mut command = as_root(&bench)?;
    command.env("ADIT_BIN", adit);
    command.args(options.quick.then_some("--quick")).args(options.force.then_some("--force"));
    if let Some(file) = &options.json {
        command.arg("--json").arg(file);
    }
    if options.output == Output::Json {
        command.args(["--output", "json"]);
    }
    if let Some(rounds) = options.rounds {
        command.arg("--rounds").arg(rounds.to_string());
    }
    execute(command.args(&options.only))
}
