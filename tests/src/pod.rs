//! A pod: a network namespace with a veth to its node, addresses of both families, and a manifest.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use crate::cluster::Node;
use crate::manifest::{Manifests, PodObject, pod_yaml};
use crate::netns::Netns;
use crate::raw;
use crate::run::Run;
use crate::server::{Server, serve};

/// What a pod is to be.
#[derive(Debug, Clone)]
pub struct PodSpec {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) node: Node,
    service_account: String,
    labels: BTreeMap<String, String>,
    declared_node: Option<String>,
    placed: bool,
    number: Option<u8>,
    sysctls: Vec<(&'static str, &'static str)>,
    more_addresses: Vec<IpAddr>,
}

/// A pod that runs. Dropping it deletes it.
#[derive(Debug)]
pub struct Pod {
    spec: PodSpec,
    uid: String,
    netns: Netns,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    host_interface: String,
    node_netns: Netns,
    manifests: Manifests,
    _run: Arc<Run>,
}

impl PodSpec {
    /// A pod on a node; its service account has the pod's name.
    #[must_use]
    pub fn new(namespace: &str, name: &str, node: Node) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            node,
            service_account: name.to_owned(),
            labels: BTreeMap::from([("app".to_owned(), name.to_owned())]),
            declared_node: None,
            placed: true,
            number: None,
            sysctls: Vec::new(),
            more_addresses: Vec::new(),
        }
    }

    /// With another service account.
    #[must_use]
    pub fn service_account(mut self, name: &str) -> Self {
        name.clone_into(&mut self.service_account);
        self
    }

    /// With a label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// With a sysctl, a path below `/proc/sys`, set before adit hears of the pod.
    #[must_use]
    pub fn sysctl(mut self, path: &'static str, value: &'static str) -> Self {
        self.sysctls.push((path, value));
        self
    }

    /// With one more address on its interface, which its manifest does not name.
    #[must_use]
    pub fn address(mut self, address: IpAddr) -> Self {
        self.more_addresses.push(address);
        self
    }

    /// Without its network namespace in its manifest, which a CNI plugin must tell.
    #[must_use]
    pub fn unplaced(mut self) -> Self {
        self.placed = false;
        self
    }

    /// With the addresses of another pod, which must be gone when this one starts.
    #[must_use]
    pub fn in_place_of(mut self, other: &Pod) -> Self {
        self.number = other.v4.octets().last().copied();
        self
    }

    /// With another node in its manifest than the one it is attached to: one without an agent, so
    /// that the pod itself can play the other node's agent.
    #[must_use]
    pub fn declared_on(mut self, node: &str) -> Self {
        self.declared_node = Some(node.to_owned());
        self
    }
}

/// What the cluster gives a pod.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) run: Arc<Run>,
    pub(crate) manifests: Manifests,
    pub(crate) node_netns: Netns,
    /// Unique in the run.
    pub(crate) number: u8,
}

impl Pod {
    /// Makes the namespace as a point-to-point CNI plugin would, then writes the manifest.
    pub(crate) fn create(spec: PodSpec, place: Place) -> Result<Self> {
        let number = place.number;
        let host = spec.number.unwrap_or(number);
        let subnet = spec.node.subnet();
        let netns = Netns::create(&place.run.netns_name(&format!("pod-{number}")))?;
        let pod = Self {
            uid: format!("00000000-0000-4000-8000-{number:012x}"),
            v4: Ipv4Addr::new(10, 244, subnet, host),
            v6: Ipv6Addr::new(0xfd00, 0x244, u16::from(subnet), 0, 0, 0, 0, u16::from(number)),
            host_interface: format!("pod{number}"),
            node_netns: place.node_netns,
            manifests: place.manifests,
            _run: place.run,
            spec,
            netns,
        };
        pod.attach()?;
        for address in &pod.spec.more_addresses {
            let (prefix, nodad) = if address.is_ipv4() { (32, "") } else { (64, "nodad") };
            pod.netns.ip(&format!("address add {address}/{prefix} dev eth0 {nodad}"))?;
        }
        pod.netns.sysctl(&pod.spec.sysctls)?;
        pod.publish()?;
        Ok(pod)
    }

    fn attach(&self) -> Result<()> {
        let Self { v4, v6, .. } = self;
        let (gateway4, gateway6) = self.spec.node.gateway();
        let interface = &self.host_interface;
        self.node_netns.ip(&format!(
            "link add {interface} type veth peer name eth0 netns {pod}
address add {gateway4}/32 dev {interface}
address add {gateway6}/128 dev {interface} nodad
link set {interface} up
route add {v4}/32 dev {interface}
route add {v6}/128 dev {interface}",
            pod = self.netns.name(),
        ))?;
        self.netns.ip(&format!(
            "address add {v4}/32 dev eth0
address add {v6}/128 dev eth0 nodad
link set eth0 up
route add {gateway4}/32 dev eth0 scope link src {v4}
route add default via {gateway4} dev eth0 src {v4}
route add {gateway6}/128 dev eth0 src {v6}
route add default via {gateway6} dev eth0 src {v6}"
        ))
    }

