//! A pod and a peer, each a network namespace, with a veth between them; and an agent's datapath.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use adit::datapath::Settings;
use adit::datapath::kernel::KernelDatapath;
use adit::datapath::pod::KernelPod;
use adit::datapath::{Datapath, Dial, Listeners, OpenPod, PodTarget};
use adit::sys::netns::Netns;
use adit_core::enrolment::Step;
use adit_core::workload::PodUid;
use socket2::{Domain, Socket, Type};
use tokio::net::TcpStream;

pub(crate) const POD4: &str = "10.77.0.1";
pub(crate) const PEER4: &str = "10.77.0.2";
pub(crate) const POD6: &str = "fd77::1";
pub(crate) const PEER6: &str = "fd77::2";
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Whether the tests can run. Says why not; and where they must run, fails.
#[track_caller]
pub(crate) fn root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    let required = std::env::var("E2E_REQUIRE").is_ok_and(|value| value == "1");
    assert!(root || !required, "E2E_REQUIRE=1, and this is not root");
    if !root {
        use std::io::Write as _;
        writeln!(io::stderr(), "SKIPPED: needs root").unwrap();
    }
    root
}

/// A network namespace with a name.
pub(crate) struct Space {
    pub name: String,
    pub netns: Option<Netns>,
}

impl Space {
    fn new(name: String) -> Self {
        ip(&["netns", "add", &name]);
        ip(&["-n", &name, "link", "set", "lo", "up"]);
        let netns = Netns::open(&path(&name)).unwrap();
        Self { name, netns: Some(netns) }
    }

    pub(crate) fn within<T>(&self, f: impl FnOnce() -> T) -> T {
        self.netns.as_ref().unwrap().within(f).unwrap()
    }

    /// Runs `ip` on the namespace.
    pub(crate) fn ip(&self, arguments: &str) {
        let mut all = vec!["-n", &self.name];
        all.extend(arguments.split(' '));
        ip(&all);
    }

    pub(crate) fn set_sysctl(&self, name: &str, value: &str) {
        let path = PathBuf::from("/proc/sys").join(name);
        self.within(|| std::fs::write(&path, value)).unwrap();
    }

    pub(crate) fn sysctl(&self, name: &str) -> String {
        let path = PathBuf::from("/proc/sys").join(name);
        let text = self.within(|| std::fs::read_to_string(&path)).unwrap();
        text.trim().to_owned()
    }

    /// What `ip` shows of the namespace.
    pub(crate) fn shown(&self, arguments: &str) -> String {
        let mut command = Command::new("ip");
        command.args(["-n", &self.name]).args(arguments.split(' '));
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    }

    /// An application's listener.
    pub(crate) fn listen(&self, address: &str) -> TcpListener {
        let listener = self.within(|| TcpListener::bind(address)).unwrap();
        listener.set_nonblocking(true).unwrap();
        listener
    }

    pub(crate) fn listen_async(&self, address: &str) -> tokio::net::TcpListener {
        tokio::net::TcpListener::from_std(self.listen(address)).unwrap()
    }

    /// An application's socket, not connected.
    pub(crate) fn socket(&self, domain: Domain) -> Socket {
        let socket = self.within(|| Socket::new(domain, Type::STREAM, None)).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket
    }

    /// An application's connection.
    pub(crate) async fn connect(&self, to: &str) -> io::Result<TcpStream> {
        let to: SocketAddr = to.parse().unwrap();
        connect(self.socket(Domain::for_address(to)), to).await
    }
}

pub(crate) struct World {
    pub pod: Space,
    pub peer: Space,
    pub settings: Settings,
    pub target: PodTarget,
}

impl World {
    pub(crate) fn new() -> Self {
        let id = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let pod = Space::new(format!("kernel-{id}-pod"));
        let peer = Space::new(format!("kernel-{id}-peer"));
        ip(&[
            "link", "add", "eth0", "netns", &pod.name, "type", "veth", "peer", "name", "eth0",
            "netns", &peer.name,
        ]);
        for (space, v4, v6) in [(&pod, POD4, POD6), (&peer, PEER4, PEER6)] {
            space.ip(&format!("address add {v4}/24 dev eth0"));
            space.ip(&format!("address add {v6}/64 dev eth0 nodad"));
            // A link-local address would come with a route of its own at some later moment.
            space.ip("link set eth0 addrgenmode none");
            space.ip("link set eth0 up");
        }
        let target = PodTarget {
            uid: PodUid::parse(&format!("uid-{id}")).unwrap(),
            addresses: vec![POD4.parse().unwrap(), POD6.parse().unwrap()],
            netns: path(&pod.name),
        };
        let settings = Settings {
            pins: PathBuf::from(format!("/sys/fs/bpf/adit-kernel-{id}")),
            ..Settings::default()
        };
        Self { pod, peer, settings, target }
    }

