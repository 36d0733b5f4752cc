//! One step of a task: a heading, a command or a check, and how long it took.

use std::env;
use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

/// Cargo, the one that runs this task, in the workspace's root.
pub(crate) fn cargo(root: &Path, arguments: &[&str]) -> Command {
    let program = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(program);
    command.current_dir(root).args(arguments);
    command
}

/// Runs a step and says how long it took.
#[expect(clippy::print_stdout, reason = "a task talks to its user")]
pub(crate) fn step(name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    println!("==> {name}");
    let began = Instant::now();
    let result = work();
    let took = began.elapsed().as_secs_f32();
    match result {
        Ok(()) => println!("    ok: {name} ({took:.1} s)"),
        Err(_) => println!("    FAILED: {name} ({took:.1} s)"),
    }
    result.with_context(|| format!("step `{name}`"))
}

/// Runs a command to its end with the task's own output.
pub(crate) fn execute(command: &mut Command) -> Result<()> {
    let shown = show(command);
    let status = command
        .stdin(Stdio::inherit())
        .status()
        .with_context(|| format!("cannot start: {shown}"))?;
    if !status.success() {
        bail!("{status}: {shown}");
    }
    Ok(())
}

/// The command as one could type it.
pub(crate) fn show(command: &Command) -> String {
    let variables = command.get_envs().filter_map(|(key, value)| {
        let value = value?.to_string_lossy();
        let quote = if value.contains(' ') { "'" } else { "" };
        Some(format!("{}={quote}{value}{quote}", key.to_string_lossy()))
    });
    let program = Path::new(command.get_program()).file_name();
    let program = program.unwrap_or_default().to_string_lossy().into_owned();
    let arguments = command.get_args().map(|text| text.to_string_lossy().into_owned());
    let words: Vec<String> = variables.chain([program]).chain(arguments).collect();
    words.join(" ")
}
