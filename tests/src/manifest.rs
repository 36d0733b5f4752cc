//! The directory of Kubernetes manifests that the agents and the CA watch.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The directory, one file an object.
#[derive(Debug, Clone)]
pub struct Manifests {
    directory: PathBuf,
    staging: PathBuf,
}

/// A service, its endpoints given one by one.
#[derive(Debug, Clone, Default)]
pub struct ServiceSpec {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Virtual addresses; none makes it headless.
    pub vips: Vec<IpAddr>,
    /// Name, port, targetPort (a number or a name).
    pub ports: Vec<(String, u16, String)>,
    /// `ClientIP` affinity.
    pub sticky: bool,
    /// Where its endpoints are.
    pub endpoints: Vec<EndpointSpec>,
}

/// One endpoint of a service.
#[derive(Debug, Clone)]
pub struct EndpointSpec {
    /// Its address.
    pub address: IpAddr,
    /// Whether it is ready.
    pub ready: bool,
    /// Port name → number.
    pub ports: Vec<(String, u16)>,
}

impl Manifests {
    /// Makes the directory inside `parent`.
    ///
    /// # Errors
    /// The file system's.
    pub fn create(parent: &Path) -> Result<Self> {
        let manifests =
            Self { directory: parent.join("manifests"), staging: parent.join("staging") };
        for directory in [&manifests.directory, &manifests.staging] {
            fs::create_dir_all(directory).with_context(|| format!("cannot make {directory:?}"))?;
        }
        Ok(manifests)
    }

    /// Its path.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Writes a file of it in one step.
    ///
    /// # Errors
    /// The file system's.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let file = format!("{name}.yaml");
        let staged = self.staging.join(&file);
        let place = self.directory.join(&file);
        fs::write(&staged, text).with_context(|| format!("cannot write {staged:?}"))?;
        fs::rename(&staged, &place).with_context(|| format!("cannot rename to {place:?}"))
    }

    /// Removes a file of it.
    ///
    /// # Errors
    /// The file system's.
    pub fn remove(&self, name: &str) -> Result<()> {
        let place = self.directory.join(format!("{name}.yaml"));
        fs::remove_file(&place).with_context(|| format!("cannot remove {place:?}"))
    }

    /// Writes a Namespace with the value of its `adit.dev/mode` label.
    ///
    /// # Errors
    /// The file system's.
    pub fn namespace(&self, name: &str, mode: Option<&str>) -> Result<()> {
        let mut text = format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n");
        if let Some(mode) = mode {
            let _infallible = write!(text, "  labels:\n    adit.dev/mode: {mode}\n");
        }
        self.write(&format!("namespace-{name}"), &text)
    }

    /// Writes a Service and its EndpointSlices, one for each address family.
    ///
    /// # Errors
    /// The file system's.
    pub fn service(&self, service: &ServiceSpec) -> Result<()> {
        let text = service_yaml(service)?;
        self.write(&format!("service-{}-{}", service.namespace, service.name), &text)
    }
}

/// What a Pod manifest says.
#[derive(Debug)]
pub(crate) struct PodObject<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    pub(crate) uid: &'a str,
    pub(crate) node: &'a str,
    pub(crate) service_account: &'a str,
    pub(crate) labels: &'a BTreeMap<String, String>,
    pub(crate) addresses: [IpAddr; 2],
    /// For the annotation that names it, if there is one.
    pub(crate) netns: Option<&'a Path>,
}

/// A Pod, as the API server would show it when it runs.
pub(crate) fn pod_yaml(pod: &PodObject<'_>) -> Result<String> {
    let labels = serde_json::to_string(pod.labels)?;
    let [first, second] = pod.addresses;
    let annotations = pod.netns.map_or_else(String::new, |netns| {
        format!("  annotations:\n    adit.dev/netns: {}\n", netns.display())
    });
    Ok(format!(
        "apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: {namespace}
  uid: {uid}
  labels: {labels}
{annotations}spec:
  nodeName: {node}
  serviceAccountName: {service_account}
  containers:
  - name: app
    image: example.org/app:1
status:
  phase: Running
  podIP: \"{first}\"
  podIPs:
  - ip: \"{first}\"
  - ip: \"{second}\"
",
        name = pod.name,
        namespace = pod.namespace,
        uid = pod.uid,
        node = pod.node,
        service_account = pod.service_account,
    ))
}

fn service_yaml(service: &ServiceSpec) -> Result<String> {
    let ServiceSpec { namespace, name, .. } = service;
    let vips: Vec<String> = service.vips.iter().map(ToString::to_string).collect();
    let first = vips.first().map_or("None", String::as_str);
    let all = if vips.is_empty() { "[\"None\"]".to_owned() } else { serde_json::to_string(&vips)? };
    let affinity = if service.sticky { "ClientIP" } else { "None" };
    let mut text = format!(
        "apiVersion: v1
kind: Service
metadata:
  name: {name}
  namespace: {namespace}
spec:
  clusterIP: \"{first}\"
  clusterIPs: {all}
  sessionAffinity: {affinity}
  ports:
"
    );
    for (port_name, port, target) in &service.ports {
        let _infallible = writeln!(
            text,
            "  - {{name: {port_name}, port: {port}, targetPort: {target}, protocol: TCP}}"
        );
    }
    for (family, is_family) in
        [("IPv4", IpAddr::is_ipv4 as fn(&IpAddr) -> bool), ("IPv6", IpAddr::is_ipv6)]
    {
        for (index, endpoint) in service.endpoints.iter().enumerate() {
            if is_family(&endpoint.address) {
                endpoint_slice(&mut text, service, family, (index, endpoint));
            }
        }
    }
    Ok(text)
}

/// A slice for one endpoint: a slice has one list of ports, endpoints here may differ in theirs.
fn endpoint_slice(
    text: &mut String,
    service: &ServiceSpec,
    family: &str,
    (index, endpoint): (usize, &EndpointSpec),
) {
    let _infallible = write!(
        text,
        "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {name}-{suffix}-{index}
  namespace: {namespace}
  labels:
    kubernetes.io/service-name: {name}
addressType: {family}
endpoints:
- addresses: [\"{address}\"]
  conditions: {{ready: {ready}, serving: {ready}, terminating: false}}
ports:
",
        name = service.name,
        namespace = service.namespace,
        suffix = family.to_lowercase(),
        address = endpoint.address,
        ready = endpoint.ready,
    );
    for (name, port) in &endpoint.ports {
        let _infallible = writeln!(text, "- {{name: {name}, port: {port}, protocol: TCP}}");
    }
}
