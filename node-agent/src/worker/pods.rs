//! The pods that one worker serves: their accept loops, and the tunnels that were dialled to them.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use adit_core::flow::{CloseReason, Direction};
use adit_core::term::Standing;
use adit_core::workload::PodUid;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::task::spawn_local;

use super::TunnelStatus;
use super::balance::Peers;
use super::essential::essential;
use crate::datapath::{EnrolledPod, Listeners};
use crate::proxy::{self, Arrived, Captured, Requested, Stages, refused_tunnel};
use crate::sys::sockopt;
use crate::tunnel::{self, AcceptedTunnel, Budget, Ends, Handshakes, Incoming, Served};

/// How long an accept loop waits when the node has no file descriptor or memory left.
const EXHAUSTED: Duration = Duration::from_millis(50);

/// What the tasks of one worker share.
pub(super) struct Local {
    pub(super) index: usize,
    pub(super) stages: Rc<Stages>,
    pub(super) handshakes: Handshakes,
    pub(super) peers: Peers,
    /// Inbound tunnels on this worker.
    pub(super) load: Arc<AtomicUsize>,
}

/// The pods of one worker.
pub(super) struct Pods {
    local: Rc<Local>,
    tunnels: (tunnel::Settings, Budget),
    /// A pod's accept loops end when its sender is dropped.
    served: HashMap<PodUid, Serving>,
    carried: Rc<RefCell<BTreeMap<u64, Carried>>>,
    next: u64,
}

/// A pod whose connections are accepted.
struct Serving {
    pod: Arc<EnrolledPod>,
    _accepting: watch::Sender<()>,
}

/// A tunnel that was dialled to one of the pods.
struct Carried {
    pod: PodUid,
    ends: Rc<Ends>,
    counters: Rc<Counters>,
    since: SystemTime,
    drain: watch::Sender<bool>,
    abort: tokio::task::AbortHandle,
}

impl Pods {
    pub(super) fn new(local: Rc<Local>, tunnels: (tunnel::Settings, Budget)) -> Self {
        let carried = Rc::default();
        Self { local, tunnels, served: HashMap::new(), carried, next: 0 }
    }

    pub(super) fn stages(&self) -> &Rc<Stages> {
        &self.local.stages
    }

    /// Accepts for a pod from now on. One that is served already is served by the new listeners.
    pub(super) fn add(&mut self, pod: &Arc<EnrolledPod>, listeners: Listeners) -> io::Result<()> {
        let Listeners { outbound, hbone, plaintext } = listeners;
        // Inherited by what they accept, at no cost per connection.
        for listener in [&outbound, &hbone, &plaintext] {
            sockopt::send_at_once(listener)?;
        }
        for of_applications in [&outbound, &plaintext] {
            sockopt::reset_on_close(of_applications)?;
        }
        let (outbound, hbone, plaintext) = (
            TcpListener::from_std(outbound)?,
            TcpListener::from_std(hbone)?,
            TcpListener::from_std(plaintext)?,
        );
        let port = plaintext.local_addr()?.port();
        let (serving, watched) = watch::channel(());
        let local = &self.local;
        spawn_local(accept_loop(outbound, watched.clone(), {
            let (local, pod) = (Rc::clone(local), Arc::clone(pod));
            move |tcp| {
                let captured = Captured::new(Arc::clone(&pod), tcp)?;
                spawn_local(proxy::outbound(Rc::clone(&local.stages), captured));
                Ok(())
            }
        }));
        spawn_local(accept_loop(plaintext, watched.clone(), {
            let (local, pod) = (Rc::clone(local), Arc::clone(pod));
            move |tcp| {
                let arrived = Arrived::plaintext(Arc::clone(&pod), &tcp, port)?;
                let stages = Rc::clone(&local.stages);
                stages.settings.keep_alive(&tcp)?;
                spawn_local(proxy::inbound_plaintext(stages, arrived, tcp));
                Ok(())
            }
        }));
        spawn_local(accept_loop(hbone, watched, {
            let (local, pod) = (Rc::clone(local), Arc::clone(pod));
            move |tcp| {
                let Some(place) = local.handshakes.place() else {
                    sockopt::reset_on_close(&tcp)?;
                    tracing::warn!(pod = %pod.name, "tunnel refused: too many handshakes at once");
                    return Ok(());
                };
                spawn_local(shake_hands(Rc::clone(&local), Arc::clone(&pod), tcp, place));
                Ok(())
            }
        }));
        let serving = Serving { pod: Arc::clone(pod), _accepting: serving };
        self.served.insert(pod.uid.clone(), serving);
        Ok(())
    }

