//! Which flows somebody wants to see.

use std::collections::BTreeMap;
use std::net::IpAddr;

use adit_core::flow::{Direction, FlowRecord, Party};
use adit_core::policy::RuleRef;

use crate::admin::view::{FlowState, Verdict};

/// How many flows are listed unless told otherwise.
pub const DEFAULT_LIMIT: usize = 500;

/// A filter; all parts that are given must match. Made from query parameters of the same names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowFilter {
    /// The namespace of either pod, or of the service.
    pub namespace: Option<String>,
    /// Either pod: its name, its controller's name, or one of them as `namespace/name`.
    pub workload: Option<String>,
    /// The other end than this node's pod: like `workload`, or an address, a SPIFFE id, or the
    /// service that was dialled.
    pub peer: Option<String>,
    /// The destination's port.
    pub port: Option<u16>,
    /// `hbone`, `plaintext` or `undecided`.
    pub protocol: Option<&'static str>,
    /// See [`Verdict`].
    pub verdict: Option<Verdict>,
    /// The policy that decided, or would decide in a dry run: `namespace/name` or `default`.
    pub policy: Option<String>,
    /// What a dry run would have done: whether it would allow.
    pub dry_run: Option<bool>,
    /// `outbound` or `inbound`.
    pub direction: Option<Direction>,
    /// `open` or `ended`.
    pub state: Option<FlowState>,
    /// At most so many, the newest.
    pub limit: usize,
    /// Whether those to come are wanted, too.
    pub follow: bool,
}

/// A parameter that means nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadFilter {
    /// There is no filter of this name.
    #[error(
        "there is no filter {0:?}; there are namespace, workload, peer, port, protocol, verdict, \
         policy, dryRun, direction, state, limit and follow"
    )]
    Unknown(String),
    /// The filter does not take this value.
    #[error("filter {name}: {value:?} is not {expected}")]
    Value {
        /// The filter.
        name: &'static str,
        /// What it was given.
        value: String,
        /// What it takes.
        expected: &'static str,
    },
}

impl Default for FlowFilter {
    fn default() -> Self {
        Self {
            namespace: None,
            workload: None,
            peer: None,
            port: None,
            protocol: None,
            verdict: None,
            policy: None,
            dry_run: None,
            direction: None,
            state: None,
            limit: DEFAULT_LIMIT,
            follow: false,
        }
    }
}

impl FlowFilter {
    /// Reads query parameters.
    ///
    /// # Errors
    /// The first parameter that means nothing.
    pub fn parse(parameters: BTreeMap<String, String>) -> Result<Self, BadFilter> {
        let mut filter = Self::default();
        for (name, value) in parameters {
            filter.set(name, value)?;
        }
        Ok(filter)
    }

    fn set(&mut self, name: String, value: String) -> Result<(), BadFilter> {
        match name.as_str() {
            "namespace" => self.namespace = Some(value),
            "workload" => self.workload = Some(value),
            "peer" => self.peer = Some(value),
            "port" => {
                let port = value.parse::<u16>().ok().filter(|port| *port > 0);
                self.port = Some(port.ok_or_else(|| bad("port", value, "a port (1 to 65535)"))?);
            }
            "protocol" => {
                let known = ["hbone", "plaintext", "undecided"];
                let found = known.into_iter().find(|label| *label == value);
                let expected = "one of hbone, plaintext, undecided";
                self.protocol = Some(found.ok_or_else(|| bad("protocol", value, expected))?);
            }
            "verdict" => {
                let mut all = Verdict::ALL.into_iter();
                let found = all.find(|verdict| verdict.as_label() == value);
                let expected = "one of pending, allowed, denied, refused, failed";
                self.verdict = Some(found.ok_or_else(|| bad("verdict", value, expected))?);
            }
            "policy" => self.policy = Some(value),
            "dryRun" => {
                self.dry_run = match value.as_str() {
                    "allow" => Some(true),
                    "deny" => Some(false),
                    _ => return Err(bad("dryRun", value, "one of allow, deny")),
                }
            }
            "direction" => {
                let mut all = [Direction::Outbound, Direction::Inbound].into_iter();
                let found = all.find(|direction| direction.as_label() == value);
                let expected = "one of outbound, inbound";
                self.direction = Some(found.ok_or_else(|| bad("direction", value, expected))?);
            }
            "state" => {
                let mut all = [FlowState::Open, FlowState::Ended].into_iter();
                let found = all.find(|state| state.as_label() == value);
                let expected = "one of open, ended";
                self.state = Some(found.ok_or_else(|| bad("state", value, expected))?);
            }
            "limit" => {
                let limit = value.parse();
                self.limit = limit.map_err(|_not: std::num::ParseIntError| {
                    bad("limit", value, "a number of flows")
                })?;
            }
            "follow" => {
                let follow = value.parse();
                self.follow = follow.map_err(|_not: std::str::ParseBoolError| {
                    bad("follow", value, "true or false")
                })?;
            }
            _ => return Err(BadFilter::Unknown(name)),
        }
        Ok(())
    }

