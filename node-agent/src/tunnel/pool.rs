//! The tunnels that one worker has dialled: does what [`adit_core::pool`] says.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::SystemTime;

use adit_core::flow::{CloseReason, ConnectFailure};
use adit_core::hbone::TUNNEL_PORT;
use adit_core::pool::{Closed, Command, Input, Key, Limits, Pool, TunnelId, WaiterId};
use adit_core::route::Hop;
use adit_core::term::Standing;
use adit_core::workload::PodUid;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::activity::Activity;
use super::engine::{self, Answer, Client, Reader, Writer};
use super::handshake::{DialledTunnel, Handshakes};
use super::term::Tenure;
use super::{Budget, ConnectHead, Ends, Settings};
use crate::datapath::{EnrolledPod, connect_failure};

/// How often a flow is given another tunnel because the one it had took no more streams, or broke
/// before the request was sent.
const ATTEMPTS: u32 = 3;

/// The pool of one worker. Cheap to clone; never leaves its thread.
#[derive(Clone)]
pub(crate) struct Tunnels(Rc<Inner>);

/// Ends the flows of a tunnel.
type Outlived = Box<dyn Fn(&Rc<Ends>, CloseReason)>;

struct Inner {
    machine: RefCell<Pool>,
    open: RefCell<HashMap<TunnelId, Tunnel>>,
    waiting: RefCell<HashMap<WaiterId, oneshot::Sender<Result<Lease, OpenError>>>>,
    failures: RefCell<HashMap<TunnelId, OpenError>>,
    next_waiter: Cell<u64>,
    /// Tunnels whose task has not ended.
    driven: Cell<usize>,
    rearm: Notify,
    outlived: Outlived,
    handshakes: Handshakes,
    settings: Settings,
    budget: Budget,
}

/// A tunnel that is open.
struct Tunnel {
    client: Client,
    activity: Activity,
    /// How many streams the other end takes, as the machine was told.
    takes: Cell<u32>,
    ends: Rc<Ends>,
    signals: Rc<Signals>,
    streams: Cell<u32>,
    streams_total: Cell<u64>,
    since: SystemTime,
    accepting: Cell<bool>,
}

/// What the pool tells the task that drives a tunnel.
#[derive(Default)]
struct Signals {
    ping: Notify,
    abort: Notify,
}

/// Why no stream could be opened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OpenError {
    /// What to say of the flow.
    pub(crate) reason: CloseReason,
    /// Whether the other end's agent was not reached, so that a later attempt, perhaps after a
    /// change of the world, makes sense.
    pub(crate) again: bool,
}

/// A stream in a tunnel, its CONNECT answered with 200.
pub(crate) struct Opened {
    pub(crate) reader: Reader,
    pub(crate) writer: Writer,
    /// The tunnel's ends.
    pub(crate) ends: Rc<Ends>,
    /// The stream's place in the tunnel; dropped when the stream has ended.
    pub(crate) place: Place,
}

/// A stream's place in a tunnel.
pub(crate) struct Place {
    pool: Rc<Inner>,
    tunnel: TunnelId,
}

/// A place in a tunnel, and the tunnel.
struct Lease {
    client: Client,
    ends: Rc<Ends>,
    place: Place,
}

/// A flow that waits for a tunnel.
struct Waiter<'a> {
    pool: &'a Rc<Inner>,
    id: WaiterId,
}

/// What `adit tunnels` shows of one.
pub(crate) struct PooledTunnel {
    pub(crate) ends: Rc<Ends>,
    pub(crate) streams: u32,
    pub(crate) streams_total: u64,
    pub(crate) since: SystemTime,
    pub(crate) accepting: bool,
}

impl Tunnels {
    /// An empty pool. [`Tunnels::run`] must be spawned beside it. `outlived` ends the flows of a tunnel
    /// whose term is over.
    pub(crate) fn new(
        handshakes: Handshakes,
        (settings, budget): (Settings, Budget),
        outlived: impl Fn(&Rc<Ends>, CloseReason) + 'static,
    ) -> Self {
        let limits = Limits {
            max_streams: settings.max_streams,
            idle: settings.idle_timeout,
            ping_interval: settings.ping_interval,
            ping_timeout: settings.ping_timeout,
        };
        Self(Rc::new(Inner {
            machine: RefCell::new(Pool::new(limits)),
            open: RefCell::default(),
            waiting: RefCell::default(),
            failures: RefCell::default(),
            next_waiter: Cell::new(0),
            driven: Cell::new(0),
            rearm: Notify::new(),
            outlived: Box::new(outlived),
            handshakes,
            settings,
            budget,
        }))
    }

