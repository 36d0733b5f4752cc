//! What a file and an environment make, and how what is wrong with them is told.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::*;
use crate::discovery::{Source, kubernetes};
use crate::telemetry::LogFormat;

/// The least that an agent must be told.
const CA: &str = "identity: {ca: {file: /etc/adit/ca}}\n";

#[test]
fn everything_but_the_ca_has_a_default() {
    let config = parse(CA).unwrap();
    assert_eq!(config.mesh.node, NodeName::new("node-a.example"));
    assert_eq!(&*config.mesh.cluster, "Kubernetes");
    assert_eq!(config.mesh.trust_domain.as_str(), "cluster.local");
    assert_eq!(config.discovery.source.to_string(), "manifests /etc/adit/manifests");
    let roots: Vec<&str> = config.discovery.root_namespaces.iter().map(|name| &**name).collect();
    assert_eq!(roots, ["adit-system", "istio-system"]);
    assert_eq!(config.identity.lifetime, seconds(24 * 3600));
    assert_eq!(config.datapath, datapath::Settings::default());
    assert_eq!(config.worker.workers, 4);
    assert_eq!(config.tunnel, tunnel::Settings::default());
    assert_eq!(config.flow, proxy::Settings::default());
    assert_eq!(config.admin.socket, Path::new("/run/adit/adit.sock"));
    assert_eq!(config.metrics.address, address("[::]:15020"));
    assert_eq!(config.readiness.address, address("[::]:15021"));
    assert_eq!((config.log.format, &*config.log.filter), (LogFormat::Text, "info"));
    assert!(config.access_log.enabled);
    assert_eq!(config.drain_deadline, seconds(30));
}

#[test]
fn every_key_can_be_set() {
    let config = parse(
        r#"
node: node-b
cluster: blue
trustDomain: example.org
discovery: { manifests: { directory: /srv/manifests } }
policy: { rootNamespaces: [mesh] }
identity:
  lifetime: 12h
  ca: { address: "https://10.0.0.1:15012", root: /r.pem, token: /t, serverName: adit-ca }
datapath: { pins: /sys/fs/bpf/b, cgroup: /sys/fs/cgroup/b }
workers: 3
tunnel: { engine: h2, idleTimeout: 6m, pingInterval: 5s, pingTimeout: 2s, connectTimeout: 250ms, maxStreams: 7, expiredGrace: 0s, unreadLimitMiB: 32 }
plaintext: { keepaliveTime: 2m, keepaliveInterval: 3s }
admin: { socket: /run/b.sock }
metrics: { address: "127.0.0.1:1" }
readiness: { address: "127.0.0.1:2" }
log: { format: json, filter: debug }
accessLog: { enabled: false }
drain: { deadline: 0s }
"#,
    )
    .unwrap();
    assert_eq!(config.mesh.node, NodeName::new("node-b"));
    assert_eq!(&*config.mesh.cluster, "blue");
    assert_eq!(config.mesh.trust_domain.as_str(), "example.org");
    assert_eq!(config.discovery.source.to_string(), "manifests /srv/manifests");
    assert_eq!(config.discovery.root_namespaces, [Arc::from("mesh")]);
    assert_eq!(config.identity.lifetime, seconds(12 * 3600));
    assert_eq!(config.datapath.pins, Path::new("/sys/fs/bpf/b"));
    assert_eq!(config.datapath.cgroup.as_deref(), Some(Path::new("/sys/fs/cgroup/b")));
    assert_eq!(config.worker.workers, 3);
    let tunnel = tunnel::Settings {
        engine: tunnel::Engine::H2,
        idle_timeout: seconds(360),
        ping_interval: seconds(5),
        ping_timeout: seconds(2),
        connect_timeout: Duration::from_millis(250),
        max_streams: 7,
        expired_grace: Duration::ZERO,
        unread_limit: 32 << 20,
    };
    assert_eq!(config.tunnel, tunnel);
    let flow = proxy::Settings { keepalive_time: seconds(120), keepalive_interval: seconds(3) };
    assert_eq!(config.flow, flow);
    assert_eq!(config.admin.socket, Path::new("/run/b.sock"));
    assert_eq!(config.metrics.address, address("127.0.0.1:1"));
    assert_eq!(config.readiness.address, address("127.0.0.1:2"));
    assert_eq!((config.log.format, &*config.log.filter), (LogFormat::Json, "debug"));
    assert!(!config.access_log.enabled);
    assert_eq!(config.drain_deadline, Duration::ZERO);
}