    /// Whether a flow is wanted.
    #[must_use]
    pub fn matches(&self, flow: &FlowRecord) -> bool {
        let peer = match flow.direction {
            Direction::Outbound => &flow.destination,
            Direction::Inbound => &flow.source,
        };
        let state = if flow.end.is_none() { FlowState::Open } else { FlowState::Ended };
        wanted(&self.namespace, |ns| in_namespace(flow, ns))
            && wanted(&self.workload, |text| {
                is_pod(&flow.source, text) || is_pod(&flow.destination, text)
            })
            && wanted(&self.peer, |text| is_peer(flow, peer, text))
            && wanted(&self.port, |port| flow.destination.address.port() == *port)
            && wanted(&self.protocol, |label| flow.protocol.as_label() == *label)
            && wanted(&self.verdict, |verdict| Verdict::of(flow) == *verdict)
            && wanted(&self.policy, |text| is_policy(flow, text))
            && wanted(&self.dry_run, |allowed| {
                let dry_run = flow.grounds.as_ref().and_then(|grounds| grounds.dry_run.as_ref());
                dry_run.is_some_and(|dry_run| dry_run.verdict.is_ok() == *allowed)
            })
            && wanted(&self.direction, |direction| flow.direction == *direction)
            && wanted(&self.state, |wanted| state == *wanted)
    }
}

fn wanted<T>(part: &Option<T>, test: impl FnOnce(&T) -> bool) -> bool {
    part.as_ref().is_none_or(test)
}

fn bad(name: &'static str, value: String, expected: &'static str) -> BadFilter {
    BadFilter::Value { name, value, expected }
}

fn in_namespace(flow: &FlowRecord, namespace: &str) -> bool {
    let pods = [&flow.source.workload, &flow.destination.workload];
    pods.into_iter().flatten().any(|pod| &*pod.name.namespace == namespace)
        || flow.service.as_ref().is_some_and(|service| &*service.namespace == namespace)
}

fn is_pod(party: &Party, text: &str) -> bool {
    let Some(pod) = &party.workload else {
        return false;
    };
    let (namespace, name) = split(text);
    namespace.is_none_or(|namespace| namespace == &*pod.name.namespace)
        && (name == &*pod.name.name || name == &*pod.owner.name)
}

fn is_peer(flow: &FlowRecord, peer: &Party, text: &str) -> bool {
    if let Ok(address) = text.parse::<IpAddr>() {
        return peer.address.ip() == address;
    }
    if text.starts_with("spiffe://") {
        return peer.identity.as_ref().is_some_and(|identity| identity.to_string() == text);
    }
    let (namespace, name) = split(text);
    let is_service = flow.direction == Direction::Outbound
        && flow.service.as_ref().is_some_and(|service| {
            namespace.is_none_or(|namespace| namespace == &*service.namespace)
                && name == &*service.name
        });
    is_service || is_pod(peer, text)
}

