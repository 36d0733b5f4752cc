//! `cargo xtask demo`: builds adit and the demo, and runs it as root.

use std::path::Path;

use anyhow::Result;

use crate::step::execute;
use crate::test::{as_root, build};

/// Another story than the tour.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum Story {
    /// From plaintext to default deny, in five steps
    Rollout,
}

/// Runs the demo.
pub(crate) fn run(root: &Path, story: Option<Story>, keep: bool, clean: bool) -> Result<()> {
    let adit = build(root, &["-p", "adit"], "adit")?;
    let demo = build(root, &["-p", "adit-e2e", "--bins"], "demo")?;
    let mut command = as_root(&demo)?;
    command.args(matches!(story, Some(Story::Rollout)).then_some("rollout"));
    command.args(keep.then_some("--keep")).args(clean.then_some("--clean"));
    execute(command.env("ADIT_BIN", adit))
}