    /// Keeps the pool's deadlines, for ever.
    pub(crate) async fn run(self) {
        loop {
            let deadline = self.0.machine.borrow().poll_timeout();
            match deadline {
                Some((at, _why)) => tokio::select! {
                    () = tokio::time::sleep_until(at.into()) => {
                        self.0.hear();
                        self.0.machine.borrow_mut().handle_timeout(Instant::now().into());
                        self.0.execute(None);
                    }
                    () = self.0.rearm.notified() => {}
                },
                None => self.0.rearm.notified().await,
            }
        }
    }

    /// Opens a stream to `hop` for a flow of `pod`.
    pub(crate) async fn open(
        &self,
        pod: &Arc<EnrolledPod>,
        hop: &Hop,
        head: &ConnectHead,
    ) -> Result<Opened, OpenError> {
        let key = Key {
            source: pod.uid.clone(),
            destination: hop.workload.uid.clone(),
            address: hop.destination.ip(),
            identity: hop.identity.clone(),
        };
        let mut attempts = 0;
        while attempts < ATTEMPTS {
            let Lease { client, ends, place } = self.lease(pod, key.clone()).await?;
            if self.0.is_overfull(&place) {
                // Another tunnel has room, or will be dialled.
                continue;
            }
            attempts += 1;
            match client.request(head).await {
                Answer::Stream(reader, writer) => {
                    return Ok(Opened { reader, writer, ends, place });
                }
                Answer::Status(code) => {
                    return Err(OpenError { reason: CloseReason::Rejected(code), again: false });
                }
                // The other end's limit came too late for this one.
                Answer::Full if self.0.is_overfull(&place) => {}
                Answer::Full | Answer::GoingAway => self.0.going_away(place.tunnel),
                Answer::Unsent => self.0.handle(Input::Lost(place.tunnel), None),
                Answer::Lost => {
                    self.0.handle(Input::Lost(place.tunnel), None);
                    // The application at the other end may have a connection of it already.
                    return Err(OpenError { reason: CloseReason::TunnelLost, again: false });
                }
            }
        }
        Err(OpenError { reason: CloseReason::TunnelLost, again: true })
    }

    async fn lease(&self, pod: &Arc<EnrolledPod>, key: Key) -> Result<Lease, OpenError> {
        let id = WaiterId(self.0.next_waiter.get());
        self.0.next_waiter.set(id.0 + 1);
        let (sender, receiver) = oneshot::channel();
        self.0.waiting.borrow_mut().insert(id, sender);
        let _waiter = Waiter { pool: &self.0, id };
        self.0.handle(Input::Want(id, key), Some(pod));
        let lost = OpenError { reason: CloseReason::TunnelLost, again: true };
        receiver.await.unwrap_or(Err(lost))
    }

    /// Closes the tunnels of a pod that is gone.
    pub(crate) fn pod_gone(&self, uid: &PodUid) {
        self.0.handle(Input::PodGone(uid.clone()), None);
    }

    /// Lets go of every tunnel: each ends when it has sent what is left in it.
    pub(crate) fn close_all(&self) {
        drop(self.0.open.take());
    }

    /// Whether a tunnel is still being driven.
    pub(crate) fn are_open(&self) -> bool {
        self.0.driven.get() > 0
    }

    /// The tunnels that are open.
    pub(crate) fn list(&self) -> Vec<PooledTunnel> {
        let open = self.0.open.borrow();
        let mut ids: Vec<_> = open.iter().collect();
        ids.sort_by_key(|(id, _)| **id);
        ids.into_iter()
            .map(|(_, tunnel)| PooledTunnel {
                ends: Rc::clone(&tunnel.ends),
                streams: tunnel.streams.get(),
                streams_total: tunnel.streams_total.get(),
                since: tunnel.since,
                accepting: tunnel.accepting.get(),
            })
            .collect()
    }
}

impl Inner {
    /// Puts an event into the machine and does what it says. `pod` is the one that wants a tunnel.
    fn handle(self: &Rc<Self>, input: Input, pod: Option<&Arc<EnrolledPod>>) {
        self.machine.borrow_mut().handle(input, Instant::now().into());
        self.execute(pod);
    }

