//! Two agents in this process, real tunnels and certificates between them, applications on loopback.

mod policy;
mod size;
mod term;

use std::net::SocketAddr;
use std::time::Duration;

use adit_core::enrolment::{NotEnrolled, PodState};
use adit_core::flow::{
    CloseReason, ConnectFailure, Direction, FlowRecord, PlaintextReason, Protocol, TlsFailure,
};
use adit_core::workload::{MeshMode, PodUid, Workload};
use adit_core::world::Delta;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::datapath::fake::{FakeNetwork, Inward};
use crate::testing::{TestAgent, TestCa, TestSettings, cluster};
use crate::tunnel;

const CLIENT: &str = "127.77.1.1";
const SERVER: &str = "127.77.2.1";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flow_between_two_nodes_is_tunnelled_and_both_ends_know_both_identities() {
    let scene = Scene::new().await;
    let app = scene.application(80).await;
    let (mut client, (mut server, _)) = scene.flow(&app, 80).await;

    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(rest(&mut server).await.unwrap(), b"question");
    server.write_all(b"answer!").await.unwrap();
    drop(server);
    assert_eq!(rest(&mut client).await.unwrap(), b"answer!");

    let [out, inn] = scene.ended().await;
    for record in [&out, &inn] {
        assert_eq!(record.protocol, Protocol::Hbone);
        assert_eq!(record.end, Some(CloseReason::Finished));
        assert_eq!((record.sent, record.received), (8, 7));
        assert_eq!(identities(record), ("shop/client".into(), "shop/server".into()));
        let tls = record.tls.unwrap();
        assert_eq!((tls.version, tls.group), ("TLSv1.3", "X25519MLKEM768"));
        assert_eq!(record.destination.address, at(SERVER, 80));
    }
    let inward = Inward { source: CLIENT.parse().unwrap(), destination: at(SERVER, 80) };
    assert_eq!(scene.network.inward(), [inward], "the application sees the client's address");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_may_speak_first() {
    let scene = Scene::new().await;
    let app = scene.application(22).await;
    let (mut client, (mut server, _)) = scene.flow(&app, 22).await;
    server.write_all(b"SSH-2.0").await.unwrap();
    let mut banner = [0; 7];
    client.read_exact(&mut banner).await.unwrap();
    assert_eq!(&banner, b"SSH-2.0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_of_either_application_is_a_reset_for_the_other() {
    let scene = Scene::new().await;
    let app = scene.application(80).await;

    let (client, (mut server, _)) = scene.flow(&app, 80).await;
    reset(client);
    let seen = rest(&mut server).await.unwrap_err();
    assert_eq!(seen.kind(), std::io::ErrorKind::ConnectionReset);
    let [out, inn] = scene.ended().await;
    assert_eq!((out.end, inn.end), both(CloseReason::ResetBySource));

    let (mut client, (mut server, _)) = scene.flow(&app, 80).await;
    // Else the reset may come before the agent knows that it is connected: a refusal to it.
    client.write_all(b"!").await.unwrap();
    server.read_exact(&mut [0]).await.unwrap();
    reset(server);
    let seen = rest(&mut client).await.unwrap_err();
    assert_eq!(seen.kind(), std::io::ErrorKind::ConnectionReset);
    let [out, inn] = scene.ended().await;
    assert_eq!((out.end, inn.end), both(CloseReason::ResetByDestination));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_is_passed_on_while_the_other_application_does_not_read() {
    let scene = Scene::new().await;
    let app = scene.application(80).await;
    let (mut client, (mut server, _)) = scene.flow(&app, 80).await;
    // Until nothing goes any more: every buffer and window on the way is full.
    let chunk = vec![7; 64 << 10];
    let full = async {
        loop {
            client.write_all(&chunk).await.unwrap();
        }
    };
    let stalled = tokio::time::timeout(Duration::from_secs(3), full).await;
    assert!(stalled.is_err());
    reset(client);
    let out = scene.a.ended(Direction::Outbound).await;
    assert_eq!(out.end, Some(CloseReason::ResetBySource));
    rest(&mut server).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flows_beyond_what_the_other_agent_takes_in_a_tunnel_go_through_others_at_once() {
    let scene = Scene::where_the_server_takes(3).await;
    let app = scene.application(80).await;
    let mut open = Vec::new();
    for number in 0..12_u8 {
        // Well within the time that a flow may wait for its connection.
        let flow = tokio::time::timeout(Duration::from_secs(2), scene.flow(&app, 80));
        let (mut client, (mut server, _)) = flow.await.unwrap();
        client.write_all(&[number]).await.unwrap();
        let mut got = [0];
        server.read_exact(&mut got).await.unwrap();
        assert_eq!(got, [number]);
        open.push((client, server));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_to_the_agents_own_listener_is_refused_and_goes_round_no_circle() {
    let scene = Scene::new().await;
    let seen = broken(scene.client.connect_captured(at(CLIENT, 4000)).await).await;
    assert_eq!(seen.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(scene.a.workers.flows().await.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_without_an_application_resets_the_client_at_once() {
    let scene = Scene::new().await;
    let seen = broken(scene.client.connect(at(SERVER, 81)).await).await;
    assert_eq!(seen.kind(), std::io::ErrorKind::ConnectionReset);
    let [out, inn] = scene.ended().await;
    assert_eq!(out.end, Some(CloseReason::Rejected(503)));
    assert_eq!(inn.end, Some(CloseReason::ConnectFailed(ConnectFailure::Refused)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_with_another_identity_than_expected_gets_nothing() {
    let scene = Scene::new().await;
    let app = scene.application(80).await;
    // The client's node believes that another service account runs there.
    let mut server = server();
    server.identity = cluster::pod("shop", "impostor", "b", SERVER.parse().unwrap()).identity;
    scene.a.worlds.publish([Delta::Workload(server)]);

    let seen = broken(scene.client.connect(at(SERVER, 80)).await).await;
    assert_eq!(seen.kind(), std::io::ErrorKind::ConnectionReset);
    let out = scene.a.ended(Direction::Outbound).await;
    assert_eq!(out.end, Some(CloseReason::Tls(TlsFailure::WrongIdentity)));
    let refused = scene.b.ended(Direction::Inbound).await;
    assert_eq!(refused.end, Some(CloseReason::Tls(TlsFailure::RejectedByPeer)));
    drop(app);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_that_is_not_enrolled_is_reached_in_plaintext_and_says_why() {
    let scene = Scene::new().await;
    let stranger = at("127.77.3.1", 80);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    scene.network.serve(stranger, listener.local_addr().unwrap());
    let pod = cluster::pod("other", "stranger", "b", stranger.ip());
    for (deltas, reason) in [
        (vec![], PlaintextReason::UnknownDestination),
        (
            vec![Delta::Workload(pod)],
            PlaintextReason::DestinationNotEnrolled(NotEnrolled::NamespaceNotLabelled),
        ),
    ] {
        scene.a.worlds.publish(deltas);
        drop(scene.client.connect(stranger).await.unwrap());
        let (accepted, _) = listener.accept().await.unwrap();
        drop(accepted);
        let out = scene.a.ended(Direction::Outbound).await;
        assert_eq!(out.protocol, Protocol::Plaintext(reason));
        assert_eq!(out.tls, None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plaintext_flow_whose_destination_turns_out_to_be_enrolled_is_reset() {
    let scene = Scene::new().await;
    let (late, other) = (at("127.77.3.1", 80), at("127.77.3.2", 80));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    for stranger in [late, other] {
        scene.network.serve(stranger, listener.local_addr().unwrap());
    }
    let mut flows = Vec::new();
    for stranger in [late, other] {
        let mut client = scene.client.connect(stranger).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        client.write_all(b"!").await.unwrap();
        server.read_exact(&mut [0]).await.unwrap();
        flows.push((client, server));
    }

    let pod = |name, at: SocketAddr| cluster::pod("shop", name, "b", at.ip());
    let opted_out = Workload { mode: MeshMode::None, ..pod("other", other) };
    scene.a.worlds.publish([Delta::Workload(pod("late", late)), Delta::Workload(opted_out)]);

    let (mut client, mut server) = flows.remove(0);
    for end in [&mut client, &mut server] {
        let seen = rest(end).await.unwrap_err();
        assert_eq!(seen.kind(), std::io::ErrorKind::ConnectionReset);
    }
    let out = scene.a.ended(Direction::Outbound).await;
    assert_eq!((out.end, out.destination.address), (Some(CloseReason::Strayed), late));
    let (mut client, mut server) = flows.remove(0);
    server.write_all(b"?").await.unwrap();
    client.read_exact(&mut [0]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plaintext_from_outside_is_delivered_and_recorded_as_such() {
    let scene = Scene::new().await;
    let app = scene.application(80).await;
    let outsider = "127.77.9.9".parse().unwrap();
    let client = scene.network.connect(outsider, at(SERVER, 80)).await.unwrap();
    let (server, _) = app.accept().await.unwrap();
    drop((client, server));
    let inn = scene.b.ended(Direction::Inbound).await;
    assert_eq!(inn.protocol, Protocol::Plaintext(PlaintextReason::UnknownSource));
    assert_eq!(inn.source.identity, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn withdrawing_a_pod_leaves_its_open_flows_alone_and_makes_new_ones_plaintext() {
    let scene = Scene::new().await;
    let app = scene.application(80).await;
    let (mut client, (mut server, _)) = scene.flow(&app, 80).await;

    let unlabelled = Delta::Namespace(cluster::namespace("shop", MeshMode::Unset));
    scene.a.worlds.publish([unlabelled.clone()]);
    scene.b.worlds.publish([unlabelled]);
    // The second flow leaves the pod directly as soon as the capture is undone.
    let (direct, (second, _)) = loop {
        let direct = scene.client.connect(at(SERVER, 80)).await.unwrap();
        let accepted = app.accept().await.unwrap();
        if scene.a.workers.flows().await.len() == 1 {
            break (direct, accepted);
        }
    };
    drop((direct, second));
    client.write_all(b"ping").await.unwrap();
    let mut got = [0; 4];
    server.read_exact(&mut got).await.unwrap();
    server.write_all(b"pong").await.unwrap();
    client.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"pong");
    drop((client, server));
    let why = PodState::NotEnrolled(NotEnrolled::NamespaceNotLabelled);
    scene.a.wait_for("client", &why).await;
    scene.b.wait_for("server", &why).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_flows_of_a_deleted_pod_end_with_that_reason() {
    let scene = Scene::new().await;
    let app = scene.application(80).await;
    let (mut client, _server) = scene.flow(&app, 80).await;
    let gone = Delta::WorkloadGone(PodUid::parse("server").unwrap());
    scene.b.worlds.publish([gone]);
    let inn = scene.b.ended(Direction::Inbound).await;
    assert_eq!(inn.end, Some(CloseReason::PodGone));
    rest(&mut client).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_waits_for_an_agent_that_is_not_there_yet() {
    let network = FakeNetwork::new();
    let ca = TestCa::new();
    let a = TestAgent::start(&network, "a", &ca);
    let client = a.enrolled(&world(), "client").await;
    let mut waiting = client.connect(at(SERVER, 80)).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    network.serve(at(SERVER, 80), listener.local_addr().unwrap());

    let b = TestAgent::start(&network, "b", &ca);
    b.enrolled(&world(), "server").await;
    let (mut server, _) = listener.accept().await.unwrap();
    server.write_all(b"at last").await.unwrap();
    drop(server);
    waiting.shutdown().await.unwrap();
    assert_eq!(rest(&mut waiting).await.unwrap(), b"at last");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_to_an_address_between_two_owners_waits_for_the_next_one() {
    let scene = Scene::new().await;
    let app = scene.application(80).await;
    let gone = Delta::WorkloadGone(PodUid::parse("server").unwrap());
    scene.a.worlds.publish([gone]);
    let mut waiting = scene.client.connect(at(SERVER, 80)).await.unwrap();
    let held = async {
        while scene.a.workers.flows().await.is_empty() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), held).await.expect("the flow");

    scene.a.worlds.publish([Delta::Workload(server())]);

    let (mut application, _) = app.accept().await.unwrap();
    application.write_all(b"at last").await.unwrap();
    drop(application);
    waiting.shutdown().await.unwrap();
    assert_eq!(rest(&mut waiting).await.unwrap(), b"at last");
    let [out, inn] = scene.ended().await;
    assert_eq!((out.protocol, inn.protocol), (Protocol::Hbone, Protocol::Hbone));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_waits_for_open_flows_and_tells_how_many_it_cut() {
    let scene = Scene::new().await;
    let app = scene.application(80).await;
    let (client, (server, _)) = scene.flow(&app, 80).await;
    assert_eq!(scene.a.workers.drain(Duration::from_millis(50)).await, 1);
    let out = scene.a.ended(Direction::Outbound).await;
    assert_eq!(out.end, Some(CloseReason::Drained));
    drop((client, server));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn megabytes_arrive_unchanged_both_ways_at_once() {
    let scene = Scene::new().await;
    let app = scene.application(80).await;
    let (client, (server, _)) = scene.flow(&app, 80).await;
    let data: Vec<u8> =
        (0..16_u32 << 20).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    let (near, far) = tokio::join!(exchange(client, &data), exchange(server, &data));
    assert!(near == data && far == data);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_flows_share_few_tunnels() {
    let scene = Scene::new().await;
    let app = scene.application(80).await;
    let mut open = Vec::new();
    for _ in 0..60 {
        open.push(scene.flow(&app, 80).await);
    }
    let tunnels = scene.a.workers.tunnels().await;
    assert!((1..=2).contains(&tunnels.len()), "one per worker: {tunnels:?}");
    assert_eq!(tunnels.iter().map(|tunnel| tunnel.streams).sum::<u32>(), 60);
}

/// Two nodes, a pod on each, enrolled.
struct Scene {
    network: FakeNetwork,
    a: TestAgent,
    b: TestAgent,
    client: std::sync::Arc<crate::datapath::fake::FakePod>,
    ca: TestCa,
}

impl Scene {
    async fn new() -> Self {
        Self::with(TestSettings::default(), TestSettings::default()).await
    }

    /// The server's agent takes so many streams in a tunnel.
    async fn where_the_server_takes(streams: u32) -> Self {
        let mut settings = TestSettings::default();
        settings.tunnel.max_streams = streams;
        Self::with(TestSettings::default(), settings).await
    }

    /// The client's agent and the server's have these settings.
    async fn with(client: TestSettings, server: TestSettings) -> Self {
        let network = FakeNetwork::new();
        let ca = TestCa::new();
        let a = TestAgent::start_with(&network, "a", &ca, client);
        let b = TestAgent::start_with(&network, "b", &ca, server);
        let client = a.enrolled(&world(), "client").await;
        b.enrolled(&world(), "server").await;
        Self { network, a, b, client, ca }
    }

    /// The server's application on a port.
    async fn application(&self, port: u16) -> TcpListener {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.network.serve(at(SERVER, port), listener.local_addr().unwrap());
        listener
    }

    /// A connection of the client, and its other end in the application.
    async fn flow(&self, app: &TcpListener, port: u16) -> (TcpStream, (TcpStream, SocketAddr)) {
        let client = self.client.connect(at(SERVER, port)).await.unwrap();
        let accepted = tokio::time::timeout(Duration::from_secs(10), app.accept()).await;
        (client, accepted.expect("a connection").unwrap())
    }

    async fn ended(&self) -> [FlowRecord; 2] {
        [self.a.ended(Direction::Outbound).await, self.b.ended(Direction::Inbound).await]
    }
}

fn world() -> Vec<Delta> {
    let client = cluster::pod("shop", "client", "a", CLIENT.parse().unwrap());
    vec![
        Delta::Namespace(cluster::namespace("shop", MeshMode::Ambient)),
        Delta::Workload(client),
        Delta::Workload(server()),
    ]
}

fn server() -> Workload {
    cluster::pod("shop", "server", "b", SERVER.parse().unwrap())
}

fn at(ip: &str, port: u16) -> SocketAddr {
    SocketAddr::new(ip.parse().unwrap(), port)
}

fn identities(record: &FlowRecord) -> (String, String) {
    let short = |party: &adit_core::flow::Party| {
        let identity = party.identity.as_ref().unwrap();
        format!("{}/{}", identity.namespace(), identity.service_account())
    };
    (short(&record.source), short(&record.destination))
}

fn both(reason: CloseReason) -> (Option<CloseReason>, Option<CloseReason>) {
    (Some(reason), Some(reason))
}

/// What a client hears that is reset, before or after it knows that it is connected.
async fn broken(connected: std::io::Result<TcpStream>) -> std::io::Error {
    match connected {
        Ok(mut client) => rest(&mut client).await.unwrap_err(),
        Err(error) => error,
    }
}

fn reset(tcp: TcpStream) {
    SockRef::from(&tcp).set_linger(Some(Duration::ZERO)).unwrap();
    drop(tcp);
}

async fn rest(tcp: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut got = Vec::new();
    tokio::time::timeout(Duration::from_secs(10), tcp.read_to_end(&mut got))
        .await
        .expect("the end of the stream")
        .map(|_| got)
}

async fn exchange(mut tcp: TcpStream, data: &[u8]) -> Vec<u8> {
    let (mut reader, mut writer) = tcp.split();
    let mut got = vec![0; data.len()];
    let send = async { writer.write_all(data).await.unwrap() };
    tokio::join!(send, async { reader.read_exact(&mut got).await.unwrap() });
    got
}
