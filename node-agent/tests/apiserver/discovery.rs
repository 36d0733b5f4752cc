//! What the API server holds is the agent's world, whatever becomes of the API server meanwhile.

use std::time::Duration;

use adit::discovery::kubernetes::{self, Access};
use adit::discovery::{SourceStatus, StatusHandle, Worlds};
use adit::shutdown;
use adit_core::identity::TrustDomain;
use adit_core::policy::PolicyId;
use adit_core::workload::{MeshMode, ObjectName, Phase};
use adit_core::world::World;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::server::{self, Server};

/// Far beyond what anything here takes; the machine may be busy.
const PATIENCE: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_world_is_what_the_api_server_holds_and_follows_it() {
    let Some(server) = server::start().await else { return };
    shop(&server).await;
    let agent = Agent::start(server.access());

    agent.worlds.synced().wait_for(|synced| *synced).await.unwrap();
    let world = agent.worlds.load();
    assert_eq!(world.namespace("shop").unwrap().mode, MeshMode::Ambient);
    let web = pod_named(&world, "web").unwrap();
    assert_eq!(web.identity.to_string(), "spiffe://cluster.local/ns/shop/sa/web");
    assert_eq!(web.node.as_ref().unwrap().as_str(), "n1");
    let endpoints = world.endpoints(&ObjectName::new("shop", "web"));
    assert_eq!(endpoints.len(), 1);
    assert!(endpoints[0].ready);
    assert!(world.service(&ObjectName::new("shop", "alias")).is_none(), "an ExternalName");
    let kubernetes = ObjectName::new("default", "kubernetes");
    assert!(world.service(&kubernetes).is_some(), "the API server's own service");

    let label = json!({"metadata": {"labels": {"adit.dev/mode": null}}});
    server.patch("/api/v1/namespaces/shop", label).await;
    agent.world(|world| world.namespace("shop").unwrap().mode == MeshMode::Unset).await;

    // A pod that ends gives its address up; one of another name takes it over.
    server.runs("shop", "web", "Succeeded", "10.91.1.7").await;
    agent.world(|world| pod_named(world, "web").is_none()).await;
    server.pod("shop", "next", "web", "n2").await;
    server.runs("shop", "next", "Running", "10.91.1.7").await;
    let owner = |world: &World| {
        let pod = world.workload_at("10.91.1.7".parse().unwrap())?;
        Some(pod.name.name.to_string())
    };
    agent.world(|world| owner(world).as_deref() == Some("next")).await;

    // A pod that is being deleted is that, until it is gone.
    let held = json!({"metadata": {"finalizers": ["adit.dev/test"]}});
    server.patch("/api/v1/namespaces/shop/pods/next", held).await;
    server.delete("/api/v1/namespaces/shop/pods/next").await;
    agent
        .world(|world| pod_named(world, "next").is_some_and(|pod| pod.phase == Phase::Terminating))
        .await;
    let free = json!({"metadata": {"finalizers": null}});
    server.patch("/api/v1/namespaces/shop/pods/next", free).await;
    agent.world(|world| pod_named(world, "next").is_none()).await;
    assert_eq!(agent.status.load().errors, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_count_as_soon_as_the_cluster_knows_their_kinds() {
    let Some(server) = server::start().await else { return };
    server.namespace("shop").await;
    let agent = Agent::start(server.access());
    agent.worlds.synced().wait_for(|synced| *synced).await.unwrap();
    agent.status(|status| status.errors.is_empty()).await;

    define(&server, "PeerAuthentication", "peerauthentications").await;
    define(&server, "AuthorizationPolicy", "authorizationpolicies").await;
    let collection = "/apis/security.istio.io/v1/namespaces/shop/peerauthentications";
    let strict = json!({
        "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": {"name": "default"}, "spec": {"mtls": {"mode": "STRICT"}},
    });
    server.apply_when_served(collection, strict).await;
    let policy = PolicyId {
        kind: adit_core::policy::PolicyKind::PeerAuthentication,
        name: ObjectName::new("shop", "default"),
    };
    agent.world(|world| world.policies().contains(&policy)).await;

    let path = format!("{collection}/default");
    server.patch(&path, json!({"spec": {"mtls": {"mode": "SOMETIMES"}}})).await;
    // A kind that is new is refused (429) while the API server prepares its storage; that passes.
    agent.status(|status| status.rejected.contains_key(&policy) && status.errors.len() == 1).await;
    assert!(agent.worlds.load().policies().contains(&policy), "the last good version");
    server.delete(&path).await;
    agent.world(|world| !world.policies().contains(&policy)).await;
    agent.status(|status| status.errors.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_api_server_that_is_away_leaves_the_last_world_and_is_caught_up_with() {
    let Some(server) = server::start().await else { return };
    shop(&server).await;
    let agent = Agent::start(server.access());
    agent.worlds.synced().wait_for(|synced| *synced).await.unwrap();

    server.stop_api();
    let status = agent.status(|status| status.errors.len() >= 4).await;
    let stale = status.stale.clone().unwrap();
    assert!(stale.starts_with("API server: ") && stale.contains(": as of 20"), "{stale}");
    assert!(pod_named(&agent.worlds.load(), "web").is_some());

    server.start_api().await;
    server.pod("shop", "new", "web", "n2").await;
    agent.world(|world| pod_named(world, "new").is_some()).await;
    agent.status(|status| status.errors.is_empty()).await;
    assert!(pod_named(&agent.worlds.load(), "web").is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_refused_is_told_and_its_successor_taken() {
    let Some(server) = server::start().await else { return };
    let kubeconfig = server.kubeconfig("agent", "no-such-token");
    let agent = Agent::start(Access { kubeconfig: Some(kubeconfig) });
    let status = agent.status(|status| status.stale.is_some()).await;
    let stale = status.stale.clone().unwrap();
    assert!(stale.contains("not listed yet") && stale.contains("401 Unauthorized"), "{stale}");
    assert!(!*agent.worlds.synced().borrow());

    // With nothing but what the agent's role allows.
    server.account("adit-system", "adit").await;
    let read = json!(["get", "list", "watch"]);
    let rules = json!([
        {"apiGroups": [""], "resources": ["pods", "services", "namespaces", "nodes"], "verbs": read},
        {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": read},
        {
            "apiGroups": ["security.istio.io"],
            "resources": ["peerauthentications", "authorizationpolicies"], "verbs": read,
        },
    ]);
    server.grant("adit", rules, "adit-system", "adit").await;
    let token = server.token("adit-system", "adit", json!({})).await;
    server.kubeconfig("agent", &token);
    agent.worlds.synced().wait_for(|synced| *synced).await.unwrap();
    let status = agent.status(|status| status.errors.is_empty()).await;
    let lack = status.network_policies_lack.unwrap();
    assert!(lack.contains("not listed yet") && lack.contains("403 Forbidden"), "{lack}");

    // What is not needed may be allowed later.
    let rules = json!([
        {"apiGroups": ["networking.k8s.io"], "resources": ["networkpolicies"], "verbs": read},
    ]);
    server.grant("adit-network", rules, "adit-system", "adit").await;
    agent.status(|status| status.network_policies_lack.is_none()).await;
    let policies = "/apis/networking.k8s.io/v1/namespaces/adit-system/networkpolicies";
    let closed = json!({"metadata": {"name": "closed"}, "spec": {"podSelector": {}}});
    server.apply(policies, closed).await;
    let count = |world: &World| world.network_policies("adit-system").count();
    agent.world(|world| count(world) == 1).await;
    server.delete(&format!("{policies}/closed")).await;
    agent.world(|world| count(world) == 0).await;
}

struct Agent {
    worlds: Worlds,
    status: StatusHandle,
    task: JoinHandle<()>,
    _trigger: shutdown::Trigger,
}

impl Agent {
    fn start(access: Access) -> Self {
        let (worlds, status) = (Worlds::new(), StatusHandle::new());
        let (trigger, shutdown) = shutdown::channel();
        let settings = kubernetes::Settings { access, kinds: kubernetes::AGENT };
        let domain = TrustDomain::parse("cluster.local").unwrap();
        let source = kubernetes::run(settings, domain, worlds.clone(), status.clone(), shutdown);
        Self { worlds, status, task: tokio::spawn(source), _trigger: trigger }
    }

    async fn world(&self, wanted: impl Fn(&World) -> bool) {
        let mut changes = self.worlds.subscribe();
        let reached = async {
            while !wanted(&self.worlds.load()) {
                let _changed = changes.recv().await;
            }
        };
        let seen = tokio::time::timeout(PATIENCE, reached).await;
        assert!(seen.is_ok(), "{:?} {:?}", self.worlds.load(), self.status.load());
    }

    async fn status(&self, wanted: impl Fn(&SourceStatus) -> bool) -> SourceStatus {
        let mut changes = self.status.subscribe();
        let seen = tokio::time::timeout(PATIENCE, changes.wait_for(|status| wanted(status))).await;
        let status = self.status.load();
        match seen {
            Ok(seen) => (**seen.unwrap()).clone(),
            Err(_elapsed) => panic!("{status:?}"),
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A namespace with a pod, a service of it, and a service that is an alias.
async fn shop(server: &Server) {
    let namespace = json!({"metadata": {"name": "shop", "labels": {"adit.dev/mode": "ambient"}}});
    server.apply("/api/v1/namespaces", namespace).await;
    server.account("shop", "web").await;
    server.pod("shop", "web", "web", "n1").await;
    server.runs("shop", "web", "Running", "10.91.1.7").await;
    let services = "/api/v1/namespaces/shop/services";
    let service = |name: &str, spec: Value| json!({"metadata": {"name": name}, "spec": spec});
    let ports = json!([{"port": 80, "targetPort": 8080}]);
    server.apply(services, service("web", json!({"selector": {"a": "b"}, "ports": ports}))).await;
    let alias = json!({"type": "ExternalName", "externalName": "example.org"});
    server.apply(services, service("alias", alias)).await;
    let slice = json!({
        "metadata": {"name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.91.1.7"], "conditions": {"ready": true}}],
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
    });
    server.apply("/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices", slice).await;
}

async fn define(server: &Server, kind: &str, plural: &str) {
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    let definition = json!({
        "metadata": {"name": format!("{plural}.security.istio.io")},
        "spec": {
            "group": "security.istio.io", "scope": "Namespaced",
            "names": {"kind": kind, "plural": plural},
            "versions": [{
                "name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": schema},
            }],
        },
    });
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    server.apply(path, definition).await;
}

fn pod_named<'a>(
    world: &'a World,
    name: &str,
) -> Option<&'a std::sync::Arc<adit_core::workload::Workload>> {
    world.workloads().find(|pod| &*pod.name.name == name)
}
