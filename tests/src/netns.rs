//! A network namespace with a name under `/run/netns`, so that `ip` and a person can enter it too.

use std::fs::{self, File};
use std::io::Write as _;
use std::panic;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, setns};

/// A named network namespace. It lives until [`Netns::delete`]; a run's sweep finds it by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes a namespace with its loopback interface up.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn create(name: &str) -> Result<Self> {
        ip(&["netns", "add", name])?;
        let netns = Self::existing(name);
        // Duplicate address detection would hold back IPv6 addresses for a second or more.
        netns.sysctl(&[
            ("net/ipv6/conf/all/accept_dad", "0"),
            ("net/ipv6/conf/default/accept_dad", "0"),
            ("net/ipv6/conf/all/disable_ipv6", "0"),
            ("net/ipv6/conf/default/disable_ipv6", "0"),
        ])?;
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// The namespace of this name, whether or not it exists.
    #[must_use]
    pub fn existing(name: &str) -> Self {
        Self { name: name.to_owned() }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The path to enter it by.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Runs lines of `ip` commands in the namespace; the first that fails ends it.
    ///
    /// # Errors
    /// What `ip` said, with the line's number.
    pub fn ip(&self, lines: &str) -> Result<()> {
        let mut child = Command::new("ip")
            .args(["-n", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start `ip`")?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(lines.as_bytes()).context("`ip -batch`")?;
        }
        let output = child.wait_with_output().context("`ip -batch`")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("`ip -n {} -batch -` failed: {said}\n{lines}", self.name);
        }
        Ok(())
    }

    /// Sets sysctls, given as paths below `/proc/sys`. Ones the kernel does not have are skipped.
    ///
    /// # Errors
    /// One could not be written.
    pub fn sysctl(&self, values: &[(&str, &str)]) -> Result<()> {
        // /proc/sys/net shows the namespace of the thread that opens it.
        self.run(|| {
            for (name, value) in values {
                let path = PathBuf::from("/proc/sys").join(name);
                if path.exists() {
                    fs::write(&path, value).with_context(|| format!("cannot write {path:?}"))?;
                }
            }
            Ok(())
        })?
    }

    /// Runs a closure on a thread inside the namespace. A panic of the closure goes on in the
    /// caller.
    ///
    /// # Errors
    /// The namespace could not be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let file = self.open()?;
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(&file, CloneFlags::CLONE_NEWNET)?;
                Ok::<T, nix::Error>(work())
            });
            match inside.join() {
                Ok(result) => result.with_context(|| format!("cannot enter {}", self.name)),
                Err(panicked) => panic::resume_unwind(panicked),
            }
        })
    }

    /// Starts a thread inside the namespace.
    ///
    /// # Errors
    /// The namespace could not be opened.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<thread::JoinHandle<Result<T>>> {
        let file = self.open()?;
        let name = self.name.clone();
        Ok(thread::spawn(move || {
            setns(&file, CloneFlags::CLONE_NEWNET)
                .with_context(|| format!("cannot enter {name}"))?;
            drop(file);
            Ok(work())
        }))
    }

    /// A command that will run inside the namespace. Only the network namespace changes: `ip netns
    /// exec` would also mount another /sys, in which neither cgroup2 nor bpffs can be seen.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// The processes whose main thread is in the namespace.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn pids(&self) -> Result<Vec<i32>> {
        let output = ip(&["netns", "pids", &self.name])?;
        Ok(output.lines().filter_map(|pid| pid.parse().ok()).collect())
    }

    /// Removes the name. The namespace itself goes when nothing in it is left.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn delete(&self) -> Result<()> {
        ip(&["netns", "delete", &self.name]).map(drop)
    }

    fn open(&self) -> Result<File> {
        let path = self.path();
        File::open(&path).with_context(|| format!("cannot open {path:?}"))
    }
}

/// Runs `ip` with these arguments and returns what it printed.
///
/// # Errors
/// What `ip` said.
pub fn ip(arguments: &[&str]) -> Result<String> {
    let output = Command::new("ip").args(arguments).output().context("cannot start `ip`")?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`ip {}` failed: {}", arguments.join(" "), said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
