//! `cargo xtask ci`: what CI runs, in the same order.

use std::path::Path;
use std::process::Stdio;

use anyhow::Result;

use crate::step::{cargo, execute, step};
use crate::{arch, bench, cluster, ebpf, kernels, proto, test};

/// Runs every check; the first failure ends it.
pub(crate) fn run(root: &Path) -> Result<()> {
    step("format", || execute(&mut cargo(root, &["fmt", "--all", "--check"])))?;
    step("clippy", || {
        // `--all-targets` leaves out what `cargo test` does not run by itself.
        for targets in [&["--all-targets"][..], &["--test", "e2e"]] {
            let mut clippy = cargo(root, &["clippy", "--workspace", "--locked"]);
            execute(clippy.args(targets).args(["--", "-D", "warnings"]))?;
        }
        Ok(())
    })?;
    step("arch", || arch::run(root))?;
    // Before the unit tests, some of which need its API server.
    cluster::run(root, &cluster::Action::Prepare)?;
    test::unit(root, &["E2E_REQUIRE", "ADIT_K8S_REQUIRE"])?;
    step("docs", || {
        let mut doc = cargo(root, &["doc", "--workspace", "--no-deps", "--locked"]);
        execute(doc.env("RUSTDOCFLAGS", "-D warnings"))
    })?;
    step("deny", || deny(root))?;
    step("ebpf", || ebpf::run(true))?;
    step("proto", || proto::run(root, true))?;
    kernels::run(root, None)?;
    test::end_to_end(root, None, true)?;
    step("bench, unoptimised", || bench::try_out(root))?;
    cluster::run(root, &cluster::Action::Test { keep: false, dev: true })?;
    Ok(())
}

/// Bans, licences and sources always; advisories where their database can be had.
#[expect(clippy::print_stdout, reason = "a task talks to its user")]
fn deny(root: &Path) -> Result<()> {
    let always = ["deny", "--workspace", "check", "bans", "licenses", "sources"];
    execute(&mut cargo(root, &always))?;
    let mut fetch = cargo(root, &["deny", "fetch", "db"]);
    let fetched = fetch.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !fetched.is_ok_and(|status| status.success()) {
        println!("    NOT CHECKED: advisories; their database cannot be fetched from here");
        return Ok(());
    }
    let advisories = ["deny", "--workspace", "check", "--disable-fetch", "advisories"];
    execute(&mut cargo(root, &advisories))
}
