//! Composition of `adit run`: makes every part, hands each its own settings, and ends them in
//! order.

mod adapt;
pub mod ca;
mod signals;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use adit_core::world::World;
use adit_shared::key::Role;
use anyhow::Context as _;
use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::admin;
use crate::announce;
use crate::cni;
use crate::config::{Config, Mesh, ProcessEnvironment};
use crate::datapath::kernel::KernelDatapath;
use crate::datapath::lock::PinsLock;
use crate::discovery::{Source, StatusHandle, Worlds};
use crate::enrol::{Enroller, Enrolments, Places};
use crate::identity::{Certificates, Clock, Configured};
use crate::observer;
use crate::observer::{Observer, Recorder, Sinks};
use crate::shutdown;
use crate::shutdown::{Phase, Shutdown, Trigger};
use crate::sys::{pods, process};
use crate::telemetry;
use crate::telemetry::{AccessLog, LogControl, Metrics, Readiness};
use crate::worker;
use adapt::{Ending, Parts};

/// Flow records that may wait for the observer.
const RECORDS: usize = 16 << 10;

/// Flows that ended and are still shown.
const RECENT: usize = 4096;

/// How long connections that are queued at a listener may take to be accepted.
const QUEUED: Duration = Duration::from_millis(200);

/// How long whoever asked for the drain has to take the answer.
const LAST_ANSWER: Duration = Duration::from_millis(200);

/// How long the last records may take on their way to the log.
const LAST_RECORDS: Duration = Duration::from_secs(2);

/// Heaps of the allocator for all threads.
const HEAPS: u8 = 2;

/// Threads of the control runtime.
const CONTROL_THREADS: usize = 2;

/// `adit run`: returns when the agent has ended.
///
/// # Errors
/// The configuration is wrong, or the node lacks something the agent cannot run without.
pub fn run(config: Option<&Path>) -> anyhow::Result<()> {
    process::share_heaps(HEAPS);
    let config = Config::load(config, &ProcessEnvironment)?;
    let log = telemetry::log::init(&config.log)?;
    let control = runtime::Builder::new_multi_thread()
        .worker_threads(CONTROL_THREADS)
        .thread_name("control")
        .enable_all()
        .build()
        .context("start the control runtime")?;
    let ended = control.block_on(agent(config, log.clone()));
    if let Err(error) = &ended {
        tracing::error!("{error:#}");
    }
    log.flush();
    ended
}

/// What the agent consists of once it runs.
struct Running {
    workers: worker::Workers,
    kernel: KernelDatapath,
    enroller: JoinHandle<()>,
    tasks: Vec<JoinHandle<()>>,
    observing: JoinHandle<()>,
    readiness: Readiness,
    ending: Arc<Ending>,
    _pins: PinsLock,
}

async fn agent(config: Config, log: LogControl) -> anyhow::Result<()> {
    let (trigger, shutdown) = shutdown::channel();
    let trigger = Arc::new(trigger);
    let signals = signals::listen(Arc::clone(&trigger)).context("listen for signals")?;
    let running = start(config, log, &trigger, &shutdown).await?;
    let mut ending = shutdown.clone();
    ending.reached(Phase::Draining).await;
    end(running, &trigger, shutdown).await;
    signals.abort();
    Ok(())
}

