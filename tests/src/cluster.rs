//! Two nodes, a CA and the network between them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context as _, Result};

use crate::agent::{Agent, Setup};
use crate::ca::Ca;
use crate::capture::Capture;
use crate::manifest::Manifests;
use crate::netns::Netns;
use crate::pod::{Place, Pod, PodSpec};
use crate::run::Run;
use crate::wait::{SOON, wait_for};

/// The trust domain of every cluster here.
pub const TRUST_DOMAIN: &str = "cluster.local";

/// One of the two nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Node {
    /// `node-a`
    A,
    /// `node-b`
    B,
}

/// The cluster. Dropping it ends its processes and removes everything of it.
#[derive(Debug)]
pub struct Cluster {
    agents: [Agent; 2],
    ca: Ca,
    fabric: Netns,
    outside: Netns,
    manifests: Manifests,
    next_pod: AtomicU8,
    tolerated: Mutex<Vec<String>>,
    run: Arc<Run>,
}

impl Node {
    /// Both.
    pub const ALL: [Self; 2] = [Self::A, Self::B];

    /// Its Kubernetes name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::A => "node-a",
            Self::B => "node-b",
        }
    }

    /// The third byte of its pods' addresses.
    pub(crate) const fn subnet(self) -> u8 {
        match self {
            Self::A => 1,
            Self::B => 2,
        }
    }

    const fn index(self) -> usize {
        match self {
            Self::A => 0,
            Self::B => 1,
        }
    }

    /// The addresses its pods use as their gateway.
    pub(crate) const fn gateway(self) -> (Ipv4Addr, Ipv6Addr) {
        let subnet = self.subnet();
        (
            Ipv4Addr::new(10, 244, subnet, 1),
            Ipv6Addr::new(0xfd00, 0x244, subnet as u16, 0, 0, 0, 0, 1),
        )
    }
}

impl Cluster {
    /// Starts everything: the network, the CA and both agents.
    ///
    /// # Errors
    /// What is missing here, or what failed, with the end of the process's log.
    pub fn start() -> Result<Self> {
        Self::start_with(&Setup::default())
    }

    /// Starts everything, the agents with other settings than usual.
    ///
    /// # Errors
    /// See [`Cluster::start`].
    pub fn start_with(setup: &Setup) -> Result<Self> {
        let cluster = Self::network(setup)?;
        cluster.ca.start()?;
        thread::scope(|scope| {
            let starting = cluster.agents.each_ref().map(|agent| scope.spawn(|| agent.start()));
            for start in starting {
                match start.join() {
                    Ok(result) => result?,
                    Err(panicked) => std::panic::resume_unwind(panicked),
                }
            }
            Ok(())
        })
        .map(|()| cluster)
    }

    /// The namespaces and the wires only; no process is started.
    ///
    /// # Errors
    /// What is missing here, or what `ip` said.
    pub fn network(setup: &Setup) -> Result<Self> {
        let run = Arc::new(Run::begin()?);
        let manifests = Manifests::create(run.directory())?;
        let fabric = Netns::create(&run.netns_name("fabric"))?;
        fabric.ip("link add fabric type bridge mcast_snooping 0\nlink set fabric up")?;
        let ca = Ca::new(&run, attach(&run, &fabric, "ca", CA_HOST)?, &manifests);
        let mut agents = Vec::new();
        for node in Node::ALL {
            let netns = attach(&run, &fabric, node.name(), node_host(node))?;
            route_pods(&netns, node)?;
            agents.push(Agent::new(node, netns, setup, &run, &ca, &manifests));
        }
        let agents = <[Agent; 2]>::try_from(agents).ok().context("two agents")?;
        let outside = attach(&run, &fabric, "outside", OUTSIDE_HOST)?;
        for node in Node::ALL {
            route_to(&outside, node)?;
        }
        ca.write_tokens(&Node::ALL.map(Node::name))?;
        Ok(Self {
            agents,
            ca,
            fabric,
            outside,
            manifests,
            next_pod: AtomicU8::new(10),
            tolerated: Mutex::default(),
            run,
        })
    }

    /// Starts pods, writes their manifests (servers first if they are listed first), and waits
    /// until their agents show them: enrolled, or as not to be enrolled.
    ///
    /// # Errors
    /// What failed, or which pod did not get there.
    pub fn pods<const N: usize>(&self, specs: [PodSpec; N]) -> Result<[Pod; N]> {
        let pods = self.unsettled_pods(specs)?;
        for pod in &pods {
            self.wait_settled(pod)?;
        }
        Ok(pods)
    }