fn is_policy(flow: &FlowRecord, text: &str) -> bool {
    let Some(grounds) = &flow.grounds else {
        return false;
    };
    let is = |rule: &RuleRef| rule.policy.name.to_string() == text;
    let would = grounds.dry_run.as_ref().and_then(|dry_run| dry_run.by.as_ref());
    match &grounds.by {
        None if text == "default" => true,
        by => by.as_ref().is_some_and(is) || would.is_some_and(is),
    }
}

fn split(text: &str) -> (Option<&str>, &str) {
    text.split_once('/').map_or((None, text), |(namespace, name)| (Some(namespace), name))
}

#[cfg(test)]
mod tests {
    use adit_core::flow::{CloseReason, TlsFailure};

    use super::*;
    use crate::observer::samples;

    #[test]
    fn each_part_keeps_what_it_names_and_drops_what_it_does_not() {
        let flow = samples::finished(1);
        let cases = [
            ("namespace", "shop", "prod"),
            ("workload", "client", "cart-1"),
            ("workload", "shop/cart-0", "prod/cart-0"),
            ("peer", "cart", "client"),
            ("peer", "10.2.0.3", "10.1.0.2"),
            ("peer", "shop/cart", "shop/other"),
            (
                "peer",
                "spiffe://cluster.local/ns/shop/sa/cart",
                "spiffe://cluster.local/ns/shop/sa/client",
            ),
            ("port", "8080", "40112"),
            ("protocol", "hbone", "plaintext"),
            ("verdict", "allowed", "failed"),
            ("direction", "outbound", "inbound"),
            ("state", "ended", "open"),
        ];
        for (name, kept, dropped) in cases {
            assert!(filter(name, kept).matches(&flow), "{name}={kept}");
            assert!(!filter(name, dropped).matches(&flow), "{name}={dropped}");
        }
    }

    #[test]
    fn a_policy_is_found_by_what_it_decided_and_by_what_it_would() {
        let denied = samples::denied(1);
        for (name, kept, dropped) in [
            ("policy", "shop/friends", "default"),
            ("policy", "shop/default", "shop/other"),
            ("dryRun", "deny", "allow"),
            ("verdict", "denied", "allowed"),
        ] {
            assert!(filter(name, kept).matches(&denied), "{name}={kept}");
            assert!(!filter(name, dropped).matches(&denied), "{name}={dropped}");
        }
        let undecided = samples::finished(2);
        assert!(!filter("policy", "default").matches(&undecided));
        assert!(!filter("dryRun", "allow").matches(&undecided));
    }

    #[test]
    fn the_peer_of_an_inbound_flow_is_its_source() {
        let end = CloseReason::Tls(TlsFailure::WrongIdentity);
        let flow = samples::refused(1, end);
        assert!(filter("peer", "10.9.0.9").matches(&flow));
        assert!(!filter("peer", "client").matches(&flow));
        assert!(filter("verdict", "failed").matches(&flow));
    }

    #[test]
    fn a_parameter_that_means_nothing_is_named() {
        let cases = [
            ("namespaces", "shop", "\"namespaces\""),
            ("port", "0", "filter port: \"0\""),
            ("port", "http", "filter port: \"http\""),
            ("protocol", "tcp", "filter protocol: \"tcp\""),
            ("verdict", "maybe", "filter verdict: \"maybe\""),
            ("dryRun", "maybe", "filter dryRun: \"maybe\""),
            ("direction", "up", "filter direction: \"up\""),
            ("state", "closed", "filter state: \"closed\""),
            ("limit", "-1", "filter limit: \"-1\""),
            ("follow", "yes", "filter follow: \"yes\""),
        ];
        for (name, value, expected) in cases {
            let parameters = BTreeMap::from([(name.to_owned(), value.to_owned())]);
            let error = FlowFilter::parse(parameters).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    fn filter(name: &str, value: &str) -> FlowFilter {
        FlowFilter::parse(BTreeMap::from([(name.to_owned(), value.to_owned())])).unwrap()
    }
}
