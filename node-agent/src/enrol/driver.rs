//! The loop that drives the machine: what happens goes in, what it commands is done.

use std::collections::BTreeMap;
use std::future::{Future, pending};
use std::pin::pin;
use std::sync::Arc;
use std::time::SystemTime;

use adit_core::enrolment::{Command, Enrolment, Input, Job, PodState, select};
use adit_core::identity::SpiffeId;
use adit_core::workload::{NodeName, PodUid, Workload};
use adit_core::world::{Changes, World};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, watch};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use super::jobs::{Opened, Outcome, Outside};
use super::{Certificates, Enrolments, Places, PodStatus, Workers};
use crate::datapath::Datapath;
use crate::discovery::Worlds;
use crate::shutdown::{Phase, Shutdown};

/// Enrols and withdraws the pods of this node.
pub struct Enroller<D: Datapath, C, W> {
    node: NodeName,
    worlds: Worlds,
    places: Places,
    changes: broadcast::Receiver<Arc<Changes>>,
    outside: Arc<Outside<D, C, W>>,
    machine: Enrolment,
    opened: BTreeMap<PodUid, Opened<D::Pod>>,
    tasks: JoinSet<Report<D>>,
    waits: Waits,
    shown: Shown,
}

/// Tasks that only wait.
#[derive(Debug, Default)]
struct Waits {
    idle: BTreeMap<PodUid, AbortHandle>,
    certificates: BTreeMap<SpiffeId, Fetch>,
    /// How many certificates were asked for so far.
    asked: u64,
}

/// A certificate that was asked for.
#[derive(Debug)]
struct Fetch {
    number: u64,
    task: AbortHandle,
    ready: bool,
}

/// What people see.
#[derive(Debug)]
struct Shown {
    /// The pods of this node, as discovery described them last.
    pods: BTreeMap<PodUid, Arc<Workload>>,
    states: BTreeMap<PodUid, (PodState, SystemTime)>,
    /// The network namespaces that are open.
    netns: BTreeMap<PodUid, Arc<str>>,
    changed: bool,
    published: watch::Sender<Arc<[PodStatus]>>,
}

/// A task has ended.
enum Report<D: Datapath> {
    Finished(PodUid, Job, Outcome<D::Pod>),
    Idle(PodUid, u64),
    Certificate(SpiffeId, u64),
}

impl<D: Datapath, C: Certificates, W: Workers> Enroller<D, C, W> {
    /// An enroller for the pods of `node`. Changes of the world are noted from here on. The seed
    /// decides the jitter of retries.
    #[must_use]
    pub fn new(
        node: NodeName,
        worlds: Worlds,
        datapath: D,
        certificates: C,
        workers: W,
        seed: u64,
    ) -> Self {
        let (published, _) = watch::channel(Arc::default());
        Self {
            node,
            changes: worlds.subscribe(),
            worlds,
            places: Places::default(),
            outside: Arc::new(Outside { datapath, certificates, workers }),
            machine: Enrolment::new(seed),
            opened: BTreeMap::new(),
            tasks: JoinSet::new(),
            waits: Waits::default(),
            shown: Shown {
                pods: BTreeMap::new(),
                states: BTreeMap::new(),
                netns: BTreeMap::new(),
                changed: false,
                published,
            },
        }
    }

    /// With the places of pods whose description does not name their network namespace.
    #[must_use]
    pub fn with_places(self, places: Places) -> Self {
        Self { places, ..self }
    }

    /// The pods, to look at.
    #[must_use]
    pub fn enrolments(&self) -> Enrolments {
        Enrolments::new(self.shown.published.subscribe())
    }

    /// Runs until the agent has drained, or is to end now. Captured pods stay captured.
    ///
    /// `synced` ends when discovery has published its first complete list; what an earlier agent
    /// left is not touched before.
    pub async fn run(mut self, synced: impl Future<Output = ()> + Send, shutdown: Shutdown) {
        let mut synced = pin!(synced);
        let (mut draining, mut forced) = (shutdown.clone(), shutdown);
        let (mut is_synced, mut is_closing) = (false, false);
        let places = self.places.clone();
        self.begin();
        loop {
            self.execute();
            self.shown.publish();
            if is_closing && self.machine.is_settled() {
                return;
            }
            tokio::select! {
                () = forced.reached(Phase::Forced) => return,
                () = draining.reached(Phase::Draining), if !is_closing => {
                    is_closing = true;
                    self.handle(Input::Shutdown);
                }
                () = &mut synced, if !is_synced => {
                    is_synced = true;
                    self.look_at_all();
                    self.handle(Input::Synced);
                }
                fresh = places.fresh() => {
                    let world = self.worlds.load();
                    for uid in &fresh {
                        self.look_at(&world, uid);
                    }
                }
                changes = self.changes.recv() => self.handle_changes(changes),
                Some(report) = self.tasks.join_next() => self.handle_report(report),
                () = deadline(&self.machine) => {
                    self.machine.handle_timeout(Instant::now().into_std());
                }
            }
        }
    }

