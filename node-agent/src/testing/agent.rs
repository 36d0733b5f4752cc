//! An agent in this process: real workers, tunnels and certificates, on a fake datapath.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use adit_core::enrolment::PodState;
use adit_core::flow::{Direction, FlowRecord};
use adit_core::identity::TrustDomain;
use adit_core::workload::{NodeName, PodUid};
use adit_core::world::Delta;
use tokio::runtime;
use tokio::sync::Mutex;

use crate::datapath::fake::{FakeDatapath, FakeNetwork, FakePod};
use crate::discovery::Worlds;
use crate::enrol::{Enroller, Enrolments};
use crate::identity::{CaSettings, Certificates, Clock, Configured};
use crate::observer;
use crate::pki;
use crate::shutdown;
use crate::tunnel;
use crate::worker;

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(10);

/// A certificate authority in a directory of its own, removed with it.
#[derive(Debug)]
pub struct TestCa {
    directory: PathBuf,
}

/// What a test may want otherwise.
#[derive(Debug, Clone)]
pub struct TestSettings {
    /// How long certificates live.
    pub lifetime: Duration,
    /// How tunnels live.
    pub tunnel: tunnel::Settings,
}

impl Default for TestSettings {
    fn default() -> Self {
        let tunnel = tunnel::Settings {
            connect_timeout: Duration::from_secs(3),
            ..tunnel::Settings::default()
        };
        Self { lifetime: Duration::from_secs(24 * 3600), tunnel }
    }
}

/// The agent. Its threads end with it.
pub struct TestAgent {
    /// The kernel's side.
    pub datapath: FakeDatapath,
    /// The data plane.
    pub workers: worker::Workers,
    /// The pods.
    pub enrolments: Enrolments,
    /// The world as this agent knows it.
    pub worlds: Worlds,
    records: Mutex<observer::Records>,
    _trigger: shutdown::Trigger,
}

#[expect(clippy::expect_used, reason = "a mistake in a test must end it")]
impl TestCa {
    /// A new root.
    ///
    /// # Panics
    /// If the temporary directory takes no files.
    #[must_use]
    pub fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name =
            format!("adit-test-ca-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let directory = std::env::temp_dir().join(name);
        let domain = TrustDomain::parse("cluster.local").expect("a trust domain");
        pki::init(&directory, &domain, SystemTime::now()).expect("a certificate authority");
        Self { directory }
    }

    /// Puts a new root in the place of the old one, which is trusted by nothing that is issued from
    /// now on.
    ///
    /// # Panics
    /// If the temporary directory takes no files.
    pub fn replace_root(&self) {
        let old = self.directory.with_extension("old");
        std::fs::rename(&self.directory, &old).expect("the directory to be movable");
        let domain = TrustDomain::parse("cluster.local").expect("a trust domain");
        pki::init(&self.directory, &domain, SystemTime::now()).expect("a certificate authority");
        std::fs::remove_dir_all(old).expect("the old directory to go");
    }
}

impl Default for TestCa {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for TestCa {
    fn drop(&mut self) {
        let _left_over = std::fs::remove_dir_all(&self.directory);
    }
}

#[expect(clippy::expect_used, clippy::panic, reason = "a mistake in a test must end it")]
impl TestAgent {
    /// An agent of `node` with two workers, which knows nothing yet.
    ///
    /// # Panics
    /// If a thread cannot be made.
    #[must_use]
    pub fn start(network: &FakeNetwork, node: &str, ca: &TestCa) -> Self {
        Self::start_with(network, node, ca, TestSettings::default())
    }

    /// Such an agent with other settings.
    ///
    /// # Panics
    /// If a thread cannot be made.
    #[must_use]
    pub fn start_with(
        network: &FakeNetwork,
        node: &str,
        ca: &TestCa,
        settings: TestSettings,
    ) -> Self {
        let TestSettings { lifetime, mut tunnel } = settings;
        // The engines speak with each other.
        if node != "a" {
            tunnel.engine = tunnel::Engine::H2;
        }
        let (trigger, shutdown) = shutdown::channel();
        let (recorder, records) = observer::channel(1 << 16);
        let worlds = Worlds::new();
        worlds.mark_synced();
        let source = Configured::new(CaSettings::File(ca.directory.clone()), Clock::system());
        let (certificates, rotating) = Certificates::new(source, lifetime, Clock::system());
        tokio::spawn(rotating.run(shutdown.clone()));
        let context = worker::Context {
            worlds: worlds.clone(),
            certificates: certificates.clone(),
            recorder,
            control: runtime::Handle::current(),
            tunnel,
            flow: crate::proxy::Settings::default(),
            cluster: Arc::from("Kubernetes"),
        };
        let workers =
            worker::start(worker::Settings { workers: 2 }, &context).expect("worker threads");
        tokio::spawn(workers.recheck_on_changes(&worlds, shutdown.clone()));
        let datapath = FakeDatapath::new(network, workers.count());
        let enroller = Enroller::new(
            NodeName::new(node),
            worlds.clone(),
            datapath.clone(),
            certificates,
            workers.clone(),
            7,
        );
        let enrolments = enroller.enrolments();
        tokio::spawn(enroller.run(std::future::ready(()), shutdown));
        let records = Mutex::new(records);
        Self { datapath, workers, enrolments, worlds, records, _trigger: trigger }
    }

    /// Tells the agent of the world, and waits until the pod is enrolled.
    ///
    /// # Panics
    /// If that does not happen.
    pub async fn enrolled(&self, deltas: &[Delta], uid: &str) -> Arc<FakePod> {
        self.worlds.publish(deltas.to_vec());
        self.wait_for(uid, &PodState::Enrolled).await;
        let uid = PodUid::parse(uid).expect("a UID");
        self.datapath.pod(&uid).expect("an open pod")
    }

    /// Waits until the pod's enrolment is in this state.
    ///
    /// # Panics
    /// If that does not happen.
    pub async fn wait_for(&self, uid: &str, state: &PodState) {
        let mut pods = self.enrolments.clone();
        let reached = async {
            while !pods.list().iter().any(|pod| pod.uid.as_str() == uid && pod.state == *state) {
                pods.changed().await;
            }
        };
        if tokio::time::timeout(PATIENCE, reached).await.is_err() {
            panic!("{uid} is not {state:?}: {:?}", self.enrolments.list());
        }
    }

    /// The next flow of this direction that ends.
    ///
    /// # Panics
    /// If none does.
    pub async fn ended(&self, direction: Direction) -> FlowRecord {
        let next = async {
            loop {
                let record = self.records.lock().await.receiver.recv().await;
                let record = record.expect("the workers live");
                if record.direction == direction && record.end.is_some() {
                    return record;
                }
            }
        };
        tokio::time::timeout(PATIENCE, next).await.expect("a flow that ends")
    }
}
