//! Prometheus metrics: Istio's TCP families, so that Kiali and existing dashboards work, and
//! `adit_*`. What flows add is counted as they are recorded; what can be looked at (pods,
//! certificates, tunnels) comes as a [`Snapshot`] with each scrape.

mod decisions;
#[cfg(test)]
mod documented;
mod labels;
mod traffic;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde::Deserialize;

pub use traffic::{FlowMeter, Limits};

/// The media type of what [`Metrics::render`] makes.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Identities whose certificates have a series each; a node seldom has more than 250 pods.
const CERTIFICATES: usize = 1000;

/// The section `metrics` of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct MetricsSettings {
    /// Where `/metrics` and `/stats/prometheus` are served, in the node's network namespace.
    pub address: SocketAddr,
}

impl Default for MetricsSettings {
    fn default() -> Self {
        Self { address: SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 15020)) }
    }
}

/// What a scrape looks at.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Whether the agent is ready.
    pub ready: bool,
    /// State → pods of this node.
    pub pods: BTreeMap<&'static str, u64>,
    /// State → certificates.
    pub certificate_states: BTreeMap<String, u64>,
    /// Identity and the end of its certificate's life, where there is one.
    pub certificates: Vec<(String, Option<SystemTime>)>,
    /// Why the last request failed → identities.
    pub certificates_failing: BTreeMap<String, u64>,
    /// Direction → tunnels open.
    pub tunnels: BTreeMap<&'static str, u64>,
    /// Flow records that found the channel from the workers full.
    pub records_dropped: u64,
    /// Followers of the flow stream.
    pub followers: usize,
    /// Events that followers were too slow for.
    pub events_missed: u64,
    /// Errors that discovery reports now.
    pub discovery_errors: usize,
    /// State → policies.
    pub policies: BTreeMap<&'static str, u64>,
}

type Labels = Vec<(&'static str, String)>;

/// All metrics of the agent.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    looked_at: Mutex<LookedAt>,
}

/// The gauges that a scrape fills; one scrape at a time.
#[derive(Debug, Default)]
struct LookedAt {
    ready: Gauge,
    pods: Family<Labels, Gauge>,
    certificate_states: Family<Labels, Gauge>,
    certificates: Family<Labels, Gauge>,
    certificates_failing: Family<Labels, Gauge>,
    tunnels: Family<Labels, Gauge>,
    records_dropped: Counter<u64, AtomicU64>,
    followers: Gauge,
    events_missed: Counter<u64, AtomicU64>,
    discovery_errors: Gauge,
    policies: Family<Labels, Gauge>,
}

impl Metrics {
    /// Metrics for the cluster of this name, and the meter that `observer` feeds.
    #[must_use]
    pub fn new(cluster: &str, started: SystemTime, limits: Limits) -> (Self, FlowMeter) {
        let mut registry = Registry::default();
        let build: Family<Labels, Gauge> = Family::default();
        let version = env!("CARGO_PKG_VERSION").to_owned();
        build.get_or_create(&vec![("version", version)]).set(1);
        registry.register("adit_build", "The agent's version; always 1", build);
        let start: Gauge = Gauge::default();
        start.set(unix_seconds(started));
        registry.register(
            "adit_start_time_seconds",
            "When the agent started, in seconds since 1970",
            start,
        );
        let looked_at = LookedAt::default();
        looked_at.register(&mut registry);
        let meter = FlowMeter::new(cluster, limits, &mut registry);
        let looked_at = Mutex::new(looked_at);
        (Self { registry, looked_at }, meter)
    }

