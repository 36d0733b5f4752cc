//! The enroller with the fake datapath and a paused clock.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use adit_core::enrolment::{NotEnrolled, Step};
use adit_core::identity::SpiffeId;
use adit_core::workload::{MeshMode, NodeName, PodUid, Workload};
use adit_core::world::Delta;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use super::{Certificates, Enroller, Enrolments, Places, PodState, PodStatus, Workers};
use crate::datapath::fake::{Asked, FakeDatapath, FakeNetwork};
use crate::datapath::{Datapath, EnrolledPod, Listeners};
use crate::discovery::Worlds;
use crate::shutdown::{self, Phase, Trigger};
use crate::testing::cluster::{namespace, pod};

#[tokio::test(start_paused = true)]
async fn a_labelled_pod_is_enrolled_and_its_connections_come_to_the_workers() {
    let agent = Agent::start(|_| {});
    agent.label(MeshMode::Ambient);
    agent.publish([cart()]);
    agent.reach("cart", &PodState::Enrolled).await;
    let asked = agent.datapath.take_asked();
    let mut expected = vec![Asked::Open(uid("cart"))];
    expected.extend(Step::ALL.map(|step| Asked::Perform(uid("cart"), step)));
    assert_eq!(asked, expected);
    let status = &agent.enrolments.list()[0];
    assert_eq!(status.name.to_string(), "shop/cart");
    assert_eq!(status.identity.service_account(), "cart");
    assert!(status.netns.is_some() && status.netns == cart().netns, "{status:?}");

    let fake = agent.datapath.pod(&uid("cart")).unwrap();
    let destination: SocketAddr = "10.9.0.1:80".parse().unwrap();
    let client = fake.connect(destination).await.unwrap();
    let (_, peer) = agent.workers.accept(&uid("cart"));
    assert_eq!(peer, client.local_addr().unwrap());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_touched_before_the_certificate_is_there() {
    let agent = Agent::start(|_| {});
    agent.certificates.hold();
    agent.label(MeshMode::Ambient);
    agent.publish([cart()]);
    agent.reach("cart", &PodState::AwaitingCertificate).await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(agent.datapath.take_asked(), []);
    agent.certificates.issue();
    agent.reach("cart", &PodState::Enrolled).await;
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_nobody_needs_any_more_is_given_back() {
    let agent = Agent::start(|_| {});
    agent.certificates.hold();
    agent.label(MeshMode::Ambient);
    agent.publish([cart()]);
    agent.reach("cart", &PodState::AwaitingCertificate).await;
    // Released before it is issued, and again while the report of it may be on its way.
    let why = NotEnrolled::NamespaceNotLabelled;
    agent.label(MeshMode::Unset);
    agent.reach("cart", &PodState::NotEnrolled(why)).await;
    agent.label(MeshMode::Ambient);
    agent.reach("cart", &PodState::AwaitingCertificate).await;
    agent.label(MeshMode::Unset);
    agent.certificates.issue();
    agent.reach("cart", &PodState::NotEnrolled(why)).await;
    agent.until(|_| agent.certificates.held() == 0).await;
}

#[tokio::test(start_paused = true)]
async fn pods_of_other_nodes_and_of_unlabelled_namespaces_are_left_alone() {
    let agent = Agent::start(|_| {});
    agent.label(MeshMode::Ambient);
    let elsewhere = pod("shop", "till", "node-b", ip("10.1.0.2"));
    let unlabelled = pod("other", "desk", NODE, ip("10.1.0.3"));
    agent.publish([cart(), elsewhere, unlabelled]);
    agent.reach("cart", &PodState::Enrolled).await;
    let why = NotEnrolled::NamespaceNotLabelled;
    agent.reach("desk", &PodState::NotEnrolled(why)).await;
    assert_eq!(agent.enrolments.list().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_unlabelled_pod_keeps_its_routes_until_its_flows_have_ended() {
    let agent = Agent::start(|_| {});
    agent.label(MeshMode::Ambient);
    agent.publish([cart()]);
    agent.reach("cart", &PodState::Enrolled).await;
    agent.datapath.take_asked();
    agent.workers.set_flows(1);

    agent.label(MeshMode::Unset);
    let waiting = PodState::Withdrawing(Step::Routes);
    agent.reach("cart", &waiting).await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let asked = agent.datapath.take_asked();
    let undo = |step| Asked::Undo(uid("cart"), step);
    assert_eq!(asked, [undo(Step::Capture), undo(Step::Lookup)]);
    assert_eq!(agent.state("cart"), Some(waiting));

    agent.workers.set_flows(0);
    let why = NotEnrolled::NamespaceNotLabelled;
    agent.reach("cart", &PodState::NotEnrolled(why)).await;
    let rest = [undo(Step::Routes), undo(Step::Slots), undo(Step::Listeners)];
    assert_eq!(agent.datapath.take_asked(), rest);
    agent.assert_nothing_left("cart");
}

#[tokio::test(start_paused = true)]
async fn a_pod_labelled_again_while_its_flows_end_is_captured_again() {
    let agent = Agent::start(|_| {});
    agent.label(MeshMode::Ambient);
    agent.publish([cart()]);
    agent.reach("cart", &PodState::Enrolled).await;
    agent.workers.set_flows(1);
    agent.label(MeshMode::Unset);
    agent.reach("cart", &PodState::Withdrawing(Step::Routes)).await;
    agent.datapath.take_asked();
    agent.label(MeshMode::Ambient);
    agent.reach("cart", &PodState::Enrolled).await;
    let perform = |step| Asked::Perform(uid("cart"), step);
    let again = [Step::Lookup, Step::Capture, Step::Hold].map(perform);
    assert_eq!(agent.datapath.take_asked(), again);
    agent.workers.set_flows(0);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(agent.datapath.take_asked(), []);
}

#[tokio::test(start_paused = true)]
async fn of_a_deleted_pod_nothing_is_left() {
    let agent = Agent::start(|_| {});
    agent.label(MeshMode::Ambient);
    agent.publish([cart()]);
    agent.reach("cart", &PodState::Enrolled).await;
    agent.workers.set_flows(1);
    agent.worlds.publish([Delta::WorkloadGone(uid("cart"))]);
    agent.until(<[PodStatus]>::is_empty).await;
    agent.assert_nothing_left("cart");
}

#[tokio::test(start_paused = true)]
async fn a_failure_up_to_the_capture_is_named_and_undone_and_tried_again() {
    for step in Step::ALL.into_iter().filter(|step| *step != Step::Hold) {
        let agent = Agent::start(|datapath| {
            datapath.fail_once(Asked::Perform(uid("cart"), step));
        });
        agent.label(MeshMode::Ambient);
        agent.publish([cart()]);
        let failed = PodState::Failed {
            step: Some(step),
            error: String::from("told to fail: out of memory"),
        };
        agent.reach("cart", &failed).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(agent.state("cart"), Some(failed));
        agent.assert_not_open("cart");
        let mut stands = BTreeSet::new();
        for asked in agent.datapath.take_asked() {
            match asked {
                Asked::Perform(_, step) => stands.insert(step),
                Asked::Undo(_, step) => stands.remove(&step),
                Asked::Open(_) | Asked::Forget(_) => false,
            };
        }
        assert_eq!(stands, BTreeSet::new(), "after a failure of {step:?}");
        agent.reach("cart", &PodState::Enrolled).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_after_the_capture_is_named_and_leaves_the_pod_captured() {
    let agent = Agent::start(|datapath| {
        datapath.fail_once(Asked::Perform(uid("cart"), Step::Hold));
    });
    agent.label(MeshMode::Ambient);
    agent.publish([cart()]);
    let failed = PodState::Failed {
        step: Some(Step::Hold),
        error: String::from("told to fail: out of memory"),
    };
    agent.reach("cart", &failed).await;
    let fake = agent.datapath.pod(&uid("cart")).unwrap();
    let client = fake.connect("10.9.0.1:80".parse().unwrap()).await.unwrap();
    let (_, peer) = agent.workers.accept(&uid("cart"));
    assert_eq!(peer, client.local_addr().unwrap());

    agent.reach("cart", &PodState::Enrolled).await;
    let mut asked = vec![Asked::Open(uid("cart"))];
    let steps = Step::ALL.into_iter().chain([Step::Hold]);
    asked.extend(steps.map(|step| Asked::Perform(uid("cart"), step)));
    assert_eq!(agent.datapath.take_asked(), asked);
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_namespace_cannot_be_opened_is_tried_again() {
    let agent = Agent::start(|datapath| datapath.fail_once(Asked::Open(uid("cart"))));
    agent.label(MeshMode::Ambient);
    agent.publish([cart()]);
    let failed =
        PodState::Failed { step: None, error: String::from("told to fail: out of memory") };
    agent.reach("cart", &failed).await;
    agent.reach("cart", &PodState::Enrolled).await;
}

#[tokio::test(start_paused = true)]
async fn workers_that_cannot_listen_fail_the_first_step() {
    let agent = Agent::start(|_| {});
    agent.workers.refuse_once();
    agent.label(MeshMode::Ambient);
    agent.publish([cart()]);
    let failed = PodState::Failed {
        step: Some(Step::Listeners),
        error: String::from("workers could not listen: out of memory"),
    };
    agent.reach("cart", &failed).await;
    agent.reach("cart", &PodState::Enrolled).await;
}

#[tokio::test(start_paused = true)]
async fn a_restarted_agent_takes_its_pods_up_without_uncapturing_them() {
    let mut agent = Agent::start_unsynced(|datapath| {
        for name in ["cart", "lost", "ended"] {
            datapath.leave_behind(&uid(name), name != "ended");
        }
        datapath.fail_once(Asked::Perform(uid("cart"), Step::Slots));
    });
    agent.publish([cart()]);
    agent.reach("cart", &PodState::Withdrawing(Step::Capture)).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let asked = agent.datapath.take_asked();
    assert_eq!(asked, [Asked::Forget(uid("ended"))], "discovery is not complete");

    agent.label(MeshMode::Ambient);
    agent.reach("cart", &PodState::Enrolled).await;
    agent.sync();
    agent.until(|_| agent_has_forgotten(&agent.datapath)).await;
    let asked = agent.datapath.take_asked();
    let undone = |asked: &&Asked| matches!(asked, Asked::Undo(..));
    assert_eq!(asked.iter().find(undone), None);
    assert_eq!(asked.last(), Some(&Asked::Forget(uid("lost"))));
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_deleted_by_force_stays_captured_for_as_long_as_it_runs() {
    static RUNS: AtomicBool = AtomicBool::new(true);
    fn find(wanted: &dyn Fn(&PodUid) -> bool) -> io::Result<BTreeMap<PodUid, PathBuf>> {
        let cart = Some(uid("cart")).filter(|uid| wanted(uid) && RUNS.load(Ordering::SeqCst));
        Ok(cart.map(|uid| (uid, PathBuf::from("/proc/7/ns/net"))).into_iter().collect())
    }
    let agent = Agent::start(|_| {});
    let (_trigger, shutdown) = shutdown::channel();
    let searching = tokio::spawn(agent.places.clone().search(find, shutdown));
    agent.label(MeshMode::Ambient);
    let described = || Workload { netns: None, ..cart() };
    let gone = || agent.worlds.publish([Delta::WorkloadGone(uid("cart"))]);
    agent.publish([described()]);
    agent.reach("cart", &PodState::Enrolled).await;
    agent.datapath.take_asked();

    gone();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(agent.state("cart"), Some(PodState::Enrolled));
    // Found again, and lost again, it is asked anew whether it runs.
    agent.publish([described()]);
    gone();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(
        (agent.state("cart"), agent.datapath.take_asked()),
        (Some(PodState::Enrolled), vec![])
    );

    RUNS.store(false, Ordering::SeqCst);
    agent.until(|list| list.is_empty()).await;
    agent.assert_nothing_left("cart");
    searching.abort();
}

#[tokio::test(start_paused = true)]
async fn at_the_end_captured_pods_stay_captured() {
    let mut agent = Agent::start(|_| {});
    agent.label(MeshMode::Ambient);
    agent.publish([cart()]);
    agent.reach("cart", &PodState::Enrolled).await;
    agent.datapath.take_asked();
    agent.shutdown.advance(Phase::Draining);
    (&mut agent.task).await.unwrap();
    assert_eq!(agent.datapath.take_asked(), []);
    assert_eq!(agent.state("cart"), Some(PodState::Enrolled));
    while agent.enrolments.changed().await {}
}

#[tokio::test(start_paused = true)]
async fn more_changes_than_the_channel_holds_are_not_lost() {
    let agent = Agent::start(|_| {});
    agent.label(MeshMode::Ambient);
    for number in 0..200 {
        let name = format!("pod-{number}");
        let address = IpAddr::from([10, 1, 1, number]);
        agent.publish([pod("shop", &name, NODE, address)]);
    }
    for number in 0..100 {
        let gone = Delta::WorkloadGone(uid(&format!("pod-{number}")));
        agent.worlds.publish([gone]);
    }
    agent
        .until(|list| {
            let enrolled = |pod: &PodStatus| pod.state == PodState::Enrolled;
            list.len() == 100 && list.iter().all(enrolled)
        })
        .await;
}

const NODE: &str = "node-a";

/// An enroller among fakes.
struct Agent {
    worlds: Worlds,
    places: Places,
    datapath: FakeDatapath,
    certificates: FakeCertificates,
    workers: FakeWorkers,
    enrolments: Enrolments,
    shutdown: Trigger,
    synced: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Agent {
    fn start(prepare: impl FnOnce(&FakeDatapath)) -> Self {
        let mut agent = Self::start_unsynced(prepare);
        agent.sync();
        agent
    }

    fn start_unsynced(prepare: impl FnOnce(&FakeDatapath)) -> Self {
        let datapath = FakeDatapath::new(&FakeNetwork::new(), 1);
        prepare(&datapath);
        let worlds = Worlds::new();
        let certificates = FakeCertificates::default();
        certificates.issue();
        let workers = FakeWorkers::default();
        let enroller = Enroller::new(
            NodeName::new(NODE),
            worlds.clone(),
            datapath.clone(),
            certificates.clone(),
            workers.clone(),
            7,
        );
        let places = Places::default();
        let enroller = enroller.with_places(places.clone());
        let (shutdown, watcher) = shutdown::channel();
        let (synced, first_list) = oneshot::channel();
        let enrolments = enroller.enrolments();
        let first_list = async {
            let _sent: Result<(), oneshot::error::RecvError> = first_list.await;
        };
        Self {
            worlds,
            places,
            datapath,
            certificates,
            workers,
            enrolments,
            shutdown,
            synced: Some(synced),
            task: tokio::spawn(enroller.run(first_list, watcher)),
        }
    }

    fn sync(&mut self) {
        self.synced.take().unwrap().send(()).unwrap();
    }

    fn label(&self, mode: MeshMode) {
        self.worlds.publish([Delta::Namespace(namespace("shop", mode))]);
    }

    fn publish(&self, pods: impl IntoIterator<Item = Workload>) {
        self.worlds.publish(pods.into_iter().map(Delta::Workload));
    }

    fn state(&self, name: &str) -> Option<PodState> {
        let list = self.enrolments.list();
        let found = list.into_iter().find(|pod| pod.uid == uid(name));
        found.map(|pod| pod.state)
    }

    async fn reach(&self, name: &str, state: &PodState) {
        self.until(|list| {
            let mut found = list.iter().filter(|pod| pod.uid == uid(name));
            found.any(|pod| pod.state == *state)
        })
        .await;
    }

    async fn until(&self, reached: impl Fn(&[PodStatus]) -> bool) {
        let mut enrolments = self.enrolments.clone();
        let wait = async {
            while !reached(&enrolments.list()) {
                tokio::select! {
                    more = enrolments.changed() => assert!(more, "the enroller has ended"),
                    // What is waited for may not be in the list.
                    () = tokio::time::sleep(Duration::from_millis(100)) => {}
                }
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(600), wait).await;
        assert!(waited.is_ok(), "stays {:?}", self.enrolments.list());
    }

    #[track_caller]
    fn assert_not_open(&self, name: &str) {
        assert!(self.datapath.pod(&uid(name)).is_none(), "still open");
        assert!(!self.workers.serve(&uid(name)), "still served");
    }

    #[track_caller]
    fn assert_nothing_left(&self, name: &str) {
        self.assert_not_open(name);
        assert_eq!(self.certificates.held(), 0);
    }
}

fn agent_has_forgotten(datapath: &FakeDatapath) -> bool {
    datapath.adopted().is_empty()
}

fn cart() -> Workload {
    pod("shop", "cart", NODE, ip("10.1.0.1"))
}

fn uid(text: &str) -> PodUid {
    PodUid::parse(text).unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[derive(Clone, Default)]
struct FakeCertificates {
    issuing: Arc<watch::Sender<bool>>,
    held: Arc<Mutex<BTreeSet<SpiffeId>>>,
}

impl FakeCertificates {
    fn hold(&self) {
        self.issuing.send_replace(false);
    }

    fn issue(&self) {
        self.issuing.send_replace(true);
    }

    fn held(&self) -> usize {
        self.held.lock().unwrap().len()
    }
}

impl Certificates for FakeCertificates {
    async fn acquire(&self, identity: &SpiffeId) {
        let mut issuing = self.issuing.subscribe();
        issuing.wait_for(|issuing| *issuing).await.unwrap();
        assert!(self.held.lock().unwrap().insert(identity.clone()), "twice");
    }

    fn release(&self, identity: &SpiffeId) {
        assert!(self.held.lock().unwrap().remove(identity), "not acquired");
    }
}

#[derive(Clone, Default)]
struct FakeWorkers {
    pods: Arc<Mutex<BTreeMap<PodUid, Vec<Listeners>>>>,
    flows: Arc<watch::Sender<usize>>,
    refusing: Arc<Mutex<bool>>,
}

impl FakeWorkers {
    fn set_flows(&self, flows: usize) {
        self.flows.send_replace(flows);
    }

    fn refuse_once(&self) {
        *self.refusing.lock().unwrap() = true;
    }

    fn serve(&self, uid: &PodUid) -> bool {
        self.pods.lock().unwrap().contains_key(uid)
    }

    fn accept(&self, uid: &PodUid) -> (std::net::TcpStream, SocketAddr) {
        let pods = self.pods.lock().unwrap();
        pods[uid][0].outbound.accept().unwrap()
    }
}

impl Workers for FakeWorkers {
    async fn add(&self, pod: &Arc<EnrolledPod>, listeners: Vec<Listeners>) -> io::Result<()> {
        tokio::task::yield_now().await;
        if std::mem::take(&mut *self.refusing.lock().unwrap()) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        let before = self.pods.lock().unwrap().insert(pod.uid.clone(), listeners);
        assert!(before.is_none());
        Ok(())
    }

    async fn idle(&self, _: &PodUid) {
        let mut flows = self.flows.subscribe();
        flows.wait_for(|flows| *flows == 0).await.unwrap();
    }

    async fn remove(&self, uid: &PodUid) {
        tokio::task::yield_now().await;
        self.pods.lock().unwrap().remove(uid);
    }
}