/// Starts everything, in the order in which one part needs another.
async fn start(
    config: Config,
    log: LogControl,
    trigger: &Arc<Trigger>,
    shutdown: &Shutdown,
) -> anyhow::Result<Running> {
    let started = SystemTime::now();
    // What can be refused comes before what touches the kernel: a second agent changes nothing.
    let doors = Doors::open(&config).await?;
    let pins = PinsLock::take(&config.datapath)?;
    let readiness = Readiness::new();
    let discovered = readiness.guard("the first list from discovery");
    if let Err(error) = process::raise_open_files() {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }

    let cluster = &config.mesh.cluster;
    let (metrics, meter) = Metrics::new(cluster, started, telemetry::metrics::Limits::default());
    let (recorder, records) = observer::channel(RECORDS);
    let observer = Observer::new(&records, RECENT);
    let roots = config.discovery.root_namespaces.iter().cloned();
    let worlds = Worlds::starting_from(World::with_root_namespaces(roots));
    let source = Configured::new(config.identity.ca.clone(), Clock::system());
    let lifetime = config.identity.lifetime;
    let (certificates, rotating) = Certificates::new(source, lifetime, Clock::system());

    let plugin = cni::install::Plugin::new(&config.cni, &config.admin.socket, &config.mesh.node);
    let (workers, kernel) = data_plane(&config, &worlds, &certificates, recorder)?;

    let places = Places::default();
    let enroller = Enroller::new(
        config.mesh.node.clone(),
        worlds.clone(),
        kernel.clone(),
        certificates.clone(),
        workers.clone(),
        rand::random(),
    )
    .with_places(places.clone());
    let enrolments = enroller.enrolments();
    let discovery = StatusHandle::new();
    let deadline = ArcSwap::from_pointee(config.drain_deadline);
    let ending =
        Arc::new(Ending { deadline, until: ArcSwapOption::empty(), cut: watch::Sender::new(None) });
    let parts = Parts {
        workers: workers.clone(),
        enrolments: enrolments.clone(),
        certificates,
        source: config.discovery.source.to_string(),
        discovery: discovery.clone(),
        kernel: kernel.clone(),
        trigger: Arc::clone(trigger),
        ending: Arc::clone(&ending),
        gate: cni::Gate::new(worlds.clone(), enrolments.clone(), places.clone()),
    };
    let state = Arc::new(admin::State {
        facts: facts(&config.mesh, started),
        sources: Box::new(parts),
        worlds: worlds.clone(),
        observer: observer.clone(),
        metrics,
        readiness: readiness.clone(),
        log,
    });

    let mut tasks = doors.serve(state, &readiness, shutdown);
    let sinks = Sinks { meter, access_log: AccessLog::new(config.access_log) };
    let (pods, policies) = (worlds.clone(), worlds.clone());
    let known = observer::Known {
        pod: move |uid: &_| pods.load().workload(uid).is_some(),
        policy: move |id: &_| policies.load().policies().contains(id),
    };
    let observing = tokio::spawn(observer::run(records, observer, sinks, known, workers.moved()));
    tasks.push(tokio::spawn(rotating.run(shutdown.clone())));
    tasks.push(tokio::spawn(workers.recheck_on_changes(&worlds, shutdown.clone())));
    tasks.extend(announced(&config, &worlds, &enrolments, &readiness, shutdown));
    tasks.push(tokio::spawn(config.discovery.source.run(
        config.mesh.trust_domain,
        worlds.clone(),
        discovery,
        shutdown.clone(),
    )));
    tasks.push(tokio::spawn(places.search(pods::network_namespaces, shutdown.clone())));
    tasks.push(tokio::spawn(plugin.run(worlds.clone(), shutdown.clone())));
    tasks.push(tokio::spawn(ready_when_enrolled(discovered, worlds.clone(), enrolments)));
    let enroller = tokio::spawn(enroller.run(first_list(worlds), shutdown.clone()));
    tracing::info!(node = %config.mesh.node, workers = workers.count(), "agent started");
    Ok(Running { workers, kernel, enroller, tasks, observing, readiness, ending, _pins: pins })
}

/// The threads that carry traffic, and the kernel's side of it.
fn data_plane(
    config: &Config,
    worlds: &Worlds,
    certificates: &Certificates,
    recorder: Recorder,
) -> anyhow::Result<(worker::Workers, KernelDatapath)> {
    let context = worker::Context {
        worlds: worlds.clone(),
        certificates: certificates.clone(),
        recorder,
        control: runtime::Handle::current(),
        tunnel: config.tunnel.clone(),
        flow: config.flow,
        cluster: Arc::clone(&config.mesh.cluster),
    };
    let workers = worker::start(config.worker, &context).context("start the workers")?;
    let kernel = KernelDatapath::start(&config.datapath, workers.count())
        .context("prepare the kernel; `adit doctor` tells what this node lacks")?;
    Ok((workers, kernel))
}

/// Tells the API server of this node's pods, where there is one, and that the node is open.
fn announced(
    config: &Config,
    worlds: &Worlds,
    enrolments: &Enrolments,
    readiness: &Readiness,
    shutdown: &Shutdown,
) -> Vec<JoinHandle<()>> {
    let Source::Kubernetes(settings) = &config.discovery.source else {
        return Vec::new();
    };
    let server = || announce::Server::new(settings.access.clone());
    let pods = announce::pods(server(), worlds.clone(), enrolments.clone(), shutdown.clone());
    let mut tasks = vec![tokio::spawn(pods)];
    if config.remove_taint {
        let node = config.mesh.node.clone();
        let open = announce::taint(server(), node, readiness.clone(), shutdown.clone());
        tasks.push(tokio::spawn(open));
    }
    tasks
}