    fn execute(self: &Rc<Self>, pod: Option<&Arc<EnrolledPod>>) {
        loop {
            let command = self.machine.borrow_mut().poll_command();
            let Some(command) = command else { return };
            match command {
                // Only a flow's want makes the machine dial, so its pod is here.
                Command::Dial(id, key) => match pod {
                    Some(pod) => self.dial(id, key, Arc::clone(pod)),
                    None => self.handle(Input::DialFailed(id), None),
                },
                Command::Assign(waiter, id) => self.assign(waiter, id),
                Command::Fail(waiter, id) => self.fail(waiter, id),
                Command::Ping(id) => {
                    if let Some(tunnel) = self.open.borrow().get(&id) {
                        tunnel.signals.ping.notify_one();
                    }
                    self.rearm.notify_one();
                }
                Command::Close(id, why) => self.close(id, why),
            }
        }
    }

    fn assign(self: &Rc<Self>, waiter: WaiterId, id: TunnelId) {
        let place = Place { pool: Rc::clone(self), tunnel: id };
        let lease = {
            let open = self.open.borrow();
            let Some(tunnel) = open.get(&id) else { return };
            tunnel.streams.set(tunnel.streams.get() + 1);
            tunnel.streams_total.set(tunnel.streams_total.get() + 1);
            Lease { client: tunnel.client.clone(), ends: Rc::clone(&tunnel.ends), place }
        };
        let sender = self.waiting.borrow_mut().remove(&waiter);
        // A flow that no longer waits gives its place back by dropping it.
        drop(sender.map(|sender| sender.send(Ok(lease))));
    }

    fn fail(&self, waiter: WaiterId, id: TunnelId) {
        let lost = OpenError { reason: CloseReason::TunnelLost, again: true };
        let error = self.failures.borrow().get(&id).copied().unwrap_or(lost);
        let sender = self.waiting.borrow_mut().remove(&waiter);
        drop(sender.map(|sender| sender.send(Err(error))));
    }

    fn close(&self, id: TunnelId, why: Closed) {
        let Some(tunnel) = self.open.borrow_mut().remove(&id) else {
            return;
        };
        tracing::debug!(tunnel = id.0, peer = %tunnel.ends.peer_address, ?why, "tunnel closed");
        match why {
            Closed::Silent | Closed::PodGone => tunnel.signals.abort.notify_one(),
            // Without its client, and without a stream, it says GOAWAY and ends by itself.
            Closed::Idle | Closed::Retired => {}
        }
    }

    /// Tells the machine which tunnels were heard of, and when.
    fn hear(&self) {
        for (id, tunnel) in self.open.borrow().iter() {
            let last = tunnel.activity.last().into();
            self.machine.borrow_mut().handle(Input::Heard(*id), last);
        }
    }

    /// Whether the other end takes fewer streams than its tunnel has with this one. One that takes
    /// none at all is asked nevertheless, and then avoided.
    fn is_overfull(self: &Rc<Self>, place: &Place) -> bool {
        let (takes, streams) = {
            let open = self.open.borrow();
            let Some(tunnel) = open.get(&place.tunnel) else { return false };
            let takes = tunnel.client.takes();
            if tunnel.takes.replace(takes) == takes && tunnel.streams.get() <= takes {
                return false;
            }
            (takes, tunnel.streams.get())
        };
        self.handle(Input::Takes(place.tunnel, takes), None);
        takes > 0 && streams > takes
    }

    fn going_away(self: &Rc<Self>, id: TunnelId) {
        if let Some(tunnel) = self.open.borrow().get(&id) {
            tunnel.accepting.set(false);
        }
        self.handle(Input::GoingAway(id), None);
    }

