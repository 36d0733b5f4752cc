//! `cargo xtask demo`: builds adit and the demo, and runs it as root.

use std::path::Path;

use anyhow::Result;

use crate::program::{Profile, Programs};
use crate::step::execute;
use crate::test::as_root;

/// Another story than the tour.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum Story {
    /// From plaintext to default deny, in five steps
    Rollout,
}

/// Runs the demo.
pub(crate) fn run(root: &Path, story: Option<Story>, keep: bool, clean: bool) -> Result<()> {
    let programs = Programs::build(root, Profile::Dev)?;
    let mut command = as_root(&programs.path("demo"))?;
    command.args(matches!(story, Some(Story::Rollout)).then_some("rollout"));
    command.args(keep.then_some("--keep")).args(clean.then_some("--clean"));
    execute(command.env("ADIT_BIN", programs.path("adit")))
}