    /// Accepts nothing more for a pod; its tunnels end with their last stream.
    pub(super) fn remove(&mut self, uid: &PodUid) {
        drop(self.served.remove(uid));
        for carried in self.carried.borrow().values().filter(|tunnel| tunnel.pod == *uid) {
            carried.drain.send_replace(true);
        }
    }

    /// Accepts nothing more for any pod.
    pub(super) fn remove_all(&mut self) {
        let uids: Vec<PodUid> = self.served.keys().cloned().collect();
        for uid in uids {
            self.remove(&uid);
        }
    }

    /// Ends everything of a pod.
    pub(super) fn end(&mut self, uid: &PodUid) {
        drop(self.served.remove(uid));
        for carried in self.carried.borrow().values().filter(|tunnel| tunnel.pod == *uid) {
            carried.abort.abort();
        }
    }

    /// Carries a tunnel whose handshake is done.
    pub(super) fn carry(&mut self, accepted: AcceptedTunnel) {
        // While the hands were shaken the pod may have gone, or come again as another one.
        let serving = self.served.get(&accepted.pod.uid);
        if !serving.is_some_and(|serving| Arc::ptr_eq(&serving.pod, &accepted.pod)) {
            self.local.load.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let id = self.next;
        self.next += 1;
        let (drain, draining) = watch::channel(false);
        let (pod, ends) = (Arc::clone(&accepted.pod), Rc::new(accepted.ends.clone()));
        let leave =
            Leave { id, carried: Rc::clone(&self.carried), load: Arc::clone(&self.local.load) };
        let (local, (settings, budget)) = (Rc::clone(&self.local), self.tunnels.clone());
        let counters = Rc::new(Counters::default());
        let standing = Rc::new(Cell::new(Standing::Serves));
        let accept = accept_streams(&local, &pod, (&ends, &standing), &counters);
        let stands = keep_term(&local, &ends, standing, drain.clone());
        let serving = async move {
            let _leave = leave;
            let peer = accepted.ends.peer_address;
            let set = (&settings, &budget);
            let served = tunnel::serve_accepted(accepted, set, draining, (accept, stands));
            match Box::pin(served).await {
                Served::Closed => tracing::debug!(%peer, "tunnel closed"),
                Served::Broken(error) => tracing::debug!(%peer, %error, "tunnel broken"),
                Served::Silent => tracing::debug!(%peer, "tunnel lost: no answer to PING"),
            }
        };
        let abort = spawn_local(serving).abort_handle();
        let since = SystemTime::now();
        let carried = Carried { pod: pod.uid.clone(), ends, counters, since, drain, abort };
        self.carried.borrow_mut().insert(id, carried);
    }

    /// The tunnels that were dialled to the pods, to see them end.
    pub(super) fn carried(&self) -> impl Fn() -> bool + use<> {
        let carried = Rc::clone(&self.carried);
        move || !carried.borrow().is_empty()
    }

    /// The tunnels of this worker, dialled and accepted.
    pub(super) fn tunnels(&self) -> Vec<TunnelStatus> {
        let worker = self.local.index;
        let outbound = self.local.stages.tunnels.list().into_iter().map(|tunnel| TunnelStatus {
            worker,
            direction: Direction::Outbound,
            local_identity: tunnel.ends.local.clone(),
            peer_identity: tunnel.ends.peer.clone(),
            peer: tunnel.ends.peer_address,
            tls: tunnel.ends.tls,
            streams: tunnel.streams,
            streams_total: tunnel.streams_total,
            since: tunnel.since,
            accepting: tunnel.accepting,
        });
        let carried = self.carried.borrow();
        let inbound = carried.values().map(|tunnel| TunnelStatus {
            worker,
            direction: Direction::Inbound,
            local_identity: tunnel.ends.local.clone(),
            peer_identity: tunnel.ends.peer.clone(),
            peer: tunnel.ends.peer_address,
            tls: tunnel.ends.tls,
            streams: tunnel.counters.streams.get(),
            streams_total: tunnel.counters.streams_total.get(),
            since: tunnel.since,
            accepting: !*tunnel.drain.borrow(),
        });
        outbound.chain(inbound).collect()
    }
}

/// Takes connections until the pod is no longer served.
async fn accept_loop(
    listener: TcpListener,
    mut serving: watch::Receiver<()>,
    mut taken: impl FnMut(TcpStream) -> io::Result<()>,
) {
    essential("took connections", async {
        loop {
            let accepted = tokio::select! {
                biased;
                _dropped = serving.changed() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted.and_then(|(tcp, _peer)| taken(tcp)) {
                Ok(()) => {}
                Err(error) if is_exhausted(&error) => {
                    tracing::warn!(%error, "connections wait: the node is out of resources");
                    tokio::time::sleep(EXHAUSTED).await;
                }
                // The connection was gone again before it was taken.
                Err(error) => tracing::debug!(%error, "connection lost while it was accepted"),
            }
        }
    })
    .await;
}

fn is_exhausted(error: &io::Error) -> bool {
    use nix::errno::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw);
    matches!(errno, Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM))
}

