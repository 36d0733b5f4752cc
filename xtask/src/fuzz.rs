//! `cargo xtask fuzz`: lets libFuzzer look for inputs that break a target of `tests/fuzz`. What it
//! finds interesting stays below `tests/fuzz/target`; only `--merge` changes what is committed.

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::step::{execute, step};

/// What is committed: small inputs, and of those only what reaches code that no other one does.
const MERGE: [&str; 3] = ["-merge=1", "-max_len=1024", "-use_counters=0"];

/// What every run is held to: length of an input in bytes, seconds for one, memory.
const LIMITS: [&str; 3] = ["-max_len=4096", "-timeout=10", "-rss_limit_mb=1024"];

/// Runs one target, or adds what earlier runs found to its corpus.
#[expect(clippy::print_stdout, reason = "a task talks to its user")]
pub(crate) fn run(root: &Path, target: &str, seconds: u32, merge: bool) -> Result<()> {
    let fuzz = root.join("tests/fuzz");
    check(&fuzz, target)?;
    // The versions that are shipped, and libFuzzer on top.
    fs::copy(root.join("Cargo.lock"), fuzz.join("Cargo.lock")).context("copy Cargo.lock")?;
    let committed = fuzz.join("corpus").join(target);
    let found = fuzz.join("target/corpus").join(target);
    for directory in [&committed, &found] {
        let shown = directory.display();
        fs::create_dir_all(directory).with_context(|| format!("make {shown}"))?;
    }
    if merge {
        return step(&format!("merge into the corpus of {target}"), || {
            execute(cargo_fuzz(root, target, &[&committed, &found]).args(MERGE))
        });
    }
    step(&format!("fuzz {target} for {seconds} s"), || {
        let time = format!("-max_total_time={seconds}");
        let mut fuzzing = cargo_fuzz(root, target, &[&found, &committed]);
        execute(fuzzing.args(LIMITS).args([&time, "-print_final_stats=1"]))
    })?;
    println!("no finding; what was interesting is in {}", found.display());
    Ok(())
}

/// What a newcomer may lack.
fn check(fuzz: &Path, target: &str) -> Result<()> {
    let entrances = fuzz.join("fuzz_targets");
    if !entrances.join(format!("{target}.rs")).is_file() {
        let mut names: Vec<String> = fs::read_dir(&entrances)
            .with_context(|| format!("read {}", entrances.display()))?
            .filter_map(|entry| entry.ok()?.path().file_stem()?.to_str().map(str::to_owned))
            .collect();
        names.sort();
        bail!("there is no fuzz target {target:?}; there are {}", names.join(", "));
    }
    let mut version = nightly();
    let version = version.args(["fuzz", "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
    if !version.status().is_ok_and(|status| status.success()) {
        bail!(
            "this needs nightly Rust and cargo-fuzz: `rustup toolchain install nightly`, then \
             `cargo install cargo-fuzz --locked`"
        );
    }
    Ok(())
}

/// Without a sanitizer: adit has next to no unsafe code, and runs twice as fast without one.
fn cargo_fuzz(root: &Path, target: &str, corpora: &[&Path]) -> Command {
    let mut command = nightly();
    command.current_dir(root).args(["fuzz", "run", "--fuzz-dir", "tests/fuzz", "-s", "none"]);
    command.arg(target).args(corpora).arg("--");
    command
}

/// Cargo of the nightly toolchain, by rustup.
fn nightly() -> Command {
    let rustup = env::var_os("CARGO_HOME").map(|home| Path::new(&home).join("bin/rustup"));
    let rustup = rustup.filter(|path| path.is_file()).unwrap_or_else(|| "rustup".into());
    let mut command = Command::new(rustup);
    command.args(["run", "nightly", "cargo"]);
    // Of the toolchain that runs this task.
    for variable in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN", "CARGO_TARGET_DIR"] {
        command.env_remove(variable);
    }
    command
}