    /// Starts pods and does not wait for the agents.
    ///
    /// # Errors
    /// What failed.
    pub fn unsettled_pods<const N: usize>(&self, specs: [PodSpec; N]) -> Result<[Pod; N]> {
        let mut pods = Vec::new();
        for spec in specs {
            let place = Place {
                run: Arc::clone(&self.run),
                manifests: self.manifests.clone(),
                node_netns: self.agent(spec.node).netns().clone(),
                number: self.next_pod.fetch_add(1, Ordering::Relaxed),
            };
            let name = format!("{}/{}", spec.namespace, spec.name);
            pods.push(Pod::create(spec, place).with_context(|| format!("pod {name}"))?);
        }
        <[Pod; N]>::try_from(pods).ok().context("as many pods as asked for")
    }

    /// Waits until the pod's agent has enrolled it, or shows that it is not to be enrolled, and
    /// all agents know how it is to be reached.
    ///
    /// # Errors
    /// It did not get there.
    pub fn wait_settled(&self, pod: &Pod) -> Result<()> {
        let what = format!("{} to be settled", pod.full_name());
        wait_for(&what, SOON, || {
            let mut protocols = Vec::new();
            for agent in &self.agents {
                let Some(shown) = agent.workload(pod.uid())? else {
                    return Ok(None);
                };
                let expected = match shown.protocol.as_str() {
                    "hbone" => "enrolled",
                    _ => "not_enrolled",
                };
                if shown.state().is_some_and(|state| state != expected) {
                    return Ok(None);
                }
                protocols.push(shown.protocol);
            }
            protocols.dedup();
            Ok((protocols.len() == 1).then_some(()))
        })
        .with_context(|| self.describe(pod))
    }

    /// Waits until the pod's agent shows its enrolment in this state.
    ///
    /// # Errors
    /// It did not get there.
    pub fn wait_state(&self, pod: &Pod, state: &str) -> Result<()> {
        let what = format!("{} to be {state}", pod.full_name());
        let agent = self.agent_of(pod).context("its node has no agent")?;
        wait_for(&what, SOON, || {
            let shown = agent.workload(pod.uid())?;
            Ok(shown.filter(|shown| shown.state() == Some(state)).map(drop))
        })
        .with_context(|| self.describe(pod))
    }

    /// Waits until all agents know a pod to be reached this way: `hbone` or `plaintext`.
    ///
    /// # Errors
    /// They did not get there.
    pub fn wait_protocol(&self, pod: &Pod, protocol: &str) -> Result<()> {
        let what = format!("{} to be reached by {protocol}", pod.full_name());
        wait_for(&what, SOON, || {
            for agent in &self.agents {
                let shown = agent.workload(pod.uid())?;
                if shown.is_none_or(|shown| shown.protocol != protocol) {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        })
        .with_context(|| self.describe(pod))?;
        // A pod that leaves stays `withdrawing` for as long as one of its captured flows is open.
        if protocol == "hbone" { self.wait_settled(pod) } else { Ok(()) }
    }

    fn describe(&self, pod: &Pod) -> String {
        let shown = self.agents.iter().map(|agent| {
            let view = agent.workload(pod.uid());
            format!("{}: {view:?}", agent.node().name())
        });
        format!("shown as {}", shown.collect::<Vec<_>>().join("; "))
    }

    /// The agent that is responsible for a pod.
    #[must_use]
    pub fn agent_of(&self, pod: &Pod) -> Option<&Agent> {
        let named = |agent: &&Agent| agent.node().name() == pod.declared_node();
        self.agents.iter().find(named)
    }

    /// A node's agent.
    #[must_use]
    pub fn agent(&self, node: Node) -> &Agent {
        let [a, b] = &self.agents;
        match node.index() {
            0 => a,
            _ => b,
        }
    }

    /// Both agents.
    #[must_use]
    pub fn agents(&self) -> &[Agent; 2] {
        &self.agents
    }

    /// The CA.
    #[must_use]
    pub fn ca(&self) -> &Ca {
        &self.ca
    }

    /// The manifests that agents and CA watch.
    #[must_use]
    pub fn manifests(&self) -> &Manifests {
        &self.manifests
    }

    /// A host that no manifest speaks of, with routes to and from all pods.
    #[must_use]
    pub fn outside(&self) -> &Netns {
        &self.outside
    }

    /// The addresses of that host.
    #[must_use]
    pub fn outside_addresses(&self) -> [IpAddr; 2] {
        let (v4, v6) = host_addresses(OUTSIDE_HOST);
        [v4.into(), v6.into()]
    }

    /// The names and directories of the run.
    #[must_use]
    pub fn run(&self) -> &Run {
        &self.run
    }

    /// Takes a node's link to the others down, as when a cable is pulled: nobody gets a FIN or RST.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn cut(&self, node: Node) -> Result<()> {
        self.fabric.ip(&format!("link set {} down", node.name()))
    }

    /// Takes it up again.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn mend(&self, node: Node) -> Result<()> {
        self.fabric.ip(&format!("link set {} up", node.name()))
    }

