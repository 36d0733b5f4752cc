//! What a decision and a change cost, by the number of policies. Every namespace has ten
//! AuthorizationPolicies of fifty rules (two refuse, eight allow) and a STRICT PeerAuthentication;
//! what is asked is matched by the last rule of the last policy, or by none.
#![expect(clippy::unwrap_used, reason = "a benchmark: a mistake must end it")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;

use adit_core::flow::FlowContext;
use adit_core::identity::SpiffeId;
use adit_core::policy::spec::{
    AuthorizationPolicySpec, OperationSpec, PeerAuthenticationSpec, RuleSpec, SourceSpec,
};
use adit_core::policy::{self, AuthorizationPolicy, PeerAuthentication};
use adit_core::workload::{MeshMode, ObjectName, Owner, Phase, PodUid, Workload};
use adit_core::world::{Delta, World};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

const PER_NAMESPACE: usize = 10;
const RULES: usize = 50;

/// What the rules ask for.
#[derive(Clone, Copy)]
enum Kind {
    /// A principal and a port, a namespace, a service account: by turns.
    Identities,
    /// An address range and a port.
    Addresses,
    /// The beginnings of principals, of four lengths.
    Prefixes,
    /// The ends of principals, of four lengths.
    Suffixes,
}

const KINDS: [(&str, Kind); 4] = [
    ("identities", Kind::Identities),
    ("addresses", Kind::Addresses),
    ("prefixes", Kind::Prefixes),
    ("suffixes", Kind::Suffixes),
];

/// Names the kind whose memory a process of its own measures.
const MEASURE: &str = "ADIT_BENCH_MEMORY";

/// Not a time, so that criterion has no place for it: what 5,000 policies of fifty rules take. Each kind
/// in a process of its own: what one gives back, the next would take without growing.
#[expect(clippy::print_stderr, reason = "a result of the benchmark")]
#[expect(clippy::exit, reason = "the process that measures must not run the benchmarks as well")]
fn memory(_: &mut Criterion) {
    if let Ok(name) = std::env::var(MEASURE) {
        let (_, kind) = KINDS.into_iter().find(|(known, _)| *known == name).unwrap();
        let before = resident();
        let world = world(5000, PER_NAMESPACE, kind);
        eprintln!("memory/{name}/5000      {} MiB", (resident() - before) / 1024);
        drop(world);
        std::process::exit(0);
    }
    for (name, _) in KINDS {
        let this = std::env::current_exe().unwrap();
        let measured = std::process::Command::new(this).arg("--bench").env(MEASURE, name).status();
        assert!(measured.unwrap().success(), "{name}");
    }
}

/// Resident memory, KiB (proc_pid_status(5)).
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn decide(c: &mut Criterion) {
    let mut group = c.benchmark_group("decide");
    for policies in [50, 500, 5000, 50_000] {
        let world = world(policies, PER_NAMESPACE, Kind::Identities);
        let (allowed, refused) = (flow(&world, "last"), flow(&world, "nobody"));
        group.bench_with_input(BenchmarkId::new("allowed", policies), &world, |b, world| {
            b.iter(|| policy::decide(world, black_box(&allowed)));
        });
        group.bench_with_input(BenchmarkId::new("refused", policies), &world, |b, world| {
            b.iter(|| policy::decide(world, black_box(&refused)));
        });
    }
    for (name, kind) in &KINDS[1..] {
        for policies in [50, 5000, 50_000] {
            let world = world(policies, PER_NAMESPACE, *kind);
            let flow = flow(&world, "last");
            group.bench_function(BenchmarkId::new(*name, policies), |b| {
                b.iter(|| policy::decide(&world, black_box(&flow)));
            });
        }
    }
    // All in one namespace, each for pods of its own label: one is for this pod.
    let world = world(5000, 5000, Kind::Identities);
    let flow = flow(&world, "caller-9-49");
    group.bench_function(BenchmarkId::new("one-namespace", 5000), |b| {
        b.iter(|| policy::decide(&world, black_box(&flow)));
    });
    group.finish();
}

fn change(c: &mut Criterion) {
    let mut group = c.benchmark_group("change");
    for policies in [50, 500, 5000, 50_000] {
        let world = world(policies, PER_NAMESPACE, Kind::Identities);
        let new = authorization("ns-0", 3, 2, PER_NAMESPACE, Kind::Addresses);
        group.bench_with_input(BenchmarkId::new("one-policy", policies), &world, |b, world| {
            b.iter(|| world.apply([black_box(new.clone())]));
        });
    }
    group.finish();
}

