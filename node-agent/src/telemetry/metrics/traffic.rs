//! Counters of flows. A flow is counted once opened and once closed; its bytes are added from time to
//! time while it is open, and when it closes. How many series there can be is bounded: see [`Limits`].

use std::collections::HashMap;
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_core::flow::{FlowId, FlowRecord, Moved, Protocol};
use adit_core::policy::PolicyId;
use adit_core::workload::PodUid;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::telemetry::metrics::decisions::Decisions;
use crate::telemetry::metrics::labels::TrafficLabels;

/// What bounds the number of series.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Label sets of Istio's families, and of decisions. Further ones are counted in a set whose
    /// workloads and services, or policies, are all `other`.
    pub label_sets: usize,
    /// A label set of a pod that is gone is dropped when no flow has touched it for this long.
    pub idle: Duration,
    /// Open flows whose labels are remembered; the opening of further ones is counted when they end.
    pub open_flows: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { label_sets: 4096, idle: Duration::from_secs(15 * 60), open_flows: 262_144 }
    }
}

/// Turns flow records into counters. Owned by the one task that receives the records.
#[derive(Debug)]
pub struct FlowMeter {
    cluster: Arc<str>,
    limits: Limits,
    families: Families,
    decisions: Decisions,
    series: HashMap<Arc<TrafficLabels>, Series>,
    /// The series of everything beyond the limit: a handful, of no pod.
    common: HashMap<Arc<TrafficLabels>, Series>,
    open: HashMap<FlowId, Open>,
}

#[derive(Debug, Default)]
struct Families {
    opened: Family<TrafficLabels, Counter>,
    closed: Family<TrafficLabels, Counter>,
    sent: Family<TrafficLabels, Counter>,
    received: Family<TrafficLabels, Counter>,
    ended: Family<EndLabels, Counter>,
    open: Family<OpenLabels, Gauge>,
    label_sets: Gauge,
    overflow: Family<OverflowLabels, Counter>,
}

type OverflowLabels = [(&'static str, &'static str); 1];

type EndLabels = [(&'static str, &'static str); 4];

type OpenLabels = [(&'static str, &'static str); 2];

/// A flow that was seen to open.
#[derive(Debug)]
struct Open {
    labels: Arc<TrafficLabels>,
    direction: &'static str,
    protocol: &'static str,
    /// What was counted of it.
    counted: Moved,
}

/// What is counted for one label set. It has its counters at hand: to find one in its family costs
/// a hash of all labels.
#[derive(Debug)]
struct Series {
    labels: Arc<TrafficLabels>,
    last_used: Instant,
    source: Option<PodUid>,
    destination: Option<PodUid>,
    opened: Option<Counter>,
    closed: Option<Counter>,
    bytes: Option<Bytes>,
}

/// The counters of payload.
#[derive(Debug)]
struct Bytes {
    sent: Counter,
    received: Counter,
}

impl FlowMeter {
    pub(super) fn new(cluster: &str, limits: Limits, registry: &mut Registry) -> Self {
        let families = Families::default();
        families.register(registry);
        let decisions = Decisions::default();
        decisions.register(registry);
        Self {
            cluster: Arc::from(cluster),
            limits,
            families,
            decisions,
            series: HashMap::new(),
            common: HashMap::new(),
            open: HashMap::new(),
        }
    }

    /// Counts what the record says is new: an opening, or an end.
    pub fn count(&mut self, flow: &FlowRecord, now: Instant) {
        self.decisions.count(flow, &self.limits, now);
        let Some(end) = flow.end else {
            self.opened(flow, now);
            return;
        };
        let (labels, counted) = match self.open.remove(&flow.id) {
            Some(open) => {
                self.families.open.get_or_create(&open.kind()).dec();
                (open.labels, open.counted)
            }
            // Refused before it was decided, or its opening was not seen: both at once.
            None => (self.count_opened(flow, now), nothing(flow.id)),
        };
        let moved = Moved { id: flow.id, sent: flow.sent, received: flow.received };
        let labels = labels.ended(end).map_or(labels, Arc::new);
        self.series(&labels, flow, now).count_closed(moved.since(&counted));
        self.families.label_sets.set(signed(self.series.len()));
        let plaintext_reason = match flow.protocol {
            Protocol::Plaintext(why) => why.as_label(),
            Protocol::Hbone | Protocol::Undecided => "",
        };
        let ended = [
            ("direction", flow.direction.as_label()),
            ("protocol", flow.protocol.as_label()),
            ("plaintext_reason", plaintext_reason),
            ("reason", end.as_label()),
        ];
        self.families.ended.get_or_create(&ended).inc();
    }

