//! The program itself, as an agent and as a CA, and what its process uses.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::server::{self, Server};

/// A process that ends with this value.
pub(super) struct Process {
    child: Child,
    started: Instant,
    directory: PathBuf,
}

/// What a process has used, of memory in bytes.
pub(super) struct Resources {
    pub(super) cpu: Duration,
    pub(super) rss: u64,
    pub(super) peak: u64,
}

/// What the agent says of its world.
#[derive(Debug)]
pub(super) struct Status {
    pub(super) workloads: usize,
    pub(super) services: usize,
    pub(super) policies: usize,
}

impl Process {
    /// An agent that follows the API server.
    pub(super) fn agent(server: &Server, kubeconfig: &Path) -> Self {
        let discovery = json!({"source": "kubernetes", "kubernetes": {"kubeconfig": kubeconfig}});
        Self::run(server.directory(), &discovery)
    }

    /// An agent that reads a directory.
    pub(super) fn on_manifests(directory: &Path) -> Self {
        let manifests = directory.join("manifests");
        Self::run(directory, &json!({"manifests": {"directory": manifests}}))
    }

    fn run(parent: &Path, discovery: &Value) -> Self {
        let name = format!("adit-scale-{:x}", rand::random::<u64>());
        let directory = parent.join(&name);
        fs::DirBuilder::new().mode(0o700).create(&directory).unwrap();
        let ca = directory.join("ca");
        let made = command().args(["ca", "init", "--dir"]).arg(&ca).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let [metrics, readiness] = server::free_ports();
        let config = json!({
            "node": "no-pods-here",
            "discovery": discovery,
            "identity": {"ca": {"file": ca}},
            "datapath": {"pins": Path::new("/sys/fs/bpf").join(&name)},
            "admin": {"socket": directory.join("adit.sock")},
            "metrics": {"address": format!("127.0.0.1:{metrics}")},
            "readiness": {"address": format!("127.0.0.1:{readiness}")},
        });
        let path = directory.join("config.yaml");
        fs::write(&path, config.to_string()).unwrap();
        let mut command = command();
        command.arg("run").arg("--config").arg(path);
        Self::start(command, directory)
    }

    /// A CA that watches the pods of the same cluster.
    pub(super) async fn ca(server: &Server) -> Self {
        let [port] = server::free_ports();
        let access = server.access().kubeconfig.unwrap();
        let directory = server.directory().join("ca-process");
        fs::create_dir(&directory).unwrap();
        let mut command = command();
        command.args(["ca", "serve", "--kubernetes", "--namespace", "adit-system"]);
        command.arg("--kubeconfig").arg(access).args(["--listen", &format!("127.0.0.1:{port}")]);
        let ca = Self::start(command, directory);
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            ca.must_be_young(Duration::from_secs(60));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        ca
    }

    fn start(mut command: Command, directory: PathBuf) -> Self {
        let log = fs::File::create(directory.join("log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let started = Instant::now();
        Self { child: command.spawn().unwrap(), started, directory }
    }

    pub(super) fn age(&self) -> Duration {
        self.started.elapsed()
    }

    fn must_be_young(&self, limit: Duration) {
        let log = || fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        assert!(self.age() < limit, "{}", log());
    }

    /// Waits for the agent's world.
    pub(super) async fn wait_for(&self, wanted: impl Fn(&Status) -> bool, limit: Duration) {
        let until = Instant::now() + limit;
        while !self.ask().is_some_and(|status| wanted(&status)) {
            if Instant::now() > until {
                let log = fs::read_to_string(self.directory.join("log")).unwrap_or_default();
                panic!("{:?}: {log}", self.ask());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(super) fn status(&self) -> Status {
        self.ask().expect("the agent answers")
    }

    fn ask(&self) -> Option<Status> {
        let mut stream = UnixStream::connect(self.directory.join("adit.sock")).ok()?;
        let request = b"GET /v1/status HTTP/1.1\r\nHost: adit\r\nConnection: close\r\n\r\n";
        stream.write_all(request).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let status: Value = serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()?;
        let count = |path: &str| usize::try_from(status.pointer(path)?.as_u64()?).ok();
        Some(Status {
            workloads: count("/discovery/workloads")?,
            services: count("/discovery/services")?,
            policies: count("/policies/total")?,
        })
    }

    pub(super) fn resources(&self) -> Resources {
        let proc = PathBuf::from(format!("/proc/{}", self.child.id()));
        let stat = fs::read_to_string(proc.join("stat")).unwrap();
        // proc_pid_stat(5): utime and stime, in hundredths of a second, 12 and 13 after the name.
        let ticks = stat.rsplit_once(')').unwrap().1.split_whitespace().skip(11).take(2);
        let ticks: u64 = ticks.map(|ticks| ticks.parse::<u64>().unwrap()).sum();
        let status = fs::read_to_string(proc.join("status")).unwrap();
        let kilobytes = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
        };
        let cpu = Duration::from_millis(ticks * 10);
        Resources { cpu, rss: kilobytes("VmRSS:"), peak: kilobytes("VmHWM:") }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended: std::io::Result<()> = self.child.kill();
        let _ended = self.child.wait();
        let pins = Path::new("/sys/fs/bpf").join(self.directory.file_name().unwrap());
        if pins.is_dir() {
            let _cleaned = command().arg("cleanup").arg("--pins").arg(pins).output();
        }
    }
}

fn command() -> Command {
    Command::new(std::env::var_os("ADIT_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_adit").into()))
}
