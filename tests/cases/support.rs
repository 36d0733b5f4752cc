//! What every case begins with: a cluster of its own or one shared with its neighbours, and a
//! Kubernetes namespace of its own.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use adit_e2e::agent::Setup;
use adit_e2e::process::Log;
use adit_e2e::view::Flow;
use adit_e2e::{Cluster, Node, Pod, PodSpec, requirements};

/// The clusters that cases share, by the name of their file. The last case that holds one ends it.
static SHARED: Mutex<BTreeMap<&str, Weak<Cluster>>> = Mutex::new(BTreeMap::new());

/// One case's view of a cluster. When the case fails, its logs are shown.
pub(crate) struct Scene {
    pub(crate) cluster: Arc<Cluster>,
    /// The case's namespace, labelled `adit.dev/mode: ambient`.
    pub(crate) ns: String,
    marks: Vec<(Log, u64)>,
}

/// Whether the case can run here. If not, [`cannot_run`].
#[track_caller]
pub(crate) fn can_run(needs_adit: bool) -> bool {
    can_run_with(needs_adit, &[])
}

/// The same for a case that also needs these programs.
#[track_caller]
fn can_run_with(needs_adit: bool, tools: &[&str]) -> bool {
    let mut missing = requirements::missing();
    missing.extend(requirements::missing_tools(tools));
    if needs_adit && let Err(error) = requirements::adit_binary() {
        missing.push(format!("{error:#}"));
    }
    if missing.is_empty() {
        return true;
    }
    cannot_run(&missing.join("; "));
    false
}

/// Says that a case, or a part of it, cannot run here where nothing can hide it, and fails where
/// `E2E_REQUIRE=1` asks for every case.
#[track_caller]
pub(crate) fn cannot_run(why: &str) {
    let required = std::env::var_os("E2E_REQUIRE").is_some_and(|value| value == "1");
    assert!(!required, "E2E_REQUIRE=1, but this case cannot run here: {why}");
    let thread = std::thread::current();
    let case = thread.name().unwrap_or("a case");
    // The harness shows what a passing case prints only where it bypasses the print macros.
    writeln!(std::io::stderr(), "SKIPPED {case}: {why}").unwrap();
}

impl Scene {
    /// A scene in the cluster that the cases of `group` share. `None`: it cannot run here.
    #[track_caller]
    pub(crate) fn shared(group: &'static str, ns: &str) -> Option<Self> {
        Self::with_tools(group, ns, &[])
    }

    /// The same for a case that also needs these programs.
    #[track_caller]
    pub(crate) fn with_tools(group: &'static str, ns: &str, tools: &[&str]) -> Option<Self> {
        if !can_run_with(true, tools) {
            return None;
        }
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        let cluster = shared.get(group).and_then(Weak::upgrade).unwrap_or_else(|| {
            let cluster = Arc::new(Cluster::start().unwrap());
            shared.insert(group, Arc::downgrade(&cluster));
            cluster
        });
        drop(shared);
        Some(Self::new(cluster, ns))
    }

    /// A scene in a cluster of its own.
    #[track_caller]
    pub(crate) fn own(ns: &str) -> Option<Self> {
        Self::own_with(&Setup::default(), ns)
    }

    /// A scene in a cluster of its own, with other settings than usual.
    #[track_caller]
    pub(crate) fn own_with(setup: &Setup, ns: &str) -> Option<Self> {
        can_run(true).then(|| Self::new(Arc::new(Cluster::start_with(setup).unwrap()), ns))
    }

    fn new(cluster: Arc<Cluster>, ns: &str) -> Self {
        cluster.manifests().namespace(ns, Some("ambient")).unwrap();
        let agents = cluster.agents().iter().map(|agent| agent.log().clone());
        let logs = agents.chain([cluster.ca().log().clone()]);
        let marks = logs.map(|log| (log.clone(), log.mark())).collect();
        Self { cluster, ns: ns.to_owned(), marks }
    }

    /// A pod of the scene's namespace, to be started with [`Scene::pods`].
    pub(crate) fn pod(&self, name: &str, node: Node) -> PodSpec {
        PodSpec::new(&self.ns, name, node)
    }

    /// Starts pods and waits until they are enrolled, or seen as not to be.
    #[track_caller]
    pub(crate) fn pods<const N: usize>(&self, specs: [PodSpec; N]) -> [Pod; N] {
        self.cluster.pods(specs).unwrap()
    }

    /// A client on node-a and a server on node-b, both enrolled.
    #[track_caller]
    pub(crate) fn pair(&self) -> (Pod, Pod) {
        let [server, client] =
            self.pods([self.pod("server", Node::B), self.pod("client", Node::A)]);
        (client, server)
    }

    /// The outbound flow that the client's agent shows.
    #[track_caller]
    pub(crate) fn outbound(&self, client: &Pod, server: &Pod, port: u16) -> Flow {
        self.flow("outbound", client.node(), (client, server, port))
    }

    /// The inbound flow that the server's agent shows.
    #[track_caller]
    pub(crate) fn inbound(&self, client: &Pod, server: &Pod, port: u16) -> Flow {
        self.flow("inbound", server.node(), (client, server, port))
    }

    #[track_caller]
    fn flow(&self, direction: &str, node: Node, (client, server, port): (&Pod, &Pod, u16)) -> Flow {
        let (source, destination) = (client.full_name(), server.full_name());
        let what = format!("the end of an {direction} flow {source} -> {destination}:{port}");
        let agent = self.cluster.agent(node);
        // A client that proves another identity than its pod's is not shown as that pod.
        let from = |flow: &Flow| {
            let unnamed = flow.source.pod.is_none() && flow.source.address == client.v4();
            flow.source.is(&source) || unnamed
        };
        let ended = |flow: &Flow| {
            flow.direction == direction
                && from(flow)
                && flow.destination.is(&destination)
                && flow.to_port(port)
                && flow.end.is_some()
        };
        agent.wait_flow(&what, ended).unwrap()
    }
}

impl Drop for Scene {
    #[expect(clippy::print_stderr, reason = "shown with the case that failed")]
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for (log, mark) in &self.marks {
            let text = log.since(*mark);
            let lines: Vec<&str> = text.lines().collect();
            let last = lines[lines.len().saturating_sub(80)..].join("\n");
            eprintln!("---- {} since the case began\n{last}", log.path().display());
        }
    }
}