    /// The exposition text with these values for what is looked at.
    ///
    /// # Errors
    /// Never in practice: a `String` takes every write.
    pub fn render(&self, snapshot: &Snapshot) -> Result<String, std::fmt::Error> {
        // Held while encoding, so that two scrapes do not mix their values.
        let looked_at = self.looked_at.lock().unwrap_or_else(PoisonError::into_inner);
        looked_at.set(snapshot);
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl LookedAt {
    fn register(&self, registry: &mut Registry) {
        registry.register("adit_ready", "1 when the agent is ready, else 0", self.ready.clone());
        registry.register(
            "adit_pods",
            "Pods of this node by state of their enrolment",
            self.pods.clone(),
        );
        registry.register(
            "adit_certificates",
            "Certificates of this node's identities by state",
            self.certificate_states.clone(),
        );
        registry.register(
            "adit_certificate_expiration_timestamp_seconds",
            "When the certificate of an identity expires, in seconds since 1970; 0 without one",
            self.certificates.clone(),
        );
        registry.register(
            "adit_certificates_failing",
            "Identities that the CA gave no certificate at the last attempt, by the reason",
            self.certificates_failing.clone(),
        );
        registry.register(
            "adit_tunnels_open",
            "Tunnels open now, by the side that dialled",
            self.tunnels.clone(),
        );
        registry.register(
            "adit_flow_records_dropped",
            "Flow records lost because the observer was too slow; their flows are in no metric",
            self.records_dropped.clone(),
        );
        registry.register(
            "adit_flow_followers",
            "Clients that follow the stream of flows",
            self.followers.clone(),
        );
        registry.register(
            "adit_flow_events_missed",
            "Events that followers of the stream of flows were too slow for",
            self.events_missed.clone(),
        );
        registry.register(
            "adit_discovery_errors",
            "Objects that discovery rejects now",
            self.discovery_errors.clone(),
        );
        registry.register(
            "adit_policies",
            "Policies by whether they are enforced as they are written",
            self.policies.clone(),
        );
    }

    fn set(&self, snapshot: &Snapshot) {
        self.ready.set(i64::from(snapshot.ready));
        self.pods.clear();
        for (state, count) in &snapshot.pods {
            set(&self.pods, &vec![("state", (*state).to_owned())], signed(*count));
        }
        self.certificate_states.clear();
        for (state, count) in &snapshot.certificate_states {
            set(&self.certificate_states, &vec![("state", state.clone())], signed(*count));
        }
        self.certificates.clear();
        // Those that expire first, and before them those that are missing.
        let mut certificates: Vec<_> = snapshot.certificates.iter().collect();
        certificates.sort_by_key(|(identity, not_after)| (*not_after, identity));
        for (identity, not_after) in certificates.into_iter().take(CERTIFICATES) {
            let expires = not_after.map_or(0, unix_seconds);
            set(&self.certificates, &vec![("identity", identity.clone())], expires);
        }
        self.certificates_failing.clear();
        for (reason, count) in &snapshot.certificates_failing {
            let labels = vec![("reason", reason.clone())];
            set(&self.certificates_failing, &labels, signed(*count));
        }
        self.tunnels.clear();
        for (direction, count) in &snapshot.tunnels {
            let labels = vec![("direction", (*direction).to_owned())];
            set(&self.tunnels, &labels, signed(*count));
        }
        self.records_dropped.inner().store(snapshot.records_dropped, Ordering::Relaxed);
        self.events_missed.inner().store(snapshot.events_missed, Ordering::Relaxed);
        self.followers.set(signed(snapshot.followers.try_into().unwrap_or(u64::MAX)));
        self.discovery_errors.set(signed(snapshot.discovery_errors.try_into().unwrap_or(u64::MAX)));
        self.policies.clear();
        for (state, count) in &snapshot.policies {
            set(&self.policies, &vec![("state", (*state).to_owned())], signed(*count));
        }
    }
}

fn set(family: &Family<Labels, Gauge>, labels: &Labels, value: i64) {
    family.get_or_create(labels).set(value);
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn unix_seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    signed(since.as_secs())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_scrape_shows_what_is_and_not_what_was() {
        let started = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let (metrics, _meter) = Metrics::new("Kubernetes", started, Limits::default());
        let before =
            Snapshot { pods: [("enrolled", 2), ("failed", 1)].into(), ..Snapshot::default() };
        let first = metrics.render(&before).unwrap();
        assert!(first.contains("adit_pods{state=\"failed\"} 1\n"), "{first}");

        let now = Snapshot {
            ready: true,
            pods: [("enrolled", 3)].into(),
            certificate_states: [("valid".to_owned(), 1)].into(),
            certificates: vec![("spiffe://c/ns/a/sa/b".to_owned(), Some(started))],
            certificates_failing: [("unreachable".to_owned(), 2)].into(),
            tunnels: [("inbound", 1)].into(),
            records_dropped: 5,
            followers: 6,
            events_missed: 8,
            discovery_errors: 7,
            policies: [("partial", 4)].into(),
        };
        let second = metrics.render(&now).unwrap();
        let expected = [
            "adit_ready 1\n",
            "adit_pods{state=\"enrolled\"} 3\n",
            "adit_certificate_expiration_timestamp_seconds{identity=\"spiffe://c/ns/a/sa/b\"} \
             1700000000\n",
            "adit_certificates_failing{reason=\"unreachable\"} 2\n",
            "adit_tunnels_open{direction=\"inbound\"} 1\n",
            "adit_flow_records_dropped_total 5\n",
            "adit_flow_followers 6\n",
            "adit_flow_events_missed_total 8\n",
            "adit_certificates{state=\"valid\"} 1\n",
            "adit_discovery_errors 7\n",
            "adit_policies{state=\"partial\"} 4\n",
            "adit_start_time_seconds 1700000000\n",
            "# EOF\n",
        ];
        for line in expected {
            assert!(second.contains(line), "{line} is missing in\n{second}");
        }
        assert!(!second.contains("failed"), "{second}");
    }

    #[test]
    fn of_too_many_certificates_those_that_expire_first_have_a_series() {
        let (metrics, _meter) = Metrics::new("Kubernetes", UNIX_EPOCH, Limits::default());
        let expires = |n| UNIX_EPOCH + Duration::from_secs(n);
        let mut certificates: Vec<_> = (1..=2000)
            .rev()
            .map(|n| (format!("spiffe://c/ns/a/sa/{n}"), Some(expires(n))))
            .collect();
        certificates.push(("spiffe://c/ns/a/sa/none".to_owned(), None));

        let text = metrics.render(&Snapshot { certificates, ..Snapshot::default() }).unwrap();

        let name = "adit_certificate_expiration_timestamp_seconds{";
        assert_eq!(text.lines().filter(|line| line.starts_with(name)).count(), CERTIFICATES);
        for (identity, expected) in [("none", true), ("999", true), ("1000", false)] {
            assert_eq!(text.contains(&format!("/sa/{identity}\"}}")), expected, "{identity}");
        }
    }
}