    pub(crate) fn start(&self, workers: usize) -> KernelDatapath {
        KernelDatapath::start(&self.settings, workers).unwrap()
    }

    /// A started datapath with the pod enrolled.
    pub(crate) async fn enrolled(&self, workers: usize) -> Enrolled {
        let datapath = self.start(workers);
        let pod = datapath.open(&self.target).await.unwrap();
        Enrolled::new(datapath, pod).await
    }

    pub(crate) fn v1(&self) -> PathBuf {
        self.settings.pins.join("v1")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for space in [&self.pod, &self.peer] {
            let _gone = Command::new("ip").args(["netns", "del", &space.name]).output();
        }
        let _gone = std::fs::remove_dir_all(&self.settings.pins);
    }
}

/// An enrolled pod and its agent's listeners.
pub(crate) struct Enrolled {
    pub datapath: KernelDatapath,
    pub pod: Arc<KernelPod>,
    pub listeners: Vec<Async>,
}

pub(crate) struct Async {
    pub outbound: tokio::net::TcpListener,
    pub hbone: tokio::net::TcpListener,
    pub plaintext: tokio::net::TcpListener,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Outbound,
    Hbone,
    Plaintext,
}

impl Enrolled {
    pub(crate) async fn new(datapath: KernelDatapath, pod: Arc<KernelPod>) -> Self {
        for step in Step::ALL {
            datapath.perform(&pod, step).await.unwrap();
        }
        let listeners = pod.take_listeners().into_iter().map(Async::from).collect();
        Self { datapath, pod, listeners }
    }

    pub(crate) async fn withdraw(&self) {
        for step in Step::ALL.into_iter().rev() {
            self.datapath.undo(&self.pod, step).await.unwrap();
        }
    }

    /// The next connection that the agent gets: by which listener, and where it wanted to go.
    pub(crate) async fn accept(&self) -> (Kind, TcpStream, SocketAddr) {
        let all = self.listeners.iter().flat_map(|worker| {
            [
                (Kind::Outbound, &worker.outbound),
                (Kind::Hbone, &worker.hbone),
                (Kind::Plaintext, &worker.plaintext),
            ]
        });
        let accepts = all.map(|(kind, listener)| {
            Box::pin(async move { (kind, listener.accept().await.unwrap().0) })
        });
        let first = tokio::time::timeout(PATIENCE, futures_util::future::select_all(accepts));
        let ((kind, stream), _, _) = first.await.expect("the agent gets no connection");
        let destination = self.pod.sockets().original_destination(&stream).unwrap();
        (kind, stream, destination)
    }

    pub(crate) fn counter(&self, name: &str) -> u64 {
        let counters = self.datapath.counters().unwrap();
        counters.into_iter().find(|(label, _)| *label == name).unwrap().1
    }

    /// How many connections were steered to the agent.
    pub(crate) fn steered(&self) -> u64 {
        ["steered_outbound", "steered_hbone", "steered_plaintext"]
            .into_iter()
            .map(|name| self.counter(name))
            .sum()
    }
}

impl From<Listeners> for Async {
    fn from(listeners: Listeners) -> Self {
        let convert = |listener| tokio::net::TcpListener::from_std(listener).unwrap();
        Self {
            outbound: convert(listeners.outbound),
            hbone: convert(listeners.hbone),
            plaintext: convert(listeners.plaintext),
        }
    }
}

pub(crate) async fn connect(socket: Socket, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = tokio::net::TcpSocket::from_std_stream(socket.into());
    tokio::time::timeout(PATIENCE, socket.connect(to)).await?
}

pub(crate) async fn dial(dial: Dial) -> io::Result<TcpStream> {
    connect(dial.socket, dial.to).await
}

pub(crate) async fn accept(listener: &tokio::net::TcpListener) -> (TcpStream, SocketAddr) {
    let accepted = tokio::time::timeout(PATIENCE, listener.accept()).await;
    let (stream, from) = accepted.expect("the application gets no connection").unwrap();
    (stream, SocketAddr::new(from.ip().to_canonical(), from.port()))
}

/// Sends a few bytes one way and back.
#[track_caller]
pub(crate) fn ping(one: &mut TcpStream, other: &mut TcpStream) -> impl Future<Output = ()> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    async move {
        let there_and_back = async {
            one.write_all(b"there").await.unwrap();
            let mut buffer = [0; 5];
            other.read_exact(&mut buffer).await.unwrap();
            assert_eq!(&buffer, b"there");
            other.write_all(b"back!").await.unwrap();
            one.read_exact(&mut buffer).await.unwrap();
            assert_eq!(&buffer, b"back!");
        };
        tokio::time::timeout(PATIENCE, there_and_back).await.expect("no bytes come through");
    }
}

pub(crate) fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(crate) fn addr(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn path(name: &str) -> PathBuf {
    PathBuf::from("/run/netns").join(name)
}

#[track_caller]
fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {arguments:?}: {stderr}");
}