#[test]
fn the_environment_overrides_the_file() {
    let environment = environment(&[
        ("ADIT_NODE", "node-c"),
        ("ADIT_CLUSTER", "green"),
        ("ADIT_TRUST_DOMAIN", "example.net"),
        ("ADIT_MANIFESTS", "/m"),
        ("ADIT_LOG", "trace"),
        ("ADIT_LOG_FORMAT", "json"),
        ("ADIT_WORKERS", "2"),
        ("ADIT_TUNNEL_ENGINE", "h2"),
        ("ADIT_CA_SERVICE_HOST", "10.96.0.7"),
    ]);
    let text = format!("{CA}node: b\ncluster: b\ntrustDomain: b\nworkers: 1\nlog: {{filter: b}}\n");
    let config = Config::parse(&text, &environment).unwrap();
    assert_eq!(config.mesh.node, NodeName::new("node-c"));
    assert_eq!(&*config.mesh.cluster, "green");
    assert_eq!(config.mesh.trust_domain.as_str(), "example.net");
    assert_eq!(config.discovery.source.to_string(), "manifests /m");
    assert_eq!((config.log.format, &*config.log.filter), (LogFormat::Json, "trace"));
    assert_eq!(config.worker.workers, 2);
    assert_eq!(config.tunnel.engine, tunnel::Engine::H2);
}

#[test]
fn the_taint_is_taken_off_only_where_it_is_asked_for_and_there_is_an_api_server() {
    let kubernetes = "discovery: {source: kubernetes, kubernetes: {kubeconfig: /k}}\n";
    let taint = |more: &str| parse(&format!("{CA}{kubernetes}{more}")).unwrap().remove_taint;
    assert!(!taint("") && taint("taint: {remove: true}\n"));
    let problems = parse(&format!("{CA}taint: {{remove: true}}\n")).unwrap_err();
    assert!(problems.to_string().starts_with("taint.remove: needs"), "{problems}");
}

#[test]
fn a_section_that_is_named_and_left_empty_says_nothing() {
    let config = parse(&format!("{CA}tunnel:\nnode:\nlog: {{}}\n")).unwrap();
    assert_eq!(config.tunnel, tunnel::Settings::default());
    assert_eq!(config.mesh.node, NodeName::new("node-a.example"));
}

#[test]
fn the_api_server_is_a_source_inside_a_pod_or_with_a_kubeconfig() {
    let inside = parse(&format!("{CA}discovery: {{source: kubernetes}}\n")).unwrap();
    let access = kubernetes::Access::default();
    let kinds = kubernetes::AGENT;
    let expected = Source::Kubernetes(kubernetes::Settings { access, kinds });
    assert_eq!(inside.discovery.source, expected);

    let kubeconfig = "discovery: {source: kubernetes, kubernetes: {kubeconfig: /k}}\n";
    let outside = parse(&format!("{CA}{kubeconfig}")).unwrap();
    assert_eq!(outside.discovery.source.to_string(), "kubernetes /k");

    let environment = environment(&[("ADIT_DISCOVERY", "kubernetes")]);
    let told = Config::parse(CA, &environment).unwrap();
    assert_eq!(told.discovery.source, expected);
}

#[test]
fn an_agent_must_be_told_its_ca() {
    assert_eq!(
        told(""),
        "identity.ca.address: is missing: give https://HOST:PORT of the CA, or `file` instead"
    );
}

