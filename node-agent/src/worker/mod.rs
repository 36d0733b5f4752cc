//! The data-plane threads: each a runtime of its own with its own pods' listeners, tunnels and
//! flows. A flow never leaves its worker, so that nothing on its way is shared; this side of the
//! command channel is [`Workers`].

mod balance;
mod essential;
mod pods;
mod run;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, SystemTime};

use adit_core::flow::{CloseReason, Direction, FlowRecord, Moved, TlsInfo};
use adit_core::identity::SpiffeId;
use adit_core::workload::PodUid;
use adit_core::world::Changes;
use futures_util::future::{BoxFuture, join_all};
use tokio::runtime::Handle;
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::datapath::{EnrolledPod, Listeners};
use crate::discovery::Worlds;
use crate::identity::Certificates;
use crate::observer::Recorder;
use crate::proxy;
use crate::shutdown::{Phase, Shutdown};
use crate::tunnel::{self, AcceptedTunnel, Budget};

/// The largest number of workers: the socket look-up program has places for this many.
pub const MAX_WORKERS: usize = adit_shared::key::MAX_WORKERS as usize;

/// What can be set about workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How many threads.
    pub workers: usize,
}

impl Default for Settings {
    fn default() -> Self {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        Self { workers: cores.min(4) }
    }
}

/// What every worker needs.
#[derive(Clone)]
pub struct Context {
    /// The world.
    pub worlds: Worlds,
    /// The pods' certificates.
    pub certificates: Certificates,
    /// Where flow records go.
    pub recorder: Recorder,
    /// The control runtime, which shakes hands.
    pub control: Handle,
    /// What can be set about tunnels.
    pub tunnel: tunnel::Settings,
    /// What can be set about flows.
    pub flow: proxy::Settings,
    /// The cluster's name, for baggage.
    pub cluster: Arc<str>,
}

/// The workers, for the control runtime. Cheap to clone.
#[derive(Clone)]
pub struct Workers {
    links: Arc<[Link]>,
}

/// The way to one worker.
struct Link {
    commands: mpsc::UnboundedSender<Command>,
    /// Inbound tunnels that it carries.
    load: Arc<AtomicUsize>,
}

/// What a worker is told.
enum Command {
    AddPod(Arc<EnrolledPod>, Listeners, oneshot::Sender<io::Result<()>>),
    /// Take nothing new for the pod; what is open lives on.
    RemovePod(PodUid, oneshot::Sender<()>),
    /// The pod is gone: end everything of it.
    EndPod(PodUid, oneshot::Sender<()>),
    WhenIdle(PodUid, oneshot::Sender<()>),
    Tunnel(Box<AcceptedTunnel>),
    Recheck(Option<Arc<Changes>>),
    Flows(oneshot::Sender<Vec<FlowRecord>>),
    Moved(oneshot::Sender<Vec<Moved>>),
    Tunnels(oneshot::Sender<Vec<TunnelStatus>>),
    Drain(oneshot::Sender<()>),
    EndAll(oneshot::Sender<usize>),
}

/// A tunnel, as `adit tunnels` shows it.
#[derive(Debug, Clone)]
pub struct TunnelStatus {
    /// The worker that owns it.
    pub worker: usize,
    /// Outbound: dialled by this node; inbound: accepted by it.
    pub direction: Direction,
    /// The identity of this node's pod.
    pub local_identity: SpiffeId,
    /// The identity that the other end proved.
    pub peer_identity: SpiffeId,
    /// The other end's address.
    pub peer: SocketAddr,
    /// What TLS agreed on.
    pub tls: TlsInfo,
    /// Streams open now.
    pub streams: u32,
    /// Streams opened since the tunnel was made.
    pub streams_total: u64,
    /// When it was made.
    pub since: SystemTime,
    /// Whether it still takes new streams.
    pub accepting: bool,
}

/// Starts the threads. They end when every [`Workers`] has been dropped.
///
/// # Errors
/// A thread or its runtime could not be made.
pub fn start(settings: Settings, context: &Context) -> io::Result<Workers> {
    let count = settings.workers.clamp(1, MAX_WORKERS);
    let mut links = Vec::with_capacity(count);
    let mut receivers = Vec::with_capacity(count);
    for _ in 0..count {
        let (commands, receiver) = mpsc::unbounded_channel();
        links.push(Link { commands, load: Arc::default() });
        receivers.push(receiver);
    }
    let links: Arc<[Link]> = links.into();
    let budget = Budget::new(context.tunnel.unread_limit);
    for (index, receiver) in receivers.into_iter().enumerate() {
        let peers = balance::Peers::new(&links);
        let (context, budget) = (context.clone(), budget.clone());
        let (started, ready) = sync_channel(1);
        thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            run::run(&started, (index, peers), &context, budget, receiver);
        })?;
        ready.recv().map_err(|_ended| io::Error::other("a worker has ended"))??;
    }
    Ok(Workers { links })
}

