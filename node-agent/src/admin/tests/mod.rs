//! The windows as a client sees them: over real sockets, with fixed sources.

mod fixed;
pub(crate) mod policies;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use adit_core::enrolment::Step;
use adit_core::flow::{CloseReason, Direction, TlsFailure, TlsInfo};
use adit_core::identity::SpiffeId;
use adit_core::workload::{
    Affinity, Endpoint, Hints, InternalTraffic, MeshMode, ObjectName, PodUid, Service, ServicePort,
};
use adit_core::world::Delta;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::*;
use crate::admin::view::{FlowView, FollowEvent, Timestamp};
use crate::enrol::PodState;
use crate::observer::{self, Known, Recorder, Sinks, samples};
use crate::shutdown::{self, Trigger};
use crate::telemetry::access_log::{AccessLog, AccessLogSettings};
use crate::telemetry::log::{LogSettings, build};
use crate::telemetry::metrics::Limits;
use crate::testing::cluster::namespace;

#[tokio::test]
async fn the_socket_is_for_its_owner_only_and_goes_with_the_agent() {
    let agent = Agent::start().await;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&agent.socket), 0o600);
    assert_eq!(mode(agent.socket.parent().unwrap()), 0o700);

    agent.trigger.advance(shutdown::Phase::Forced);
    agent.serving.await.unwrap();

    assert!(!agent.socket.exists());
}

#[tokio::test]
async fn a_client_of_another_user_is_refused_and_told_so() {
    let agent = Agent::start_for(Arc::new(|_uid| false)).await;
    let (status, body) = agent.ask("GET", "/v1/status", "").await;
    assert_eq!(status, 403);
    assert!(body.contains("only root"), "{body}");
}

