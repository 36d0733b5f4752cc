//! The endpoints of a service: read from its EndpointSlices, or derived from the pods it selects.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use adit_core::workload::{Endpoint, Hints, NodeName, ObjectName, Phase, PodUid};
use k8s_openapi::api::discovery::v1;

use crate::discovery::translate::{
    Invalid, PodFacts, ServiceFacts, Target, host_address, is_tcp, object_name, port_name,
    port_number,
};

/// The label that names a slice's service.
const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// An EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SliceFacts {
    /// Its namespace and name.
    pub name: ObjectName,
    /// The service it belongs to.
    pub service: ObjectName,
    /// Its endpoints.
    pub addresses: Vec<Address>,
    /// Its TCP ports by name.
    pub ports: BTreeMap<Arc<str>, u16>,
}

/// One endpoint of a slice and its conditions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Where it is.
    pub address: IpAddr,
    /// `targetRef.uid`, where that is of a pod.
    pub pod: Option<PodUid>,
    /// Whether it takes new connections.
    pub ready: bool,
    /// Whether it is being deleted and still answers.
    pub serving_to_the_end: bool,
    /// The node that it is on.
    pub node: Option<NodeName>,
    /// For whom it is meant first.
    pub hints: Hints,
}

/// An EndpointSlice; `None` if it belongs to no service or lists domain names (`addressType: FQDN`,
/// which kube-proxy ignores as well).
///
/// # Errors
/// The field that is invalid.
pub fn endpoint_slice(object: &v1::EndpointSlice) -> Result<Option<SliceFacts>, Invalid> {
    let name = object_name(&object.metadata)?;
    let labels = object.metadata.labels.as_ref();
    let Some(service) = labels.and_then(|labels| labels.get(SERVICE_LABEL)) else {
        return Ok(None);
    };
    let field = format!("metadata.labels[{SERVICE_LABEL:?}]");
    let service = super::required_name(&field, Some(service))?;
    let service = ObjectName::new(&name.namespace, service);
    let ipv6 = match object.address_type.as_str() {
        "IPv4" => false,
        "IPv6" => true,
        "FQDN" => return Ok(None),
        other => return Err(Invalid::new("addressType", other, "not IPv4, IPv6 or FQDN")),
    };
    let mut addresses = Vec::new();
    for (i, endpoint) in object.endpoints.iter().enumerate() {
        addresses.extend(address(i, endpoint, ipv6)?);
    }
    let ports = ports(object)?;
    Ok(Some(SliceFacts { name, service, addresses, ports }))
}

/// The first address counts: the API defines no meaning for the others. A missing condition means
/// that it holds (`ready`, `serving`) or does not (`terminating`), as the API documents.
fn address(index: usize, endpoint: &v1::Endpoint, ipv6: bool) -> Result<Option<Address>, Invalid> {
    let Some(text) = endpoint.addresses.first() else {
        return Ok(None);
    };
    let field = format!("endpoints[{index}].addresses[0]");
    let address = host_address(field.as_str(), text)?;
    if address.is_ipv6() != ipv6 {
        return Err(Invalid::new(field, text, "not of the slice's addressType"));
    }
    let conditions = endpoint.conditions.clone().unwrap_or_default();
    let ready = conditions.ready.unwrap_or(true);
    let serving = conditions.serving.unwrap_or(true);
    let terminating = conditions.terminating.unwrap_or(false);
    let node = endpoint.node_name.as_deref().filter(|name| !name.is_empty());
    let hints = endpoint.hints.clone().unwrap_or_default();
    let nodes = hints.for_nodes.unwrap_or_default();
    let zones = hints.for_zones.unwrap_or_default();
    Ok(Some(Address {
        address,
        pod: pod(index, endpoint)?,
        ready,
        serving_to_the_end: serving && terminating,
        node: node.map(NodeName::new),
        hints: Hints {
            nodes: nodes.iter().map(|node| NodeName::new(&node.name)).collect(),
            zones: zones.into_iter().map(|zone| Arc::from(zone.name)).collect(),
        },
    }))
}