/// Policies in namespaces of so many each, and a pod in the namespace in the middle.
fn world(policies: usize, per_namespace: usize, kind: Kind) -> World {
    let namespaces = policies / per_namespace;
    let mut deltas = vec![Delta::Workload(pod(&format!("ns-{}", namespaces / 2)))];
    for namespace in 0..namespaces {
        let namespace = format!("ns-{namespace}");
        let mut strict = PeerAuthenticationSpec::new(ObjectName::new(&namespace, "default"));
        "STRICT".clone_into(&mut strict.mode);
        deltas.push(Delta::PeerAuthentication(PeerAuthentication::try_new(strict).unwrap()));
        deltas.extend(
            (0..per_namespace).map(|n| authorization(&namespace, n, RULES, per_namespace, kind)),
        );
    }
    World::default().apply(deltas).0
}

fn authorization(
    namespace: &str,
    number: usize,
    rules: usize,
    per_namespace: usize,
    kind: Kind,
) -> Delta {
    let name = format!("policy-{number:04}");
    let mut spec = AuthorizationPolicySpec::new(ObjectName::new(namespace, &name));
    let refuses = number < 2;
    if refuses {
        "DENY".clone_into(&mut spec.action);
    }
    if per_namespace > PER_NAMESPACE {
        spec.selector.insert("app".to_owned(), format!("app-{number}"));
    } else if number.is_multiple_of(3) {
        spec.selector.insert("app".to_owned(), format!("app-{}", per_namespace - 1));
    }
    let last = number == per_namespace - 1;
    spec.rules = (0..rules)
        .map(|index| {
            let caller = format!("caller-{number}-{index}");
            rule(kind, index, if last && index == rules - 1 { "last" } else { &caller })
        })
        .collect();
    Delta::AuthorizationPolicy(AuthorizationPolicy::try_new(spec).unwrap())
}

fn rule(kind: Kind, index: usize, caller: &str) -> RuleSpec {
    let mut source = SourceSpec::default();
    let is_last = caller == "last";
    match kind {
        Kind::Addresses if is_last => source.ip_blocks = vec!["10.1.0.0/16".to_owned()],
        Kind::Addresses => source.ip_blocks = vec![format!("192.168.{index}.0/24")],
        Kind::Prefixes => {
            source.principals = vec![format!("cluster.local/ns/clients/sa/{caller}*")]
        }
        Kind::Suffixes => source.principals = vec![format!("*/sa/{caller}")],
        Kind::Identities => match index % 3 {
            0 if !is_last => source.namespaces = vec![caller.to_owned()],
            1 => source.principals = vec![format!("cluster.local/ns/clients/sa/{caller}")],
            _ => source.service_accounts = vec![format!("clients/{caller}")],
        },
    }
    let ports = vec!["8080".to_owned(), "8443".to_owned()];
    let operation = OperationSpec { ports, ..OperationSpec::default() };
    RuleSpec { from: Some(vec![source]), to: Some(vec![operation]), ..RuleSpec::default() }
}

fn pod(namespace: &str) -> Workload {
    let labels = [
        ("app", "app-9"), // of the last policy where there are ten
        ("app.kubernetes.io/name", "app"),
        ("app.kubernetes.io/version", "v1"),
        ("pod-template-hash", "7d4b9c"),
        ("tier", "back"),
    ];
    Workload {
        uid: PodUid::parse("pod").unwrap(),
        name: ObjectName::new(namespace, "pod"),
        node: None,
        identity: SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").unwrap(),
        addresses: vec!["10.9.0.1".parse().unwrap()],
        mode: MeshMode::Ambient,
        host_network: false,
        phase: Phase::Active,
        owner: Owner { kind: Arc::from("pod"), name: Arc::from("pod") },
        labels: BTreeMap::from(labels.map(|(key, value)| (Arc::from(key), Arc::from(value)))),
        probed: Vec::new(),
        tunnel_ports: Vec::new(),
        mirror_of: None,
        announced: None,
        netns: None,
    }
}

fn flow(world: &World, caller: &str) -> FlowContext {
    let destination = world.workloads().next().unwrap();
    let identity = format!("spiffe://cluster.local/ns/clients/sa/{caller}");
    FlowContext {
        source_address: "10.1.2.3".parse().unwrap(),
        source_identity: Some(SpiffeId::parse(&identity).unwrap()),
        destination: Arc::clone(destination),
        destination_address: "10.9.0.1:8080".parse().unwrap(),
    }
}

criterion_group!(benches, memory, decide, change);
criterion_main!(benches);
