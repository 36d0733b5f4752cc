//! `cargo xtask proto`: makes the Rust of `node-agent/src/proto/*.proto` without `protoc`, or checks
//! that what is committed is still what would be made. The compiler takes a while to build and
//! stands behind the feature `proto`, so this builds xtask again with it.

use std::path::Path;

use anyhow::Result;

/// Where the `.proto` file and what is made of it stand.
#[cfg(feature = "proto")]
const DIRECTORY: &str = "node-agent/src/proto";

/// Makes the code below `root`, or with `check` only compares it with what is there.
#[cfg(not(feature = "proto"))]
pub(crate) fn run(root: &Path, check: bool) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = std::process::Command::new(cargo)
        .current_dir(root)
        .args(["run", "--quiet", "--package", "xtask", "--features", "proto", "--", "proto"])
        .args(check.then_some("--check"))
        .status()?;
    anyhow::ensure!(status.success(), "cargo xtask proto failed: {status}");
    Ok(())
}

/// Makes the code below `root`, or with `check` only compares it with what is there.
#[cfg(feature = "proto")]
pub(crate) fn run(root: &Path, check: bool) -> Result<()> {
    use anyhow::Context as _;

    let directory = root.join(DIRECTORY);
    let source = directory.join("ca.proto");
    let descriptors = protox::compile([&source], [&directory])
        .with_context(|| format!("cannot compile {}", source.display()))?;
    let scratch = root.join("target/proto");
    std::fs::create_dir_all(&scratch)
        .with_context(|| format!("cannot create {}", scratch.display()))?;
    tonic_prost_build::configure()
        .out_dir(&scratch)
        .compile_fds(descriptors)
        .context("cannot make Rust of the descriptors")?;

    let name = "istio.v1.auth.rs";
    let made = std::fs::read_to_string(scratch.join(name)).context("nothing was made")?;
    let committed = directory.join(name);
    if !check {
        return std::fs::write(&committed, made)
            .with_context(|| format!("cannot write {}", committed.display()));
    }
    let there = std::fs::read_to_string(&committed)
        .with_context(|| format!("cannot read {}", committed.display()))?;
    anyhow::ensure!(
        made == there,
        "{} is not what {} makes: run `cargo xtask proto` and commit it",
        committed.display(),
        source.display()
    );
    Ok(())
}
