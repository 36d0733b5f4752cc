//! The ports of a pod that its kubelet connects to: for probes, and for hooks of its containers' lives.

use k8s_openapi::api::core::v1::{
    Container, HTTPGetAction, LifecycleHandler, PodSpec, Probe, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// Each port once, in ascending order. What names another host than the pod is not asked of the pod,
/// and what names no port of the container's no kubelet can probe: both are left out.
pub(super) fn ports(spec: &PodSpec) -> Vec<u16> {
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let mut ports: Vec<u16> = containers.flat_map(of_container).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

fn of_container(container: &Container) -> impl Iterator<Item = u16> {
    let probes = [&container.liveness_probe, &container.readiness_probe, &container.startup_probe];
    let probes = probes.into_iter().flatten();
    let probes = probes.flat_map(move |probe| of_probe(container, probe));
    let hooks = container.lifecycle.iter();
    let hooks = hooks.flat_map(|hooks| [&hooks.post_start, &hooks.pre_stop]).flatten();
    probes.chain(hooks.flat_map(move |hook| of_hook(container, hook)))
}

fn of_probe(container: &Container, probe: &Probe) -> impl Iterator<Item = u16> {
    let http = probe.http_get.as_ref().and_then(|action| http(container, action));
    let tcp = probe.tcp_socket.as_ref().and_then(|action| tcp(container, action));
    let grpc = probe.grpc.as_ref().and_then(|action| number(action.port));
    [http, tcp, grpc].into_iter().flatten()
}

fn of_hook(container: &Container, hook: &LifecycleHandler) -> impl Iterator<Item = u16> {
    let http = hook.http_get.as_ref().and_then(|action| http(container, action));
    let tcp = hook.tcp_socket.as_ref().and_then(|action| tcp(container, action));
    [http, tcp].into_iter().flatten()
}

fn http(container: &Container, action: &HTTPGetAction) -> Option<u16> {
    port(container, action.host.as_deref(), &action.port)
}

fn tcp(container: &Container, action: &TCPSocketAction) -> Option<u16> {
    port(container, action.host.as_deref(), &action.port)
}

fn port(container: &Container, host: Option<&str>, port: &IntOrString) -> Option<u16> {
    if host.is_some_and(|host| !host.is_empty()) {
        return None;
    }
    match port {
        IntOrString::Int(port) => number(*port),
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            number(ports.find(|port| port.name.as_ref() == Some(name))?.container_port)
        }
    }
}

fn number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(spec: &str) -> Vec<u16> {
        ports(&serde_json::from_str(spec).unwrap())
    }

    #[test]
    fn the_ports_of_all_probes_and_hooks_are_found() {
        let spec = r#"{"containers": [{"name": "a",
            "ports": [{"name": "web", "containerPort": 8080}],
            "livenessProbe": {"httpGet": {"port": "web"}},
            "readinessProbe": {"tcpSocket": {"port": 9000}},
            "startupProbe": {"grpc": {"port": 7000}},
            "lifecycle": {"preStop": {"httpGet": {"port": 8081}}}}],
          "initContainers": [{"name": "b", "readinessProbe": {"tcpSocket": {"port": 9000}}}]}"#;
        assert_eq!(of(spec), [7000, 8080, 8081, 9000]);
    }

    #[test]
    fn other_hosts_and_ports_that_are_none_are_left_out() {
        let spec = r#"{"containers": [{"name": "a",
            "livenessProbe": {"httpGet": {"port": 80, "host": "10.0.0.1"}},
            "readinessProbe": {"tcpSocket": {"port": "unknown"}},
            "startupProbe": {"grpc": {"port": 70000}}},
          {"name": "b", "livenessProbe": {"exec": {"command": ["true"]}},
            "readinessProbe": {"tcpSocket": {"port": 0}}}]}"#;
        assert_eq!(of(spec), [0_u16; 0]);
    }
}
