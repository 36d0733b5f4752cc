//! `cargo xtask bless`: runs the unit tests in the mode in which they write their golden files
//! instead of comparing with them.

use std::path::Path;

use anyhow::Result;

use crate::step::{cargo, execute, step};

/// Renews the golden files.
pub(crate) fn run(root: &Path) -> Result<()> {
    step("renew golden files", || {
        execute(cargo(root, &["test", "--locked", "--quiet"]).env("BLESS", "1"))
    })
}
