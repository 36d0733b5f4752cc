//! What was written → settings, with defaults. Everything is checked, so that everything that is
//! wrong is told at once.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use adit_core::identity::TrustDomain;
use adit_core::policy::ROOT_NAMESPACES;
use adit_core::workload::NodeName;

use crate::cni;
use crate::config::env::Environment;
use crate::config::file::{
    Given, RawCni, RawConfig, RawDatapath, RawPlaintext, RawPolicy, RawTunnel,
};
use crate::config::{Config, Mesh, Problems, duration};
use crate::datapath;
use crate::discovery;
use crate::discovery::{Source, kubernetes, manifests};
use crate::identity;
use crate::proxy;
use crate::tunnel;
use crate::worker;
use crate::worker::MAX_WORKERS;

const DEFAULT_CLUSTER: &str = "Kubernetes";
const DEFAULT_TRUST_DOMAIN: &str = "cluster.local";
const DEFAULT_MANIFESTS: &str = "/etc/adit/manifests";
/// Below that, a few streams' windows would be all of it.
const UNREAD_LIMIT_MIB: RangeInclusive<usize> = 16..=1 << 20;
const DEFAULT_DRAIN: Duration = Duration::from_secs(30);

/// As many workers as cores, but no more than this unless told to: the pods need cores too.
const DEFAULT_MAX_WORKERS: usize = 4;

/// `None` only if there are problems.
pub(super) fn check(
    raw: RawConfig,
    environment: &dyn Environment,
    problems: &mut Problems,
) -> Option<Config> {
    let node = node(raw.node, environment, problems);
    let cluster = cluster(raw.cluster, problems);
    let trust_domain = trust_domain(raw.trust_domain, problems);
    let source = source(raw.source, raw.kubeconfig, raw.manifests, problems);
    let root_namespaces = root_namespaces(raw.policy, problems);
    let unreadable = raw.unreadable.contains(&"identity");
    let identity = identity(raw.identity, unreadable, problems);
    let datapath = datapath(raw.datapath, problems);
    let cni = cni(raw.cni, problems);
    let workers = workers(raw.workers.as_ref(), environment, problems);
    let tunnel = tunnel(&raw.tunnel, problems);
    let flow = flow(&raw.plaintext, problems);
    absolute("admin.socket", &raw.admin.socket, problems);
    let address_is_default = |section| raw.unreadable.contains(&section);
    if raw.metrics.address == raw.readiness.address
        && !["metrics", "readiness"].into_iter().any(address_is_default)
    {
        let address = raw.readiness.address;
        let problem = format_args!("{address} is the address of metrics too: give another one");
        problems.add("readiness.address", problem);
    }
    if raw.taint.remove && matches!(source, Some(Source::Manifests(_))) {
        problems
            .add("taint.remove", "needs discovery.source kubernetes: it is the API server's node");
    }
    let limits = (Duration::ZERO, Duration::from_secs(3600));
    let drain =
        time("drain.deadline", raw.drain.deadline.as_ref(), DEFAULT_DRAIN, limits, problems);
    Some(Config {
        mesh: Mesh { node: node?, cluster: cluster?, trust_domain: trust_domain? },
        discovery: discovery::Settings { source: source?, root_namespaces },
        identity: identity?,
        datapath,
        cni,
        worker: worker::Settings { workers },
        tunnel,
        flow,
        admin: raw.admin,
        metrics: raw.metrics,
        readiness: raw.readiness,
        log: raw.log,
        access_log: raw.access_log,
        drain_deadline: drain,
        remove_taint: raw.taint.remove,
    })
}

/// The host's name is taken in lower case, as the kubelet does.
fn node(
    given: Option<Given<String>>,
    environment: &dyn Environment,
    problems: &mut Problems,
) -> Option<NodeName> {
    let given = given.or_else(|| {
        let value = environment.hostname()?.to_ascii_lowercase();
        let key = "node (the host's name)";
        Some(Given { key, value })
    });
    let Some(Given { key, value }) = given else {
        problems.add("node", "is missing and the host has no name: give this node's name");
        return None;
    };
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    if value.is_empty() || value.len() > 253 || !value.bytes().all(legal) {
        let example = "give the name that pods have in spec.nodeName, of [a-z0-9.-]";
        problems.add(key, format_args!("{value:?} is not a node name: {example}"));
        return None;
    }
    Some(NodeName::new(&value))
}