    fn manifest_name(&self) -> String {
        format!("pod-{}-{}", self.spec.namespace, self.spec.name)
    }

    fn publish(&self) -> Result<()> {
        let netns = self.netns.path();
        let yaml = pod_yaml(&PodObject {
            namespace: &self.spec.namespace,
            name: &self.spec.name,
            uid: &self.uid,
            node: self.declared_node(),
            service_account: &self.spec.service_account,
            labels: &self.spec.labels,
            addresses: [self.v4.into(), self.v6.into()],
            netns: self.spec.placed.then_some(&*netns),
        })?;
        self.manifests.write(&self.manifest_name(), &yaml)
    }

    /// Changes a label of it; `None` removes the label.
    ///
    /// # Errors
    /// The file system's.
    pub fn set_label(&mut self, key: &str, value: Option<&str>) -> Result<()> {
        match value {
            Some(value) => self.spec.labels.insert(key.to_owned(), value.to_owned()),
            None => self.spec.labels.remove(key),
        };
        self.publish()
    }

    /// Gives it another service account, which no API server would: with manifests, somebody may.
    ///
    /// # Errors
    /// The file system's.
    pub fn set_service_account(&mut self, name: &str) -> Result<()> {
        name.clone_into(&mut self.spec.service_account);
        self.publish()
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Its namespace and name, as adit prints them.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.spec.namespace, self.spec.name)
    }

    /// The identity that the mesh must give it.
    #[must_use]
    pub fn identity(&self) -> String {
        format!(
            "spiffe://{}/ns/{}/sa/{}",
            crate::cluster::TRUST_DOMAIN,
            self.spec.namespace,
            self.spec.service_account
        )
    }

    /// Its UID.
    #[must_use]
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// The node it is attached to.
    #[must_use]
    pub fn node(&self) -> Node {
        self.spec.node
    }

    /// The node its manifest names.
    #[must_use]
    pub fn declared_node(&self) -> &str {
        self.spec.declared_node.as_deref().unwrap_or_else(|| self.spec.node.name())
    }

    /// Its IPv4 address.
    #[must_use]
    pub fn v4(&self) -> Ipv4Addr {
        self.v4
    }

    /// Its IPv6 address.
    #[must_use]
    pub fn v6(&self) -> Ipv6Addr {
        self.v6
    }

    /// A port of it, by IPv4.
    #[must_use]
    pub fn at4(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V4(self.v4), port)
    }

    /// A port of it, by IPv6.
    #[must_use]
    pub fn at6(&self, port: u16) -> SocketAddr {
        SocketAddr::new(IpAddr::V6(self.v6), port)
    }

    /// Its network namespace.
    #[must_use]
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Runs a closure on a thread inside it, with ordinary sockets. A panic goes on in the caller.
    ///
    /// # Errors
    /// The namespace could not be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.netns.run(work)
    }

    /// Opens a connection from inside it.
    ///
    /// # Errors
    /// The namespace's or the connection's.
    pub fn connect(&self, to: SocketAddr) -> Result<TcpStream> {
        let stream = self.run(|| TcpStream::connect_timeout(&to, Duration::from_secs(20)))??;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.set_write_timeout(Some(Duration::from_secs(20)))?;
        Ok(stream)
    }

    /// Listens on a port of both families and hands every connection to `handler` on a thread.
    ///
    /// # Errors
    /// The port cannot be bound.
    pub fn serve(
        &self,
        port: u16,
        handler: impl Fn(TcpStream) + Send + Sync + 'static,
    ) -> Result<Server> {
        serve(&self.netns, port, handler)
    }

    /// A command that will run inside it.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        self.netns.command(program)
    }

    /// Sends an IP packet to it from its node's side of the wire, as it is.
    ///
    /// # Errors
    /// The socket's.
    pub fn inject(&self, packet: &[u8]) -> Result<()> {
        let mac = self.netns.run(|| raw::mac_of("eth0"))??;
        Ok(self.node_netns.run(|| raw::send_packet(&self.host_interface, mac, packet))??)
    }

    /// Whether its veth still stands on the node's side: it goes with the last socket in the
    /// pod's namespace, whoever holds it.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.node_netns.ip(&format!("link show {}", self.host_interface)).is_ok()
    }

    /// Cuts the cable, as when a node dies: nobody gets a FIN or an RST.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn unplug(&self) -> Result<()> {
        self.node_netns.ip(&format!("link delete {}", self.host_interface))
    }

    /// Removes the manifest and the name of the namespace, as a kubelet does for a deleted pod
    /// whose processes have ended. What the agent holds of it, the agent must let go.
    ///
    /// # Errors
    /// The file system's or what `ip` said.
    pub fn delete(&self) -> Result<()> {
        self.manifests.remove(&self.manifest_name())?;
        self.netns.delete()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // It may have been deleted; what remains is swept with the run.
        if self.netns.path().exists() {
            let _swept_later: Result<()> = self.delete();
        }
    }
}