    /// Counts what open flows have moved since this was called last.
    pub fn moved(&mut self, all: &[Moved], now: Instant) {
        let Self { families, series, common, open, .. } = self;
        for moved in all {
            // One whose opening found no room is counted when it ends.
            let Some(open) = open.get_mut(&moved.id) else { continue };
            let labels = &open.labels;
            let Some(series) = series.get_mut(labels).or_else(|| common.get_mut(labels)) else {
                continue;
            };
            series.last_used = now;
            InFamilies { series, families }.count_bytes(moved.since(&open.counted));
            open.counted = *moved;
        }
    }

    fn opened(&mut self, flow: &FlowRecord, now: Instant) {
        if self.open.contains_key(&flow.id) {
            return;
        }
        if self.open.len() < self.limits.open_flows {
            let labels = self.count_opened(flow, now);
            let (direction, protocol) = (flow.direction.as_label(), flow.protocol.as_label());
            let open = Open { labels, direction, protocol, counted: nothing(flow.id) };
            self.families.open.get_or_create(&open.kind()).inc();
            self.open.insert(flow.id, open);
        } else {
            self.families.overflow("open_flows").inc();
        }
    }

    fn count_opened(&mut self, flow: &FlowRecord, now: Instant) -> Arc<TrafficLabels> {
        let labels = Arc::new(TrafficLabels::of(&self.cluster, flow));
        let labels = self.series(&labels, flow, now).count_opened();
        self.families.label_sets.set(signed(self.series.len()));
        labels
    }

    /// The series of the labels, or that of the common bucket if there is no room for new ones.
    fn series(
        &mut self,
        labels: &Arc<TrafficLabels>,
        flow: &FlowRecord,
        now: Instant,
    ) -> InFamilies<'_> {
        let Self { series, common, families, limits, .. } = self;
        let (table, labels) = if series.len() < limits.label_sets || series.contains_key(labels) {
            (series, Arc::clone(labels))
        } else {
            families.overflow("label_sets").inc();
            (common, Arc::new(labels.collapsed()))
        };
        let series = table.entry(Arc::clone(&labels)).or_insert_with(|| Series {
            labels,
            last_used: now,
            source: flow.source.workload.as_ref().map(|pod| pod.uid.clone()),
            destination: flow.destination.workload.as_ref().map(|pod| pod.uid.clone()),
            opened: None,
            closed: None,
            bytes: None,
        });
        series.last_used = now;
        InFamilies { series, families }
    }

    /// Drops the series that nobody has used for a while and of which a pod, or the policy, is gone.
    /// To be called every minute or so.
    pub fn sweep(
        &mut self,
        now: Instant,
        alive: impl Fn(&PodUid) -> bool,
        known: impl Fn(&PolicyId) -> bool,
    ) {
        self.decisions.sweep(&self.limits, now, known);
        let Self { limits, families, series, common, open, .. } = self;
        series.retain(|labels, series| {
            let idle = now.saturating_duration_since(series.last_used) >= limits.idle;
            let mut pods = series.source.iter().chain(&series.destination);
            let keep = !idle || pods.all(&alive);
            if !keep {
                families.opened.remove(labels);
                families.closed.remove(labels);
                families.sent.remove(labels);
                families.received.remove(labels);
            }
            keep
        });
        families.label_sets.set(signed(series.len()));
        // An end whose record was lost would stay here for ever.
        open.retain(|_, open| {
            let keep = series.contains_key(&open.labels) || common.contains_key(&open.labels);
            if !keep {
                families.open.get_or_create(&open.kind()).dec();
            }
            keep
        });
    }
}

impl Open {
    const fn kind(&self) -> OpenLabels {
        [("direction", self.direction), ("protocol", self.protocol)]
    }
}

/// A series, and where its counters come from.
struct InFamilies<'a> {
    series: &'a mut Series,
    families: &'a Families,
}

impl InFamilies<'_> {
    fn count_opened(self) -> Arc<TrafficLabels> {
        let Self { series: Series { labels, opened, .. }, families } = self;
        opened.get_or_insert_with(|| families.opened.get_or_create_owned(labels)).inc();
        Arc::clone(labels)
    }

    fn count_closed(self, moved: Moved) {
        let Series { labels, closed, .. } = &mut *self.series;
        closed.get_or_insert_with(|| self.families.closed.get_or_create_owned(labels)).inc();
        self.count_bytes(moved);
    }

    fn count_bytes(self, moved: Moved) {
        let Self { series: Series { labels, bytes, .. }, families } = self;
        let counters = bytes.get_or_insert_with(|| Bytes {
            sent: families.sent.get_or_create_owned(labels),
            received: families.received.get_or_create_owned(labels),
        });
        // Istio counts as the destination does, whoever reports: `received` is what the source
        // sent (the request), `sent` what it got back.
        counters.sent.inc_by(moved.received);
        counters.received.inc_by(moved.sent);
    }
}

