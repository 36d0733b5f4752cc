//! The parts of an agent that never change.

use super::*;

pub(super) struct Fixed;

impl Sources for Fixed {
    fn flows(&self) -> BoxFuture<'_, Vec<FlowRecord>> {
        Box::pin(async { vec![samples::open(1), samples::open(2)] })
    }

    fn tunnels(&self) -> BoxFuture<'_, Vec<TunnelStatus>> {
        Box::pin(async { vec![tunnel()] })
    }

    fn pods(&self) -> BoxFuture<'_, Vec<PodStatus>> {
        let failed = PodState::Failed {
            step: Some(Step::Routes),
            error: "Operation not permitted".to_owned(),
        };
        let pods =
            vec![status(&samples::client(), PodState::Enrolled), status(&samples::cart(), failed)];
        Box::pin(async { pods })
    }

    fn certificates(&self) -> Vec<CertificateView> {
        vec![CertificateView {
            identity: samples::client().identity.to_string(),
            state: "valid".to_owned(),
            serial: Some("0a1b".to_owned()),
            not_before: Some(Timestamp(samples::noon())),
            not_after: Some(Timestamp(samples::noon() + Duration::from_secs(86400))),
            renewals: 2,
            next_attempt: Some(Timestamp(samples::noon() + Duration::from_secs(43200))),
            last_error: None,
            last_error_reason: None,
            help: None,
        }]
    }

    fn discovery(&self) -> DiscoveryFacts {
        DiscoveryFacts {
            source: "manifests /etc/adit/manifests".to_owned(),
            updated: Some(samples::noon()),
            errors: vec!["pods.yaml, document 2: spec.nodeName: missing".to_owned()],
            stale: None,
            rejected: policies::rejected(),
            network_policies_lack: None,
        }
    }

    fn problems(&self) -> BoxFuture<'_, Vec<Problem>> {
        Box::pin(async { Vec::new() })
    }

    fn draining_until(&self) -> Option<SystemTime> {
        None
    }

    fn datapath(&self) -> Vec<Fact> {
        vec![Fact { name: "layout version".to_owned(), value: "1".to_owned() }]
    }

    fn admit(&self, request: Request) -> BoxFuture<'_, Answer> {
        let why = format!("{}/{} waits", request.namespace, request.name);
        Box::pin(async { Answer::NotEnrolled { why } })
    }

    fn drain(&self, _deadline: Duration) -> BoxFuture<'_, usize> {
        Box::pin(async { 3 })
    }
}

fn status(pod: &adit_core::workload::Workload, state: PodState) -> PodStatus {
    PodStatus {
        uid: pod.uid.clone(),
        name: pod.name.clone(),
        identity: pod.identity.clone(),
        addresses: pod.addresses.clone(),
        netns: pod.netns.clone(),
        state,
        since: samples::noon(),
    }
}

fn tunnel() -> TunnelStatus {
    TunnelStatus {
        worker: 1,
        direction: Direction::Outbound,
        local_identity: samples::client().identity,
        peer_identity: SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").unwrap(),
        peer: "10.2.0.3:15008".parse().unwrap(),
        tls: TlsInfo {
            version: "TLSv1.3",
            group: "X25519MLKEM768",
            cipher: "TLS_AES_256_GCM_SHA384",
        },
        streams: 3,
        streams_total: 1204,
        since: samples::noon(),
        accepting: true,
    }
}