    fn begin(&mut self) {
        for adopted in self.outside.datapath.adopted() {
            info!(uid = %adopted.uid, alive = adopted.alive, "an earlier agent left this pod captured");
            self.handle(Input::Adopted { uid: adopted.uid, alive: adopted.alive });
        }
        self.look_at_all();
    }

    fn handle(&mut self, input: Input) {
        self.machine.handle(input, Instant::now().into_std());
    }

    fn handle_changes(&mut self, changes: Result<Arc<Changes>, RecvError>) {
        match changes {
            Ok(changes) => {
                let world = self.worlds.load();
                for uid in &changes.workloads {
                    self.look_at(&world, uid);
                }
            }
            // `self.worlds` holds a sender: `Closed` cannot happen.
            Err(RecvError::Lagged(_) | RecvError::Closed) => self.look_at_all(),
        }
    }

    fn look_at_all(&mut self) {
        let world = self.worlds.load();
        let mut all: Vec<PodUid> = self.shown.pods.keys().cloned().collect();
        all.extend(world.workloads_on(&self.node).map(|pod| pod.uid.clone()));
        for uid in all {
            self.look_at(&world, &uid);
        }
    }

    fn look_at(&mut self, world: &World, uid: &PodUid) {
        let here = |pod: &&Arc<Workload>| pod.node.as_ref() == Some(&self.node);
        let Some(pod) = world.workload(uid).filter(here) else {
            // While it runs, it is not to get past adit.
            if self.opened.contains_key(uid) && !self.places.has_ended(uid) {
                return;
            }
            // The CNI plugin may know a pod before discovery does.
            if self.shown.pods.contains_key(uid) {
                self.places.forget(uid);
            }
            self.handle(Input::Gone(uid.clone()));
            return;
        };
        self.shown.describe(pod);
        let input = match select(world, pod) {
            Ok(()) => Input::Wanted(self.places.target(pod)),
            Err(why) => {
                self.places.stop_looking(uid);
                Input::Unwanted(uid.clone(), why)
            }
        };
        self.handle(input);
    }

    fn handle_report(&mut self, report: Result<Report<D>, JoinError>) {
        let report = match report {
            Ok(report) => report,
            Err(error) if error.is_cancelled() => return,
            // A job that panicked will never end, and its pod would hang: let the agent fail.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        match report {
            Report::Finished(uid, job, outcome) => {
                let result = outcome.map(|opened| {
                    if let Some(opened) = opened {
                        self.shown.open(&uid, opened.target.netns.clone());
                        self.opened.insert(uid.clone(), opened);
                    }
                });
                self.handle(Input::Finished(uid, job, result));
            }
            Report::Idle(uid, number) => self.handle(Input::Idle(uid, number)),
            Report::Certificate(identity, number) => {
                let fetch = self.waits.certificates.get_mut(&identity);
                if let Some(fetch) = fetch.filter(|fetch| fetch.number == number) {
                    fetch.ready = true;
                    self.handle(Input::CertificateReady(identity));
                } else {
                    // Released while this report was on its way.
                    self.outside.certificates.release(&identity);
                }
            }
        }
    }

    fn execute(&mut self) {
        while let Some(command) = self.machine.poll_command() {
            match command {
                Command::Acquire(identity) => self.acquire(identity),
                Command::Release(identity) => self.release(&identity),
                Command::Start(uid, job) => self.start(uid, job),
                Command::AwaitIdle(uid, number) => self.await_idle(uid, number),
                Command::Close(uid) => {
                    self.opened.remove(&uid);
                    self.shown.open(&uid, None);
                    self.stop_waiting(&uid);
                }
                Command::Show(uid, state) => {
                    if matches!(&state, Some(PodState::Failed { step: None, .. })) {
                        self.places.doubt(&uid);
                    }
                    self.shown.set(&uid, state);
                }
            }
        }
    }

