//! What one of the CA's replicas writes into the status of policies, with the rights of deploy/ and no
//! others.

use adit::announce;
use adit::discovery::kubernetes::Access;
use adit::shutdown;
use adit_core::identity::TrustDomain;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::server::{self, Server};

const POLICIES: &str = "/apis/security.istio.io/v1/namespaces/shop/authorizationpolicies";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/adit-system/leases/adit-ca";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_status_of_a_policy_says_what_adit_makes_of_it_and_keeps_what_others_say() {
    let Some(server) = server::start().await else { return };
    shop(&server).await;
    let plain = format!("{POLICIES}/plain");
    let theirs = json!({"type": "ZtunnelAccepted", "status": "True", "reason": "Accepted"});
    let status = json!({"status": {"conditions": [theirs]}});
    server.patch(&format!("{plain}/status"), status).await;
    let replica = Replica::start(&server, "a").await;

    let object = server.until(&plain, |policy| !ours(policy).is_null()).await;
    assert_eq!(ours(&object)["status"], "True");
    assert_eq!(ours(&object)["reason"], "Accepted");
    assert_eq!(ours(&object)["observedGeneration"], 1);
    assert_eq!(object["status"]["conditions"][0], theirs);
    let settled = object["metadata"]["resourceVersion"].clone();

    let paths = server.until(&format!("{POLICIES}/paths"), |policy| !ours(policy).is_null()).await;
    assert_eq!(ours(&paths)["reason"], "PartiallySupported");
    let message = ours(&paths)["message"].as_str().unwrap();
    assert!(message.contains("spec.rules[0].to[0].operation.methods: "), "{message}");
    let wrong = server.until(&format!("{POLICIES}/wrong"), |policy| !ours(policy).is_null()).await;
    assert_eq!(
        (&ours(&wrong)["status"], &ours(&wrong)["reason"]),
        (&json!("False"), &json!("Invalid"))
    );
    let message = ours(&wrong)["message"].as_str().unwrap();
    assert!(message.contains("spec.rules[0].from[0].source.ipBlocks[0]"), "{message}");
    let peer = "/apis/security.istio.io/v1/namespaces/shop/peerauthentications/default";
    let peer = server.until(peer, |policy| !ours(policy).is_null()).await;
    assert_eq!(ours(&peer)["reason"], "Accepted");

    // A policy that is mended says so; one that nobody touched is not written again.
    let mended = json!({"spec": {"rules": [{"from": [{"source": {"ipBlocks": ["10.0.0.0/8"]}}]}]}});
    server.patch(&format!("{POLICIES}/wrong"), mended).await;
    server.until(&format!("{POLICIES}/wrong"), |policy| ours(policy)["status"] == "True").await;
    assert_eq!(server.get(&plain).await["metadata"]["resourceVersion"], settled);
    drop(replica);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_replica_writes_and_the_other_takes_over_when_it_is_gone() {
    let Some(server) = server::start().await else { return };
    shop(&server).await;
    let mut replicas =
        [Some(Replica::start(&server, "a").await), Some(Replica::start(&server, "b").await)];
    let plain = format!("{POLICIES}/plain");
    server.until(&plain, |policy| !ours(policy).is_null()).await;
    let holder = server.get(LEASE).await["spec"]["holderIdentity"].clone();
    let gone = usize::from(holder == "b");
    drop(replicas[gone].take());
    server.patch(&plain, json!({"spec": {"action": "DENY"}})).await;
    server.until(&plain, |policy| ours(policy)["observedGeneration"] == 2).await;
    let lease = server.get(LEASE).await;
    assert_ne!(lease["spec"]["holderIdentity"], holder, "{lease}");
    assert_eq!(lease["spec"]["leaseTransitions"], 1);
}

/// The kinds and the roles of deploy/, and a few policies.
async fn shop(server: &Server) {
    server.namespace("shop").await;
    for file in ["crds/peerauthentications.yaml", "crds/authorizationpolicies.yaml", "ca-rbac.yaml"]
    {
        server.deploy(file).await;
    }
    let policy = |name: &str, spec: Value| {
        json!({
            "apiVersion": "security.istio.io/v1", "kind": "AuthorizationPolicy",
            "metadata": {"name": name}, "spec": spec,
        })
    };
    let rules = |rule: Value| json!({"rules": [rule]});
    let source = |source: Value| rules(json!({"from": [{"source": source}]}));
    for object in [
        policy("plain", source(json!({"namespaces": ["shop"]}))),
        policy("paths", rules(json!({"to": [{"operation": {"methods": ["GET"]}}]}))),
        policy("wrong", source(json!({"ipBlocks": ["nonsense"]}))),
    ] {
        server.apply_when_served(POLICIES, object).await;
    }
    let peer = json!({
        "apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication",
        "metadata": {"name": "default"}, "spec": {"mtls": {"mode": "STRICT"}},
    });
    let peers = "/apis/security.istio.io/v1/namespaces/shop/peerauthentications";
    server.apply_when_served(peers, peer).await;
}

fn ours(policy: &Value) -> &Value {
    let conditions = policy["status"]["conditions"].as_array();
    let mut all = conditions.map(Vec::as_slice).unwrap_or_default().iter();
    all.find(|one| one["type"] == "adit.dev/Accepted").unwrap_or(&Value::Null)
}

/// A replica in this process.
struct Replica {
    task: JoinHandle<()>,
    _trigger: shutdown::Trigger,
}

impl Replica {
    async fn start(server: &Server, holder: &str) -> Self {
        let token = server.token("adit-system", "adit-ca", json!({})).await;
        let kubeconfig = server.kubeconfig(&format!("ca-{holder}"), &token);
        let (trigger, shutdown) = shutdown::channel();
        let options = announce::Options {
            access: Access { kubeconfig: Some(kubeconfig) },
            namespace: "adit-system".to_owned(),
            holder: holder.to_owned(),
            trust_domain: TrustDomain::parse("cluster.local").unwrap(),
        };
        let task = tokio::spawn(announce::policies(options, shutdown));
        Self { task, _trigger: trigger }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.task.abort();
    }
}
