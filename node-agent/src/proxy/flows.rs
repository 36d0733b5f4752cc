//! The flows that live on one worker: registered before they are decided, listed, decided again,
//! ended, and recorded once when they have ended.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use adit_core::flow::{
    CloseReason, Direction, FlowContext, FlowId, FlowRecord, Moved, Party, PlaintextReason,
    Protocol,
};
use adit_core::policy::Grounds;
use adit_core::recheck::{self, Recheck};
use adit_core::route::{self, Plan, Query};
use adit_core::workload::PodUid;
use adit_core::world::{Changes, World};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::accept::{Arrived, Captured, tunnel_port};
use crate::datapath::EnrolledPod;
use crate::observer::Recorder;
use crate::tunnel::Ends;

/// The flows of one worker.
pub(crate) struct Flows {
    /// Ids are `next * stride + worker`: unique on the node without anything shared.
    worker: u64,
    stride: u64,
    next: Cell<u64>,
    live: RefCell<BTreeMap<FlowId, Rc<Live>>>,
    idle: RefCell<HashMap<PodUid, Vec<oneshot::Sender<()>>>>,
    recorder: Recorder,
}

/// A flow that lives.
struct Live {
    record: RefCell<FlowRecord>,
    pod: PodUid,
    sent: Cell<u64>,
    received: Cell<u64>,
    started: Instant,
    /// What an inbound flow was decided on.
    context: RefCell<Option<Box<FlowContext>>>,
    /// The tunnel that it is in.
    tunnel: RefCell<Option<Rc<Ends>>>,
    ended: Cell<Option<CloseReason>>,
    ending: Notify,
}

/// A flow's place among the living. It leaves when this is dropped.
pub(crate) struct Flow {
    flows: Rc<Flows>,
    live: Rc<Live>,
}

impl Flows {
    /// No flows yet, on worker `worker` of `workers`.
    pub(crate) fn new(worker: usize, workers: usize, recorder: Recorder) -> Rc<Self> {
        Rc::new(Self {
            worker: worker as u64,
            stride: workers.max(1) as u64,
            next: Cell::new(1),
            live: RefCell::default(),
            idle: RefCell::default(),
            recorder,
        })
    }

    /// Registers a connection that a pod opened.
    pub(crate) fn register_outbound(self: &Rc<Self>, world: &World, captured: &Captured) -> Flow {
        let source = own(world, &captured.pod, captured.source);
        let destination = Party { address: captured.dialled, workload: None, identity: None };
        self.register(&captured.pod, Direction::Outbound, source, destination)
    }

    /// Registers a connection or stream to a pod.
    pub(crate) fn register_inbound(self: &Rc<Self>, world: &World, arrived: &Arrived) -> Flow {
        let known = world.workload_at(arrived.source.ip());
        let identity = arrived.tunnel.as_ref().map(|tunnel| tunnel.peer.clone());
        let workload = known.filter(|pod| identity.as_ref().is_none_or(|id| *id == pod.identity));
        let source = Party {
            address: arrived.source,
            workload: workload.map(Arc::clone),
            identity: identity.clone(),
        };
        let destination = own(world, &arrived.pod, arrived.dialled);
        let flow = self.register(&arrived.pod, Direction::Inbound, source, destination);
        {
            let mut record = flow.live.record.borrow_mut();
            record.tls = arrived.tunnel.as_ref().map(|tunnel| tunnel.tls);
            flow.live.tunnel.borrow_mut().clone_from(&arrived.tunnel);
            record.protocol = if identity.is_some() {
                Protocol::Hbone
            } else {
                let destination = record.destination.workload.as_deref();
                let known = known.map(|pod| &**pod);
                Protocol::Plaintext(route::came_in_plaintext(world, known, destination))
            };
            // The claim is believed as far as discovery bears it out.
            record.service = arrived.claimed_service.clone().filter(|service| {
                let endpoints = world.endpoints(service);
                endpoints.iter().any(|endpoint| endpoint.address == arrived.dialled.ip())
            });
        }
        flow
    }

    fn register(
        self: &Rc<Self>,
        pod: &EnrolledPod,
        direction: Direction,
        source: Party,
        destination: Party,
    ) -> Flow {
        let id = FlowId(self.next.get() * self.stride + self.worker);
        self.next.set(self.next.get() + 1);
        let record = FlowRecord {
            id,
            direction,
            source,
            destination,
            service: None,
            protocol: Protocol::Undecided,
            tls: None,
            grounds: None,
            started: SystemTime::now(),
            duration: Duration::ZERO,
            sent: 0,
            received: 0,
            end: None,
        };
        let live = Rc::new(Live {
            record: RefCell::new(record),
            pod: pod.uid.clone(),
            sent: Cell::new(0),
            received: Cell::new(0),
            started: Instant::now(),
            context: RefCell::new(None),
            tunnel: RefCell::new(None),
            ended: Cell::new(None),
            ending: Notify::new(),
        });
        self.live.borrow_mut().insert(id, Rc::clone(&live));
        Flow { flows: Rc::clone(self), live }
    }

