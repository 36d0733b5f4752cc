//! `cargo xtask kernels`: the datapath's tests, and end-to-end cases of what depends on the kernel, on the
//! kernels that README promises, in virtual machines under QEMU's software emulation.
//!
//! Debian's cloud kernels come from apt and are kept outside the checkout, by version. The tests are
//! those that `cargo test` builds; they go into an initial RAM disk with adit and the libraries they need,
//! and what they say comes back over the serial console. cgroup2 is the only hierarchy there, no bpffs is
//! mounted, and interfaces, routes and programs are the guest's own.
#![expect(clippy::print_stdout, reason = "a task talks to its user")]

mod console;
mod guest;
mod image;
mod package;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::program::{self, Profile};
use crate::step::{cargo, show, step};

/// The oldest kernel adit supports, and the newest long-term one that Debian has.
const SERIES: [&str; 2] = ["6.1", "6.12"];

/// Opens tens of thousands of connections, which emulation makes a matter of minutes; it is about numbers
/// of ports, not about kernels.
const SKIPPED: [&str; 1] = ["upstream::short_connections_from_one_client_do_not_run_out_of_ports"];

/// End-to-end cases: two nodes, two agents, enrolled pods. Interception and its way around, outward and
/// inward, in both families, with the agent there, dead, and back. What does not ask the kernel for
/// anything new is left to the machine that runs this.
const CASES: [&str; 8] = [
    "capture::no_byte_of_a_flow_between_enrolled_pods_can_be_read_on_the_wire",
    "connects::the_application_sees_native_names_on_both_sides",
    "enrolment::a_withdrawn_pod_is_left_as_it_was_found",
    "flows::a_flow_within_a_node_is_tunnelled_in_both_families",
    "flows::an_ipv6_flow_between_nodes_is_tunnelled",
    "lifecycle::a_restarted_agent_takes_over_the_pods_of_the_one_that_was_killed",
    "lifecycle::while_the_agent_is_dead_connects_wait_and_nothing_leaves_in_plaintext",
    "services::a_pod_reaches_itself_through_a_service",
];

/// A boot, the tests and the cases; several times what they take.
const LIMIT: Duration = Duration::from_secs(600);

/// Runs the tests on the newest kernel of each series, or of one.
pub(crate) fn run(root: &Path, only: Option<&str>) -> Result<()> {
    let series: Vec<&str> =
        SERIES.into_iter().filter(|series| only.is_none_or(|only| only == *series)).collect();
    if series.is_empty() {
        bail!("no such series of kernels; there are: {}", SERIES.join(", "));
    }
    let programs = build(root)?;
    step(&format!("kernels {}", series.join(", ")), || all(root, &series, &programs))
}

/// All at the same time: each is emulated by one thread.
fn all(root: &Path, series: &[&str], programs: &Programs) -> Result<()> {
    let mut outcomes = Vec::new();
    thread::scope(|scope| {
        let start = |series| (series, scope.spawn(move || on(root, series, programs)));
        let running: Vec<_> = series.iter().copied().map(start).collect();
        outcomes.extend(running.into_iter().map(|(series, guest)| (series, guest.join())));
    });
    for (series, outcome) in outcomes {
        match outcome {
            Ok(result) => result.with_context(|| format!("kernel {series}"))?,
            Err(panicked) => std::panic::resume_unwind(panicked),
        }
    }
    Ok(())
}

fn on(root: &Path, series: &str, programs: &Programs) -> Result<()> {
    let kernel = package::fetch(series)?;
    println!("    {}", kernel.name);
    let work = root.join("target").join("kernels").join(series);
    fs::create_dir_all(&work).with_context(|| format!("cannot make {}", work.display()))?;
    let image = image::build(&kernel, programs, (&SKIPPED, &CASES), &work)?;
    let console = guest::boot(&kernel.image()?, &image, LIMIT)?;
    let log = work.join("console.log");
    fs::write(&log, &console).context("cannot keep the console's text")?;
    match console::verdict(&console, SKIPPED.len(), CASES.len()) {
        Ok(passed) => {
            println!("    {passed} tests and cases passed on {}", kernel.release);
            Ok(())
        }
        Err(why) => {
            println!("{}", console::tail(&console));
            bail!("{why}; all that the guest said is in {}", log.display());
        }
    }
}

/// What runs in a guest.
struct Programs {
    adit: PathBuf,
    tests: PathBuf,
    cases: PathBuf,
}

/// Builds adit, the datapath's tests and the end-to-end cases.
fn build(root: &Path) -> Result<Programs> {
    let adit = program::Programs::build(root, Profile::Dev)?.path("adit");
    let arguments =
        ["test", "--quiet", "--locked", "--no-run", "--test", "datapath", "--test", "e2e"];
    let mut command = cargo(root, &arguments);
    command.args(["--message-format", "json-render-diagnostics"]).stderr(Stdio::inherit());
    let output = run_for_output(&mut command)?;
    let found = tests(&output).with_context(|| format!("`{}` names no tests", show(&command)));
    let (tests, cases) = found?;
    Ok(Programs { adit, tests, cases })
}

/// The datapath's tests and the end-to-end cases, in cargo's messages, each a line of JSON.
fn tests(messages: &str) -> Option<(PathBuf, PathBuf)> {
    let field = "\"executable\":\"";
    let paths = messages.lines().filter_map(|line| {
        let (_, rest) = line.split_once(field)?;
        rest.split_once('"').map(|(path, _)| Path::new(path))
    });
    let named = |wanted: fn(&str) -> bool| {
        let name =
            |path: &&Path| path.file_name().and_then(|name| name.to_str()).is_some_and(wanted);
        paths.clone().find(name).map(Path::to_path_buf)
    };
    Some((named(|name| name.starts_with("datapath-"))?, named(|name| name.starts_with("e2e-"))?))
}

/// Runs a command and returns what it printed.
fn run_for_output(command: &mut Command) -> Result<String> {
    let shown = show(command);
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot start: {shown}"))?;
    if !output.status.success() {
        bail!("{}: {shown}\n{}", output.status, String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_found_among_cargos_messages() {
        let messages = concat!(
            "{\"reason\":\"compiler-artifact\",\"executable\":\"/t/debug/adit\"}\n",
            "{\"reason\":\"compiler-artifact\",\"executable\":null}\n",
            "{\"reason\":\"compiler-artifact\",\"executable\":\"/t/debug/deps/datapath-1a\"}\n",
            "{\"reason\":\"compiler-artifact\",\"executable\":\"/t/debug/deps/e2e-2b\"}\n",
            "{\"reason\":\"build-finished\",\"success\":true}\n",
        );
        let (datapath, cases) = tests(messages).unwrap();
        assert_eq!(datapath, Path::new("/t/debug/deps/datapath-1a"));
        assert_eq!(cases, Path::new("/t/debug/deps/e2e-2b"));
        assert!(tests("{}").is_none());
    }
}