/// Shakes hands with a peer, off this thread, and gives the tunnel to the least loaded worker.
async fn shake_hands(
    local: Rc<Local>,
    pod: Arc<EnrolledPod>,
    tcp: TcpStream,
    place: OwnedSemaphorePermit,
) {
    let peer = tcp.peer_addr().ok();
    let peer = peer.map(|peer| SocketAddr::new(peer.ip().to_canonical(), peer.port()));
    let shaken = match tcp.into_std() {
        Ok(tcp) => local.handshakes.accept(tcp, Arc::clone(&pod), place).await,
        Err(error) => return tracing::debug!(%error, "connection lost"),
    };
    match (shaken, peer) {
        (Ok(tunnel), _) => local.peers.give(tunnel),
        (Err(reason), Some(peer)) => {
            let world = local.stages.worlds.load();
            refused_tunnel(&local.stages.flows, &world, &pod, (peer, reason));
        }
        (Err(_), None) => {}
    }
}

/// A tunnel's place in the list and in its worker's load.
struct Leave {
    id: u64,
    carried: Rc<RefCell<BTreeMap<u64, Carried>>>,
    load: Arc<AtomicUsize>,
}

impl Drop for Leave {
    fn drop(&mut self) {
        drop(self.carried.borrow_mut().remove(&self.id));
        self.load.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What is done with each request in a tunnel to `pod`.
fn accept_streams(
    local: &Rc<Local>,
    pod: &Arc<EnrolledPod>,
    (ends, standing): (&Rc<Ends>, &Rc<Cell<Standing>>),
    counters: &Rc<Counters>,
) -> impl FnMut(Incoming) + use<> {
    let stages = Rc::clone(&local.stages);
    let (pod, ends, counters) = (Arc::clone(pod), Rc::clone(ends), Rc::clone(counters));
    let standing = Rc::clone(standing);
    move |request| {
        let requested = Requested::read(&pod, (&ends, standing.get()), &request);
        let stream = Stream::count(&counters);
        let flow = proxy::inbound_tunnelled(Rc::clone(&stages), requested, request);
        spawn_local(async move {
            let _counted = stream;
            flow.await;
        });
    }
}

/// What is done when the standing of an accepted tunnel changes.
fn keep_term(
    local: &Rc<Local>,
    ends: &Rc<Ends>,
    standing: Rc<Cell<Standing>>,
    drain: watch::Sender<bool>,
) -> impl FnMut(Standing) + use<> {
    let (stages, ends) = (Rc::clone(&local.stages), Rc::clone(ends));
    move |stands| {
        standing.set(stands);
        drain.send_replace(true);
        if let Standing::Ended(what) = stands {
            stages.flows.end_tunnel(&ends, CloseReason::TunnelOutlived(what));
        }
    }
}

/// The streams of one tunnel.
#[derive(Default)]
struct Counters {
    streams: Cell<u32>,
    streams_total: Cell<u64>,
}

/// A stream that is counted while it lives.
struct Stream(Rc<Counters>);

impl Stream {
    fn count(counters: &Rc<Counters>) -> Self {
        counters.streams.set(counters.streams.get() + 1);
        counters.streams_total.set(counters.streams_total.get() + 1);
        Self(Rc::clone(counters))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
    }
}