    /// How many flows live.
    pub(crate) fn len(&self) -> usize {
        self.live.borrow().len()
    }

    /// The flows that live, in order of their ids.
    pub(crate) fn list(&self) -> Vec<FlowRecord> {
        self.live.borrow().values().map(|live| live.snapshot(None)).collect()
    }

    /// What those that live have moved so far.
    pub(crate) fn moved(&self) -> Vec<Moved> {
        let moved = |(id, live): (&FlowId, &Rc<Live>)| Moved {
            id: *id,
            sent: live.sent.get(),
            received: live.received.get(),
        };
        self.live.borrow().iter().map(moved).collect()
    }

    /// Ends all flows of a pod.
    pub(crate) fn end_pod(&self, uid: &PodUid, reason: CloseReason) {
        for live in self.live.borrow().values().filter(|live| live.pod == *uid) {
            live.end(reason);
        }
    }

    /// Ends all flows in a tunnel.
    pub(crate) fn end_tunnel(&self, ends: &Rc<Ends>, reason: CloseReason) {
        let of = |live: &&Rc<Live>| {
            live.tunnel.borrow().as_ref().is_some_and(|tunnel| Rc::ptr_eq(tunnel, ends))
        };
        self.live.borrow().values().filter(of).for_each(|live| live.end(reason));
    }

    /// Ends all flows and says how many those are.
    pub(crate) fn end_all(&self, reason: CloseReason) -> usize {
        let live = self.live.borrow();
        live.values().for_each(|flow| flow.end(reason));
        live.len()
    }

    /// Decides the flows again that `changes` touch (all of them if `None`), and ends those that are
    /// no longer permitted, and those in plaintext that have to be in a tunnel.
    pub(crate) fn recheck(&self, world: &World, changes: Option<&Changes>) {
        for live in self.live.borrow().values() {
            let context = live.context.borrow();
            let Some(context) = context.as_deref() else {
                if live.has_strayed(world, changes) {
                    live.end(CloseReason::Strayed);
                }
                continue;
            };
            match recheck::recheck(world, changes, context) {
                Recheck::Untouched => {}
                Recheck::Permitted(grounds) => live.note(grounds),
                Recheck::Ended(reason, grounds) => {
                    live.note(grounds);
                    live.end(reason);
                }
            }
        }
    }

    /// Completes when no flow of the pod lives.
    pub(crate) fn when_idle(&self, uid: &PodUid, done: oneshot::Sender<()>) {
        self.idle.borrow_mut().entry(uid.clone()).or_default().push(done);
        self.tell_if_idle(uid);
    }

    fn tell_if_idle(&self, uid: &PodUid) {
        if self.live.borrow().values().any(|live| live.pod == *uid) {
            return;
        }
        for done in self.idle.borrow_mut().remove(uid).unwrap_or_default() {
            // Whoever asked may have given up.
            let _gone: Result<(), ()> = done.send(());
        }
    }
}

impl Flow {
    /// Runs the rest of the flow's life until it ends by itself or is ended.
    pub(super) async fn race(&self, life: impl Future<Output = CloseReason>) -> CloseReason {
        tokio::select! {
            biased;
            reason = self.live.ended() => reason,
            reason = life => reason,
        }
    }

    /// Runs a part of the flow's life, unless it is ended before.
    pub(super) async fn unless_ended<T>(
        &self,
        part: impl Future<Output = Result<T, CloseReason>>,
    ) -> Result<T, CloseReason> {
        tokio::select! {
            biased;
            reason = self.live.ended() => Err(reason),
            done = part => done,
        }
    }

    /// Notes where an outbound flow goes.
    pub(super) fn planned(&self, plan: &Plan) {
        let mut record = self.live.record.borrow_mut();
        let dialled = record.destination.address;
        match plan {
            Plan::Tunnel(hop) => {
                record.protocol = Protocol::Hbone;
                record.service.clone_from(&hop.service);
                record.destination = Party {
                    address: hop.destination,
                    workload: Some(Arc::clone(&hop.workload)),
                    identity: Some(hop.identity.clone()),
                };
            }
            Plan::Plaintext(direct) => {
                record.protocol = Protocol::Plaintext(direct.reason);
                record.service.clone_from(&direct.service);
                record.destination = Party {
                    address: direct.destination,
                    workload: direct.workload.clone(),
                    identity: None,
                };
                drop(record);
                self.announce();
            }
            Plan::Refuse(_) => record.destination.address = dialled,
        }
    }

