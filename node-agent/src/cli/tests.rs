//! Whole commands: arguments in, text and exit code out, against a real admin socket.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

use super::*;
use crate::admin::tests::Agent;
use crate::admin::tests::policies::network_policies;
use crate::admin::view::{
    DenialView, DeniedView, DiscoveryView, Fact, NodeView, PolicyCounts, Problem, ReadinessView,
    RecordsView, Severity, StatusView, Timestamp,
};
use crate::observer::samples;
use crate::shutdown::Phase;

#[tokio::test(flavor = "multi_thread")]
async fn every_list_prints_in_every_format() {
    let agent = Agent::with_flows().await;
    for command in ["workloads", "services", "certs", "tunnels", "flows", "policies"] {
        for format in FORMATS {
            let ended = adit(&agent.socket, &[command, "-o", format]).await;
            assert_eq!((ended.code, ended.remarks.as_str()), (0, ""), "{command}");
            golden::check(&format!("cli/{command}.{format}"), &ended.out);
        }
    }
    let rows = adit(&agent.socket, &["certs", "--no-headers"]).await;
    assert_eq!(rows.out.lines().count(), 1, "{}", rows.out);
    assert!(rows.out.starts_with("spiffe://"), "{}", rows.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_list_prints_in_every_format() {
    let agent = Agent::start().await;
    for format in FORMATS {
        for (name, command) in [
            ("log-level", &["log-level", "warn,access=info"][..]),
            ("drain", &["drain", "--deadline", "2s"]),
            ("version", &["version"]),
        ] {
            let ended = adit(&agent.socket, &[command, &["-o", format]].concat()).await;
            assert_eq!((ended.code, ended.remarks.as_str()), (0, ""), "{name}");
            let text = ended.out.replace(env!("CARGO_PKG_VERSION"), "0.0.0");
            golden::check(&format!("cli/{name}.{format}"), &text);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_tells_the_way_to_the_verdict() {
    let agent = Agent::start().await;
    let question = ["explain", "spiffe://cluster.local/ns/prod/sa/x", "shop/cart-0:8080"];
    for format in FORMATS {
        let ended = adit(&agent.socket, &[&question[..], &["-o", format]].concat()).await;
        assert_eq!((ended.code, ended.remarks.as_str()), (0, ""), "{}", ended.out);
        golden::check(&format!("cli/explain.{format}"), &ended.out);
    }
    let allowed = adit(&agent.socket, &["explain", "10.1.0.2", "shop/cart:80"]).await;
    golden::check("cli/explain-allowed.table", &allowed.out);
    agent.publish(network_policies());
    let blocked = adit(&agent.socket, &["explain", "10.1.0.2", "shop/cart:80"]).await;
    golden::check("cli/explain-blocked.table", &blocked.out);
    let unknown = adit(&agent.socket, &["explain", "shop/nobody", "shop/cart:80"]).await;
    assert_eq!(unknown.code, 1);
    assert!(unknown.remarks.contains("no pod shop/nobody is known"), "{}", unknown.remarks);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_flow_tells_the_policy_and_what_kept_it_out_and_the_policy_counts_it() {
    let agent = Agent::start().await;
    agent.recorder.record(samples::denied(5));
    agent.settled(1).await;
    for format in FORMATS {
        let ended = adit(&agent.socket, &["flows", "--verdict", "denied", "-o", format]).await;
        golden::check(&format!("cli/flows-denied.{format}"), &ended.out);
    }
    let would = adit(&agent.socket, &["flows", "--dry-run", "deny"]).await;
    golden::check("cli/flows-dry-run.table", &would.out);
    let policies = adit(&agent.socket, &["policies", "-n", "shop", "-o", "wide"]).await;
    let friends = policies.out.lines().find(|line| line.contains(" friends ")).unwrap();
    let cells: Vec<&str> = friends.split_whitespace().collect();
    let [pods, hits, last, dry_run] = [6, 7, 8, 9].map(|column| cells[column]);
    assert_eq!((pods, hits, dry_run), ("1", "1", "0"), "{friends}");
    assert!(last.ends_with('Z'), "{friends}");
}

#[test]
fn status_prints_as_text_for_people() {
    let status = sample_status();
    golden::check("cli/status.table", &status::text(&status, false));
    golden::check("cli/status.wide", &status::text(&status, true));
    let mut healthy = status;
    healthy.healthy = true;
    healthy.problems.clear();
    healthy.readiness.ready = true;
    golden::check("cli/status-healthy.table", &status::text(&healthy, false));
    for (name, format) in [("json", Format::Json), ("yaml", Format::Yaml)] {
        let mut text = Vec::new();
        output::whole(format, &mut text, &healthy).unwrap();
        golden::check(&format!("cli/status.{name}"), std::str::from_utf8(&text).unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn status_of_an_agent_that_is_not_well_exits_4() {
    let agent = Agent::start().await;
    let ended = adit(&agent.socket, &["status"]).await;
    assert_eq!(ended.code, 4, "{}", ended.remarks);
    assert!(ended.out.contains("NOT HEALTHY"), "{}", ended.out);
    assert!(ended.out.contains("\nerror: not ready"), "{}", ended.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_reach_the_agent_and_an_empty_list_is_said() {
    let agent = Agent::with_flows().await;
    let filters = [
        "--namespace",
        "shop",
        "--workload",
        "shop/client",
        "--peer",
        "legacy",
        "--port",
        "5432",
        "--protocol",
        "plaintext",
        "--verdict",
        "allowed",
        "--direction",
        "outbound",
        "--state",
        "ended",
        "--limit",
        "5",
    ];
    let ended = adit(&agent.socket, &[&["flows"], &filters[..]].concat()).await;
    assert_eq!(ended.out.lines().count(), 2, "{}", ended.out);
    let none = adit(&agent.socket, &["flows", "-n", "prod"]).await;
    assert_eq!((none.code, none.out.as_str()), (0, ""));
    assert_eq!(none.remarks, "No flows found.\n");
    let json = adit(&agent.socket, &["flows", "-n", "prod", "-o", "json"]).await;
    assert_eq!(json.out, "[]\n");
    let local = adit(&agent.socket, &["workloads", "--local", "-n", "shop"]).await;
    assert!(!local.out.contains("cart-0"), "{}", local.out);
    assert!(local.out.contains("legacy"), "{}", local.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn follow_prints_what_was_and_what_comes_until_the_agent_ends() {
    let agent = Agent::with_flows().await;
    let output = Output::default();
    let (socket, out) = (agent.socket.clone(), output.clone());
    let following = tokio::task::spawn_blocking(move || {
        run_with(&socket, &["flows", "--follow", "--limit", "1"], &mut out.clone())
    });
    output.wait_for("tls_wrong_identity").await;
    agent.recorder.record(samples::open(50));
    output.wait_for(" open\n").await;
    agent.recorder.record(samples::finished(50));
    output.wait_for("finished").await;

    agent.trigger.advance(Phase::Forced);

    let ended = following.await.unwrap();
    assert!(output.text().starts_with("TIME"), "{}", output.text());
    assert_eq!(output.text().lines().count(), 4, "{}", output.text());
    // Cut in the middle of a stream, or told about the end: both are said.
    assert!(!ended.remarks.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_stream_are_documents_of_their_own() {
    for (format, expected) in
        [("json", "{\"flow\":{\"id\":50,"), ("yaml", "---\nflow:\n  id: 50\n")]
    {
        let agent = Agent::start().await;
        let output = Output::default();
        let (socket, out) = (agent.socket.clone(), output.clone());
        let following = tokio::task::spawn_blocking(move || {
            let arguments = ["flows", "--follow", "--limit", "0", "-o", format];
            run_with(&socket, &arguments, &mut out.clone())
        });
        agent.followed().await;
        agent.recorder.record(samples::open(50));
        output.wait_for("bytesReceived").await;
        agent.trigger.advance(Phase::Forced);
        following.await.unwrap();
        assert!(output.text().starts_with(expected), "{}", output.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_whose_output_stalls_is_told_in_it_what_it_missed() {
    let agent = Agent::start().await;
    let output = Stalled::default();
    let (socket, mut out) = (agent.socket.clone(), output.clone());
    let following = tokio::task::spawn_blocking(move || {
        let arguments = ["flows", "--follow", "--limit", "0", "--no-headers"];
        run_with(&socket, &arguments, &mut out)
    });
    agent.followed().await;
    // More than all buffers on the way hold. That they are all taken shows that nobody waits.
    let count = 20_000;
    for id in 1..=count {
        while agent.recorder.record_or_full(&samples::finished(100 + id)) {
            tokio::task::yield_now().await;
        }
    }
    agent.settled(4096).await;
    let stalled = output.text();
    output.go_on();
    let (mut rows, mut missed) = (0, 0);
    while rows + missed < count {
        tokio::task::yield_now().await;
        let text = output.text();
        let lines = text.lines().map(|line| line.strip_prefix("-- "));
        rows = lines.clone().filter(Option::is_none).count() as u64;
        let told = lines.flatten().filter_map(|line| line.split_once(" events missed:"));
        missed = told.map(|(count, _)| count.parse::<u64>().unwrap()).sum();
    }
    agent.trigger.advance(Phase::Forced);
    following.await.unwrap();
    assert_eq!(stalled, "");
    assert!(missed > 0 && rows > 0, "{rows} rows, {missed} missed");
    assert_eq!(rows + missed, count);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_away_ends_a_command_in_silence() {
    let agent = Agent::with_flows().await;
    let socket = agent.socket.clone();
    let ended = tokio::task::spawn_blocking(move || run_with(&socket, &["flows"], &mut Closed));
    let ended = ended.await.unwrap();
    assert_eq!((ended.code, ended.remarks.as_str()), (141, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn log_level_drain_and_version_say_what_they_did() {
    let agent = Agent::start().await;
    let set = adit(&agent.socket, &["log-level", "warn,access=info"]).await;
    assert_eq!((set.code, set.out.as_str()), (0, "warn,access=info\n"));
    let get = adit(&agent.socket, &["log-level", "-o", "json"]).await;
    assert_eq!(get.out, "{\n  \"filter\": \"warn,access=info\"\n}\n");
    let bad = adit(&agent.socket, &["log-level", "loud"]).await;
    assert_eq!(bad.code, 1);
    assert!(bad.remarks.contains("\"loud\""), "{}", bad.remarks);
    let drain = adit(&agent.socket, &["drain", "--deadline", "2s"]).await;
    assert_eq!(drain.out, "drained: 3 flows were cut when 2s had passed\n");
    let version = adit(&agent.socket, &["version"]).await;
    let number = env!("CARGO_PKG_VERSION");
    let expected = format!("client  {number}\nagent   {number} (node-a)\n");
    assert_eq!(version.out, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_cannot_be_reached_exits_3_with_what_to_do() {
    let gone = Path::new("/nonexistent/adit.sock");
    let ended = adit(gone, &["flows"]).await;
    assert_eq!(ended.code, 3);
    let expected = "error: no agent can be reached at /nonexistent/adit.sock: \
                    No such file or directory (os error 2)\n\
                    help: is the agent running on this node?";
    assert!(ended.remarks.starts_with(expected), "{}", ended.remarks);

    let agent = Agent::start().await;
    let dead = agent.socket.with_file_name("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    let ended = adit(&dead, &["status"]).await;
    assert_eq!(ended.code, 3);
    assert!(ended.remarks.contains("has ended"), "{}", ended.remarks);
    let version = adit(gone, &["version"]).await;
    assert_eq!(version.code, 0);
    assert!(version.out.contains("unknown"), "{}", version.out);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_whom_the_agent_refuses_is_told_why() {
    let agent = Agent::start_for(Arc::new(|_uid| false)).await;
    let ended = adit(&agent.socket, &["flows"]).await;
    assert_eq!(ended.code, 5);
    assert!(ended.remarks.contains("only root"), "{}", ended.remarks);
    assert!(ended.remarks.contains("help: run"), "{}", ended.remarks);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_needs_root_says_so_before_it_does_anything() {
    let nowhere = Path::new("/nonexistent/adit.sock");
    for command in ["run", "doctor", "cleanup"] {
        let ended = tokio::task::spawn_blocking(move || {
            let out = Output::default();
            let ended = run_as(|| false, nowhere, &[command], &mut out.clone());
            (ended.code, ended.remarks, out.text())
        });
        let expected = format!("error: adit {command} needs root\nhelp: try sudo\n");
        assert_eq!(ended.await.unwrap(), (5, expected, String::new()));
    }
}

#[test]
fn a_socket_that_the_user_may_not_reach_exits_5() {
    let source = io::Error::from(io::ErrorKind::PermissionDenied);
    let error = ClientError::Connect { socket: PathBuf::from("/run/adit/adit.sock"), source };
    let mut remarks = Vec::new();
    assert_eq!(conclude(Err(error.into()), &mut remarks), 5);
    let remarks = String::from_utf8(remarks).unwrap();
    assert!(remarks.ends_with("help: the socket is for root only: try sudo\n"), "{remarks}");
}

#[tokio::test(flavor = "multi_thread")]
async fn cleanup_spares_a_node_with_an_agent_unless_forced() {
    let agent = Agent::start().await;
    let spared = adit(&agent.socket, &["cleanup"]).await;
    assert_eq!(spared.code, 1);
    assert!(spared.remarks.contains("stop it first"), "{}", spared.remarks);
    let forced = adit(&agent.socket, &["cleanup", "--force"]).await;
    assert_eq!(forced.out, "removed /sys/fs/bpf/adit\n");
    let free = adit(Path::new("/nonexistent/adit.sock"), &["cleanup"]).await;
    assert_eq!(free.code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn local_commands_get_their_arguments_and_tell_their_errors() {
    let nowhere = Path::new("/nonexistent/adit.sock");
    let run = adit(nowhere, &["run", "-c", "/x.yaml"]).await;
    assert_eq!((run.code, run.remarks.as_str()), (1, "error: run /x.yaml: no\n"));
    let directory = std::env::temp_dir().join(format!("adit-cli-ca-{}", std::process::id()));
    let init = ["ca", "init", "-d", directory.to_str().unwrap()];
    let made = adit(nowhere, &init).await;
    let again = adit(nowhere, &init).await;
    std::fs::remove_dir_all(&directory).unwrap();
    let json = adit(nowhere, &[&init[..], &["-o", "json"]].concat()).await;
    let text = json.out.replace(directory.to_str().unwrap(), "/ca");
    golden::check("cli/ca-init.json", &text);
    std::fs::remove_dir_all(&directory).unwrap();
    assert_eq!((made.code, made.out.lines().count()), (0, 6), "{}", made.out);
    assert_eq!(again.code, 1, "{}", again.out);
    let serve = ["ca", "serve", "-d", "/ca", "--tokens", "/t", "--manifests", "/m"];
    let serve = adit(nowhere, &serve).await;
    assert_eq!(serve.remarks, "error: serve [::]:15012\n");
}

#[test]
fn arguments_are_consistent_and_texts_are_made_from_them() {
    <Cli as clap::CommandFactory>::command().debug_assert();
    for shell in ["bash", "zsh", "fish"] {
        let cli = Cli::try_parse_from(["adit", "completions", shell]).unwrap();
        let Command::Completions(args) = cli.command else {
            panic!("{cli:?}");
        };
        let mut script = Vec::new();
        texts::completions(&args, &mut script).unwrap();
        assert!(String::from_utf8(script).unwrap().contains("workloads"));
    }
    let help = Cli::try_parse_from(["adit", "help", "flows"]).unwrap_err();
    assert_eq!(help.exit_code(), 0);
    for wrong in [
        &["flows", "--verdict", "maybe"][..],
        &["flows", "--port", "99999"],
        &["drain", "--deadline", "soon"],
        &["nothing"],
    ] {
        let error = Cli::try_parse_from([&["adit"], wrong].concat()).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{wrong:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_manual_is_one_page_or_one_for_each_command() {
    let nowhere = Path::new("/nonexistent/adit.sock");
    let one = adit(nowhere, &["man"]).await;
    for part in [".TH adit 8", "Exit codes", "no agent could be reached", "adit\\-flows(8)"] {
        assert!(one.out.contains(part), "{part} is missing in\n{}", one.out);
    }
    let directory = std::env::temp_dir().join(format!("adit-cli-man-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let written = adit(nowhere, &["man", directory.to_str().unwrap()]).await;
    let page = |name| std::fs::read_to_string(directory.join(name)).unwrap();
    let (flows, serve) = (page("adit-flows.8"), page("adit-ca-serve.8"));
    let count = std::fs::read_dir(&directory).unwrap().count();
    std::fs::remove_dir_all(&directory).unwrap();
    assert_eq!(written.out.lines().count(), count);
    assert!(flows.contains("plaintext") && flows.contains("Examples"), "{flows}");
    assert!(serve.contains("tokens"), "{serve}");
    let nowhere_to_write = adit(nowhere, &["man", directory.to_str().unwrap()]).await;
    assert_eq!(nowhere_to_write.code, 1, "{}", nowhere_to_write.out);
}

pub(super) const FORMATS: [&str; 4] = ["table", "wide", "json", "yaml"];

pub(super) struct Ended {
    pub(super) code: u8,
    pub(super) out: String,
    pub(super) remarks: String,
}

/// Runs a command as `main` does, five minutes and three seconds after the samples' noon.
pub(super) async fn adit(socket: &Path, arguments: &[&str]) -> Ended {
    let socket = socket.to_owned();
    let arguments: Vec<String> = arguments.iter().map(|&text| text.to_owned()).collect();
    let running = tokio::task::spawn_blocking(move || {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut out = Output::default();
        let mut ended = run_with(&socket, &arguments, &mut out);
        ended.out = out.text();
        ended
    });
    running.await.unwrap()
}

fn run_with(socket: &Path, arguments: &[&str], out: &mut dyn Write) -> Ended {
    run_as(|| true, socket, arguments, out)
}

fn run_as(is_root: fn() -> bool, socket: &Path, arguments: &[&str], out: &mut dyn Write) -> Ended {
    let socket = socket.to_str().unwrap();
    let whole = [&["adit", "--socket", socket], arguments].concat();
    let cli = Cli::try_parse_from(whole).unwrap();
    let local = Local {
        run: |options| anyhow::bail!("run {}: no", options.config.display()),
        ca_serve: |options| anyhow::bail!("serve {}", options.service.listen),
        probe: |options| Ok(findings(options.pins.as_deref() == Some(Path::new("/fine")))),
        is_root,
        cleanup: |options| Ok(vec![options.pins.display().to_string()]),
    };
    let now = samples::noon() + std::time::Duration::from_secs(303);
    let mut remarks = Output::default();
    let ended = execute(cli, &local, now, out, &mut remarks.clone());
    let code = conclude(ended, &mut remarks);
    Ended { code, out: String::new(), remarks: remarks.text() }
}

fn findings(available: bool) -> Vec<Finding> {
    vec![
        Finding {
            feature: "sk_lookup".to_owned(),
            needed_for: "steering a pod's connections to the agent".to_owned(),
            available,
            found: if available { "attached" } else { "EINVAL" }.to_owned(),
            consequence: "the agent cannot run; the kernel must be 5.9 or later".to_owned(),
            required: true,
        },
        Finding {
            feature: "tcx".to_owned(),
            needed_for: "the guard beside other programs".to_owned(),
            available: false,
            found: "Invalid argument (os error 22)".to_owned(),
            consequence: "clsact is used instead".to_owned(),
            required: false,
        },
    ]
}

fn sample_status() -> StatusView {
    let problem = |severity, what: &str, help: &str| Problem {
        severity,
        what: what.to_owned(),
        help: help.to_owned(),
    };
    StatusView {
        healthy: false,
        problems: vec![
            problem(
                Severity::Error,
                "not ready: waiting for the first certificates",
                "right after a start this ends by itself; else look at the agent's log",
            ),
            problem(
                Severity::Warning,
                "discovery: pods.yaml, document 2: spec.nodeName: missing",
                "correct the object; everything else stays in force",
            ),
        ],
        node: NodeView {
            name: "node-a".to_owned(),
            cluster: "Kubernetes".to_owned(),
            trust_domain: "cluster.local".to_owned(),
            version: "0.1.0".to_owned(),
            started: Timestamp(samples::noon()),
            uptime_seconds: 303,
        },
        readiness: ReadinessView {
            ready: false,
            missing: vec!["the first certificates".to_owned()],
        },
        pods: [("enrolled".to_owned(), 2), ("awaiting_certificate".to_owned(), 1)].into(),
        certificates: [("valid".to_owned(), 1), ("requesting".to_owned(), 1)].into(),
        flows_open: 12,
        tunnels_open: [("inbound".to_owned(), 1), ("outbound".to_owned(), 2)].into(),
        discovery: DiscoveryView {
            source: "manifests /etc/adit/manifests".to_owned(),
            updated: Some(Timestamp(samples::noon())),
            age_seconds: Some(45),
            namespaces: 2,
            workloads: 5,
            services: 1,
            errors: vec!["pods.yaml, document 2: spec.nodeName: missing".to_owned()],
            stale: None,
        },
        policies: PolicyCounts { total: 7, dry_run: 2, partial: 1, invalid: 1 },
        denied: DeniedView {
            window_seconds: 300,
            of: 420,
            flows: 17,
            by: vec![DenialView {
                policy: Some("AuthorizationPolicy shop/friends rule 0".to_owned()),
                flows: 17,
                last: Timestamp(samples::noon()),
                source: "shop/legacy".to_owned(),
                destination: "shop/cart-0:8080".to_owned(),
            }],
        },
        records: RecordsView { dropped: 0, kept: 4096, followers: 1, missed: 17 },
        datapath: vec![
            Fact { name: "layout version".to_owned(), value: "1".to_owned() },
            Fact { name: "pins".to_owned(), value: "/sys/fs/bpf/adit".to_owned() },
        ],
        draining: None,
    }
}

/// A writer that can be looked at while it is written to.
#[derive(Clone, Default)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl Output {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    async fn wait_for(&self, part: &str) {
        while !self.text().contains(part) {
            tokio::task::yield_now().await;
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Standard output that nobody reads for a while.
#[derive(Clone, Default)]
struct Stalled {
    inner: Output,
    gate: Arc<(Mutex<bool>, Condvar)>,
}

impl Stalled {
    fn text(&self) -> String {
        self.inner.text()
    }

    fn go_on(&self) {
        *self.gate.0.lock().unwrap() = true;
        self.gate.1.notify_all();
    }
}

impl Write for Stalled {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (open, moved) = &*self.gate;
        drop(moved.wait_while(open.lock().unwrap(), |open| !*open).unwrap());
        self.inner.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Standard output after `| head` has ended.
struct Closed;

impl Write for Closed {
    fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
