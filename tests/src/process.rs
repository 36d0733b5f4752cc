//! A child process in a network namespace, with its output in a file.

use std::fs::{self, File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;

use crate::wait::wait_for;

/// A process. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
}

impl Process {
    /// Starts a command with both outputs appended to `log`, in a process group of its own, so
    /// that Ctrl-C reaches only its parent.
    ///
    /// # Errors
    /// The program cannot be started, or the file not be written.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let file = append(log)?;
        let second = file.try_clone().context("cannot duplicate the log file")?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(second)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self { child, name: name.to_owned() })
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it runs; if not, how it ended.
    ///
    /// # Errors
    /// The kernel's.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("cannot wait for {}", self.name))
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// It has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).context("pid")?;
        signal::kill(Pid::from_raw(pid), signal)
            .with_context(|| format!("cannot send {signal} to {}", self.name))
    }

    /// Waits until it has ended.
    ///
    /// # Errors
    /// It has not within `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("{} to end", self.name);
        wait_for(&what, limit, || self.ended())
    }

    /// Kills it without notice and reaps it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().context("cannot kill")?;
        self.child.wait().context("cannot wait")?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended: Result<()> = self.kill();
    }
}

/// A log file that grows, read from a point of time on.
#[derive(Debug, Clone)]
pub struct Log {
    path: PathBuf,
}

impl Log {
    /// The log in this file.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Its file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its length now, for [`Log::since`].
    #[must_use]
    pub fn mark(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |data| data.len())
    }

    /// What was written after a mark.
    #[must_use]
    pub fn since(&self, mark: u64) -> String {
        let mut text = Vec::new();
        if let Ok(mut file) = File::open(&self.path)
            && file.seek(SeekFrom::Start(mark)).is_ok()
        {
            // What can be read is shown.
            let _partly: std::io::Result<usize> = file.read_to_end(&mut text);
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// The lines of level ERROR, and panics: neither is expected of a process under test.
    #[must_use]
    pub fn errors(&self) -> Vec<String> {
        let text = self.since(0);
        let bad = |line: &&str| {
            line.contains(" ERROR ") || line.contains("\"ERROR\"") || line.contains("panicked at")
        };
        text.lines().filter(bad).map(str::to_owned).collect()
    }
}

fn append(path: &Path) -> Result<File> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .with_context(|| format!("cannot write {path:?}"))
}
