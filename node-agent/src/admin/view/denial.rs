//! What policy has refused lately, among the flows that are kept.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use adit_core::flow::{FlowRecord, Party};
use serde::{Deserialize, Serialize};

use crate::admin::view::{PartyView, Timestamp, Verdict};
use crate::telemetry::deciding_policy;

/// Lately.
const WINDOW: Duration = Duration::from_secs(300);

/// From so many refused flows on, and if they are half of all, somebody should look.
const MANY: u64 = 5;

/// What policy has refused lately.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeniedView {
    /// How far back this looks, in seconds.
    pub window_seconds: u64,
    /// Flows that are kept and ended within that time.
    pub of: u64,
    /// Those of them that policy refused or cut.
    pub flows: u64,
    /// By what decided, the most frequent first.
    pub by: Vec<DenialView>,
}

/// What one policy has refused lately.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DenialView {
    /// As in a flow; none where the other node's agent refused and did not say by what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// How many flows.
    pub flows: u64,
    /// When the last of them ended.
    pub last: Timestamp,
    /// Who called in the last of them.
    pub source: String,
    /// Who was called, and on which port.
    pub destination: String,
}

impl DeniedView {
    /// Of the flows that have ended, those that did so in the five minutes before `now`.
    #[must_use]
    pub(in crate::admin) fn of(ended: &[Arc<FlowRecord>], now: SystemTime) -> Self {
        let since = now.checked_sub(WINDOW).unwrap_or(SystemTime::UNIX_EPOCH);
        let mut denied = Self { window_seconds: WINDOW.as_secs(), ..Self::default() };
        let mut by: BTreeMap<Option<String>, DenialView> = BTreeMap::new();
        for flow in ended.iter().filter(|flow| flow.started + flow.duration >= since) {
            denied.of += 1;
            if Verdict::of(flow) == Verdict::Denied {
                denied.flows += 1;
                let policy = flow.grounds.as_deref().map(deciding_policy);
                let before = by.get(&policy).map_or(0, |denial| denial.flows);
                let denial =
                    DenialView { flows: before + 1, ..DenialView::of(flow, policy.clone()) };
                by.insert(policy, denial);
            }
        }
        denied.by = by.into_values().collect();
        denied.by.sort_by_key(|denial| std::cmp::Reverse(denial.flows));
        denied
    }

    /// Whether most of what ends is refused.
    #[must_use]
    pub const fn is_most(&self) -> bool {
        self.flows >= MANY && self.flows * 2 >= self.of
    }
}

impl DenialView {
    fn of(flow: &FlowRecord, policy: Option<String>) -> Self {
        Self {
            policy,
            flows: 1,
            last: Timestamp(flow.started + flow.duration),
            source: name(&flow.source),
            destination: format!("{}:{}", name(&flow.destination), flow.destination.address.port()),
        }
    }
}

/// `40 by AuthorizationPolicy shop/friends, last of shop/client to shop/cart-0:8080`.
impl fmt::Display for DenialView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { policy, flows, source, destination, .. } = self;
        let policy = policy.as_deref().unwrap_or("the other node's agent");
        write!(f, "{flows} by {policy}, last of {source} to {destination}")
    }
}

/// The pod, or the address where none is known.
fn name(party: &Party) -> String {
    let view = PartyView::from(party);
    view.pod.map_or_else(|| view.address.to_string(), |pod| pod.to_string())
}

#[cfg(test)]
mod tests {
    use adit_core::flow::CloseReason;

    use super::*;
    use crate::observer::samples;

    fn lately(flows: Vec<FlowRecord>) -> DeniedView {
        let flows: Vec<_> = flows.into_iter().map(Arc::new).collect();
        DeniedView::of(&flows, samples::noon() + Duration::from_secs(120))
    }

    #[test]
    fn what_was_refused_is_told_by_policy_the_most_frequent_first() {
        let elsewhere = samples::refused(5, CloseReason::Rejected(401));
        let denied =
            lately(vec![samples::finished(1), elsewhere, samples::denied(3), samples::denied(4)]);
        assert_eq!((denied.of, denied.flows), (4, 3));
        let told: Vec<String> = denied.by.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "2 by AuthorizationPolicy shop/friends rule 0, last of shop/legacy to shop/client-6d4cf56db6-x7k2p:9000",
                "1 by the other node's agent, last of 10.9.0.9 to shop/client-6d4cf56db6-x7k2p:9000",
            ]
        );
    }

    #[test]
    fn what_ended_earlier_is_not_lately() {
        let flow = [Arc::new(samples::denied(1))];
        let later = samples::noon() + Duration::from_secs(3600);
        assert_eq!(DeniedView::of(&flow, later).flows, 0);
    }

    #[test]
    fn a_few_refused_flows_are_nothing_to_look_at_and_half_of_all_are() {
        let flows = |denied: u64, finished: u64| {
            let denied = (0..denied).map(samples::denied);
            lately(denied.chain((100..100 + finished).map(samples::finished)).collect())
        };
        assert!(!flows(4, 0).is_most());
        assert!(!flows(5, 6).is_most());
        assert!(flows(5, 5).is_most());
    }
}