fn cluster(given: Option<Given<String>>, problems: &mut Problems) -> Option<Arc<str>> {
    let Some(Given { key, value }) = given else {
        return Some(Arc::from(DEFAULT_CLUSTER));
    };
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    if value.is_empty() || value.len() > 63 || !value.bytes().all(legal) {
        problems.add(key, format_args!("{value:?} is not of [A-Za-z0-9._-]{{1,63}}"));
        return None;
    }
    Some(Arc::from(value))
}

fn trust_domain(given: Option<Given<String>>, problems: &mut Problems) -> Option<TrustDomain> {
    let (key, value) = match given {
        Some(Given { key, value }) => (key, value),
        None => ("trustDomain", DEFAULT_TRUST_DOMAIN.to_owned()),
    };
    match TrustDomain::parse(&value) {
        Ok(domain) => Some(domain),
        Err(error) => {
            problems.add(key, format_args!("{value:?}: {error}"));
            None
        }
    }
}

/// A directory that is configured beside the API server is for another host with the same file.
fn source(
    given: Option<Given<String>>,
    kubeconfig: Option<Given<String>>,
    directory: Option<Given<String>>,
    problems: &mut Problems,
) -> Option<Source> {
    let directory = manifests_directory(directory, problems);
    let kubeconfig = kubeconfig.map(|Given { key, value }| {
        let path = PathBuf::from(value);
        absolute(key, &path, problems);
        path
    });
    match given {
        None => Some(Source::Manifests(manifests::Settings { directory })),
        Some(Given { key, value }) => match value.as_str() {
            "manifests" => Some(Source::Manifests(manifests::Settings { directory })),
            "kubernetes" => Some(Source::Kubernetes(kubernetes::Settings {
                access: kubernetes::Access { kubeconfig },
                kinds: kubernetes::AGENT,
            })),
            other => {
                problems.add(key, format_args!("{other:?} is not manifests or kubernetes"));
                None
            }
        },
    }
}

fn manifests_directory(given: Option<Given<String>>, problems: &mut Problems) -> PathBuf {
    let Some(Given { key, value }) = given else {
        return PathBuf::from(DEFAULT_MANIFESTS);
    };
    let directory = PathBuf::from(value);
    absolute(key, &directory, problems);
    directory
}

fn root_namespaces(raw: RawPolicy, problems: &mut Problems) -> Vec<Arc<str>> {
    let Some(names) = raw.root_namespaces else {
        return ROOT_NAMESPACES.map(Arc::from).to_vec();
    };
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    for name in &names {
        if name.is_empty() || name.len() > 63 || !name.bytes().all(legal) {
            let problem = format_args!("{name:?} is not the name of a namespace");
            problems.add("policy.rootNamespaces", problem);
        }
    }
    names.into_iter().map(Arc::from).collect()
}

fn identity(
    given: Option<identity::RawSettings>,
    unreadable: bool,
    problems: &mut Problems,
) -> Option<identity::Settings> {
    if unreadable {
        return None;
    }
    // There is no CA by default: an agent that signs for itself must have been told to.
    let raw = given.unwrap_or_else(|| identity::RawSettings {
        lifetime: None,
        ca: identity::RawCa::default(),
    });
    match raw.try_into() {
        Ok(settings) => Some(settings),
        Err(error) => {
            let error: identity::SettingsError = error;
            problems.0.push(error.to_string());
            None
        }
    }
}

fn cni(raw: RawCni, problems: &mut Problems) -> cni::Settings {
    let RawCni { install, config_directory, bin_directory, cache, exempt_namespaces, wait } = raw;
    let defaults = cni::Settings::default();
    let limits = (Duration::from_secs(1), Duration::from_secs(100));
    let settings = cni::Settings {
        install: install.unwrap_or(defaults.install),
        config_directory: config_directory.unwrap_or(defaults.config_directory),
        bin_directory: bin_directory.unwrap_or(defaults.bin_directory),
        cache: cache.unwrap_or(defaults.cache),
        exempt: exempt_namespaces.unwrap_or(defaults.exempt),
        wait: time("cni.wait", wait.as_ref(), defaults.wait, limits, problems),
    };
    absolute("cni.configDirectory", &settings.config_directory, problems);
    absolute("cni.binDirectory", &settings.bin_directory, problems);
    absolute("cni.cache", &settings.cache, problems);
    settings
}

fn datapath(raw: RawDatapath, problems: &mut Problems) -> datapath::Settings {
    let RawDatapath { pins, cgroup } = raw;
    let defaults = datapath::Settings::default();
    let cgroup = cgroup.filter(|path| path != "auto").map(PathBuf::from);
    if let Some(path) = &cgroup
        && !path.is_absolute()
    {
        let path = path.display().to_string();
        problems.add("datapath.cgroup", format_args!("{path:?} is not auto or an absolute path"));
    }
    let pins = pins.unwrap_or(defaults.pins);
    absolute("datapath.pins", &pins, problems);
    datapath::Settings { pins, cgroup }
}

