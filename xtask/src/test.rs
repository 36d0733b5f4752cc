//! `cargo xtask test`: the unit tests, then the end-to-end tests.

use std::env;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::program::{Profile, Programs};
use crate::step::{cargo, execute, step};

/// Runs both.
#[expect(clippy::print_stdout, reason = "a task talks to its user")]
pub(crate) fn run(root: &Path, filter: Option<&str>) -> Result<()> {
    let required = env::var_os("E2E_REQUIRE").is_some_and(|value| value == "1");
    if filter.is_none() {
        println!("The unit tests need nothing but Rust; as root, they try the kernel too.");
        unit(root, if required { &["E2E_REQUIRE"] } else { &[] })?;
    }
    println!(
        "The end-to-end tests build nodes and pods from network namespaces and load eBPF programs.\n\
         They need root, Linux 6.1 or later with cgroup2, `ip` (iproute2) and `nsenter` (util-linux)."
    );
    end_to_end(root, filter, required)
}

/// `cargo test`: the tests that need neither root nor a kernel program, and those of the datapath,
/// which skip themselves without root. `required`: the variables by which one that cannot run fails.
pub(crate) fn unit(root: &Path, required: &[&str]) -> Result<()> {
    step("unit tests", || {
        let mut tests = cargo(root, &["test", "--locked"]);
        execute(tests.envs(required.iter().map(|name| (name, "1"))))
    })
}

/// The tests that need both. `required`: one that cannot run fails.
pub(crate) fn end_to_end(root: &Path, filter: Option<&str>, required: bool) -> Result<()> {
    step("end-to-end tests", || {
        let programs = Programs::build(root, Profile::Dev)?;
        let mut tests = cargo(root, &["test", "--locked", "--test", "e2e"]);
        if let Some(filter) = filter {
            tests.args(["--", filter]);
        }
        tests.env("ADIT_BIN", programs.path("adit"));
        if required {
            tests.env("E2E_REQUIRE", "1");
        }
        if !is_root() {
            // Cargo stays with its user, only the tests become root.
            let runner = become_root()?.join(" ");
            for target in ["X86_64", "AARCH64"] {
                let key = format!("CARGO_TARGET_{target}_UNKNOWN_LINUX_GNU_RUNNER");
                tests.env(key, &runner);
            }
        }
        execute(&mut tests)
    })
}

/// The words that make what follows them run as root.
fn become_root() -> Result<Vec<&'static str>> {
    if is_root() {
        return Ok(Vec::new());
    }
    let found = Command::new("sudo").arg("--version").output();
    if !found.is_ok_and(|output| output.status.success()) {
        bail!("this needs root, and there is no `sudo`: run it as root");
    }
    Ok(vec!["sudo", "--preserve-env=ADIT_BIN,E2E_REQUIRE,E2E_LOG,CI"])
}

/// A command that runs a program as root.
pub(crate) fn as_root(program: &Path) -> Result<Command> {
    let words = become_root()?;
    Ok(match words.split_first() {
        Some((first, rest)) => {
            let mut command = Command::new(first);
            command.args(rest).arg(program);
            command
        }
        None => Command::new(program),
    })
}

/// Whether this task runs as root.
pub(crate) fn is_root() -> bool {
    // proc_pid_status(5): real, effective, saved and file system UID.
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    ids.and_then(|ids| ids.split_whitespace().nth(1)) == Some("0")
}