    fn dial(self: &Rc<Self>, id: TunnelId, key: Key, pod: Arc<EnrolledPod>) {
        let inner = Rc::clone(self);
        tokio::task::spawn_local(Box::pin(async move {
            let limit = inner.settings.connect_timeout;
            let attempt = inner.try_dial(&key, &pod);
            let timed_out = ConnectFailure::TimedOut;
            let timed_out =
                OpenError { reason: CloseReason::ConnectFailed(timed_out), again: true };
            let dialled = tokio::time::timeout(limit, attempt).await.unwrap_or(Err(timed_out));
            match dialled {
                Ok(tunnel) => {
                    inner.driven.set(inner.driven.get() + 1);
                    Box::pin(inner.drive(id, tunnel)).await;
                    inner.driven.set(inner.driven.get() - 1);
                }
                Err(error) => {
                    tracing::debug!(
                        tunnel = id.0, address = %key.address, reason = error.reason.as_label(),
                        "tunnel could not be dialled",
                    );
                    inner.failures.borrow_mut().insert(id, error);
                    inner.handle(Input::DialFailed(id), None);
                    inner.failures.borrow_mut().remove(&id);
                }
            }
        }));
    }

    async fn try_dial(&self, key: &Key, pod: &EnrolledPod) -> Result<DialledTunnel, OpenError> {
        let to = SocketAddr::new(key.address, TUNNEL_PORT);
        let failed = |error: std::io::Error| OpenError {
            reason: CloseReason::ConnectFailed(connect_failure(&error)),
            again: true,
        };
        let dial = pod.sockets.outward(to).map_err(failed)?;
        let tcp = dial.connect().await.map_err(failed)?;
        let tcp = tcp.into_std().map_err(failed)?;
        // A peer that proved the wrong identity will not prove the right one a moment later.
        let again = false;
        let tunnel = self.handshakes.dial(tcp, pod, &key.identity).await;
        tunnel.map_err(|reason| OpenError { reason, again })
    }

    /// Lets the tunnel take no more flows, and ends those in it, when its time has come.
    async fn keep_term(self: &Rc<Self>, id: TunnelId, tenure: Tenure, ends: Rc<Ends>) {
        let stands = |standing| match standing {
            Standing::Serves => {}
            Standing::Drains | Standing::Expired => self.going_away(id),
            Standing::Ended(what) => {
                self.going_away(id);
                (self.outlived)(&ends, CloseReason::TunnelOutlived(what));
            }
        };
        tenure.keep(stands).await;
    }

    /// Opens the dialled tunnel, serves its signals and reports its end.
    async fn drive(self: &Rc<Self>, id: TunnelId, dialled: DialledTunnel) {
        let DialledTunnel { ends, tenure, stream } = dialled;
        let opened = match stream.attach() {
            Ok(stream) => {
                let activity = stream.activity();
                let opened =
                    engine::connect(self.settings.engine, stream, self.budget.clone()).await;
                opened.map(|opened| (activity, opened))
            }
            Err(error) => Err(error),
        };
        let (activity, (client, mut ping, mut connection)) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                tracing::debug!(tunnel = id.0, %error, "tunnel could not be opened");
                return self.handle(Input::DialFailed(id), None);
            }
        };
        let (ends, signals) = (Rc::new(ends), Rc::new(Signals::default()));
        let mut term = std::pin::pin!(self.keep_term(id, tenure, Rc::clone(&ends)));
        let tunnel = Tunnel {
            takes: Cell::new(client.takes()),
            client,
            activity,
            ends,
            signals: Rc::clone(&signals),
            streams: Cell::new(0),
            streams_total: Cell::new(0),
            since: SystemTime::now(),
            accepting: Cell::new(true),
        };
        self.open.borrow_mut().insert(id, tunnel);
        self.handle(Input::Dialled(id), None);
        self.rearm.notify_one();
        let mut probing = false;
        loop {
            tokio::select! {
                biased;
                end = &mut connection => {
                    tracing::debug!(tunnel = id.0, error = ?end.err(), "tunnel ended");
                    break;
                }
                () = signals.abort.notified() => break,
                () = &mut term => break,
                () = signals.ping.notified(), if !probing => {
                    probing = ping.send();
                }
                answered = ping.answered(), if probing => {
                    probing = false;
                    if answered {
                        self.handle(Input::Heard(id), None);
                    }
                }
            }
        }
        self.open.borrow_mut().remove(&id);
        self.handle(Input::Lost(id), None);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(tunnel) = self.pool.open.borrow().get(&self.tunnel) {
            tunnel.streams.set(tunnel.streams.get().saturating_sub(1));
        }
        self.pool.handle(Input::StreamEnded(self.tunnel), None);
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.pool.waiting.borrow_mut().remove(&self.id);
        self.pool.handle(Input::GaveUp(self.id), None);
    }
}
