//! The objects of a large cluster, and changes of them.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use http::{Method, Request};
use kube::Client;
use serde_json::{Value, json};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::server::Server;

/// Pods of a namespace; each has ten services.
const NAMESPACE: usize = 100;

/// Nodes that the pods are on.
const NODES: usize = 50;

/// Requests at one time.
const AT_ONCE: usize = 16;

/// What fills the API server.
pub(super) struct Cluster {
    client: Client,
    pods: AtomicUsize,
}

impl Cluster {
    pub(super) async fn new(server: &Server) -> Self {
        let cluster = Self { client: server.client().await, pods: AtomicUsize::new(0) };
        let nodes = (0..NODES).map(|node| json!({"metadata": {"name": format!("node-{node}")}}));
        cluster.all(nodes.map(|node| cluster.create("/api/v1/nodes".to_owned(), node))).await;
        cluster
    }

    pub(super) fn len(&self) -> usize {
        self.pods.load(Ordering::Relaxed)
    }

    /// Makes it this large.
    pub(super) async fn fill(&self, pods: usize) {
        let known = self.pods.swap(pods, Ordering::Relaxed);
        let spaces = (known / NAMESPACE)..(pods / NAMESPACE);
        self.all(
            spaces
                .clone()
                .map(|space| self.create("/api/v1/namespaces".to_owned(), namespace(space))),
        )
        .await;
        self.all(spaces.clone().map(|space| {
            let account = json!({"metadata": {"name": "default"}});
            self.create(format!("/api/v1/namespaces/space-{space}/serviceaccounts"), account)
        }))
        .await;
        self.all((known..pods).map(|number| self.new_pod(number))).await;
        self.all((known / 10..pods / 10).map(|number| self.new_service(number))).await;
    }

    async fn new_pod(&self, number: usize) {
        self.create(format!("{}/pods", space(number)), pod(number)).await;
        self.runs(number, true).await;
    }

    /// As a kubelet says.
    async fn runs(&self, number: usize, ready: bool) {
        let path = format!("{}/pods/pod-{number}/status", space(number));
        let address = address(number);
        let ready = if ready { "True" } else { "False" };
        let status = json!({
            "phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "hostIP": "10.0.0.1",
            "conditions": [
                {"type": "Ready", "status": ready}, {"type": "ContainersReady", "status": ready},
                {"type": "Initialized", "status": "True"}, {"type": "PodScheduled", "status": "True"},
            ],
            "containerStatuses": [{
                "name": "app", "ready": ready == "True", "restartCount": 0, "started": true,
                "image": "registry.example.com/team/app:1.2.3", "imageID": "registry.example.com/team/app@sha256:0",
                "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
            }],
        });
        self.patch(path, json!({"status": status})).await;
    }