    fn acquire(&mut self, identity: SpiffeId) {
        self.waits.asked += 1;
        let number = self.waits.asked;
        let outside = Arc::clone(&self.outside);
        let name = identity.clone();
        let task = self.tasks.spawn(async move {
            outside.certificates.acquire(&identity).await;
            Report::Certificate(identity, number)
        });
        self.waits.certificates.insert(name, Fetch { number, task, ready: false });
    }

    fn release(&mut self, identity: &SpiffeId) {
        match self.waits.certificates.remove(identity) {
            Some(fetch) if fetch.ready => self.outside.certificates.release(identity),
            // If it is too late to abort, the report releases.
            Some(fetch) => fetch.task.abort(),
            None => {}
        }
    }

    fn start(&mut self, uid: PodUid, job: Job) {
        let outside = Arc::clone(&self.outside);
        let opened = self.opened.get(&uid).cloned();
        self.tasks.spawn(async move {
            let outcome = outside.carry_out(&uid, &job, opened).await;
            Report::Finished(uid, job, outcome)
        });
    }

    fn await_idle(&mut self, uid: PodUid, number: u64) {
        self.stop_waiting(&uid);
        let outside = Arc::clone(&self.outside);
        let name = uid.clone();
        let task = self.tasks.spawn(async move {
            outside.workers.idle(&uid).await;
            Report::Idle(uid, number)
        });
        self.waits.idle.insert(name, task);
    }

    fn stop_waiting(&mut self, uid: &PodUid) {
        if let Some(task) = self.waits.idle.remove(uid) {
            task.abort();
        }
    }
}

impl Shown {
    fn describe(&mut self, pod: &Arc<Workload>) {
        self.pods.insert(pod.uid.clone(), Arc::clone(pod));
        self.changed = true;
    }

    fn open(&mut self, uid: &PodUid, netns: Option<Arc<str>>) {
        self.changed = true;
        match netns {
            Some(netns) => drop(self.netns.insert(uid.clone(), netns)),
            None => drop(self.netns.remove(uid)),
        }
    }

    fn set(&mut self, uid: &PodUid, state: Option<PodState>) {
        self.changed = true;
        let name = self.pods.get(uid).map(|pod| pod.name.to_string());
        let Some(state) = state else {
            info!(%uid, pod = name, "pod is gone");
            self.pods.remove(uid);
            self.states.remove(uid);
            return;
        };
        match &state {
            PodState::Enrolled => info!(%uid, pod = name, "pod enrolled"),
            PodState::Failed { step, error } => {
                let step = step.map_or("open", |step| step.as_label());
                warn!(%uid, pod = name, step, error, "enrolment step failed");
            }
            PodState::NotEnrolled(why) if why.is_refusal() => {
                warn!(%uid, pod = name, why = why.as_label(), "pod refused: {why}");
            }
            PodState::NotEnrolled(why) => {
                info!(%uid, pod = name, why = why.as_label(), "pod not enrolled");
            }
            PodState::AwaitingNamespace
            | PodState::AwaitingCertificate
            | PodState::Enrolling(_)
            | PodState::Withdrawing(_) => {
                debug!(%uid, pod = name, state = state.as_label(), "pod changes");
            }
        }
        self.states.insert(uid.clone(), (state, SystemTime::now()));
    }

    fn publish(&mut self) {
        if !self.changed {
            return;
        }
        self.changed = false;
        let list: Vec<PodStatus> = self
            .states
            .iter()
            .filter_map(|(uid, (state, since))| {
                let pod = self.pods.get(uid)?;
                Some(PodStatus {
                    uid: uid.clone(),
                    name: pod.name.clone(),
                    identity: pod.identity.clone(),
                    addresses: pod.addresses.clone(),
                    netns: self.netns.get(uid).cloned(),
                    state: state.clone(),
                    since: *since,
                })
            })
            .collect();
        self.published.send_replace(Arc::from(list));
    }
}

/// Waits for the machine's next deadline; for ever if it has none.
async fn deadline(machine: &Enrolment) {
    match machine.poll_timeout() {
        Some((at, _)) => sleep_until(Instant::from_std(at)).await,
        None => pending().await,
    }
}
