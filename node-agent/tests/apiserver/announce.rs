//! What the agent tells the API server of its pods, with the rights of deploy/ and no others.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use adit::announce;
use adit::discovery::kubernetes::{self, Access};
use adit::discovery::{StatusHandle, Worlds};
use adit::enrol::{Enrolments, PodState, PodStatus};
use adit::shutdown;
use adit::telemetry::Readiness;
use adit_core::enrolment::NotEnrolled;
use adit_core::identity::TrustDomain;
use adit_core::workload::{NodeName, ObjectName};
use http::Method;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::server::{self, Server};

const PATIENCE: Duration = Duration::from_secs(90);
const WEB: &str = "/api/v1/namespaces/shop/pods/web";
const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/shop/events";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_carries_its_enrolment_and_a_refused_one_has_an_event() {
    let Some(server) = server::start().await else { return };
    let access = agent(&server).await;
    // Whoever makes a pod may claim anything in its name.
    let forged = json!({"metadata": {"annotations": {"adit.dev/status": "enrolled"}}});
    server.patch(WEB, forged).await;
    let announcing = Announcing::start(access, &server.access()).await;

    announcing.pod_is(PodState::NotEnrolled(NotEnrolled::NamespaceNotLabelled));
    server.until(WEB, |pod| status(pod).is_null()).await;
    announcing.pod_is(PodState::Enrolled);
    server.until(WEB, |pod| status(pod) == "enrolled").await;

    let failed = || PodState::Failed { step: None, error: "no such namespace".to_owned() };
    announcing.pod_is(failed());
    server.until(WEB, |pod| status(pod) == "refused: open: no such namespace").await;
    let listed = server.until(EVENTS, |list| !list["items"][0].is_null()).await;
    let event = &listed["items"][0];
    assert_eq!(event["reason"], "EnrolmentRefused", "{event}");
    assert_eq!(event["type"], "Warning");
    assert_eq!(event["note"], "open: no such namespace");
    assert_eq!(event["regarding"]["name"], "web");
    // As `kubectl describe pod` asks for them.
    let core = server.get("/api/v1/namespaces/shop/events").await;
    assert_eq!(core["items"][0]["message"], "open: no such namespace");

    // Away and back: what is true by then is written.
    server.stop_api();
    announcing.pod_is(failed());
    announcing.pod_is(PodState::Enrolled);
    server.start_api().await;
    server.until(WEB, |pod| status(pod) == "enrolled").await;
    assert_eq!(server.get(EVENTS).await["items"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agents_token_can_change_nothing_but_the_status_of_its_own_nodes_pods() {
    let Some(server) = server::start().await else { return };
    let agent = agent(&server).await;
    server.pod("shop", "elsewhere", "web", "n2").await;
    server.pod("shop", "nowhere", "web", "").await;
    let annotation = |key: &str, value: Value| json!({"metadata": {"annotations": {key: value}}});
    let ours = annotation("adit.dev/status", json!("enrolled"));
    let web = format!("{WEB}/status");
    let note = annotation("note", json!("x"));
    server.patch(WEB, note).await;

    let pods = "/api/v1/namespaces/shop/pods";
    let cases = [
        (
            "a label",
            web.clone(),
            json!({"metadata": {"labels": {"adit.dev/mode": "none"}}}),
            "no labels",
        ),
        (
            "another annotation",
            web.clone(),
            annotation("adit.dev/mode", json!("x")),
            "no annotation but",
        ),
        ("another's value", web.clone(), annotation("note", json!("y")), "no annotation but"),
        ("another's removal", web.clone(), annotation("note", Value::Null), "no annotation but"),
        (
            "a finalizer",
            web.clone(),
            json!({"metadata": {"finalizers": ["a.b/c"]}}),
            "no labels, finalizers",
        ),
        ("the status", web.clone(), json!({"status": {"phase": "Failed"}}), "nor its status"),
        (
            "an address",
            web.clone(),
            json!({"status": {"podIP": "10.9.9.9", "podIPs": [{"ip": "10.9.9.9"}]}}),
            "nor its status",
        ),
        (
            "a word that is none",
            web.clone(),
            annotation("adit.dev/status", json!("fine")),
            "is \"enrolled\" or",
        ),
        (
            "a pod of another node",
            format!("{pods}/elsewhere/status"),
            ours.clone(),
            "own node only",
        ),
        ("a pod of no node", format!("{pods}/nowhere/status"), ours.clone(), "own node only"),
        ("the pod itself", WEB.to_owned(), ours.clone(), "cannot patch resource \"pods\""),
    ];
    for (what, path, change, reason) in cases {
        let said = refusal(&agent, Method::PATCH, &path, &change).await;
        assert!(said.contains(reason), "{what}: {said}");
    }
    let spec = json!({"spec": {"activeDeadlineSeconds": 5}});
    // The subresource ignores it.
    server::request(&agent, Method::PATCH, &web, Some(&spec)).await.unwrap();
    assert!(server.get(WEB).await["spec"]["activeDeadlineSeconds"].is_null());
    server::request(&agent, Method::PATCH, &web, Some(&ours)).await.unwrap();
    assert_eq!(status(&server.get(WEB).await), "enrolled");

    let foreign = foreign_event("e");
    let said = refusal(&agent, Method::POST, EVENTS, &foreign).await;
    assert!(said.contains("refused pods only"), "{said}");
    server.apply(EVENTS, foreign).await;
    let said = refusal(
        &agent,
        Method::PATCH,
        &format!("{EVENTS}/e"),
        &json!({"series":
        {"count": 9, "lastObservedTime": "2026-01-01T00:00:00.000000Z"}}),
    )
    .await;
    assert!(said.contains("adit agent"), "{said}");

    // A token that is not bound to a pod says no node.
    let unbound = server.token("adit-system", "adit", json!({})).await;
    let unbound = Access { kubeconfig: Some(server.kubeconfig("unbound", &unbound)) };
    let said = refusal(&unbound, Method::PATCH, &web, &ours).await;
    assert!(said.contains("own node only"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_ready_takes_its_taint_off_its_node_and_can_do_nothing_else_to_any() {
    const N1: &str = "/api/v1/nodes/n1";
    let Some(server) = server::start().await else { return };
    let agent = agent(&server).await;
    let ours = json!({"key": "adit.dev/agent-not-ready", "effect": "NoSchedule"});
    let other = json!({"key": "example.org/other", "value": "x", "effect": "NoExecute"});
    let taints = |taints: Value| json!({"spec": {"taints": taints}});
    for node in ["n1", "n2"] {
        server.patch(&format!("/api/v1/nodes/{node}"), taints(json!([ours, other]))).await;
    }
    server.deploy("components/node-taint/rbac.yaml").await;
    server.deploy("components/node-taint/admission.yaml").await;
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    let began = tokio::time::Instant::now();
    let dry = format!("{N1}?dryRun=All");
    loop {
        let said = attempt(&agent, Method::PATCH, &dry, &label).await;
        if said.contains("changes no labels") {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "the policy is not in force: {said}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    let theirs = json!({"key": "a.b/c", "effect": "NoExecute"});
    for (what, path, change, reason) in [
        ("the other taint", N1, taints(json!([ours])), "takes off no taint but"),
        ("all taints", N1, taints(json!([])), "takes off no taint but"),
        ("a taint more", N1, taints(json!([ours, other, theirs])), "takes off no taint but"),
        ("a taint instead", N1, taints(json!([other, theirs])), "takes off no taint but"),
        ("another node's", "/api/v1/nodes/n2", taints(json!([other])), "its own node only"),
        ("to cordon it", N1, json!({"spec": {"unschedulable": true}}), "nothing of a node but"),
        ("its provider", N1, json!({"spec": {"providerID": "x"}}), "nothing of a node but"),
        ("an annotation", N1, json!({"metadata": {"annotations": {"a": "b"}}}), "annotations"),
        ("a finalizer", N1, json!({"metadata": {"finalizers": ["a.b/c"]}}), "finalizers"),
        (
            "its status",
            "/api/v1/nodes/n1/status",
            json!({"status": {"phase": "x"}}),
            "nodes/status",
        ),
    ] {
        let said = refusal(&agent, Method::PATCH, path, &change).await;
        assert!(said.contains(reason), "{what}: {said}");
    }
    let said = refusal(&agent, Method::DELETE, "/api/v1/nodes/n2", &json!({})).await;
    assert!(said.contains("cannot delete"), "{said}");

    let readiness = Readiness::new();
    let discovered = readiness.guard("the first list");
    let (trigger, shutdown) = shutdown::channel();
    let node = NodeName::new("n1");
    let keeping = announce::taint(announce::Server::new(agent), node, readiness, shutdown);
    let keeping = tokio::spawn(keeping);
    let before = server.get(N1).await;
    assert_eq!(before["spec"]["taints"].as_array().unwrap().len(), 2, "{before}");
    drop(discovered);
    server.until(N1, |node| node["spec"]["taints"] == json!([other])).await;
    let there = server.get("/api/v1/nodes/n2").await;
    assert_eq!(there["spec"]["taints"], json!([ours, other]));
    trigger.advance(shutdown::Phase::Draining);
    keeping.await.unwrap();
}

/// A pod of the shop on n1 and the agent of that node: its way in, once the API server has taken up what
/// deploy/ says of its rights.
async fn agent(server: &Server) -> Access {
    for node in ["n1", "n2"] {
        server.apply("/api/v1/nodes", json!({"metadata": {"name": node}})).await;
    }
    server.namespace("shop").await;
    server.account("shop", "web").await;
    server.pod("shop", "web", "web", "n1").await;
    server.runs("shop", "web", "Running", "10.91.1.7").await;
    server.deploy("agent-rbac.yaml").await;
    server.deploy("agent-admission.yaml").await;
    let uid = server.pod("adit-system", "agent-1", "adit", "n1").await;
    let object = json!({"apiVersion": "v1", "kind": "Pod", "name": "agent-1", "uid": uid});
    let token = server.token("adit-system", "adit", json!({"boundObjectRef": object})).await;
    let access = Access { kubeconfig: Some(server.kubeconfig("agent-1", &token)) };
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    let web = format!("{WEB}/status?dryRun=All");
    let event = foreign_event("dry");
    let events = format!("{EVENTS}?dryRun=All");
    for (method, path, body, said) in [
        (Method::PATCH, web, label, "no labels"),
        (Method::POST, events, event, "refused pods only"),
    ] {
        let began = tokio::time::Instant::now();
        while !attempt(&access, method.clone(), &path, &body).await.contains(said) {
            assert!(began.elapsed() < PATIENCE, "the policies are not in force");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    access
}

/// An Event such as a kubelet tells.
fn foreign_event(name: &str) -> Value {
    json!({
        "metadata": {"name": name}, "eventTime": "2026-01-01T00:00:00.000000Z", "type": "Warning",
        "reason": "Killing", "action": "Kill", "note": "n", "reportingController": "kubelet",
        "reportingInstance": "n1", "regarding": {"kind": "Pod", "namespace": "shop", "name": "web"},
    })
}

/// The API server's words; empty if it does what it is asked for.
async fn attempt(access: &Access, method: Method, path: &str, body: &Value) -> String {
    match server::request(access, method, path, Some(body)).await {
        Ok(_) => String::new(),
        Err(error) => error.to_string(),
    }
}

async fn refusal(access: &Access, method: Method, path: &str, body: &Value) -> String {
    let said = attempt(access, method, path, body).await;
    assert!(!said.is_empty(), "{path} {body} is allowed");
    said
}

fn status(pod: &Value) -> &Value {
    &pod["metadata"]["annotations"]["adit.dev/status"]
}

/// The writer, beside a world that follows the API server.
struct Announcing {
    worlds: Worlds,
    enrolments: watch::Sender<Arc<[PodStatus]>>,
    tasks: Vec<JoinHandle<()>>,
    _trigger: shutdown::Trigger,
}

impl Announcing {
    async fn start(access: Access, reader: &Access) -> Self {
        let (trigger, shutdown) = shutdown::channel();
        let worlds = Worlds::new();
        let settings = kubernetes::Settings { access: reader.clone(), kinds: kubernetes::AGENT };
        let domain = TrustDomain::parse("cluster.local").unwrap();
        let following = kubernetes::run(
            settings,
            domain,
            worlds.clone(),
            StatusHandle::new(),
            shutdown.clone(),
        );
        let (enrolments, shown) = watch::channel(Arc::default());
        let telling = announce::pods(
            announce::Server::new(access),
            worlds.clone(),
            Enrolments::new(shown),
            shutdown,
        );
        let tasks = vec![tokio::spawn(following), tokio::spawn(telling)];
        worlds.synced().wait_for(|synced| *synced).await.unwrap();
        Self { worlds, enrolments, tasks, _trigger: trigger }
    }

    /// As the enroller would say it of the only pod.
    fn pod_is(&self, state: PodState) {
        let world = self.worlds.load();
        let pod = world.workloads().find(|pod| pod.name == ObjectName::new("shop", "web")).unwrap();
        let status = PodStatus {
            uid: pod.uid.clone(),
            name: pod.name.clone(),
            identity: pod.identity.clone(),
            addresses: pod.addresses.clone(),
            netns: pod.netns.clone(),
            state,
            since: SystemTime::now(),
        };
        self.enrolments.send_replace(Arc::from([status]));
    }
}

impl Drop for Announcing {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}
