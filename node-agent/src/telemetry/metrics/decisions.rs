//! Decisions of policy, by the policy that made them. How many series there can be is bounded.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use adit_core::flow::FlowRecord;
use adit_core::policy::{PolicyId, RuleRef};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::telemetry::metrics::Labels;
use crate::telemetry::metrics::traffic::Limits;

/// What stands for all policies beyond the limit.
const OTHER: &str = "other";

/// The counter, and what its series are about.
#[derive(Debug, Default)]
pub(super) struct Decisions {
    counted: Family<Labels, Counter>,
    series: HashMap<Labels, Series>,
}

#[derive(Debug)]
struct Series {
    last_used: Instant,
    policy: Option<Arc<PolicyId>>,
}

impl Decisions {
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register(
            "adit_policy_decisions",
            "Decisions on inbound flows, by the policy that made them; `default` where none did",
            self.counted.clone(),
        );
    }

    /// Counts the decision that a record tells, if it tells one.
    pub(super) fn count(&mut self, flow: &FlowRecord, limits: &Limits, now: Instant) {
        let Some(grounds) = flow.decision() else {
            return;
        };
        let verdict = |allowed| if allowed { "allow" } else { "deny" };
        let enforced = (verdict(flow.end.is_none()), "enforced");
        self.add(flow, grounds.by.as_ref(), enforced, limits, now);
        if let Some(dry_run) = &grounds.dry_run {
            let would = (verdict(dry_run.verdict.is_ok()), "dry_run");
            self.add(flow, dry_run.by.as_ref(), would, limits, now);
        }
    }

    fn add(
        &mut self,
        flow: &FlowRecord,
        by: Option<&RuleRef>,
        (verdict, mode): (&'static str, &'static str),
        limits: &Limits,
        now: Instant,
    ) {
        let namespace = flow.destination.workload.as_ref();
        let namespace = namespace.map_or("", |pod| &*pod.name.namespace);
        let (kind, name) = by.map_or_else(
            || ("", "default".to_owned()),
            |rule| (rule.policy.kind.as_label(), rule.policy.name.to_string()),
        );
        let mut labels = vec![
            ("policy_kind", kind.to_owned()),
            ("policy", name),
            ("namespace", namespace.to_owned()),
            ("verdict", verdict.to_owned()),
            ("mode", mode.to_owned()),
        ];
        if self.series.len() >= limits.label_sets && !self.series.contains_key(&labels) {
            for (key, value) in &mut labels {
                if matches!(*key, "policy" | "namespace") {
                    OTHER.clone_into(value);
                }
            }
        } else {
            let policy = by.map(|rule| Arc::clone(&rule.policy));
            self.series.insert(labels.clone(), Series { last_used: now, policy });
        }
        self.counted.get_or_create(&labels).inc();
    }

    /// Drops the series of policies that are gone and that nobody has used for a while.
    pub(super) fn sweep(
        &mut self,
        limits: &Limits,
        now: Instant,
        known: impl Fn(&PolicyId) -> bool,
    ) {
        let Self { counted, series } = self;
        series.retain(|labels, series| {
            let idle = now.saturating_duration_since(series.last_used) >= limits.idle;
            let keep = !idle || series.policy.as_ref().is_none_or(|policy| known(policy));
            if !keep {
                counted.remove(labels);
            }
            keep
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::observer::samples;
    use crate::telemetry::metrics::{Metrics, Snapshot};

    #[test]
    fn a_decision_is_counted_by_policy_and_what_a_dry_run_would_do_beside_it() {
        let (metrics, mut meter) =
            Metrics::new("Kubernetes", SystemTime::UNIX_EPOCH, Limits::default());
        meter.count(&samples::denied(1), Instant::now());
        meter.count(&samples::denied(2), Instant::now());
        meter.count(&samples::finished(3), Instant::now());
        let text = metrics.render(&Snapshot::default()).unwrap();
        for (kind, policy, mode) in [
            ("AuthorizationPolicy", "shop/friends", "enforced"),
            ("PeerAuthentication", "shop/default", "dry_run"),
        ] {
            let line = format!(
                "adit_policy_decisions_total{{policy_kind=\"{kind}\",policy=\"{policy}\",\
                 namespace=\"shop\",verdict=\"deny\",mode=\"{mode}\"}} 2\n"
            );
            assert!(text.contains(&line), "{line} is missing in\n{text}");
        }
        assert_eq!(text.matches("adit_policy_decisions_total{").count(), 2, "{text}");
    }

    #[test]
    fn policies_beyond_the_limit_are_counted_as_other_and_gone_ones_are_dropped() {
        let limits = Limits { label_sets: 1, ..Limits::default() };
        let (mut decisions, now) = (Decisions::default(), Instant::now());
        decisions.count(&samples::denied(1), &limits, now);
        assert_eq!(decisions.series.len(), 1);
        let mut registry = Registry::default();
        decisions.register(&mut registry);
        let text = || {
            let mut text = String::new();
            prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
            text
        };
        assert!(text().contains("policy=\"other\",namespace=\"other\""), "{}", text());

        decisions.sweep(&limits, now + limits.idle, |_| true);
        assert!(text().contains("shop/friends"), "{}", text());
        decisions.sweep(&limits, now + limits.idle, |_| false);
        assert!(!text().contains("shop/friends"), "{}", text());
    }
}