    /// A service and the ten pods behind it.
    async fn new_service(&self, number: usize) {
        let space = space(number * 10);
        let service = json!({
            "metadata": {"name": format!("service-{number}"), "labels": {"app": format!("app-{number}")}},
            "spec": {"selector": {"app": format!("app-{number}")}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
        });
        self.create(format!("{space}/services"), service).await;
        let slices = space.replace("/api/v1/", "/apis/discovery.k8s.io/v1/");
        self.create(format!("{slices}/endpointslices"), slice(number, true)).await;
    }

    /// Changes that come at this rate for this long: of ten, six pods that become ready or not, three endpoint slices
    /// that follow, one pod that goes and comes again. How many requests were made.
    pub(super) async fn change(&self, rate: usize, time: Duration) -> usize {
        let mut ticks = interval(Duration::from_secs(1) / u32::try_from(rate).unwrap());
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let until = Instant::now() + time;
        let changes = futures_util::stream::unfold((ticks, 0), |(mut ticks, made)| async move {
            ticks.tick().await;
            (Instant::now() < until).then_some((made, (ticks, made + 1)))
        });
        let made = AtomicUsize::new(0);
        changes
            .for_each_concurrent(AT_ONCE, |number| {
                made.fetch_add(1, Ordering::Relaxed);
                self.one(number)
            })
            .await;
        made.into_inner()
    }

    async fn one(&self, number: usize) {
        let (pods, ready) = (self.len(), number / 10 % 2 == 1);
        // Steps that reach every pod.
        let pod = number * 7 % pods;
        match number % 10 {
            0..6 => self.runs(pod, ready).await,
            6..9 => {
                let service = number * 3 % (pods / 10);
                let space = space(service * 10).replace("/api/v1/", "/apis/discovery.k8s.io/v1/");
                let path = format!("{space}/endpointslices/service-{service}");
                self.patch(path, slice(service, ready)).await;
            }
            _ => {
                let path = format!("{}/pods/pod-{pod}", space(pod));
                let at_once = json!({"gracePeriodSeconds": 0});
                self.request(Method::DELETE, path, &at_once).await;
                self.new_pod(pod).await;
            }
        }
    }

    /// Something that the agent counts.
    pub(super) async fn marker(&self, number: usize) {
        let service = json!({
            "metadata": {"name": format!("marker-{number}")},
            "spec": {"clusterIP": "None", "ports": [{"port": 80}]},
        });
        self.create("/api/v1/namespaces/default/services".to_owned(), service).await;
    }

    async fn create(&self, path: String, object: Value) {
        self.request(Method::POST, path, &object).await;
    }

    async fn patch(&self, path: String, change: Value) {
        self.request(Method::PATCH, path, &change).await;
    }

    async fn request(&self, method: Method, path: String, body: &Value) {
        let kind = match method {
            Method::PATCH => "application/merge-patch+json",
            _ => "application/json",
        };
        let request = Request::builder().method(method).uri(&path).header("content-type", kind);
        let request = request.body(body.to_string().into_bytes()).unwrap();
        self.client.request_text(request).await.unwrap_or_else(|error| panic!("{path}: {error}"));
    }

    async fn all(&self, requests: impl Iterator<Item = impl Future<Output = ()>>) {
        futures_util::stream::iter(requests).buffer_unordered(AT_ONCE).collect::<()>().await;
    }
}

fn space(pod: usize) -> String {
    format!("/api/v1/namespaces/space-{}", pod / NAMESPACE)
}

fn address(pod: usize) -> String {
    format!("10.128.{}.{}", pod / 250, pod % 250 + 1)
}

fn namespace(number: usize) -> Value {
    let labels = json!({"adit.dev/mode": "ambient", "team": format!("team-{}", number % 10)});
    json!({"metadata": {"name": format!("space-{number}"), "labels": labels}})
}

/// As large as pods are: probes, variables, volumes, annotations.
fn pod(number: usize) -> Value {
    let app = format!("app-{}", number / 10);
    let variables: Vec<Value> = (0..20)
        .map(|name| json!({"name": format!("SETTING_{name}"), "value": "https://backend.example.com:8443/some/path"}))
        .collect();
    let probe = json!({"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 10});
    json!({
        "metadata": {
            "name": format!("pod-{number}"),
            "labels": {"app": app, "version": "v1", "pod-template-hash": "7d4b9c6f5d", "app.kubernetes.io/part-of": "shop"},
            "annotations": {"example.com/checksum": "0123456789abcdef".repeat(4), "example.com/injected": "x".repeat(500)},
            "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("{app}-7d4b9c6f5d"),
                "uid": format!("00000000-0000-0000-0000-{:012}", number / 10), "controller": true,
            }],
        },
        "spec": {
            "nodeName": format!("node-{}", number % NODES),
            "serviceAccountName": "default",
            "automountServiceAccountToken": false,
            "containers": [{
                "name": "app", "image": "registry.example.com/team/app:1.2.3", "env": variables,
                "ports": [{"name": "http", "containerPort": 8080}, {"name": "metrics", "containerPort": 9090}],
                "readinessProbe": probe, "livenessProbe": probe,
                "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}},
                "volumeMounts": [{"name": "config", "mountPath": "/etc/app"}, {"name": "data", "mountPath": "/data"}],
            }],
            "volumes": [{"name": "config", "configMap": {"name": "app"}}, {"name": "data", "emptyDir": {}}],
        },
    })
}

fn slice(service: usize, ready: bool) -> Value {
    let endpoints: Vec<Value> = (service * 10..service * 10 + 10)
        .map(|pod| {
            json!({
                "addresses": [address(pod)], "nodeName": format!("node-{}", pod % NODES),
                "conditions": {"ready": ready || pod % 10 > 0, "serving": true, "terminating": false},
                "targetRef": {"kind": "Pod", "namespace": format!("space-{}", pod / NAMESPACE), "name": format!("pod-{pod}")},
            })
        })
        .collect();
    json!({
        "metadata": {
            "name": format!("service-{service}"),
            "labels": {"kubernetes.io/service-name": format!("service-{service}")},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints,
    })
}

/// A directory that goes with this value.
pub(super) struct Directory(PathBuf);

impl Directory {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _left: std::io::Result<()> = fs::remove_dir_all(&self.0);
    }
}

/// Manifests of this many policies of 50 rules, ten in a namespace.
pub(super) fn policies(number: usize) -> Directory {
    let name = format!("adit-scale-{:x}", rand::random::<u64>());
    let directory = Directory(std::env::temp_dir().join(name));
    let manifests = directory.0.join("manifests");
    fs::create_dir_all(&manifests).unwrap();
    let first = "apiVersion: v1\nkind: Namespace\nmetadata: { name: default }\n";
    fs::write(manifests.join("first.yaml"), first).unwrap();
    for space in 0..number / 10 {
        let mut text =
            format!("apiVersion: v1\nkind: Namespace\nmetadata: {{ name: space-{space} }}\n");
        for policy in 0..10 {
            write!(
                text,
                "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{ name: policy-{policy}, namespace: space-{space} }}\nspec:\n  selector: {{ matchLabels: {{ app: app-{policy} }} }}\n  action: ALLOW\n  rules:\n",
            )
            .unwrap();
            for rule in 0..50 {
                writeln!(
                    text,
                    "  - from: [{{ source: {{ principals: [cluster.local/ns/space-{rule}/sa/account-{policy}] }} }}]\n    to: [{{ operation: {{ ports: [\"{}\"] }} }}]",
                    8000 + rule
                )
                .unwrap();
            }
        }
        fs::write(manifests.join(format!("space-{space}.yaml")), text).unwrap();
    }
    directory
}
