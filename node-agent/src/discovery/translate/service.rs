//! Services.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_core::workload::{Affinity, InternalTraffic, Service, ServicePort};
use k8s_openapi::api::core::v1;
use k8s_openapi::api::core::v1::ServiceSpec;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::discovery::translate::{
    Invalid, host_address, is_tcp, object_name, port_name, port_number,
};

/// Kubernetes' default of `spec.sessionAffinityConfig.clientIP.timeoutSeconds`.
const AFFINITY_SECONDS: i32 = 10_800;

/// A service, and what its endpoints are derived from where no EndpointSlice lists them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceFacts {
    /// The service.
    pub service: Service,
    /// The labels of the pods behind it; empty where its endpoints are listed by hand.
    pub selector: BTreeMap<Arc<str>, Arc<str>>,
    /// Where its TCP ports lead to on those pods.
    pub targets: Vec<PortTarget>,
    /// Whether pods that are not ready are endpoints all the same.
    pub publish_not_ready: bool,
}

/// Where one port leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortTarget {
    /// The port's name.
    pub name: Arc<str>,
    /// The port on the pod.
    pub target: Target,
}

/// A port on a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The port of this number.
    Number(u16),
    /// The container port of this name.
    Name(Arc<str>),
}

/// A service; `None` for an ExternalName, which is an alias in DNS without addresses of its own.
///
/// # Errors
/// The field that is invalid.
pub fn service(object: &v1::Service) -> Result<Option<ServiceFacts>, Invalid> {
    let name = object_name(&object.metadata)?;
    let Some(spec) = &object.spec else {
        return Err(Invalid::missing("spec"));
    };
    if spec.type_.as_deref() == Some("ExternalName") {
        return Ok(None);
    }
    let (ports, targets) = ports(spec)?;
    let text = |text: &String| Arc::from(text.as_str());
    let selector = spec.selector.iter().flatten();
    Ok(Some(ServiceFacts {
        service: Service {
            name,
            vips: vips(spec)?,
            ports,
            affinity: affinity(spec)?,
            internal_traffic: internal_traffic(spec)?,
        },
        selector: selector.map(|(key, value)| (text(key), text(value))).collect(),
        targets,
        publish_not_ready: spec.publish_not_ready_addresses == Some(true),
    }))
}

/// `None` makes a service headless; a service that no API server has given an address yet has no
/// virtual address either.
fn vips(spec: &ServiceSpec) -> Result<Vec<IpAddr>, Invalid> {
    let listed = spec.cluster_ips.as_deref().unwrap_or_default();
    let listed = listed.iter().enumerate();
    let listed = listed.map(|(i, text)| (format!("spec.clusterIPs[{i}]"), text));
    let single = spec.cluster_ip.iter();
    let single = single.map(|text| ("spec.clusterIP".to_owned(), text));
    let mut vips = Vec::new();
    for (field, text) in listed.chain(single) {
        if matches!(text.as_str(), "None" | "") {
            continue;
        }
        let vip = host_address(field, text)?;
        if !vips.contains(&vip) {
            vips.push(vip);
        }
    }
    Ok(vips)
}

fn ports(spec: &ServiceSpec) -> Result<(Vec<ServicePort>, Vec<PortTarget>), Invalid> {
    let listed = spec.ports.as_deref().unwrap_or_default();
    let (mut ports, mut targets) = (Vec::new(), Vec::new());
    let (mut names, mut numbers) = (BTreeSet::new(), BTreeSet::new());
    for (i, port) in listed.iter().enumerate() {
        let field = |name: &str| format!("spec.ports[{i}].{name}");
        let number = port_number(field("port"), port.port)?;
        let tcp = is_tcp(field("protocol"), port.protocol.as_deref())?;
        let name = port_name(field("name"), port.name.as_deref())?;
        if name.is_empty() && listed.len() > 1 {
            return Err(Invalid::missing(field("name")));
        }
        if !names.insert(Arc::clone(&name)) {
            return Err(Invalid::new(field("name"), &name, "used by two ports"));
        }
        let target = target(&field("targetPort"), port.target_port.as_ref(), number)?;
        if !tcp {
            continue;
        }
        if !numbers.insert(number) {
            let number = number.to_string();
            return Err(Invalid::new(field("port"), &number, "used by two TCP ports"));
        }
        targets.push(PortTarget { name: Arc::clone(&name), target });
        ports.push(ServicePort { name, port: number });
    }
    Ok((ports, targets))
}

fn target(field: &str, given: Option<&IntOrString>, port: u16) -> Result<Target, Invalid> {
    match given {
        // Zero is what an unset field looks like to Kubernetes' own types.
        None | Some(IntOrString::Int(0)) => Ok(Target::Number(port)),
        Some(IntOrString::Int(number)) => Ok(Target::Number(port_number(field, *number)?)),
        Some(IntOrString::String(name)) if name.is_empty() => Ok(Target::Number(port)),
        Some(IntOrString::String(name)) => Ok(Target::Name(port_name(field, Some(name))?)),
    }
}

fn internal_traffic(spec: &ServiceSpec) -> Result<InternalTraffic, Invalid> {
    match spec.internal_traffic_policy.as_deref() {
        None | Some("" | "Cluster") => Ok(InternalTraffic::Cluster),
        Some("Local") => Ok(InternalTraffic::Local),
        Some(other) => {
            Err(Invalid::new("spec.internalTrafficPolicy", other, "not Cluster or Local"))
        }
    }
}

fn affinity(spec: &ServiceSpec) -> Result<Affinity, Invalid> {
    match spec.session_affinity.as_deref() {
        None | Some("" | "None") => return Ok(Affinity::None),
        Some("ClientIP") => {}
        Some(other) => {
            let why = "not None or ClientIP";
            return Err(Invalid::new("spec.sessionAffinity", other, why));
        }
    }
    let config = spec.session_affinity_config.as_ref();
    let client_ip = config.and_then(|config| config.client_ip.as_ref());
    let seconds = client_ip.and_then(|client_ip| client_ip.timeout_seconds);
    let seconds = seconds.unwrap_or(AFFINITY_SECONDS);
    match u64::try_from(seconds) {
        Ok(seconds @ 1..=86_400) => Ok(Affinity::ClientIp(Duration::from_secs(seconds))),
        Ok(_) | Err(_) => {
            let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
            Err(Invalid::new(field, &seconds.to_string(), "not 1 to 86400"))
        }
    }
}