fn workers(
    given: Option<&Given<usize>>,
    environment: &dyn Environment,
    problems: &mut Problems,
) -> usize {
    match given {
        None => environment.cores().clamp(1, DEFAULT_MAX_WORKERS),
        Some(Given { key, value }) => {
            if !(1..=MAX_WORKERS).contains(value) {
                problems.add(key, format_args!("{value} is not 1 to {MAX_WORKERS}"));
            }
            *value
        }
    }
}

fn tunnel(raw: &RawTunnel, problems: &mut Problems) -> tunnel::Settings {
    let defaults = tunnel::Settings::default();
    let day = Duration::from_secs(24 * 3600);
    let limits = (Duration::from_millis(100), day);
    let RawTunnel {
        engine,
        idle_timeout,
        ping_interval,
        ping_timeout,
        connect_timeout,
        max_streams,
        expired_grace,
        unread_limit,
    } = raw;
    let grace = time(
        "tunnel.expiredGrace",
        expired_grace.as_ref(),
        defaults.expired_grace,
        (Duration::ZERO, 366 * day),
        problems,
    );
    let mut time = |key: &str, text: &Option<String>, default| {
        time(key, text.as_ref(), default, limits, problems)
    };
    let settings = tunnel::Settings {
        engine: engine.unwrap_or(defaults.engine),
        idle_timeout: time("tunnel.idleTimeout", idle_timeout, defaults.idle_timeout),
        ping_interval: time("tunnel.pingInterval", ping_interval, defaults.ping_interval),
        ping_timeout: time("tunnel.pingTimeout", ping_timeout, defaults.ping_timeout),
        connect_timeout: time("tunnel.connectTimeout", connect_timeout, defaults.connect_timeout),
        max_streams: max_streams.unwrap_or(defaults.max_streams),
        expired_grace: grace,
        unread_limit: unread_limit.map_or(defaults.unread_limit, |limit| limit << 20),
    };
    if let Some(limit) = unread_limit
        && !UNREAD_LIMIT_MIB.contains(limit)
    {
        let (least, most) = (UNREAD_LIMIT_MIB.start(), UNREAD_LIMIT_MIB.end());
        let problem = format_args!("{limit} is not {least} to {most}");
        problems.add("tunnel.unreadLimitMiB", problem);
    }
    if !(1..=10_000).contains(&settings.max_streams) {
        let problem = format_args!("{} is not 1 to 10000", settings.max_streams);
        problems.add("tunnel.maxStreams", problem);
    }
    settings
}

fn flow(raw: &RawPlaintext, problems: &mut Problems) -> proxy::Settings {
    let defaults = proxy::Settings::default();
    // The kernel counts seconds, up to 32767 of them (tcp(7)).
    let limits = (Duration::from_secs(1), Duration::from_secs(9 * 3600));
    let RawPlaintext { keepalive_time: time_given, keepalive_interval: interval } = raw;
    let mut time = |key: &str, text: &Option<String>, default| {
        time(key, text.as_ref(), default, limits, problems)
    };
    proxy::Settings {
        keepalive_time: time("plaintext.keepaliveTime", time_given, defaults.keepalive_time),
        keepalive_interval: time(
            "plaintext.keepaliveInterval",
            interval,
            defaults.keepalive_interval,
        ),
    }
}

fn time(
    key: &str,
    text: Option<&String>,
    default: Duration,
    (least, most): (Duration, Duration),
    problems: &mut Problems,
) -> Duration {
    let Some(text) = text else { return default };
    match duration::parse(text) {
        Some(duration) if (least..=most).contains(&duration) => return duration,
        Some(_) => {
            let (least, most) = (duration::show(least), duration::show(most));
            problems.add(key, format_args!("{text:?} is not within {least} and {most}"));
        }
        None => {
            let example = "give a number and a unit, such as 250ms, 10s, 5m or 24h";
            problems.add(key, format_args!("{text:?} is not a duration: {example}"));
        }
    }
    default
}

/// Relative to what, nobody could tell: a daemon has no directory of its own.
fn absolute(key: &str, path: &Path, problems: &mut Problems) {
    if !path.is_absolute() {
        let path = path.display().to_string();
        problems.add(key, format_args!("{path:?} is not an absolute path"));
    }
}
