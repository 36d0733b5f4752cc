//! The access log: one line per flow end, target `access`, INFO for ordinary ends and WARN for
//! flows that were refused, failed or cut. Field names are ztunnel's where it has them.

use adit_core::flow::{CloseReason, Direction, FlowRecord, PlaintextReason, Protocol};
use adit_core::hbone::TUNNEL_PORT;
use adit_core::policy::Grounds;
use serde::Deserialize;

use crate::telemetry::{deciding_policy, service_host};

/// The section `accessLog` of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct AccessLogSettings {
    /// Whether flow ends are logged.
    pub enabled: bool,
}

impl Default for AccessLogSettings {
    fn default() -> Self {
        Self { enabled: true }
    }
}

/// Writes the access log.
#[derive(Debug, Clone, Copy)]
pub struct AccessLog {
    enabled: bool,
}

macro_rules! line {
    ($level:ident, $message:literal, $flow:expr, $end:expr) => {{
        let flow: &FlowRecord = $flow;
        let (source, destination) = (&flow.source, &flow.destination);
        let (from, to) = (source.workload.as_ref(), destination.workload.as_ref());
        let (bytes_sent, bytes_recv) = by_local_pod(flow);
        tracing::$level!(
            target: "access",
            id = flow.id.0,
            src.addr = %source.address,
            src.workload = from.map(|pod| &*pod.name.name),
            src.namespace = from.map(|pod| &*pod.name.namespace),
            src.identity = source.identity.as_ref().map(ToString::to_string),
            dst.addr = %peer_address(flow),
            dst.hbone_addr = hbone_address(flow).map(display),
            dst.service = flow.service.as_ref().map(service_host),
            dst.workload = to.map(|pod| &*pod.name.name),
            dst.namespace = to.map(|pod| &*pod.name.namespace),
            dst.identity = destination.identity.as_ref().map(ToString::to_string),
            direction = flow.direction.as_label(),
            protocol = flow.protocol.as_label(),
            plaintext_reason = plaintext_reason(flow).map(PlaintextReason::as_label),
            tls.version = flow.tls.map(|tls| tls.version),
            tls.group = flow.tls.map(|tls| tls.group),
            tls.cipher = flow.tls.map(|tls| tls.cipher),
            bytes_sent,
            bytes_recv,
            policy = flow.grounds.as_deref().map(deciding_policy),
            policy_missed = flow.grounds.as_deref().and_then(missed),
            dry_run = flow.grounds.as_ref().and_then(|g| g.dry_run.as_ref()).map(ToString::to_string),
            duration = format!("{}ms", flow.duration.as_millis()),
            reason = CloseReason::as_label($end),
            $message
        )
    }};
}

impl AccessLog {
    /// A log, on or off.
    #[must_use]
    pub const fn new(settings: AccessLogSettings) -> Self {
        Self { enabled: settings.enabled }
    }

    /// Writes the line of a flow that has ended; nothing for one that lives.
    pub fn record(&self, flow: &FlowRecord) {
        let Some(end) = flow.end.filter(|_| self.enabled) else {
            return;
        };
        if end.is_ordinary() {
            line!(info, "connection complete", flow, end);
        } else {
            line!(warn, "connection failed", flow, end);
        }
    }
}

/// Bytes that this node's pod sent and received. A record counts by source and destination.
const fn by_local_pod(flow: &FlowRecord) -> (u64, u64) {
    match flow.direction {
        Direction::Outbound => (flow.sent, flow.received),
        Direction::Inbound => (flow.received, flow.sent),
    }
}

fn peer_address(flow: &FlowRecord) -> std::net::SocketAddr {
    let mut address = flow.destination.address;
    if flow.protocol == Protocol::Hbone {
        address.set_port(TUNNEL_PORT);
    }
    address
}

fn hbone_address(flow: &FlowRecord) -> Option<std::net::SocketAddr> {
    (flow.protocol == Protocol::Hbone).then_some(flow.destination.address)
}

const fn plaintext_reason(flow: &FlowRecord) -> Option<PlaintextReason> {
    match flow.protocol {
        Protocol::Plaintext(why) => Some(why),
        Protocol::Hbone | Protocol::Undecided => None,
    }
}