#[tokio::test]
async fn a_dead_agents_socket_is_replaced_and_a_living_ones_is_not() {
    let directory = Directory::new();
    let path = directory.0.join("adit.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let socket = Socket::open(&path).unwrap();
    let error = Socket::open(&path).unwrap_err();
    assert!(error.to_string().contains("another agent"), "{error}");
    drop(socket);

    std::fs::write(&path, "precious").unwrap();
    let error = Socket::open(&path).unwrap_err();
    assert!(error.to_string().contains("no socket"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    let names: Vec<_> = std::fs::read_dir(&directory.0).unwrap().collect();
    assert_eq!(names.len(), 1, "{names:?}");
}

#[tokio::test]
async fn a_directory_that_others_can_change_is_refused() {
    let directory = Directory::new();
    let shared = std::fs::Permissions::from_mode(0o1777);
    std::fs::set_permissions(&directory.0, shared).unwrap();
    let error = Socket::open(&directory.0.join("adit.sock")).unwrap_err();
    assert!(matches!(error, SocketError::Directory(_)), "{error}");
}

#[tokio::test]
async fn what_does_not_exist_is_named() {
    let agent = Agent::start().await;
    let cases = [
        ("GET", "/v1/nothing", "", 404, "/v1/nothing"),
        ("POST", "/v1/status", "", 405, "POST"),
        ("GET", "/v1/flows?namespaces=a", "", 400, "namespaces"),
        ("GET", "/v1/flows?port=http", "", 400, "filter port"),
        ("GET", "/v1/policies?pod=a", "", 400, "\\\"pod\\\""),
        ("GET", "/v1/explain?source=shop/client", "", 400, "destination"),
        ("GET", "/v1/explain?source=shop/client&destination=shop/cart", "", 400, "no port"),
        ("GET", "/v1/explain?source=a&destination=shop/cart:80", "", 400, "\\\"a\\\""),
        ("GET", "/v1/flows?port=%ff", "", 400, ""),
        ("PUT", "/v1/log-level", "info", 400, "the body is"),
        ("PUT", "/v1/log-level", "{\"filter\":\"inof\"}", 400, "inof"),
        ("POST", "/v1/drain?deadlineMs=soon", "", 400, "soon"),
        ("POST", "/v1/drain?in=5", "", 400, "\\\"in\\\""),
    ];
    for (method, path, body, status, expected) in cases {
        let answer = agent.ask(method, path, body).await;
        assert_eq!(answer.0, status, "{method} {path}: {}", answer.1);
        assert!(answer.1.contains(expected), "{method} {path}: {}", answer.1);
        let error: view::ErrorView = serde_json::from_str(&answer.1).unwrap();
        assert!(!error.error.is_empty());
    }
    let long = "x".repeat(5000);
    assert_eq!(agent.ask("PUT", "/v1/log-level", &long).await.0, 413);
}

#[tokio::test]
async fn flows_lists_live_and_recent_ones_oldest_first() {
    // Live flow 1 of the sources ends while they are asked: its end is what counts.
    let agent = Agent::with_flows().await;

    let all = agent.flows("").await;
    let states: Vec<_> = all.iter().map(|flow| (flow.id, flow.state)).collect();
    use view::FlowState::{Ended, Open};
    assert_eq!(states, [(1, Ended), (2, Open), (3, Ended), (4, Ended)]);
    let ids = |flows: Vec<FlowView>| flows.iter().map(|flow| flow.id).collect::<Vec<_>>();
    assert_eq!(ids(agent.flows("?verdict=failed").await), [4]);
    assert_eq!(ids(agent.flows("?protocol=plaintext").await), [3]);
    assert_eq!(ids(agent.flows("?state=open").await), [2]);
    assert_eq!(ids(agent.flows("?limit=2").await), [3, 4]);
}

#[tokio::test]
async fn a_follower_sees_what_was_and_then_what_comes_that_matches() {
    let agent = Agent::start().await;
    let mut lines = agent.follow("/v1/flows?follow=true&workload=legacy").await;
    agent.recorder.record(samples::finished(8));
    agent.recorder.record(samples::plaintext(9));
    match next(&mut lines).await {
        FollowEvent::Flow(flow) => assert_eq!(flow.id, 9),
        other @ (FollowEvent::Missed(_) | FollowEvent::Lost(_)) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_slow_follower_is_told_how_much_it_missed_and_nobody_waits_for_it() {
    let agent = Agent::start().await;
    let mut lines = agent.follow("/v1/flows?follow=true&limit=0").await;
    // More than the socket's buffer, hyper's and the backlog hold together.
    let count = 20_000;
    for id in 1..=count {
        while agent.recorder.record_or_full(&samples::finished(100 + id)) {
            tokio::task::yield_now().await;
        }
    }
    agent.settled(4096).await;

    let (mut seen, mut missed) = (0, 0);
    while seen + missed < count {
        match next(&mut lines).await {
            FollowEvent::Flow(_) => seen += 1,
            FollowEvent::Missed(lost) => missed += lost,
            FollowEvent::Lost(lost) => panic!("{lost} never reached anybody"),
        }
    }
    assert_eq!(agent.state.observer.missed(), missed);
    assert!(missed > 0 && seen > 0, "seen {seen}, missed {missed}");
    assert_eq!(seen + missed, count);
}

#[tokio::test]
async fn a_follower_is_told_of_records_that_were_lost_before_they_reached_anybody() {
    let agent = Agent::start().await;
    agent.fill(3);
    let mut lines = agent.follow("/v1/flows?follow=true&limit=0").await;
    assert!(agent.state.observer.dropped() >= 3);
    agent.settled(1).await;
    let before = agent.state.observer.dropped();
    agent.fill(5);
    let lost = agent.state.observer.dropped() - before;
    loop {
        match next(&mut lines).await {
            FollowEvent::Flow(_) | FollowEvent::Missed(_) => {}
            FollowEvent::Lost(told) => {
                assert_eq!(told, lost);
                break;
            }
        }
    }
}

#[tokio::test]
async fn status_says_what_is_wrong_and_what_to_do() {
    let agent = Agent::start().await;
    let (_, body) = agent.ask("GET", "/v1/status", "").await;
    let status: view::StatusView = serde_json::from_str(&body).unwrap();
    assert!(!status.healthy);
    let problems: Vec<_> = status.problems.iter().map(|p| p.what.as_str()).collect();
    assert_eq!(
        problems,
        [
            "not ready: waiting for the first certificates",
            "pod shop/cart-0 could not be enrolled: step routes: Operation not permitted",
            "AuthorizationPolicy shop/broken is invalid and not in force",
            "AuthorizationPolicy shop/unread has been invalid since the agent started: it may refuse \
             more than it should",
            "not enforced as it is written: AuthorizationPolicy shop/http",
            "discovery: pods.yaml, document 2: spec.nodeName: missing",
        ]
    );
    assert!(status.problems.iter().all(|p| !p.help.is_empty()));
    assert_eq!(status.pods["enrolled"], 1);

    drop(agent.guard.lock().unwrap().take());
    let (_, body) = agent.ask("GET", "/v1/status", "").await;
    assert!(!body.contains("not ready"), "{body}");
}

#[tokio::test]
async fn views_are_what_programs_rely_on() {
    let agent = Agent::start().await;
    for name in ["workloads", "services", "certs", "tunnels", "flows", "policies"] {
        let (status, body) = agent.ask("GET", &format!("/v1/{name}"), "").await;
        assert_eq!(status, 200, "{body}");
        let value: Value = serde_json::from_str(&body).unwrap();
        let text = serde_json::to_string_pretty(&value).unwrap() + "\n";
        crate::cli::golden::check(&format!("api/{name}.json"), &text);
    }
    let (_, body) = agent.ask("GET", "/v1/status", "").await;
    let mut value: Value = serde_json::from_str(&body).unwrap();
    value["node"]["uptimeSeconds"] = 0.into();
    value["discovery"]["ageSeconds"] = 0.into();
    value["node"]["version"] = "0.0.0".into();
    let text = serde_json::to_string_pretty(&value).unwrap() + "\n";
    crate::cli::golden::check("api/status.json", &text);
}

#[tokio::test]
async fn the_log_filter_is_read_and_changed() {
    let agent = Agent::start().await;
    let filter = "{\"filter\":\"warn\"}";
    assert_eq!(agent.ask("PUT", "/v1/log-level", filter).await.0, 200);
    assert_eq!(agent.ask("GET", "/v1/log-level", "").await.1, filter);
}

#[tokio::test]
async fn a_drain_answers_with_what_it_cut() {
    let agent = Agent::start().await;
    let (status, body) = agent.ask("POST", "/v1/drain?deadlineMs=1500", "").await;
    assert_eq!((status, body.as_str()), (200, "{\"deadlineMs\":1500,\"cut\":3}"));
}

#[tokio::test]
async fn the_ports_serve_metrics_and_readiness_and_nothing_else() {
    let agent = Agent::start().await;
    let (_keep, shutdown) = shutdown::channel();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let scrape = listen(any, "metrics").await.unwrap();
    let ready = listen(any, "readiness").await.unwrap();
    let (scraped, probed) = (scrape.local_addr().unwrap(), ready.local_addr().unwrap());
    tokio::spawn(metrics(scrape, Arc::clone(&agent.state), shutdown.clone()));
    tokio::spawn(readiness(ready, agent.state.readiness.clone(), shutdown));

    for path in ["/metrics", "/stats/prometheus"] {
        let (status, body) = tcp(scraped, path).await;
        assert_eq!(status, 200);
        assert!(body.contains("adit_pods{state=\"failed\"} 1\n"), "{body}");
        assert!(body.ends_with("# EOF\n"), "{body}");
    }
    assert_eq!(tcp(scraped, "/v1/flows").await.0, 404);
    let waiting = tcp(probed, "/healthz/ready").await;
    let expected = "not ready: waiting for the first certificates\n";
    assert_eq!((waiting.0, waiting.1.as_str()), (503, expected));
    drop(agent.guard.lock().unwrap().take());
    assert_eq!(tcp(probed, "/healthz/ready").await.0, 200);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_finish_its_head_is_cut_off() {
    let agent = Agent::start().await;
    let (_keep, address) = readiness_port(&agent).await;
    let mut tcp = tokio::net::TcpStream::connect(address).await.unwrap();
    let mut unix = UnixStream::connect(&agent.socket).await.unwrap();
    tcp.write_all(b"GET /healthz/ready HTTP/1.1\r\nx: ").await.unwrap();
    unix.write_all(b"GET /v1/status").await.unwrap();
    let (mut from_tcp, mut from_unix) = (Vec::new(), Vec::new());
    let began = tokio::time::Instant::now();

    tcp.read_to_end(&mut from_tcp).await.unwrap();
    unix.read_to_end(&mut from_unix).await.unwrap();

    assert!(began.elapsed() < Duration::from_secs(11));
    assert!(!String::from_utf8_lossy(&from_tcp).contains(" 200 "));
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_and_room_comes_back() {
    let agent = Agent::start().await;
    let (_keep, address) = readiness_port(&agent).await;
    let mut idle = Vec::new();
    for _ in 0..64 {
        idle.push(tokio::net::TcpStream::connect(address).await.unwrap());
    }
    let mut surplus = tokio::net::TcpStream::connect(address).await.unwrap();
    assert_eq!(surplus.read(&mut [0]).await.unwrap(), 0);

    drop(idle);

    let mut answered = false;
    while !answered {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let sent = stream.write_all(b"GET /healthz/ready HTTP/1.1\r\nhost: a\r\n\r\n").await;
        answered = sent.is_ok() && stream.read(&mut [0]).await.is_ok_and(|read| read == 1);
    }
}

async fn readiness_port(agent: &Agent) -> (Trigger, SocketAddr) {
    let (keep, shutdown) = shutdown::channel();
    let listener = listen(SocketAddr::from(([127, 0, 0, 1], 0)), "readiness").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(readiness(listener, agent.state.readiness.clone(), shutdown));
    (keep, address)
}

pub(crate) struct Agent {
    _directory: Directory,
    pub(crate) socket: PathBuf,
    pub(crate) recorder: Recorder,
    state: Shared,
    pub(crate) trigger: Trigger,
    serving: tokio::task::JoinHandle<()>,
    guard: Mutex<Option<crate::telemetry::Guard>>,
}

impl Agent {
    pub(crate) async fn start() -> Self {
        let directory = Directory::new();
        let socket = Socket::open(&directory.0.join("run/adit.sock")).unwrap();
        let allow = owner_or_root(&socket);
        Self::with(directory, socket, allow).await
    }

    /// One that has seen a flow in plaintext, one that was refused, and one that has finished.
    pub(crate) async fn with_flows() -> Self {
        let agent = Self::start().await;
        agent.recorder.record(samples::plaintext(3));
        let end = CloseReason::Tls(TlsFailure::WrongIdentity);
        agent.recorder.record(samples::refused(4, end));
        agent.recorder.record(samples::finished(1));
        agent.settled(3).await;
        agent
    }

    pub(crate) async fn start_for(allow: Allow) -> Self {
        let directory = Directory::new();
        let socket = Socket::open(&directory.0.join("run/adit.sock")).unwrap();
        Self::with(directory, socket, allow).await
    }

    async fn with(directory: Directory, socket: Socket, allow: Allow) -> Self {
        let (recorder, records) = observer::channel(1024);
        let observer = Observer::new(&records, 4096);
        let (metrics, meter) = Metrics::new("Kubernetes", samples::noon(), Limits::default());
        let access_log = AccessLog::new(AccessLogSettings { enabled: false });
        let sinks = Sinks { meter, access_log };
        let known = Known { pod: |_: &_| true, policy: |_: &_| true };
        tokio::spawn(observer::run(records, observer.clone(), sinks, known, async || Vec::new()));
        let readiness = Readiness::new();
        let guard = Mutex::new(Some(readiness.guard("the first certificates")));
        let (_subscriber, log) = build(&LogSettings::default(), std::io::sink).unwrap();
        let worlds = Worlds::new();
        worlds.publish(world());
        worlds.publish(policies::deltas());
        let state = Arc::new(State {
            facts: NodeFacts {
                node: NodeName::new("node-a"),
                cluster: "Kubernetes".to_owned(),
                trust_domain: TrustDomain::parse("cluster.local").unwrap(),
                started: samples::noon(),
            },
            sources: Box::new(fixed::Fixed),
            worlds,
            observer,
            metrics,
            readiness,
            log,
        });
        let path = directory.0.join("run/adit.sock");
        let (trigger, watch) = shutdown::channel();
        let serving = tokio::spawn(socket.serve(Arc::clone(&state), allow, watch));
        // The subscriber is not installed; its control works all the same while it lives.
        std::mem::forget(_subscriber);
        tokio::task::yield_now().await;
        Self { _directory: directory, socket: path, recorder, state, trigger, serving, guard }
    }

    /// The world changes.
    pub(crate) fn publish(&self, deltas: impl IntoIterator<Item = Delta>) {
        self.state.worlds.publish(deltas);
    }

    async fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        exchange(stream, method, path, body).await
    }

    async fn flows(&self, query: &str) -> Vec<FlowView> {
        let (status, body) = self.ask("GET", &format!("/v1/flows{query}"), "").await;
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).unwrap()
    }

    /// The lines of a stream, from the first event on.
    async fn follow(&self, path: &str) -> BufReader<UnixStream> {
        let mut stream = UnixStream::connect(&self.socket).await.unwrap();
        let head = format!("GET {path} HTTP/1.1\r\nhost: adit\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut lines = BufReader::new(stream);
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            lines.read_line(&mut line).await.unwrap();
        }
        assert_eq!(self.state.observer.followers(), 1);
        lines
    }

    /// Returns when somebody follows.
    pub(crate) async fn followed(&self) {
        while self.state.observer.followers() == 0 {
            tokio::task::yield_now().await;
        }
    }

    /// Records faster than anybody can take until so many records are lost.
    fn fill(&self, count: u64) {
        let before = self.state.observer.dropped();
        while self.state.observer.dropped() < before + count {
            self.recorder.record(samples::finished(7));
        }
    }

    pub(crate) async fn settled(&self, kept: usize) {
        while self.state.observer.recent().len() < kept {
            tokio::task::yield_now().await;
        }
    }
}

/// The next event of a chunked stream: every event is a chunk, after a line with its size.
async fn next(lines: &mut BufReader<UnixStream>) -> FollowEvent {
    loop {
        let mut line = String::new();
        lines.read_line(&mut line).await.unwrap();
        if line.starts_with('{') {
            return serde_json::from_str(&line).unwrap();
        }
    }
}

async fn tcp(address: SocketAddr, path: &str) -> (u16, String) {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    exchange(stream, "GET", path, "").await
}

async fn exchange<S>(mut stream: S, method: &str, path: &str, body: &str) -> (u16, String)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let length = body.len();
    let request =
        format!("{method} {path} HTTP/1.1\r\nhost: adit\r\ncontent-length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, body.to_owned())
}

/// A directory that is removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        use std::sync::atomic::{AtomicU32, Ordering};
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("adit-admin-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

fn world() -> Vec<Delta> {
    let name = ObjectName::new("shop", "cart");
    let mut unscheduled = samples::legacy();
    unscheduled.uid = PodUid::parse("44444444").unwrap();
    unscheduled.name = ObjectName::new("prod", "unscheduled");
    unscheduled.node = None;
    unscheduled.mode = MeshMode::Unset;
    unscheduled.addresses = Vec::new();
    vec![
        Delta::Namespace(namespace("shop", MeshMode::Ambient)),
        Delta::Workload(samples::client()),
        Delta::Workload(samples::cart()),
        Delta::Workload(samples::legacy()),
        Delta::Workload(unscheduled),
        Delta::Service(Service {
            name: name.clone(),
            vips: vec!["10.96.0.12".parse().unwrap()],
            ports: vec![ServicePort { name: Arc::from("http"), port: 80 }],
            affinity: Affinity::ClientIp(Duration::from_secs(10800)),
            internal_traffic: InternalTraffic::Cluster,
        }),
        Delta::Endpoints(name, vec![endpoint("10.2.0.3", true), endpoint("10.2.0.9", false)]),
    ]
}

fn endpoint(address: &str, ready: bool) -> Endpoint {
    Endpoint {
        address: address.parse().unwrap(),
        pod: None,
        ports: [(Arc::from("http"), 8080)].into(),
        ready,
        node: None,
        hints: Hints::default(),
    }
}
