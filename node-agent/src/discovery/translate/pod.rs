//! Pods.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use adit_core::announce::ANNOTATION;
use adit_core::hbone::TUNNEL_PORT;
use adit_core::identity::{SpiffeId, TrustDomain};
use adit_core::workload::{MeshMode, NodeName, ObjectName, Owner, Phase, PodUid, Workload};
use k8s_openapi::api::core::v1::{Pod, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::discovery::translate::{
    Invalid, MODE_LABEL, host_address, is_tcp, labels, object_name, port_name, port_number, probes,
};

/// The annotation that names a pod's network namespace.
pub const NETNS_ANNOTATION: &str = "adit.dev/netns";

/// The annotation by which a kubelet marks the mirror of a static pod (`v1.MirrorPodAnnotationKey`). It
/// cannot be put on or taken off later, and a node cannot make pods without it.
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// The label that a Deployment puts on the pods of its ReplicaSets.
const TEMPLATE_HASH_LABEL: &str = "pod-template-hash";

/// A pod, and what the endpoints of services are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodFacts {
    /// The pod.
    pub workload: Workload,
    /// Whether its readiness condition holds; a pod without that condition is ready.
    pub ready: bool,
    /// Its named TCP container ports.
    pub ports: BTreeMap<Arc<str>, u16>,
}

/// A pod. Its network namespace is left open: only a source that is trusted with paths of this
/// node may take it from the object, with [`netns`].
///
/// # Errors
/// The field that is invalid.
pub fn pod(object: &Pod, trust_domain: &TrustDomain) -> Result<PodFacts, Invalid> {
    let metadata = &object.metadata;
    let name = object_name(metadata)?;
    let no_spec = PodSpec::default();
    let spec = object.spec.as_ref().unwrap_or(&no_spec);
    let no_status = PodStatus::default();
    let status = object.status.as_ref().unwrap_or(&no_status);
    let labels = labels("metadata.labels", metadata)?;
    let ports = named_ports(spec)?;
    let tunnel_ports = ports.iter().filter(|(_, port)| **port == TUNNEL_PORT);
    let workload = Workload {
        uid: uid(metadata, &name)?,
        node: node(spec)?,
        identity: identity(spec, &name, trust_domain)?,
        addresses: addresses(status)?,
        mode: MeshMode::from_label(labels.get(MODE_LABEL).map(|value| &**value)),
        host_network: spec.host_network == Some(true),
        phase: phase(metadata, status)?,
        owner: owner(metadata, &labels, &name)?,
        labels,
        probed: probes::ports(spec),
        tunnel_ports: tunnel_ports.map(|(name, _)| Arc::clone(name)).collect(),
        mirror_of: annotation(metadata, MIRROR_ANNOTATION).map(|text| {
            PodUid::parse(text).map_or_else(Arc::default, |uid| Arc::from(uid.as_str()))
        }),
        announced: annotation(metadata, ANNOTATION).map(Arc::from),
        netns: None,
        name,
    };
    let mut conditions = status.conditions.iter().flatten();
    let ready = conditions.find(|condition| condition.type_ == "Ready");
    Ok(PodFacts {
        workload,
        ready: ready.is_none_or(|condition| condition.status == "True"),
        ports,
    })
}

/// The path of a pod's network namespace, from the value of [`NETNS_ANNOTATION`]. Whoever writes
/// the annotation chooses a namespace of this node, so it is not for objects that users of a
/// cluster write.
///
/// # Errors
/// If the path is not absolute.
pub fn netns(annotation: Option<&str>) -> Result<Option<Arc<str>>, Invalid> {
    let Some(path) = annotation else {
        return Ok(None);
    };
    if !path.starts_with('/') || path.len() > 4095 || path.contains('\0') {
        let field = format!("metadata.annotations[{NETNS_ANNOTATION:?}]");
        return Err(Invalid::new(field, path, "not an absolute path"));
    }
    Ok(Some(Arc::from(path)))
}

/// `metadata.uid`, or for a pod without one a UID made of its namespace and name. It stays the same
/// for as long as the pod keeps its name, so a pod that is replaced by another of the same name is
/// a change of that pod, unless the manifests give them UIDs.
fn uid(metadata: &ObjectMeta, name: &ObjectName) -> Result<PodUid, Invalid> {
    let text = match metadata.uid.as_deref() {
        None | Some("") => derived_uid(name),
        Some(given) => given.to_owned(),
    };
    parse_uid("metadata.uid", &text)
}

/// A pod's UID that stands in this field.
pub(super) fn parse_uid(field: &str, text: &str) -> Result<PodUid, Invalid> {
    let why = "not a UID: at most 63 letters, digits and '-'";
    PodUid::parse(text).ok_or_else(|| Invalid::new(field, text, why))
}

/// `derived-` and 128 bits of FNV-1a over `namespace/name`, which no two names share by chance; two
/// pods with one UID would be noticed and reported.
fn derived_uid(name: &ObjectName) -> String {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    let hash = name
        .to_string()
        .bytes()
        .fold(OFFSET, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(PRIME));
    format!("derived-{hash:032x}")
}