impl Workers {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.links.len()
    }

    /// Serves a pod from now on: `listeners` has one element per worker.
    ///
    /// # Errors
    /// A listener could not be moved to its worker, or there are not as many as workers.
    pub async fn add(&self, pod: &Arc<EnrolledPod>, listeners: Vec<Listeners>) -> io::Result<()> {
        if listeners.len() != self.links.len() {
            return Err(io::Error::other("as many listeners as workers are needed"));
        }
        let mut answers = Vec::with_capacity(listeners.len());
        for (link, listeners) in self.links.iter().zip(listeners) {
            let (done, answer) = oneshot::channel();
            link.send(Command::AddPod(Arc::clone(pod), listeners, done));
            answers.push(answer);
        }
        for answer in answers {
            answer.await.map_err(|_gone| io::Error::other("a worker has ended"))??;
        }
        Ok(())
    }

    /// Takes nothing new for a pod. Its open flows live on.
    pub async fn remove(&self, uid: &PodUid) {
        self.ask_all(|done| Command::RemovePod(uid.clone(), done)).await;
    }

    /// Ends everything of a pod that is gone.
    pub async fn end(&self, uid: &PodUid) {
        self.ask_all(|done| Command::EndPod(uid.clone(), done)).await;
    }

    /// Completes when no flow of the pod lives on any worker.
    pub async fn idle(&self, uid: &PodUid) {
        self.ask_all(|done| Command::WhenIdle(uid.clone(), done)).await;
    }

    /// The flows that live now, in order of their ids.
    pub async fn flows(&self) -> Vec<FlowRecord> {
        let mut flows: Vec<_> = self.ask_all(Command::Flows).await.into_iter().flatten().collect();
        flows.sort_by_key(|flow| flow.id);
        flows
    }

    /// Asks what the flows that live now have moved so far. It does not keep the workers alive.
    pub fn moved(&self) -> impl Fn() -> BoxFuture<'static, Vec<Moved>> + Send + use<> {
        let links = Arc::downgrade(&self.links);
        move || {
            let answers = links.upgrade().map(|links| ask_all(&links, Command::Moved));
            Box::pin(async move {
                match answers {
                    Some(answers) => answers.await.into_iter().flatten().collect(),
                    None => Vec::new(),
                }
            })
        }
    }

    /// The tunnels that are open now.
    pub async fn tunnels(&self) -> Vec<TunnelStatus> {
        self.ask_all(Command::Tunnels).await.into_iter().flatten().collect()
    }

    /// Takes no new flow, lets the open ones finish until `deadline` has passed, ends the rest, and
    /// says how many those were.
    pub async fn drain(&self, deadline: Duration) -> usize {
        let drained = self.ask_all(Command::Drain);
        if tokio::time::timeout(deadline, drained).await.is_ok() {
            return 0;
        }
        let ended: usize = self.ask_all(Command::EndAll).await.into_iter().sum();
        // Their ends are told to both sides before the process goes.
        let told = Duration::from_millis(200);
        let _late = tokio::time::timeout(told, self.ask_all(Command::Drain)).await;
        ended
    }

    /// Has every change of the world from now on decided on by the workers, until shutdown. No flow
    /// escapes: the new world is in place before its change is told, and a worker looks at the world,
    /// decides and notes on what it decided without a pause in which it could take the command.
    pub fn recheck_on_changes(
        &self,
        worlds: &Worlds,
        mut shutdown: Shutdown,
    ) -> impl Future<Output = ()> + Send + use<> {
        let (links, mut changes) = (Arc::clone(&self.links), worlds.subscribe());
        async move {
            loop {
                let touched = tokio::select! {
                    change = changes.recv() => change,
                    () = shutdown.reached(Phase::Forced) => return,
                };
                let touched = match touched {
                    Ok(changes) => Some(changes),
                    Err(broadcast::error::RecvError::Lagged(_)) => None,
                    Err(broadcast::error::RecvError::Closed) => return,
                };
                for link in links.iter() {
                    link.send(Command::Recheck(touched.clone()));
                }
            }
        }
    }

    async fn ask_all<T>(&self, command: impl Fn(oneshot::Sender<T>) -> Command) -> Vec<T> {
        ask_all(&self.links, command).await
    }
}

/// Asks all workers at once, and waits for their answers.
fn ask_all<T, C: Fn(oneshot::Sender<T>) -> Command>(
    links: &[Link],
    command: C,
) -> impl Future<Output = Vec<T>> + use<T, C> {
    let ask = |link: &Link| {
        let (sender, receiver) = oneshot::channel();
        link.send(command(sender));
        receiver
    };
    let answers: Vec<_> = links.iter().map(ask).collect();
    // A worker that has ended has nothing to say.
    async move { join_all(answers).await.into_iter().filter_map(Result::ok).collect() }
}

impl std::fmt::Debug for Workers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Workers").field("count", &self.links.len()).finish()
    }
}

impl Link {
    fn send(&self, command: Command) {
        // A worker ends only with the process; the command's answer channel then says so.
        let _ended: Result<(), mpsc::error::SendError<Command>> = self.commands.send(command);
    }

    fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }
}

/// The reason with which flows end when their pod is gone.
const GONE: CloseReason = CloseReason::PodGone;
