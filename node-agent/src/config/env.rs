//! The environment: the only place where adit reads it. Variables override the file, for what
//! differs from node to node while the file is the same on all of them.
//!
//! Other variables that start with `ADIT_` are none of adit's business: Kubernetes makes
//! `ADIT_CA_SERVICE_HOST` of a service `adit-ca`.

use crate::config::Problems;
use crate::config::file::{Given, RawConfig};
use crate::telemetry::LogFormat;
use crate::tunnel::Engine;

/// What the process was started in.
pub trait Environment {
    /// A variable; `None` if it is not set, empty or not UTF-8.
    fn variable(&self, name: &str) -> Option<String>;
    /// The host's name.
    fn hostname(&self) -> Option<String>;
    /// The processors that this process may use.
    fn cores(&self) -> usize;
}

/// The real one.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    fn variable(&self, name: &str) -> Option<String> {
        std::env::var(name).ok().filter(|value| !value.is_empty())
    }

    fn hostname(&self) -> Option<String> {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
        Some(name.trim().to_owned())
    }

    fn cores(&self) -> usize {
        std::thread::available_parallelism().map_or(1, usize::from)
    }
}

/// Puts what the environment says above what the file says.
pub(super) fn override_with(
    raw: &mut RawConfig,
    environment: &dyn Environment,
    problems: &mut Problems,
) {
    let text = |key: &'static str| {
        let value = environment.variable(key)?;
        Some(Given { key, value })
    };
    if let Some(node) = text("ADIT_NODE") {
        raw.node = Some(node);
    }
    if let Some(cluster) = text("ADIT_CLUSTER") {
        raw.cluster = Some(cluster);
    }
    if let Some(trust_domain) = text("ADIT_TRUST_DOMAIN") {
        raw.trust_domain = Some(trust_domain);
    }
    if let Some(source) = text("ADIT_DISCOVERY") {
        raw.source = Some(source);
    }
    if let Some(directory) = text("ADIT_MANIFESTS") {
        raw.manifests = Some(directory);
    }
    let mut truth = |key: &str| match environment.variable(key)?.as_str() {
        "true" => Some(true),
        "false" => Some(false),
        other => {
            problems.add(key, format_args!("{other:?} is not true or false"));
            None
        }
    };
    raw.cni.install = truth("ADIT_CNI_INSTALL").or(raw.cni.install);
    raw.taint.remove = truth("ADIT_TAINT_REMOVE").unwrap_or(raw.taint.remove);
    if let Some(filter) = environment.variable("ADIT_LOG") {
        raw.log.filter = filter;
    }
    if let Some(format) = environment.variable("ADIT_LOG_FORMAT") {
        match format.as_str() {
            "text" => raw.log.format = LogFormat::Text,
            "json" => raw.log.format = LogFormat::Json,
            other => problems.add("ADIT_LOG_FORMAT", format_args!("{other:?} is not text or json")),
        }
    }
    if let Some(Given { key, value }) = text("ADIT_TUNNEL_ENGINE") {
        match Engine::ALL.into_iter().find(|engine| engine.name() == value) {
            Some(engine) => raw.tunnel.engine = Some(engine),
            None => problems.add(key, format_args!("{value:?} is not h2 or framing")),
        }
    }
    if let Some(Given { key, value }) = text("ADIT_WORKERS") {
        match value.parse() {
            Ok(value) => raw.workers = Some(Given { key, value }),
            Err(_) => problems.add(key, format_args!("{value:?} is not a number")),
        }
    }
}