    /// Notes the tunnel of an outbound flow.
    pub(super) fn tunnelled(&self, ends: &Rc<Ends>) {
        *self.live.tunnel.borrow_mut() = Some(Rc::clone(ends));
        self.live.record.borrow_mut().tls = Some(ends.tls);
        self.announce();
    }

    /// Notes what an inbound flow was decided on. One that is let in is under way; the end of one
    /// that is not comes at once and is told then.
    pub(super) fn decided(&self, context: FlowContext, grounds: Grounds, permitted: bool) {
        self.live.note(grounds);
        *self.live.context.borrow_mut() = Some(Box::new(context));
        if permitted {
            self.announce();
        }
    }

    /// Notes that an inbound flow is the kubelet's. No policy let it in, so none can end it.
    pub(super) fn is_probe(&self) {
        self.live.record.borrow_mut().protocol = Protocol::Plaintext(PlaintextReason::Probe);
        self.announce();
    }

    /// Tells the observer that the flow is under way.
    fn announce(&self) {
        self.flows.recorder.record(self.live.snapshot(None));
    }

    /// Payload bytes from source to destination.
    pub(super) fn sent(&self) -> &Cell<u64> {
        &self.live.sent
    }

    /// Payload bytes from destination to source.
    pub(super) fn received(&self) -> &Cell<u64> {
        &self.live.received
    }

    /// Why the flow was ended, if something outside of it did.
    pub(super) fn ended_for(&self) -> Option<CloseReason> {
        self.live.ended.get()
    }

    /// The flow has ended.
    pub(super) fn finish(self, reason: CloseReason) {
        self.live.ended.set(Some(reason));
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        // A task that was dropped in the middle of its flow's life was dropped with its worker, or it
        // panicked: then its flow ends, and no other one.
        let in_the_middle =
            if std::thread::panicking() { CloseReason::Local } else { CloseReason::Drained };
        let reason = self.live.ended.get().unwrap_or(in_the_middle);
        let record = self.live.snapshot(Some(reason));
        self.flows.live.borrow_mut().remove(&record.id);
        self.flows.recorder.record(record);
        if !self.flows.idle.borrow().is_empty() {
            self.flows.tell_if_idle(&self.live.pod);
        }
    }
}

impl Live {
    fn snapshot(&self, end: Option<CloseReason>) -> FlowRecord {
        let mut record = self.record.borrow().clone();
        record.sent = self.sent.get();
        record.received = self.received.get();
        record.duration = self.started.elapsed();
        record.end = end;
        record
    }

    fn has_strayed(&self, world: &World, changes: Option<&Changes>) -> bool {
        let record = self.record.borrow();
        let (Direction::Outbound, Protocol::Plaintext(_)) = (record.direction, record.protocol)
        else {
            return false;
        };
        let (source, dialled) = (record.source.address.ip(), record.destination.address);
        let query = Query { caller: Some(&self.pod), dialled, source, random: 0 };
        let destination = record.destination.workload.as_ref().map(|pod| &pod.uid);
        recheck::has_strayed(world, changes, &query, destination)
    }

    /// The last grounds count, unless they came after the end.
    fn note(&self, grounds: Grounds) {
        if self.ended.get().is_none() {
            self.record.borrow_mut().grounds = Some(Arc::new(grounds));
        }
    }

    /// The first reason counts.
    fn end(&self, reason: CloseReason) {
        if self.ended.get().is_none() {
            self.ended.set(Some(reason));
            self.ending.notify_one();
        }
    }

    async fn ended(&self) -> CloseReason {
        loop {
            if let Some(reason) = self.ended.get() {
                return reason;
            }
            self.ending.notified().await;
        }
    }
}

/// The end of a flow that is this node's own pod.
fn own(world: &World, pod: &EnrolledPod, address: SocketAddr) -> Party {
    let workload = world.workload(&pod.uid).map(Arc::clone);
    Party { address, workload, identity: Some(pod.identity.clone()) }
}

/// The record of a tunnel that was refused before it carried a flow.
pub(crate) fn refused_tunnel(
    flows: &Rc<Flows>,
    world: &World,
    pod: &Arc<EnrolledPod>,
    (source, reason): (SocketAddr, CloseReason),
) {
    let arrived = Arrived {
        pod: Arc::clone(pod),
        source,
        tunnel: None,
        dialled: tunnel_port(pod, source.ip()),
        claimed_service: None,
    };
    let flow = flows.register_inbound(world, &arrived);
    flow.live.record.borrow_mut().protocol = Protocol::Hbone;
    flow.finish(reason);
}
