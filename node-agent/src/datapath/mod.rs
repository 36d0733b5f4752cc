//! The door to the kernel: what enrolment needs of it ([`Datapath`]), and what the proxy needs of
//! an enrolled pod ([`PodSockets`]).

mod attached;
pub mod cleanup;
#[cfg(any(test, feature = "testing"))]
pub mod fake;
mod hold;
pub mod kernel;
pub mod kubelet;
mod loader;
pub mod lock;
mod maps;
mod marked;
mod pins;
pub mod pod;
pub mod probe;
mod rounds;
mod routes;
mod sockets;

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;

use adit_core::enrolment::Step;
use adit_core::flow::ConnectFailure;
use adit_core::identity::SpiffeId;
use adit_core::workload::{ObjectName, PodUid};
use rounds::Rounds;
use socket2::Socket;
use tokio::net::TcpStream;

use crate::sys::{cgroup, errno, sockopt};

/// Where the programs are kept and attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The directory on bpffs for this agent's links and maps.
    pub pins: PathBuf,
    /// The cgroup2 directory that the connect programs are attached to; `None` for the root of the
    /// hierarchy, wherever it is mounted.
    pub cgroup: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { pins: PathBuf::from("/sys/fs/bpf/adit"), cgroup: None }
    }
}

impl Settings {
    /// Where the connect programs are attached.
    ///
    /// # Errors
    /// None is configured, and cgroup2 is not mounted and cannot be.
    pub fn attach_point(&self) -> io::Result<PathBuf> {
        self.cgroup.clone().map_or_else(cgroup::root, Ok)
    }
}

/// A pod to enrol.
#[derive(Debug, Clone)]
pub struct PodTarget {
    /// Its UID.
    pub uid: PodUid,
    /// Its addresses; at least one of them must be found in the network namespace.
    pub addresses: Vec<IpAddr>,
    /// The path of its network namespace.
    pub netns: PathBuf,
}

/// A pod that an earlier agent left enrolled: its connections are captured, and wait for listeners.
#[derive(Debug, Clone)]
pub struct Adopted {
    /// Its UID.
    pub uid: PodUid,
    /// Whether its network namespace still exists.
    pub alive: bool,
}

/// The listeners of one pod for one worker.
#[derive(Debug)]
pub struct Listeners {
    /// Connections that the pod opened.
    pub outbound: TcpListener,
    /// Tunnels to the pod (port 15008).
    pub hbone: TcpListener,
    /// Everything else that comes to the pod from outside.
    pub plaintext: TcpListener,
}

/// A pod whose namespace is open. The steps are done to it.
pub trait OpenPod: Send + Sync + 'static {
    /// The listeners that [`Step::Listeners`] opened, one element per worker; empty when taken
    /// before that step or a second time.
    fn take_listeners(&self) -> Vec<Listeners>;
    /// The pod's sockets, for the proxy.
    fn sockets(&self) -> Arc<dyn PodSockets>;
}

/// What enrolment needs of the kernel.
pub trait Datapath: Send + Sync + 'static {
    /// An open pod.
    type Pod: OpenPod;

    /// The pods that an earlier agent left enrolled.
    fn adopted(&self) -> Vec<Adopted>;

    /// Opens a pod's namespace and checks that it is this pod's. Adopts what an earlier agent left
    /// of it.
    fn open(
        &self,
        target: &PodTarget,
    ) -> impl Future<Output = Result<Arc<Self::Pod>, DatapathError>> + Send;

    /// Does one step. Doing a step that is done already succeeds.
    fn perform(
        &self,
        pod: &Arc<Self::Pod>,
        step: Step,
    ) -> impl Future<Output = Result<(), DatapathError>> + Send;

    /// Undoes one step. Undoing a step that is not done, or whose namespace is gone, succeeds.
    fn undo(
        &self,
        pod: &Arc<Self::Pod>,
        step: Step,
    ) -> impl Future<Output = Result<(), DatapathError>> + Send;

    /// Removes everything an earlier agent left of a pod that is not coming back. Also undoes the
    /// capture first where its namespace is alive.
    fn forget(&self, uid: &PodUid) -> impl Future<Output = Result<(), DatapathError>> + Send;
}

/// A socket that is not connected yet, and where to connect it.
#[derive(Debug)]
pub struct Dial {
    /// Non-blocking, in the pod's namespace, tagged as the agent's.
    pub socket: Socket,
    /// The address to connect to.
    pub to: SocketAddr,
    /// What must not happen to it.
    rounds: Option<Arc<Rounds>>,
}

