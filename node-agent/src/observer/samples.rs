//! Fixed flows for the tests of everything that shows flows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use adit_core::enrolment::NotEnrolled;
use adit_core::flow::{
    CloseReason, Direction, FlowContext, FlowId, FlowRecord, Party, PlaintextReason, Protocol,
    TlsInfo,
};
use adit_core::identity::SpiffeId;
use adit_core::policy::spec::{
    AuthorizationPolicySpec, PeerAuthenticationSpec, RuleSpec, SourceSpec,
};
use adit_core::policy::{self, AuthorizationPolicy, Decision, PeerAuthentication};
use adit_core::workload::{MeshMode, NodeName, ObjectName, Owner, Phase, PodUid, Workload};
use adit_core::world::{Delta, World};

pub(crate) const CLIENT_UID: &str = "11111111-0000-4000-8000-000000000001";
pub(crate) const CART_UID: &str = "22222222-0000-4000-8000-000000000002";
pub(crate) const LEGACY_UID: &str = "33333333-0000-4000-8000-000000000003";

/// 2026-03-01 12:00:00.250 UTC.
pub(crate) fn noon() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(1_772_366_400_250)
}

pub(crate) fn client() -> Workload {
    let labels = [("app", "client"), ("version", "v2")];
    let name = "client-6d4cf56db6-x7k2p";
    let mut pod = pod(CLIENT_UID, name, "client", "10.1.0.2", "node-a");
    pod.owner.kind = Arc::from("deployment");
    pod.addresses.push("fd00:10:1::2".parse().unwrap());
    pod.labels = labels.map(|(k, v)| (Arc::from(k), Arc::from(v))).into();
    pod
}

pub(crate) fn cart() -> Workload {
    let mut pod = pod(CART_UID, "cart-0", "cart", "10.2.0.3", "node-b");
    pod.owner.kind = Arc::from("statefulset");
    pod
}

pub(crate) fn legacy() -> Workload {
    let mut pod = pod(LEGACY_UID, "legacy", "legacy", "10.1.0.7", "node-a");
    pod.mode = MeshMode::None;
    pod
}

/// client → cart over a tunnel, through the service, seen from client's node; ended.
pub(crate) fn finished(id: u64) -> FlowRecord {
    FlowRecord {
        id: FlowId(id),
        direction: Direction::Outbound,
        source: party(client(), 40112, true),
        destination: party(cart(), 8080, true),
        service: Some(ObjectName::new("shop", "cart")),
        protocol: Protocol::Hbone,
        tls: Some(TlsInfo {
            version: "TLSv1.3",
            group: "X25519MLKEM768",
            cipher: "TLS_AES_256_GCM_SHA384",
        }),
        grounds: None,
        started: noon(),
        duration: Duration::from_millis(1507),
        sent: 312,
        received: 48213,
        end: Some(CloseReason::Finished),
    }
}

/// The same, alive.
pub(crate) fn open(id: u64) -> FlowRecord {
    FlowRecord {
        duration: Duration::from_secs(3725),
        sent: 5_000_000_000,
        end: None,
        ..finished(id)
    }
}

/// client → legacy, which opted out: plaintext.
pub(crate) fn plaintext(id: u64) -> FlowRecord {
    let why = NotEnrolled::PodOptedOut;
    FlowRecord {
        destination: party(legacy(), 5432, false),
        service: None,
        protocol: Protocol::Plaintext(PlaintextReason::DestinationNotEnrolled(why)),
        tls: None,
        end: Some(CloseReason::ResetByDestination),
        ..finished(id)
    }
}

/// An unknown peer → client, in a tunnel that ended like `end` before any byte was delivered.
pub(crate) fn refused(id: u64, end: CloseReason) -> FlowRecord {
    FlowRecord {
        id: FlowId(id),
        direction: Direction::Inbound,
        source: Party { address: "10.9.0.9:5000".parse().unwrap(), workload: None, identity: None },
        destination: party(client(), 9000, true),
        service: None,
        protocol: Protocol::Hbone,
        tls: None,
        grounds: None,
        started: noon() + Duration::from_secs(60),
        duration: Duration::from_millis(3),
        sent: 0,
        received: 0,
        end: Some(end),
    }
}

/// legacy → client in plaintext, which no rule lets in and a dry run of STRICT would refuse as well.
pub(crate) fn denied(id: u64) -> FlowRecord {
    let mut strict = PeerAuthenticationSpec::new(ObjectName::new("shop", "default"));
    "STRICT".clone_into(&mut strict.mode);
    strict.dry_run = true;
    let mut friends = AuthorizationPolicySpec::new(ObjectName::new("shop", "friends"));
    let source = SourceSpec { service_accounts: vec!["cart".to_owned()], ..SourceSpec::default() };
    friends.rules = vec![RuleSpec { from: Some(vec![source]), ..RuleSpec::default() }];
    let (world, _) = World::default().apply([
        Delta::Workload(client()),
        Delta::PeerAuthentication(PeerAuthentication::try_new(strict).unwrap()),
        Delta::AuthorizationPolicy(AuthorizationPolicy::try_new(friends).unwrap()),
    ]);
    let source = party(legacy(), 40113, false);
    let flow = FlowContext {
        source_address: source.address.ip(),
        source_identity: None,
        destination: Arc::new(client()),
        destination_address: "10.1.0.2:9000".parse().unwrap(),
    };
    let Decision { verdict, grounds } = policy::decide(&world, &flow);
    let why = NotEnrolled::PodOptedOut;
    FlowRecord {
        source,
        protocol: Protocol::Plaintext(PlaintextReason::SourceNotEnrolled(why)),
        grounds: Some(Arc::new(grounds)),
        ..refused(id, CloseReason::Denied(verdict.unwrap_err()))
    }
}

fn party(pod: Workload, port: u16, proved: bool) -> Party {
    Party {
        address: (pod.addresses[0], port).into(),
        identity: proved.then(|| pod.identity.clone()),
        workload: Some(Arc::new(pod)),
    }
}

fn pod(uid: &str, name: &str, app: &str, address: &str, node: &str) -> Workload {
    Workload {
        uid: PodUid::parse(uid).unwrap(),
        name: ObjectName::new("shop", name),
        node: Some(NodeName::new(node)),
        identity: SpiffeId::parse(&format!("spiffe://cluster.local/ns/shop/sa/{app}")).unwrap(),
        addresses: vec![address.parse().unwrap()],
        mode: MeshMode::Unset,
        host_network: false,
        phase: Phase::Active,
        owner: Owner { kind: Arc::from("pod"), name: Arc::from(app) },
        labels: BTreeMap::new(),
        probed: Vec::new(),
        tunnel_ports: Vec::new(),
        mirror_of: None,
        announced: None,
        netns: None,
    }
}
