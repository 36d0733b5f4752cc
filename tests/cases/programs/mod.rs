//! Real programs through the tunnels: each does the same work between two enrolled pods and between
//! two that are not, and what comes of it must be the same.

mod iperf3;
mod nginx;
mod openssh;
mod postgresql;
mod redis;
mod rsync;

use std::ffi::OsStr;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use adit_e2e::process::Process;
use adit_e2e::requirements;
use adit_e2e::wait::{SOON, wait_until};
use adit_e2e::{Node, Pod};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::support::Scene;

/// Debian's `nobody` and `nogroup`: servers run as these where they refuse to run as root.
const NOBODY: u32 = 65534;

/// How long one call of a program may take, in seconds.
const LIMIT: &str = "60";

/// A client and a server on two nodes, and a directory for the program's files.
struct Lane<'a> {
    client: &'a Pod,
    server: &'a Pod,
    directory: PathBuf,
}

/// Does the work on both lanes, in turn, and compares what it returns. `port` is the one of the
/// server: the flows to it must have gone through a tunnel.
#[track_caller]
fn same_as_without_adit(
    program: &'static str,
    tools: &[&str],
    port: u16,
    work: impl Fn(&Lane<'_>) -> String,
) {
    // A cluster for each program: an agent remembers the last few thousand flows, and one that opens
    // a connection for every request makes it forget its neighbour's.
    let Some(scene) = Scene::with_tools(program, program, tools) else {
        return;
    };
    let [server, client, plain_server, plain_client] = scene.pods([
        scene.pod("server", Node::B),
        scene.pod("client", Node::A),
        scene.pod("plain-server", Node::B).label("adit.dev/mode", "none"),
        scene.pod("plain-client", Node::A).label("adit.dev/mode", "none"),
    ]);
    let directory = |name: &str| {
        let path = scene.cluster.run().directory().join(format!("{program}-{name}"));
        fs::create_dir(&path).unwrap();
        chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
        path
    };

    let (client_ref, server_ref) = (&plain_client, &plain_server);
    let directory_plain = directory("plain");
    let without =
        work(&Lane { client: client_ref, server: server_ref, directory: directory_plain });
    let with = work(&Lane { client: &client, server: &server, directory: directory("tunnelled") });

    assert_eq!(with, without);
    let flow = scene.outbound(&client, &server, port);
    assert_eq!((flow.protocol.as_str(), flow.verdict.as_str()), ("hbone", "allowed"));
}

impl Lane<'_> {
    fn address(&self) -> Ipv4Addr {
        self.server.v4()
    }

    /// A file of the program.
    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Writes a file of the program, readable by its server.
    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
        path
    }

    /// Starts a server as nobody and waits until it listens.
    #[track_caller]
    fn serve<A: AsRef<OsStr>>(&self, port: u16, program: &str, arguments: &[A]) -> Daemon {
        let mut command = as_nobody(self.server, program);
        command.args(arguments);
        self.start(port, &mut command)
    }

    /// Starts a server and waits until it listens.
    #[track_caller]
    fn start(&self, port: u16, command: &mut Command) -> Daemon {
        let log = self.path("server.log");
        command.current_dir(&self.directory);
        let daemon = Daemon(Process::start("a server", command, &log).unwrap());
        let listens = wait_until("the server to listen", SOON, || listens(self.server, port));
        if let Err(error) = listens {
            panic!("{error:#}, its log:\n{}", fs::read_to_string(&log).unwrap_or_default());
        }
        daemon
    }

    /// Runs a client to its end and returns what it printed.
    #[track_caller]
    fn run<A: AsRef<OsStr>>(&self, program: &str, arguments: &[A]) -> String {
        let mut command = self.client.command("timeout");
        command.args(["-k", "1", LIMIT, program]).args(arguments).current_dir(&self.directory);
        output(&mut command)
    }
}

/// A command in a pod that runs as nobody.
fn as_nobody(pod: &Pod, program: &str) -> Command {
    let mut command = pod.command("setpriv");
    command.args([&format!("--reuid={NOBODY}"), &format!("--regid={NOBODY}")]);
    command.args(["--clear-groups", program]);
    command
}

/// Runs a command to its end, which must be a success, and returns what it printed.
#[track_caller]
fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// A server with its children.
struct Daemon(Process);

impl Drop for Daemon {
    fn drop(&mut self) {
        let group = Pid::from_raw(i32::try_from(self.0.pid()).unwrap());
        // The process began a group of its own; it may have ended.
        let _gone: nix::Result<()> = killpg(group, Signal::SIGKILL);
    }
}

/// Whether something in the pod listens on this port (proc_net_tcp(5): state 0A).
fn listens(pod: &Pod, port: u16) -> bool {
    let read = || {
        ["tcp", "tcp6"].map(|file| {
            fs::read_to_string(format!("/proc/thread-self/net/{file}")).unwrap_or_default()
        })
    };
    let tables = pod.run(read).unwrap().concat();
    let port = format!(":{port:04X}");
    tables.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next().is_some_and(|local| local.ends_with(&port)) && fields.nth(1) == Some("0A")
    })
}

/// The SHA-256 of a file.
fn sha256(path: &Path) -> String {
    let text = output(Command::new("sha256sum").arg("--").arg(path));
    text.split(' ').next().unwrap().to_owned()
}

/// Bytes that do not compress, the same in each run.
fn noise(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length.next_multiple_of(8)];
    adit_e2e::client::Pattern::new(length as u64).fill(&mut bytes);
    bytes.truncate(length);
    bytes
}

/// Where a program is that Debian keeps outside of PATH, such as `initdb`.
fn server_program(name: &str) -> String {
    requirements::find_tool(name).unwrap().display().to_string()
}

fn private(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}