impl Dial {
    /// Connects, to send at once what it is given.
    ///
    /// # Errors
    /// The socket's; or that the connection would come back to the agent.
    pub async fn connect(self) -> io::Result<TcpStream> {
        sockopt::send_at_once(&self.socket)?;
        match self.socket.connect(&self.to.into()) {
            Err(error) if error.raw_os_error() != Some(errno::EINPROGRESS) => return Err(error),
            _ => {}
        }
        if let Some(rounds) = &self.rounds {
            rounds.refuse_marked(&self.socket)?;
        }
        let tcp = TcpStream::from_std(self.socket.into())?;
        tcp.writable().await?;
        match tcp.take_error()? {
            None => Ok(tcp),
            Some(error) => Err(error),
        }
    }
}

/// What the proxy needs of an enrolled pod.
pub trait PodSockets: Send + Sync {
    /// Where the pod wanted to connect to, for a socket of the outbound listener; and for one of
    /// the other two, the address of the pod that was dialled.
    ///
    /// # Errors
    /// The socket's.
    fn original_destination(&self, accepted: &TcpStream) -> io::Result<SocketAddr>;

    /// Whether an accepted connection comes from a socket that the agent itself connected for the
    /// pod, and that another agent's programs led back to it.
    fn is_own(&self, _source: SocketAddr) -> bool {
        false
    }

    /// A socket that leaves the pod from its natural address.
    ///
    /// # Errors
    /// The socket's, or that the namespace could not be entered.
    fn outward(&self, destination: SocketAddr) -> io::Result<Dial>;

    /// A socket to the pod's own application, bound to `source` so that the application sees the
    /// client's address.
    ///
    /// # Errors
    /// The socket's, or that the namespace could not be entered.
    fn inward(&self, source: IpAddr, destination: SocketAddr) -> io::Result<Dial>;
}

/// An enrolled pod, as the workers and the proxy know it.
pub struct EnrolledPod {
    /// Its UID.
    pub uid: PodUid,
    /// Its namespace and name.
    pub name: ObjectName,
    /// Its identity.
    pub identity: SpiffeId,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its sockets.
    pub sockets: Arc<dyn PodSockets>,
}

/// What a failed `connect` means.
#[must_use]
pub fn connect_failure(error: &io::Error) -> ConnectFailure {
    use nix::errno::Errno;
    if error.get_ref().is_some_and(|inner| inner.is::<rounds::Captured>()) {
        return ConnectFailure::Captured;
    }
    match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ECONNREFUSED | Errno::ECONNRESET) => ConnectFailure::Refused,
        Some(Errno::ETIMEDOUT) => ConnectFailure::TimedOut,
        Some(Errno::EHOSTUNREACH | Errno::ENETUNREACH | Errno::EACCES | Errno::EPERM) => {
            ConnectFailure::Unreachable
        }
        Some(
            Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS | Errno::EADDRNOTAVAIL,
        ) => ConnectFailure::Resources,
        _ => ConnectFailure::Other,
    }
}

/// What went wrong at the kernel's door.
#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    /// The namespace could not be opened or entered.
    #[error("network namespace {path}")]
    Netns {
        /// Its path.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The namespace is not the pod's.
    #[error("network namespace {path} is not this pod's: {why}")]
    WrongNetns {
        /// Its path.
        path: PathBuf,
        /// What does not fit.
        why: &'static str,
    },
    /// A socket operation failed.
    #[error("{what}")]
    Socket {
        /// The operation.
        what: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A BPF operation failed.
    #[error("{what}")]
    Bpf {
        /// The operation.
        what: String,
        /// What aya or the kernel said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A netlink operation failed.
    #[error("{what}")]
    Netlink {
        /// The operation.
        what: &'static str,
        /// What rtnetlink said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Another process holds the directory of pins.
    #[error(
        "{} is in use by {holder}: an agent runs with these pins; stop it first (a second agent \
         needs another datapath.pins)",
        pins.display()
    )]
    Locked {
        /// The directory.
        pins: PathBuf,
        /// Who holds it.
        holder: String,
    },
    /// Another agent's programs act on the pod.
    #[error("{0}")]
    Rival(String),
    /// A limit of this node's was reached.
    #[error("{0}")]
    Limit(&'static str),
}