fn annotation<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    Some(metadata.annotations.as_ref()?.get(key)?.as_str())
}

fn node(spec: &PodSpec) -> Result<Option<NodeName>, Invalid> {
    let Some(name) = spec.node_name.as_deref().filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    super::required_name("spec.nodeName", Some(name))?;
    Ok(Some(NodeName::new(name)))
}

fn identity(
    spec: &PodSpec,
    name: &ObjectName,
    trust_domain: &TrustDomain,
) -> Result<SpiffeId, Invalid> {
    let account = spec.service_account_name.as_deref();
    let account = account.filter(|name| !name.is_empty()).unwrap_or("default");
    SpiffeId::try_new(trust_domain.clone(), &name.namespace, account)
        .map_err(|error| Invalid::new("spec.serviceAccountName", account, error.to_string()))
}

fn addresses(status: &PodStatus) -> Result<Vec<IpAddr>, Invalid> {
    let mut addresses = Vec::new();
    let listed = status.pod_ips.as_deref().unwrap_or_default();
    for (i, pod_ip) in listed.iter().enumerate() {
        let address = host_address(format!("status.podIPs[{i}].ip"), &pod_ip.ip)?;
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if let (true, Some(text)) = (listed.is_empty(), &status.pod_ip)
        && !text.is_empty()
    {
        addresses.push(host_address("status.podIP", text)?);
    }
    Ok(addresses)
}

fn phase(metadata: &ObjectMeta, status: &PodStatus) -> Result<Phase, Invalid> {
    match status.phase.as_deref() {
        None | Some("" | "Pending" | "Running" | "Unknown") => {
            let terminating = metadata.deletion_timestamp.is_some();
            Ok(if terminating { Phase::Terminating } else { Phase::Active })
        }
        Some("Succeeded" | "Failed") => Ok(Phase::Finished),
        Some(other) => {
            let why = "not Pending, Running, Succeeded, Failed or Unknown";
            Err(Invalid::new("status.phase", other, why))
        }
    }
}

/// The controller that people know the pod by: the Deployment behind a ReplicaSet, recognised by the
/// template's hash at the end of its name, and otherwise whatever owns the pod (the Job of a CronJob
/// is not followed further), or the pod itself.
fn owner(
    metadata: &ObjectMeta,
    labels: &BTreeMap<Arc<str>, Arc<str>>,
    name: &ObjectName,
) -> Result<Owner, Invalid> {
    let references = metadata.owner_references.as_deref().unwrap_or_default();
    let controller = references.iter().position(|one| one.controller == Some(true));
    let index = controller.unwrap_or(0);
    let Some(reference) = references.get(index) else {
        return Ok(Owner { kind: Arc::from("pod"), name: Arc::clone(&name.name) });
    };
    let field = |name| format!("metadata.ownerReferences[{index}].{name}");
    super::required_name(&field("name"), Some(&reference.name))?;
    let alphanumeric = reference.kind.bytes().all(|b| b.is_ascii_alphanumeric());
    if reference.kind.is_empty() || reference.kind.len() > 63 || !alphanumeric {
        return Err(Invalid::new(field("kind"), &reference.kind, "not a kind"));
    }
    let deployment = (reference.kind == "ReplicaSet")
        .then(|| labels.get(TEMPLATE_HASH_LABEL))
        .flatten()
        .and_then(|hash| reference.name.strip_suffix(&**hash)?.strip_suffix('-'))
        .filter(|name| !name.is_empty());
    Ok(match deployment {
        Some(name) => Owner { kind: Arc::from("deployment"), name: Arc::from(name) },
        None => Owner {
            kind: Arc::from(reference.kind.to_ascii_lowercase()),
            name: Arc::from(reference.name.as_str()),
        },
    })
}

/// The ports that a service can name: those of the containers, and of the init containers that keep
/// running beside them.
fn named_ports(spec: &PodSpec) -> Result<BTreeMap<Arc<str>, u16>, Invalid> {
    let init = spec.init_containers.iter().flatten().enumerate();
    let init = init
        .filter(|(_, container)| container.restart_policy.as_deref() == Some("Always"))
        .map(|(i, container)| (format!("spec.initContainers[{i}]"), container));
    let containers = spec.containers.iter().enumerate();
    let containers = containers.map(|(i, container)| (format!("spec.containers[{i}]"), container));
    let mut named = BTreeMap::new();
    for (field, container) in containers.chain(init) {
        for (i, port) in container.ports.iter().flatten().enumerate() {
            let field = format!("{field}.ports[{i}]");
            let number = port_number(format!("{field}.containerPort"), port.container_port)?;
            let tcp = is_tcp(format!("{field}.protocol"), port.protocol.as_deref())?;
            let name = port_name(format!("{field}.name"), port.name.as_deref())?;
            if tcp && !name.is_empty() {
                // The first container that uses a name has it, as in Kubernetes' podutil.FindPort.
                named.entry(name).or_insert(number);
            }
        }
    }
    Ok(named)
}