#[test]
fn what_cannot_be_read_is_one_error_and_not_also_missing() {
    for text in ["node: [", "- a list", "identity: 5\n"] {
        let told = told(text);
        assert_eq!(told.lines().count(), 1, "{text}: {told}");
    }
    let text = format!("{CA}metrics: {{address: here}}\nreadiness: {{address: \"[::]:15020\"}}\n");
    assert!(told(&text).starts_with("metrics.address: "), "{}", told(&text));
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let text = r#"
node: Node_A
cluster: "a b"
trustDomain: Example.org
discovery: { manifests: { directory: manifests } }
identity: { ca: { file: /a, token: /t } }
datapath: { pins: pins, cgroup: none }
workers: 0
tunnel: { idleTimeout: 5x, pingInterval: 1ms, maxStreams: 0, expiredGrace: 2y, unreadLimitMiB: 1 }
plaintext: { keepaliveTime: 1ms }
admin: { socket: adit.sock }
metrics: { address: "127.0.0.1:1" }
readiness: { address: "127.0.0.1:1" }
drain: { deadline: 2h }
colour: blue
"#;
    assert_eq!(
        told(text),
        r#"18 errors
  colour: there is no such key
  node: "Node_A" is not a node name: give the name that pods have in spec.nodeName, of [a-z0-9.-]
  cluster: "a b" is not of [A-Za-z0-9._-]{1,63}
  trustDomain: "Example.org": the trust domain is not of [a-z0-9._-]{1,255}
  discovery.manifests.directory: "manifests" is not an absolute path
  identity.ca: give either `file` or `address`, `root` and `token`, not both
  datapath.cgroup: "none" is not auto or an absolute path
  datapath.pins: "pins" is not an absolute path
  workers: 0 is not 1 to 16
  tunnel.expiredGrace: "2y" is not a duration: give a number and a unit, such as 250ms, 10s, 5m or 24h
  tunnel.idleTimeout: "5x" is not a duration: give a number and a unit, such as 250ms, 10s, 5m or 24h
  tunnel.pingInterval: "1ms" is not within 100ms and 24h
  tunnel.unreadLimitMiB: 1 is not 16 to 1048576
  tunnel.maxStreams: 0 is not 1 to 10000
  plaintext.keepaliveTime: "1ms" is not within 1s and 9h
  admin.socket: "adit.sock" is not an absolute path
  readiness.address: 127.0.0.1:1 is the address of metrics too: give another one
  drain.deadline: "2h" is not within 0ms and 1h"#
    );
}

#[test]
fn a_key_or_a_type_that_is_wrong_is_told_with_its_path() {
    let cases = [
        (
            "tunnel: {idleTimout: 5m}",
            "tunnel.idleTimout: unknown field `idleTimout`, expected one of",
        ),
        ("tunnel: {maxStreams: many}", "tunnel.maxStreams: invalid type: string \"many\""),
        ("discovery: {manifests: {dir: /m}}", "discovery.manifests.dir: unknown field `dir`"),
        ("discovery: {xds: {}}", "discovery.xds: unknown field `xds`"),
        ("discovery: {source: xds}", "discovery.source: \"xds\" is not manifests or kubernetes"),
        (
            "discovery: {kubernetes: {kubeconfig: k}}",
            "discovery.kubernetes.kubeconfig: \"k\" is not an absolute path",
        ),
        ("workers: -1", "workers: invalid value: integer `-1`, expected usize"),
        ("node: 7", "node: invalid type: integer `7`, expected a string"),
        ("metrics: {address: \":15020\"}", "metrics.address: invalid socket address"),
        ("tunnel: {engine: h3}", "tunnel.engine: unknown variant `h3`, expected `h2` or `framing`"),
        ("log: {format: xml}", "log.format: unknown variant `xml`, expected `text` or `json`"),
        ("accessLog: {enabled: 1}", "accessLog.enabled: invalid type: integer `1`"),
        ("1: 2", "configuration: a key that is not a text"),
    ];
    for (text, expected) in cases {
        let told = told(&format!("{CA}{text}\n"));
        assert!(told.starts_with(expected), "{told}");
        assert!(!told.contains('\n'), "more than one: {told}");
    }
    let told = told("identity: {ca: {fil: /etc/adit/ca}}");
    assert!(told.starts_with("identity.ca.fil: unknown field `fil`"), "{told}");
}

#[test]
fn several_mistakes_in_one_section_are_all_told() {
    let told = told(&format!(
        "{CA}tunnel: {{maxStreams: many, idleTimout: 5m, pingTimeout: 1d, idleTimeout: [5]}}\n"
    ));
    let keys = told.lines().skip(1).filter_map(|line| line.trim().split_once(": "));
    let keys: Vec<&str> = keys.map(|(key, _)| key).collect();
    let expected = ["maxStreams", "idleTimout", "idleTimeout", "pingTimeout"];
    assert_eq!(keys, expected.map(|key| format!("tunnel.{key}")), "{told}");
}