fn facts(mesh: &Mesh, started: SystemTime) -> admin::NodeFacts {
    admin::NodeFacts {
        node: mesh.node.clone(),
        cluster: mesh.cluster.to_string(),
        trust_domain: mesh.trust_domain.clone(),
        started,
    }
}

/// Completes when discovery has published its first complete list.
async fn first_list(worlds: Worlds) {
    // A source that is gone will publish nothing: then nothing is known to be complete.
    if worlds.synced().wait_for(|synced| *synced).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The admin socket and the two ports. Whoever comes before they are served waits.
struct Doors {
    socket: admin::Socket,
    metrics: TcpListener,
    readiness: TcpListener,
}

impl Doors {
    async fn open(config: &Config) -> anyhow::Result<Self> {
        Ok(Self {
            socket: admin::Socket::open(&config.admin.socket)?,
            metrics: admin::listen(config.metrics.address, "metrics").await?,
            readiness: admin::listen(config.readiness.address, "readiness").await?,
        })
    }

    fn serve(
        self,
        state: admin::Shared,
        readiness: &Readiness,
        shutdown: &Shutdown,
    ) -> Vec<JoinHandle<()>> {
        let allow = admin::owner_or_root(&self.socket);
        let ready = readiness.clone();
        vec![
            tokio::spawn(self.socket.serve(Arc::clone(&state), allow, shutdown.clone())),
            tokio::spawn(admin::metrics(self.metrics, state, shutdown.clone())),
            tokio::spawn(admin::readiness(self.readiness, ready, shutdown.clone())),
        ]
    }
}

/// The agent is ready when the world is known and no pod that was found is on its way any more.
async fn ready_when_enrolled(
    discovered: telemetry::Guard,
    worlds: Worlds,
    mut enrolments: Enrolments,
) {
    first_list(worlds).await;
    while enrolments.list().iter().any(|pod| adapt::is_on_its_way(&pod.state)) {
        if !enrolments.changed().await {
            return;
        }
    }
    drop(discovered);
}

/// Lets new connections wait for the next agent, and leaves the workers the time to take those that
/// are queued: what a closed listener has not handed over would be reset. What the pods open comes
/// first, so that a connection between two of them still finds its way.
async fn stop_steering(kernel: &KernelDatapath) {
    for roles in [&[Role::Outbound][..], &[Role::Hbone, Role::Plaintext]] {
        if let Err(error) = kernel.stop_steering(roles) {
            tracing::warn!(%error, "connections that come now are refused instead of held");
        }
        tokio::time::sleep(QUEUED).await;
    }
}

/// Ends everything: no new flow, time for the open ones, then the rest. The pods stay captured, so
/// that their connections wait for the next agent.
async fn end(running: Running, trigger: &Trigger, mut shutdown: Shutdown) {
    let Running { workers, kernel, enroller, tasks, observing, readiness, ending, _pins } = running;
    let _draining = readiness.guard("the end of the process");
    let deadline = *ending.deadline.load_full();
    ending.until.store(Some(Arc::new(SystemTime::now() + deadline)));
    tracing::info!(?deadline, "draining");
    stop_steering(&kernel).await;
    let cut = tokio::select! {
        cut = workers.drain(deadline) => cut,
        () = shutdown.reached(Phase::Forced) => {
            tracing::info!("told to end at once");
            // Each flow that is cut is told so at both ends, and has its record.
            workers.drain(Duration::ZERO).await
        }
    };
    tracing::info!(flows_cut = cut, "drained");
    ending.cut.send_replace(Some(cut));
    if ending.cut.receiver_count() > 0 {
        tokio::time::sleep(LAST_ANSWER).await;
    }
    trigger.advance(Phase::Forced);
    drop(workers);
    for task in tasks.iter().chain([&enroller]) {
        task.abort();
    }
    for task in tasks.into_iter().chain([enroller]) {
        let _cancelled: Result<(), tokio::task::JoinError> = task.await;
    }
    // The last records are of the flows that were cut; it ends with the last worker.
    let _late = tokio::time::timeout(LAST_RECORDS, observing).await;
}
