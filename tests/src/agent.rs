//! An agent process on its node, and what the command line tells about it.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use serde::de::DeserializeOwned;

use crate::ca::Ca;
use crate::cluster::{Node, TRUST_DOMAIN};
use crate::manifest::Manifests;
use crate::netns::Netns;
use crate::process::{Log, Process};
use crate::requirements::adit_binary;
use crate::run::Run;
use crate::view::{Certificate, Flow, Tunnel, Workload};
use crate::wait::{SOON, wait_for, wait_until};

/// Settings that a test may want otherwise.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The log filter; `E2E_LOG` overrides it.
    pub log: String,
    /// How long certificates live.
    pub lifetime: String,
    /// Further lines of the configuration file.
    pub more: String,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            log: std::env::var("E2E_LOG").unwrap_or_else(|_| "info".to_owned()),
            lifetime: "24h".to_owned(),
            more: String::new(),
        }
    }
}

/// The agent of one node.
#[derive(Debug)]
pub struct Agent {
    node: Node,
    netns: Netns,
    config: PathBuf,
    text: String,
    manifests: PathBuf,
    socket: PathBuf,
    pins: PathBuf,
    log: Log,
    process: Mutex<Option<Process>>,
}

impl Agent {
    pub(crate) fn new(
        node: Node,
        netns: Netns,
        setup: &Setup,
        run: &Run,
        ca: &Ca,
        manifests: &Manifests,
    ) -> Self {
        let name = node.name();
        let socket = run.directory().join(format!("{name}.sock"));
        let pins = run.pins(name);
        let text = format!(
            "node: {name}
cluster: e2e
trustDomain: {TRUST_DOMAIN}
discovery: {{ manifests: {{ directory: {manifests} }} }}
identity:
  lifetime: {lifetime}
  ca: {{ address: \"{url}\", root: {root}, token: {token}, serverName: adit-ca }}
datapath: {{ pins: {pins} }}
admin: {{ socket: {socket} }}
log: {{ format: text, filter: \"{log}\" }}
{more}",
            manifests = manifests.directory().display(),
            lifetime = setup.lifetime,
            url = ca.url(),
            root = ca.root().display(),
            token = ca.token(name).display(),
            pins = pins.display(),
            socket = socket.display(),
            log = setup.log,
            more = setup.more,
        );
        Self {
            node,
            netns,
            config: run.directory().join(format!("{name}.yaml")),
            text,
            manifests: manifests.directory().to_owned(),
            socket,
            pins,
            log: Log::new(run.directory().join(format!("{name}.log"))),
            process: Mutex::default(),
        }
    }

    /// Starts `adit run` inside the node's network namespace and waits until it answers.
    ///
    /// # Errors
    /// What failed, with the end of its log.
    pub fn start(&self) -> Result<()> {
        self.start_with(&self.text)
    }

    /// Starts it with another directory of manifests than the cluster's.
    ///
    /// # Errors
    /// See [`Agent::start`].
    pub fn start_on(&self, manifests: &Path) -> Result<()> {
        let usual = self.manifests.display().to_string();
        let other = manifests.display().to_string();
        self.start_with(&self.text.replace(&usual, &other))
    }

    /// Starts it with another directory of pins.
    ///
    /// # Errors
    /// See [`Agent::start`].
    pub fn start_with_pins(&self, pins: &Path) -> Result<()> {
        let usual = format!("pins: {} ", self.pins.display());
        self.start_with(&self.text.replace(&usual, &format!("pins: {} ", pins.display())))
    }

    /// Runs a second agent on the node, which is expected to refuse, with other settings than the
    /// first one's, and returns what it said.
    ///
    /// # Errors
    /// It did not end within seconds, or ended well.
    pub fn second(&self, settings: &[(&str, String)]) -> Result<String> {
        let mut text = self.text.clone();
        for (key, value) in settings {
            match *key {
                "socket" => text = text.replace(&self.socket.display().to_string(), value),
                _ => text.push_str(&format!("{key}: {{ address: {value} }}\n")),
            }
        }
        let config = self.config.with_extension("second.yaml");
        fs::write(&config, text).context("cannot write the configuration")?;
        let mut command = self.netns.command(&adit_binary()?.to_string_lossy());
        command.args(["run", "--config"]).arg(&config);
        let log = Log::new(config.with_extension("log"));
        let mark = log.mark();
        let mut process = Process::start("a second agent", &mut command, log.path())?;
        let status = process.wait(SOON)?;
        let said = log.since(mark);
        if status.success() {
            bail!("a second agent ended well: {said}");
        }
        Ok(said)
    }

    /// Runs `adit cleanup` on a directory of pins.
    ///
    /// # Errors
    /// What it said if it failed.
    pub fn cleanup(&self, pins: &Path) -> Result<()> {
        let pins = pins.to_string_lossy();
        self.cli_text(&["cleanup", "--pins", &pins]).map(drop)
    }

    fn start_with(&self, text: &str) -> Result<()> {
        fs::write(&self.config, text).context("cannot write the configuration")?;
        let adit = adit_binary()?;
        let mut command = self.netns.command(&adit.to_string_lossy());
        command.args(["run", "--config"]).arg(&self.config);
        let mark = self.log.mark();
        let process = Process::start(self.node.name(), &mut command, self.log.path())?;
        *self.lock() = Some(process);
        let what = format!("{} to answer", self.node.name());
        let answers = wait_for(&what, SOON, || {
            if let Some(process) = self.lock().as_mut()
                && let Some(status) = process.ended()?
            {
                return Ok(Some(Err(anyhow::anyhow!("it ended: {status}"))));
            }
            self.cli_text(&["workloads"]).map(|_| Some(Ok(())))
        });
        let shown = || format!("{}, its log:\n{}", self.node.name(), self.log.since(mark));
        answers.with_context(shown)?.with_context(shown)
    }

    /// Kills it without notice (`kill -9`).
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&self) -> Result<()> {
        let mut process = self.lock().take().context("the agent does not run")?;
        process.kill()
    }

    /// Sends SIGTERM and waits for the end.
    ///
    /// # Errors
    /// It does not run, or does not end within `limit`.
    pub fn terminate(&self, limit: Duration) -> Result<ExitStatus> {
        let mut process = self.lock().take().context("the agent does not run")?;
        process.signal(Signal::SIGTERM)?;
        process.wait(limit)
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It does not run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.lock().as_ref().context("the agent does not run")?.signal(signal)
    }

    /// Waits until it has logged a text since the run began.
    ///
    /// # Errors
    /// It has not.
    pub fn wait_log(&self, text: &str) -> Result<()> {
        let what = format!("{} to log {text:?}", self.node.name());
        wait_until(&what, SOON, || self.log.since(0).contains(text))
    }

    /// Its node.
    #[must_use]
    pub fn node(&self) -> Node {
        self.node
    }

    /// Its node's network namespace.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Its admin socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The directory of its pins.
    #[must_use]
    pub fn pins(&self) -> &Path {
        &self.pins
    }

    /// What it logged.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// Its process.
    ///
    /// # Errors
    /// It does not run.
    pub fn pid(&self) -> Result<u32> {
        let pid = self.lock().as_ref().map(Process::pid);
        pid.context("the agent does not run")
    }

    /// How many file descriptors it has open.
    ///
    /// # Errors
    /// It does not run.
    pub fn open_files(&self) -> Result<usize> {
        let pid = self.pid()?;
        let files = fs::read_dir(format!("/proc/{pid}/fd")).context("its file descriptors")?;
        Ok(files.count())
    }

    /// The memory it has in use now, in bytes (VmRSS in proc_pid_status(5)).
    ///
    /// # Errors
    /// It does not run.
    pub fn resident(&self) -> Result<u64> {
        let pid = self.lock().as_ref().map(Process::pid).context("the agent does not run")?;
        let status = fs::read_to_string(format!("/proc/{pid}/status")).context("its status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")).context("no VmRSS")?;
        Ok(kib.parse::<u64>().context("VmRSS")? * 1024)
    }

    /// Asks one of its HTTP ports on the node, and returns the answer with its head.
    ///
    /// # Errors
    /// The connection's.
    pub fn http_get(&self, port: u16, path: &str) -> Result<String> {
        let to = SocketAddr::from(([127, 0, 0, 1], port));
        self.netns.run(|| {
            let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        })?
    }

    /// Runs `adit --socket … ARGUMENTS` and returns what it printed.
    ///
    /// # Errors
    /// What it said if it failed.
    pub fn cli_text(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new(adit_binary()?)
            .arg("--socket")
            .arg(&self.socket)
            .args(arguments)
            .output()
            .context("cannot start adit")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("`adit {}` failed: {}", arguments.join(" "), said.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs a command of the client with `-o json` and reads the answer.
    ///
    /// # Errors
    /// What it said if it failed, or the answer where it is not of the expected shape.
    pub fn cli<T: DeserializeOwned>(&self, arguments: &[&str]) -> Result<T> {
        let arguments = [arguments, &["-o", "json"]].concat();
        let text = self.cli_text(&arguments)?;
        serde_json::from_str(&text)
            .with_context(|| format!("`adit {}` printed: {text}", arguments.join(" ")))
    }

    /// How it is, as JSON; also when it is not healthy.
    ///
    /// # Errors
    /// The client's.
    pub fn status(&self) -> Result<serde_json::Value> {
        let mut command = Command::new(adit_binary()?);
        command.arg("--socket").arg(&self.socket).args(["status", "-o", "json"]);
        let output = command.output().context("cannot start adit")?;
        serde_json::from_slice(&output.stdout).with_context(|| {
            format!("`adit status`: {}", String::from_utf8_lossy(&output.stderr).trim())
        })
    }

    /// Its live flows and all the recent ones that it keeps: cases share an agent, and the newest ones
    /// may all be of another case.
    ///
    /// # Errors
    /// The client's.
    pub fn flows(&self) -> Result<Vec<Flow>> {
        self.cli(&["flows", "--limit", "10000"])
    }

    /// Waits for a flow that satisfies a condition.
    ///
    /// # Errors
    /// None came; all the flows there are instead.
    pub fn wait_flow(&self, what: &str, condition: impl Fn(&Flow) -> bool) -> Result<Flow> {
        let what = format!("{} to show {what}", self.node.name());
        wait_for(&what, SOON, || {
            let flows = self.flows()?;
            Ok(flows.into_iter().find(|flow| condition(flow)))
        })
        .with_context(|| match self.cli_text(&["flows"]) {
            Ok(table) => format!("its flows:\n{table}"),
            Err(error) => format!("its flows: {error:#}"),
        })
    }

    /// The pods it knows, those of other nodes included.
    ///
    /// # Errors
    /// The client's.
    pub fn workloads(&self) -> Result<Vec<Workload>> {
        self.cli(&["workloads"])
    }

    /// One pod, by its UID.
    ///
    /// # Errors
    /// The client's.
    pub fn workload(&self, uid: &str) -> Result<Option<Workload>> {
        let all = self.workloads()?;
        Ok(all.into_iter().find(|shown| shown.uid == uid))
    }

    /// Its certificates.
    ///
    /// # Errors
    /// The client's.
    pub fn certs(&self) -> Result<Vec<Certificate>> {
        self.cli(&["certs"])
    }

    /// Its tunnels.
    ///
    /// # Errors
    /// The client's.
    pub fn tunnels(&self) -> Result<Vec<Tunnel>> {
        self.cli(&["tunnels"])
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