/// What kept the nearest rule from matching.
fn missed(grounds: &Grounds) -> Option<String> {
    let missed: Vec<String> = grounds.missed.iter().map(ToString::to_string).collect();
    (!missed.is_empty()).then(|| missed.join("; "))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use adit_core::flow::TlsFailure;
    use tracing_subscriber::fmt::MakeWriter;

    use super::*;
    use crate::observer::samples;
    use crate::telemetry::log::{LogFormat, LogSettings, build};

    #[test]
    fn text_lines_are_ztunnels_with_what_adit_knows_besides() {
        let lines = written(LogFormat::Text, true);
        let without_time: Vec<&str> =
            lines.lines().map(|line| line.split_once(' ').unwrap().1.trim_start()).collect();
        assert_eq!(
            without_time,
            [
                "INFO access: connection complete id=7 src.addr=10.1.0.2:40112 \
                 src.workload=\"client-6d4cf56db6-x7k2p\" src.namespace=\"shop\" \
                 src.identity=\"spiffe://cluster.local/ns/shop/sa/client\" \
                 dst.addr=10.2.0.3:15008 dst.hbone_addr=10.2.0.3:8080 \
                 dst.service=\"cart.shop.svc.cluster.local\" dst.workload=\"cart-0\" \
                 dst.namespace=\"shop\" dst.identity=\"spiffe://cluster.local/ns/shop/sa/cart\" \
                 direction=\"outbound\" protocol=\"hbone\" tls.version=\"TLSv1.3\" \
                 tls.group=\"X25519MLKEM768\" tls.cipher=\"TLS_AES_256_GCM_SHA384\" \
                 bytes_sent=312 bytes_recv=48213 duration=\"1507ms\" reason=\"finished\"",
                "WARN access: connection failed id=9 src.addr=10.9.0.9:5000 \
                 dst.addr=10.1.0.2:15008 dst.hbone_addr=10.1.0.2:9000 \
                 dst.workload=\"client-6d4cf56db6-x7k2p\" dst.namespace=\"shop\" \
                 dst.identity=\"spiffe://cluster.local/ns/shop/sa/client\" \
                 direction=\"inbound\" protocol=\"hbone\" bytes_sent=0 bytes_recv=0 \
                 duration=\"3ms\" reason=\"tls_wrong_identity\"",
            ]
        );
    }

    #[test]
    fn json_lines_have_the_same_fields_on_the_top_level() {
        let lines = written(LogFormat::Json, true);
        let first: serde_json::Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
        assert_eq!(first["level"], "INFO");
        assert_eq!(first["target"], "access");
        assert_eq!(first["message"], "connection complete");
        assert_eq!(first["src.addr"], "10.1.0.2:40112");
        assert_eq!(first["bytes_recv"], 48213);
        assert!(first.get("plaintext_reason").is_none());
        assert!(first["timestamp"].is_string());
    }

    #[test]
    fn a_refusal_names_the_policy_and_what_missed_and_what_a_dry_run_would_do() {
        let capture = Capture::default();
        let settings = LogSettings { format: LogFormat::Json, filter: "info".to_owned() };
        let (subscriber, _control) = build(&settings, capture.clone()).unwrap();
        let log = AccessLog::new(AccessLogSettings { enabled: true });
        tracing::subscriber::with_default(subscriber, || log.record(&samples::denied(3)));
        let line: serde_json::Value = serde_json::from_str(&capture.text()).unwrap();
        assert_eq!(line["reason"], "denied_no_rule");
        let text = |field: &str| line[field].as_str().unwrap_or_default().to_owned();
        assert!(text("policy").starts_with("AuthorizationPolicy shop/friends"), "{line}");
        assert!(text("policy_missed").starts_with("source."), "{line}");
        assert!(
            text("dry_run").starts_with("would deny by PeerAuthentication shop/default"),
            "{line}"
        );
    }

    #[test]
    fn a_log_that_is_off_writes_nothing() {
        assert_eq!(written(LogFormat::Text, false), "");
    }

    fn written(format: LogFormat, enabled: bool) -> String {
        let capture = Capture::default();
        let filter = "info".to_owned();
        let (subscriber, _control) =
            build(&LogSettings { format, filter }, capture.clone()).unwrap();
        let log = AccessLog::new(AccessLogSettings { enabled });
        tracing::subscriber::with_default(subscriber, || {
            log.record(&samples::finished(7));
            log.record(&samples::open(8));
            let end = CloseReason::Tls(TlsFailure::WrongIdentity);
            log.record(&samples::refused(9, end));
        });
        capture.text()
    }

    /// A log writer that keeps what it is given.
    #[derive(Clone, Default)]
    pub(crate) struct Capture(Arc<Mutex<Vec<u8>>>);

    impl Capture {
        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl io::Write for Capture {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Capture {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }
}