impl Families {
    fn register(&self, registry: &mut Registry) {
        registry.register(
            "istio_tcp_connections_opened",
            "The total number of TCP connections opened",
            self.opened.clone(),
        );
        registry.register(
            "istio_tcp_connections_closed",
            "The total number of TCP connections closed",
            self.closed.clone(),
        );
        registry.register(
            "istio_tcp_sent_bytes",
            "Bytes that destinations sent in response, those of open connections included",
            self.sent.clone(),
        );
        registry.register(
            "istio_tcp_received_bytes",
            "Bytes that destinations received in request, those of open connections included",
            self.received.clone(),
        );
        registry.register(
            "adit_flows",
            "Flows that ended, by what carried them and why they ended",
            self.ended.clone(),
        );
        registry.register("adit_flows_open", "Flows open now", self.open.clone());
        registry.register(
            "adit_metrics_label_sets",
            "Label sets of Istio's metrics in use",
            self.label_sets.clone(),
        );
        registry.register(
            "adit_metrics_overflow",
            "What found a limit of the metrics reached, by limit",
            self.overflow.clone(),
        );
    }

    fn overflow(&self, limit: &'static str) -> impl Deref<Target = Counter> {
        self.overflow.get_or_create(&[("limit", limit)])
    }
}

const fn nothing(id: FlowId) -> Moved {
    Moved { id, sent: 0, received: 0 }
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use adit_core::flow::{CloseReason, ConnectFailure};

    use super::*;
    use crate::observer::samples;
    use crate::telemetry::metrics::{Metrics, Snapshot};

    const OUTBOUND: &str = "{reporter=\"source\",source_workload=\"client\",\
        source_workload_namespace=\"shop\",source_canonical_service=\"client\",\
        source_canonical_revision=\"v2\",\
        source_principal=\"spiffe://cluster.local/ns/shop/sa/client\",\
        source_app=\"client\",source_version=\"v2\",source_cluster=\"Kubernetes\",\
        destination_workload=\"cart\",destination_workload_namespace=\"shop\",\
        destination_canonical_service=\"cart\",destination_canonical_revision=\"latest\",\
        destination_principal=\"spiffe://cluster.local/ns/shop/sa/cart\",\
        destination_app=\"cart\",destination_version=\"latest\",\
        destination_cluster=\"Kubernetes\",\
        destination_service=\"cart.shop.svc.cluster.local\",destination_service_name=\"cart\",\
        destination_service_namespace=\"shop\",request_protocol=\"tcp\",response_flags=\"-\",\
        connection_security_policy=\"mutual_tls\"}";

    #[test]
    fn a_flow_counts_once_opened_once_closed_with_istios_labels() {
        let mut test = Test::new(Limits::default());
        let mut open = samples::finished(7);
        open.end = None;
        test.meter.count(&open, test.start);
        let text = test.text();
        assert_has(&text, &format!("istio_tcp_connections_opened_total{OUTBOUND} 1\n"));
        assert!(!text.contains("closed_total{"), "{text}");
        let gauge = "adit_flows_open{direction=\"outbound\",protocol=\"hbone\"}";
        assert_has(&text, &format!("{gauge} 1\n"));

        test.meter.count(&samples::finished(7), test.start);

        let text = test.text();
        assert_has(&text, &format!("{gauge} 0\n"));
        for (name, value) in [
            ("istio_tcp_connections_opened_total", 1),
            ("istio_tcp_connections_closed_total", 1),
            ("istio_tcp_sent_bytes_total", 48213),
            ("istio_tcp_received_bytes_total", 312),
        ] {
            assert_has(&text, &format!("{name}{OUTBOUND} {value}\n"));
        }
        assert_has(
            &text,
            "adit_flows_total{direction=\"outbound\",protocol=\"hbone\",plaintext_reason=\"\",\
             reason=\"finished\"} 1\n",
        );
    }

    #[test]
    fn the_bytes_of_an_open_flow_are_counted_while_it_is_open_and_none_of_them_twice() {
        let mut test = Test::new(Limits::default());
        let whole = samples::finished(7);
        let open = FlowRecord { end: None, ..whole.clone() };
        test.meter.count(&open, test.start);
        let half = Moved { id: whole.id, sent: 12, received: 48_000 };
        for _ in 0..2 {
            test.meter.moved(&[half, Moved { id: FlowId(99), ..half }], test.start);
            let text = test.text();
            assert_has(&text, &format!("istio_tcp_sent_bytes_total{OUTBOUND} 48000\n"));
            assert_has(&text, &format!("istio_tcp_received_bytes_total{OUTBOUND} 12\n"));
            assert!(!text.contains("closed_total{"), "{text}");
        }

        test.meter.count(&whole, test.start);

        let text = test.text();
        assert_has(&text, &format!("istio_tcp_sent_bytes_total{OUTBOUND} 48213\n"));
        assert_has(&text, &format!("istio_tcp_received_bytes_total{OUTBOUND} 312\n"));
    }

    #[test]
    fn a_flow_that_was_never_opened_counts_as_opened_and_closed_with_a_flag() {
        let mut test = Test::new(Limits::default());
        let end = CloseReason::ConnectFailed(ConnectFailure::Refused);
        test.meter.count(&samples::refused(9, end), test.start);
        let text = test.text();
        let opened = line_of(&text, "istio_tcp_connections_opened_total{");
        assert!(opened.contains("response_flags=\"-\""), "{opened}");
        assert!(opened.contains("source_workload=\"unknown\""), "{opened}");
        let closed = line_of(&text, "istio_tcp_connections_closed_total{");
        assert!(closed.contains("response_flags=\"CONNECT\""), "{closed}");
    }

    #[test]
    fn label_sets_beyond_the_limit_are_counted_as_other() {
        let limits = Limits { label_sets: 1, ..Limits::default() };
        let mut test = Test::new(limits);
        test.meter.count(&samples::finished(1), test.start);
        test.meter.count(&samples::plaintext(2), test.start);
        test.meter.count(&samples::finished(3), test.start);
        let text = test.text();
        assert_has(&text, &format!("istio_tcp_connections_closed_total{OUTBOUND} 2\n"));
        let other = text
            .lines()
            .find(|line| {
                line.starts_with("istio_tcp_connections_closed_total{") && line.contains("other")
            })
            .unwrap();
        assert!(other.ends_with(" 1"), "{other}");
        assert_has(&text, "adit_metrics_label_sets 1\n");
        // The opening and the end.
        assert_has(&text, "adit_metrics_overflow_total{limit=\"label_sets\"} 2\n");
    }

    #[test]
    fn an_open_flow_beyond_the_limit_is_told_and_counted_when_it_ends() {
        let limits = Limits { open_flows: 1, ..Limits::default() };
        let mut test = Test::new(limits);
        for id in [1, 2, 2] {
            test.meter.count(&samples::open(id), test.start);
        }
        let text = test.text();
        assert_has(&text, "adit_flows_open{direction=\"outbound\",protocol=\"hbone\"} 1\n");
        assert_has(&text, "adit_metrics_overflow_total{limit=\"open_flows\"} 2\n");
        for id in [1, 2] {
            test.meter.count(&samples::finished(id), test.start);
        }
        let text = test.text();
        assert_has(&text, &format!("istio_tcp_connections_opened_total{OUTBOUND} 2\n"));
    }

    #[test]
    fn series_of_a_pod_that_is_gone_and_idle_are_dropped_and_others_kept() {
        let mut test = Test::new(Limits::default());
        test.meter.count(&samples::finished(1), test.start);
        let later = test.start + Limits::default().idle;

        test.meter.sweep(later, |_| true, |_| true);
        assert!(test.text().contains("opened_total{"));
        test.meter.sweep(later - Duration::from_secs(1), |_| false, |_| false);
        assert!(test.text().contains("opened_total{"));
        test.meter.sweep(later, |uid| uid.as_str() != samples::CART_UID, |_| true);

        let text = test.text();
        assert!(!text.contains("istio_tcp_connections_opened_total{"), "{text}");
        assert!(test.meter.series.is_empty());
    }

    struct Test {
        metrics: Metrics,
        meter: FlowMeter,
        start: Instant,
    }

    impl Test {
        fn new(limits: Limits) -> Self {
            let (metrics, meter) = Metrics::new("Kubernetes", SystemTime::UNIX_EPOCH, limits);
            let start = Instant::now();
            Self { metrics, meter, start }
        }

        fn text(&self) -> String {
            self.metrics.render(&Snapshot::default()).unwrap()
        }
    }

    #[track_caller]
    fn assert_has(text: &str, line: &str) {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }

    #[track_caller]
    fn line_of<'a>(text: &'a str, start: &str) -> &'a str {
        text.lines().find(|line| line.starts_with(start)).unwrap()
    }
}