fn pod(index: usize, endpoint: &v1::Endpoint) -> Result<Option<PodUid>, Invalid> {
    let target = endpoint.target_ref.as_ref();
    let target = target.filter(|target| target.kind.as_deref() == Some("Pod"));
    let Some(uid) = target.and_then(|target| target.uid.as_deref()).filter(|uid| !uid.is_empty())
    else {
        return Ok(None);
    };
    let field = format!("endpoints[{index}].targetRef.uid");
    super::pod::parse_uid(&field, uid).map(Some)
}

fn ports(object: &v1::EndpointSlice) -> Result<BTreeMap<Arc<str>, u16>, Invalid> {
    let mut ports = BTreeMap::new();
    for (i, port) in object.ports.iter().flatten().enumerate() {
        let field = |name: &str| format!("ports[{i}].{name}");
        let name = port_name(field("name"), port.name.as_deref())?;
        // A port without a number means all ports, which no service can stand for.
        let Some(number) = port.port else { continue };
        let number = port_number(field("port"), number)?;
        if !is_tcp(field("protocol"), port.protocol.as_deref())? {
            continue;
        }
        if ports.insert(Arc::clone(&name), number).is_some() {
            return Err(Invalid::new(field("name"), &name, "used by two TCP ports"));
        }
    }
    Ok(ports)
}

/// The endpoints that the slices of one service list. While none of an address family is ready,
/// those that are being deleted and still answer are used, as kube-proxy does
/// (KEP-1669, proxy terminating endpoints).
pub(super) fn listed(slices: &[&SliceFacts]) -> Vec<Endpoint> {
    type Same<'a> = (IpAddr, Option<&'a PodUid>, &'a BTreeMap<Arc<str>, u16>);
    let mut merged: BTreeMap<Same<'_>, Address> = BTreeMap::new();
    for slice in slices {
        for one in &slice.addresses {
            let same = (one.address, one.pod.as_ref(), &slice.ports);
            let known = merged.entry(same).or_insert_with(|| one.clone());
            known.ready |= one.ready;
            known.serving_to_the_end |= one.serving_to_the_end;
        }
    }
    let any_ready = |ipv6| {
        let mut all = merged.values();
        all.any(|one| one.ready && one.address.is_ipv6() == ipv6)
    };
    let (ipv4_ready, ipv6_ready) = (any_ready(false), any_ready(true));
    let endpoint = |((address, pod, ports), one): (&Same<'_>, &Address)| {
        let fall_back = match address {
            IpAddr::V4(_) => !ipv4_ready,
            IpAddr::V6(_) => !ipv6_ready,
        };
        Endpoint {
            address: *address,
            pod: pod.cloned(),
            ports: (*ports).clone(),
            ready: one.ready || (fall_back && one.serving_to_the_end),
            node: one.node.clone(),
            hints: one.hints.clone(),
        }
    };
    merged.iter().map(endpoint).collect()
}

/// The endpoints that the endpoint controller would list for a service with a selector: an ordinary
/// directory of manifests has pods and services, but not what a controller makes of them.
pub(super) fn derived<'a>(
    service: &ServiceFacts,
    pods: impl Iterator<Item = &'a PodFacts>,
) -> Vec<Endpoint> {
    let mut endpoints = Vec::new();
    for pod in pods {
        let workload = &pod.workload;
        let mut wanted = service.selector.iter();
        let selected = wanted.all(|(key, value)| workload.labels.get(key) == Some(value));
        if !selected || workload.phase == Phase::Finished {
            continue;
        }
        let ports: BTreeMap<_, _> = service
            .targets
            .iter()
            .filter_map(|port| {
                let number = match &port.target {
                    Target::Number(number) => *number,
                    Target::Name(name) => *pod.ports.get(name)?,
                };
                Some((Arc::clone(&port.name), number))
            })
            .collect();
        endpoints.extend(workload.addresses.iter().map(|address| Endpoint {
            address: *address,
            pod: Some(workload.uid.clone()),
            ports: ports.clone(),
            ready: service.publish_not_ready || (pod.ready && workload.phase != Phase::Terminating),
            node: workload.node.clone(),
            hints: Hints::default(),
        }));
    }
    endpoints.sort_by_key(|endpoint| endpoint.address);
    endpoints
}