#[test]
fn what_is_no_configuration_at_all_is_told_so() {
    let (not_yaml, twice) = (told("a: ["), told("node: a\nnode: b"));
    assert!(not_yaml.contains("configuration: not YAML: "), "{not_yaml}");
    assert!(twice.contains("duplicate entry with key \"node\""), "{twice}");
    let list = told("- a");
    assert!(list.contains("configuration: not a mapping of sections"), "{list}");
}

#[test]
fn a_variable_that_is_wrong_is_told_by_its_name() {
    let cases = [
        ("ADIT_NODE", "a/b", "ADIT_NODE: \"a/b\" is not a node name"),
        ("ADIT_TRUST_DOMAIN", "a/b", "ADIT_TRUST_DOMAIN: \"a/b\": the trust domain"),
        ("ADIT_TUNNEL_ENGINE", "h3", "ADIT_TUNNEL_ENGINE: \"h3\" is not h2 or framing"),
        ("ADIT_WORKERS", "two", "ADIT_WORKERS: \"two\" is not a number"),
        ("ADIT_WORKERS", "1000", "ADIT_WORKERS: 1000 is not 1 to 16"),
        ("ADIT_LOG_FORMAT", "xml", "ADIT_LOG_FORMAT: \"xml\" is not text or json"),
        ("ADIT_MANIFESTS", "m", "ADIT_MANIFESTS: \"m\" is not an absolute path"),
    ];
    for (name, value, expected) in cases {
        let problems = Config::parse(CA, &environment(&[(name, value)])).unwrap_err();
        assert!(problems.to_string().starts_with(expected), "{problems}");
    }
}

#[test]
fn a_file_is_named_when_it_cannot_be_read_or_is_wrong() {
    let environment = environment(&[]);
    let error = Config::load(Some(Path::new("/nonexistent/adit.yaml")), &environment).unwrap_err();
    assert_eq!(error.to_string(), "read configuration /nonexistent/adit.yaml");
    let error = Config::load(None, &environment).unwrap_err().to_string();
    assert!(error.starts_with("configuration (no file): identity.ca.address: "), "{error}");
}

#[test]
fn the_real_environment_has_a_host_and_cores() {
    assert!(ProcessEnvironment.cores() >= 1);
    assert!(!ProcessEnvironment.hostname().unwrap().is_empty());
    assert_eq!(ProcessEnvironment.variable("ADIT_NO_SUCH_VARIABLE"), None);
}

struct MapEnvironment(BTreeMap<String, String>);

impl Environment for MapEnvironment {
    fn variable(&self, name: &str) -> Option<String> {
        self.0.get(name).cloned()
    }

    fn hostname(&self) -> Option<String> {
        Some("Node-A.example".to_owned())
    }

    fn cores(&self) -> usize {
        64
    }
}

fn environment(variables: &[(&str, &str)]) -> MapEnvironment {
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    MapEnvironment(variables.iter().map(own).collect())
}

fn parse(text: &str) -> Result<Config, Problems> {
    Config::parse(text, &environment(&[]))
}

#[track_caller]
fn told(text: &str) -> String {
    parse(text).unwrap_err().to_string()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn the_deployments_file_is_valid_and_names_every_setting() {
    const FILE: &str = include_str!("../../../deploy/config.yaml");
    const DOCUMENT: &str = include_str!("../../../docs/configuration.md");
    let config = parse(FILE).unwrap();
    assert!(config.cni.install);
    let rows = DOCUMENT.lines().skip_while(|line| !line.starts_with("|---"));
    let rows = rows.skip(1).take_while(|line| line.starts_with('|'));
    let cells = rows.filter_map(|row| row.split('|').nth(1));
    let keys = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));
    let mut count = 0;
    // The node's name comes from the environment.
    for key in keys.filter(|key| *key != "node") {
        let last = key.rsplit('.').next().unwrap();
        assert!(FILE.contains(&format!("{last}:")), "deploy/config.yaml does not name {key}");
        count += 1;
    }
    assert!(count > 30, "{count} settings");
}
