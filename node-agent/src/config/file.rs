//! The configuration file as it is written. Each section is read on its own, so that a mistake in
//! one does not hide those in the others; a key that no section knows is a mistake.

use std::path::PathBuf;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_path_to_error::Segment;
use serde_yaml::{Mapping, Value};

use crate::admin::{AdminSettings, ReadinessSettings};
use crate::config::Problems;
use crate::identity;
use crate::telemetry::LogSettings;
use crate::telemetry::access_log::AccessLogSettings;
use crate::telemetry::metrics::MetricsSettings;
use crate::tunnel::Engine;

/// A value, and the key or variable that it came from.
#[derive(Debug, Clone)]
pub(super) struct Given<T> {
    pub(super) key: &'static str,
    pub(super) value: T,
}

/// What was written, not yet checked.
#[derive(Debug, Default)]
pub(super) struct RawConfig {
    pub(super) node: Option<Given<String>>,
    pub(super) cluster: Option<Given<String>>,
    pub(super) trust_domain: Option<Given<String>>,
    pub(super) source: Option<Given<String>>,
    pub(super) kubeconfig: Option<Given<String>>,
    pub(super) manifests: Option<Given<String>>,
    pub(super) policy: RawPolicy,
    pub(super) identity: Option<identity::RawSettings>,
    pub(super) datapath: RawDatapath,
    pub(super) cni: RawCni,
    pub(super) workers: Option<Given<usize>>,
    pub(super) tunnel: RawTunnel,
    pub(super) plaintext: RawPlaintext,
    pub(super) admin: AdminSettings,
    pub(super) metrics: MetricsSettings,
    pub(super) readiness: ReadinessSettings,
    pub(super) log: LogSettings,
    pub(super) access_log: AccessLogSettings,
    pub(super) drain: RawDrain,
    pub(super) taint: RawTaint,
    /// Sections that were not read whole: what they seem to lack is not worth a second error.
    pub(super) unreadable: Vec<&'static str>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RawPolicy {
    pub(super) root_namespaces: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RawDatapath {
    pub(super) pins: Option<PathBuf>,
    pub(super) cgroup: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RawCni {
    pub(super) install: Option<bool>,
    pub(super) config_directory: Option<PathBuf>,
    pub(super) bin_directory: Option<PathBuf>,
    pub(super) cache: Option<PathBuf>,
    pub(super) exempt_namespaces: Option<Vec<String>>,
    pub(super) wait: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RawTunnel {
    pub(super) engine: Option<Engine>,
    pub(super) idle_timeout: Option<String>,
    pub(super) ping_interval: Option<String>,
    pub(super) ping_timeout: Option<String>,
    pub(super) connect_timeout: Option<String>,
    pub(super) max_streams: Option<u32>,
    pub(super) expired_grace: Option<String>,
    #[serde(rename = "unreadLimitMiB")]
    pub(super) unread_limit: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RawPlaintext {
    pub(super) keepalive_time: Option<String>,
    pub(super) keepalive_interval: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RawDrain {
    pub(super) deadline: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub(super) struct RawTaint {
    pub(super) remove: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct RawDiscovery {
    source: Option<String>,
    kubernetes: RawKubernetes,
    manifests: RawManifests,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct RawKubernetes {
    kubeconfig: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct RawManifests {
    directory: Option<String>,
}

/// Reads the text of a file; an empty one says nothing.
pub(super) fn read(text: &str, problems: &mut Problems) -> RawConfig {
    let mut raw = RawConfig::default();
    let sections = match serde_yaml::from_str(text) {
        Ok(Value::Mapping(sections)) => sections,
        Ok(Value::Null) => return raw,
        // What it does not say cannot be told then.
        Ok(_) => {
            problems.add("configuration", "not a mapping of sections");
            return RawConfig { unreadable: vec!["identity"], ..raw };
        }
        Err(error) => {
            problems.add("configuration", format_args!("not YAML: {error}"));
            return RawConfig { unreadable: vec!["identity"], ..raw };
        }
    };
    let mut reader = Reader { sections, problems, unreadable: Vec::new() };
    let given = |key, value: Option<String>| value.map(|value| Given { key, value });
    raw.node = given("node", reader.take("node"));
    raw.cluster = given("cluster", reader.take("cluster"));
    raw.trust_domain = given("trustDomain", reader.take("trustDomain"));
    let discovery: RawDiscovery = reader.take("discovery").unwrap_or_default();
    raw.source = given("discovery.source", discovery.source);
    raw.kubeconfig = given("discovery.kubernetes.kubeconfig", discovery.kubernetes.kubeconfig);
    raw.manifests = given("discovery.manifests.directory", discovery.manifests.directory);
    raw.policy = reader.take("policy").unwrap_or_default();
    raw.identity = reader.take("identity");
    raw.datapath = reader.take("datapath").unwrap_or_default();
    raw.cni = reader.take("cni").unwrap_or_default();
    let workers: Option<usize> = reader.take("workers");
    raw.workers = workers.map(|value| Given { key: "workers", value });
    raw.tunnel = reader.take("tunnel").unwrap_or_default();
    raw.plaintext = reader.take("plaintext").unwrap_or_default();
    raw.admin = reader.take("admin").unwrap_or_default();
    raw.metrics = reader.take("metrics").unwrap_or_default();
    raw.readiness = reader.take("readiness").unwrap_or_default();
    raw.log = reader.take("log").unwrap_or_default();
    raw.access_log = reader.take("accessLog").unwrap_or_default();
    raw.drain = reader.take("drain").unwrap_or_default();
    raw.taint = reader.take("taint").unwrap_or_default();
    raw.unreadable = reader.finish();
    raw
}

struct Reader<'a> {
    sections: Mapping,
    problems: &'a mut Problems,
    unreadable: Vec<&'static str>,
}

impl Reader<'_> {
    /// Takes a section out; `None` if it is absent or empty. Where something in it is wrong, that
    /// is left out and the rest is read again, to find everything else that is wrong.
    fn take<T: DeserializeOwned>(&mut self, key: &'static str) -> Option<T> {
        let mut value = self.sections.remove(key)?;
        if value.is_null() {
            return None;
        }
        loop {
            let error = match serde_path_to_error::deserialize(value.clone()) {
                Ok(section) => return Some(section),
                Err(error) => error,
            };
            let place = match error.path().to_string().as_str() {
                "." => key.to_owned(),
                path => format!("{key}.{path}"),
            };
            let path: Vec<Segment> = error.path().iter().cloned().collect();
            self.problems.add(&place, error.into_inner());
            self.unreadable.push(key);
            remove(&mut value, &path)?;
        }
    }

    /// What is left was never asked for.
    fn finish(self) -> Vec<&'static str> {
        for key in self.sections.keys() {
            match key.as_str() {
                Some(key) => self.problems.add(key, "there is no such key"),
                None => self.problems.add("configuration", "a key that is not a text"),
            }
        }
        self.unreadable
    }
}

/// Takes out what a path leads to; `None` if that is everything, or not in a mapping.
fn remove(value: &mut Value, path: &[Segment]) -> Option<Value> {
    let (Segment::Map { key }, rest) = path.split_first()? else {
        return None;
    };
    let mapping = value.as_mapping_mut()?;
    if rest.is_empty() {
        return mapping.shift_remove(key.as_str());
    }
    remove(mapping.get_mut(key.as_str())?, rest)
}