    /// Captures everything between the nodes.
    ///
    /// # Errors
    /// The socket's.
    pub fn capture(&self) -> Result<Capture> {
        Capture::start(&self.fabric)
    }

    /// From now on, log lines of level ERROR with this text are expected.
    pub fn tolerate(&self, text: &str) {
        let mut tolerated = self.tolerated.lock().unwrap_or_else(PoisonError::into_inner);
        tolerated.push(text.to_owned());
    }

    /// The unexpected log lines of level ERROR and the panics of all processes so far.
    #[must_use]
    pub fn errors(&self) -> Vec<String> {
        let tolerated = self.tolerated.lock().unwrap_or_else(PoisonError::into_inner);
        let logs = self.agents.iter().map(Agent::log).chain([self.ca.log()]);
        logs.flat_map(crate::process::Log::errors)
            .filter(|line| !tolerated.iter().any(|text| line.contains(text)))
            .collect()
    }
}

impl Drop for Cluster {
    #[expect(clippy::panic, reason = "an ERROR that nobody expected fails the test")]
    fn drop(&mut self) {
        let errors = self.errors();
        if !errors.is_empty() && !thread::panicking() {
            panic!("unexpected errors in the logs:\n{}", errors.join("\n"));
        }
    }
}

/// The last number of the CA's addresses.
pub(crate) const CA_HOST: u8 = 10;

const OUTSIDE_HOST: u8 = 20;

const fn node_host(node: Node) -> u8 {
    match node {
        Node::A => 2,
        Node::B => 3,
    }
}

/// The addresses of a host on the network between the nodes.
pub(crate) const fn host_addresses(host: u8) -> (Ipv4Addr, Ipv6Addr) {
    (Ipv4Addr::new(172, 18, 0, host), Ipv6Addr::new(0xfd00, 0x18, 0, 0, 0, 0, 0, host as u16))
}

/// A new namespace with an interface `eth0` on the network between the nodes.
fn attach(run: &Run, fabric: &Netns, part: &str, host: u8) -> Result<Netns> {
    let netns = Netns::create(&run.netns_name(part))?;
    let (v4, v6) = host_addresses(host);
    netns.ip(&format!(
        "link add eth0 type veth peer name {part} netns {fabric}
address add {v4}/24 dev eth0
address add {v6}/64 dev eth0 nodad
link set eth0 up",
        fabric = fabric.name()
    ))?;
    fabric.ip(&format!("link set {part} master fabric up"))?;
    Ok(netns)
}

/// Lets a node forward, and tells it where the other node's pods are.
fn route_pods(netns: &Netns, node: Node) -> Result<()> {
    netns.sysctl(&[
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
        ("net/ipv4/conf/all/rp_filter", "1"),
    ])?;
    for other in Node::ALL.into_iter().filter(|other| *other != node) {
        route_to(netns, other)?;
    }
    Ok(())
}

/// Tells a host where the pods of a node are.
fn route_to(netns: &Netns, node: Node) -> Result<()> {
    let subnet = node.subnet();
    let (via4, via6) = host_addresses(node_host(node));
    netns.ip(&format!(
        "route add 10.244.{subnet}.0/24 via {via4}
route add fd00:244:{subnet}::/64 via {via6}"
    ))
}

/// A virtual address for a service: nothing but adit answers for it.
#[must_use]
pub fn vip(number: u8) -> [IpAddr; 2] {
    [
        Ipv4Addr::new(10, 96, 0, number).into(),
        Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, u16::from(number)).into(),
    ]
}
