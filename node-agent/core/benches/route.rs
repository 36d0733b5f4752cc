//! What each flow costs besides policy: where it goes, in worlds of several sizes, and the headers of its
//! CONNECT, written and read.
#![expect(clippy::unwrap_used, reason = "a benchmark: a mistake must end it")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use adit_core::hbone;
use adit_core::identity::SpiffeId;
use adit_core::route::{self, Query};
use adit_core::workload::{
    Affinity, Endpoint, Hints, InternalTraffic, MeshMode, Namespace, ObjectName, Owner, Phase,
    PodUid, Service, ServicePort, Workload,
};
use adit_core::world::{Delta, World};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

const ENDPOINTS: u32 = 5;
const PORT: u16 = 80;

fn plan(c: &mut Criterion) {
    let mut group = c.benchmark_group("plan");
    for pods in [100, 10_000] {
        let world = world(pods);
        let (caller, source) = (PodUid::parse("pod-0"), IpAddr::from(pod_address(0)));
        for (name, to) in
            [("pod", pod_address(pods / 2)), ("service", vip(0)), ("unknown", vip(99_999))]
        {
            let dialled = SocketAddr::from((to, PORT));
            let query = Query { caller: caller.as_ref(), dialled, source, random: 7 };
            group.bench_with_input(BenchmarkId::new(name, pods), &world, |b, world| {
                b.iter(|| route::plan(world, black_box(&query)));
            });
        }
    }
    group.finish();
}

fn headers(c: &mut Criterion) {
    let mut group = c.benchmark_group("headers");
    let (caller, service) = (pod(0), ObjectName::new("shop", "service-0"));
    let destination = SocketAddr::from((pod_address(1), PORT));
    group.bench_function("written", |b| {
        b.iter(|| {
            let source = IpAddr::from(pod_address(0));
            let baggage = hbone::baggage("Kubernetes", black_box(&caller));
            (hbone::authority(destination), baggage, hbone::forwarded(source, Some(&service)))
        });
    });
    let forwarded = hbone::forwarded(IpAddr::from(pod_address(0)), Some(&service));
    group.bench_function("read", |b| {
        b.iter(|| {
            let dialled = hbone::parse_authority(black_box("10.1.0.1:80"));
            (dialled.unwrap(), hbone::parse_forwarded_host(black_box(&forwarded)))
        });
    });
    group.finish();
}

/// So many pods, every [`ENDPOINTS`] of them behind a service.
fn world(pods: u32) -> World {
    let namespace =
        Namespace { name: Arc::from("shop"), mode: MeshMode::Ambient, labels: BTreeMap::new() };
    let pod_deltas = (0..pods).map(|number| Delta::Workload(pod(number)));
    let services = (0..pods / ENDPOINTS).flat_map(|number| {
        let name = ObjectName::new("shop", &format!("service-{number}"));
        let ports = vec![ServicePort { name: Arc::from("http"), port: PORT }];
        let vips = vec![vip(number).into()];
        let service = Service {
            name: name.clone(),
            vips,
            ports,
            affinity: Affinity::None,
            internal_traffic: InternalTraffic::Cluster,
        };
        let first = number * ENDPOINTS;
        let endpoints = (first..first + ENDPOINTS).map(|pod| Endpoint {
            address: pod_address(pod).into(),
            pod: PodUid::parse(&format!("pod-{pod}")),
            ports: BTreeMap::from([(Arc::from("http"), PORT)]),
            ready: true,
            node: None,
            hints: Hints::default(),
        });
        [Delta::Service(service), Delta::Endpoints(name, endpoints.collect())]
    });
    let deltas = [Delta::Namespace(namespace)].into_iter().chain(pod_deltas).chain(services);
    World::default().apply(deltas).0
}

fn pod(number: u32) -> Workload {
    let name = format!("pod-{number}");
    Workload {
        uid: PodUid::parse(&name).unwrap(),
        name: ObjectName::new("shop", &name),
        node: None,
        identity: SpiffeId::parse(&format!("spiffe://cluster.local/ns/shop/sa/{name}")).unwrap(),
        addresses: vec![pod_address(number).into()],
        mode: MeshMode::Unset,
        host_network: false,
        phase: Phase::Active,
        owner: Owner { kind: Arc::from("deployment"), name: Arc::from("pod") },
        labels: BTreeMap::new(),
        probed: Vec::new(),
        tunnel_ports: Vec::new(),
        mirror_of: None,
        announced: None,
        netns: None,
    }
}

fn pod_address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 1, 0, 1).to_bits() + number)
}

fn vip(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 96, 0, 1).to_bits() + number)
}

criterion_group!(benches, plan, headers);
criterion_main!(benches);
