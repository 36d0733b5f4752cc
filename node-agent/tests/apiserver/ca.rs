//! The CA with real tokens, reviewed by the API server that made them.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use adit::ca::{self, Backing, ServeOptions};
use adit::discovery::kubernetes::{self, Access};
use adit::discovery::{StatusHandle, Worlds};
use adit::identity::{CaClient, Clock, RemoteCa, Source as _, SourceError, Svid};
use adit::shutdown::{self, Phase, Trigger};
use adit_core::identity::{SpiffeId, TrustDomain};
use adit_core::workload::ObjectName;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::server::{self, Server};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_gets_the_identities_of_its_node_and_every_other_token_is_refused_for_its_reason()
{
    let Some(server) = server::start().await else { return };
    let pods = populate(&server).await;
    let ca = Ca::start(&server, 0).await;

    let agent = bound(&server, "adit-system", "adit", "agent-1", &pods.agent_1).await;
    let svid = ca.fetch(&agent, "cart").await.unwrap();
    assert_eq!(*svid.identity(), id("cart"));
    ca.fetch(&agent, "pending").await.expect("a pod that is starting");

    let other_account = bound(&server, "shop", "cart", "cart", &pods.cart).await;
    let other_node = bound(&server, "adit-system", "adit", "agent-2", &pods.agent_2).await;
    let other_audience =
        server.token("adit-system", "adit", token_for("agent-1", &pods.agent_1, "istio-ca")).await;
    let unbound = server.token("adit-system", "adit", json!({"audiences": ["adit-ca"]})).await;
    let payload = payload(&agent);
    let changed = |change: &dyn Fn(&mut Value)| {
        let mut payload = payload.clone();
        change(&mut payload);
        server.sign(&payload)
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let expired = changed(&|payload| payload["exp"] = json!(now - 60));
    let renamed =
        changed(&|payload| payload["kubernetes.io"]["serviceaccount"]["uid"] = json!("x"));
    // The last character of a signature has bits that say nothing.
    let (signed, rest) = agent.split_at(agent.len() - 10);
    let other = if rest.starts_with('A') { 'B' } else { 'A' };
    let stranger = format!("{signed}{other}{}", &rest[1..]);
    let gone = bound(&server, "adit-system", "adit", "agent-3", &pods.agent_3).await;
    ca.fetch(&gone, "cart").await.expect("while its pod is there");
    server.delete("/api/v1/namespaces/adit-system/pods/agent-3").await;
    let legacy = legacy(&server).await;
    server.review_says(&legacy, None, true).await;

    let cases = [
        ("another service account", &other_account, "cart", "not of the agents' service account"),
        ("another node", &other_node, "cart", "no pod with this identity is on the caller's node"),
        ("another audience", &other_audience, "cart", "the token is for another audience"),
        ("expired", &expired, "cart", "the token has expired"),
        ("bound to no pod", &unbound, "cart", "not bound to a pod"),
        ("of a Secret", &legacy, "cart", "one of a Secret"),
        ("of an account that was replaced", &renamed, "cart", "the token"),
        ("not signed by the API server", &stranger, "cart", "does not accept the token"),
        ("no token of Kubernetes", &"hello".to_owned(), "cart", "not one of a Kubernetes"),
        ("an identity elsewhere", &agent, "elsewhere", "no pod with this identity"),
        ("an identity of nobody", &agent, "nobody", "no pod with this identity"),
        ("a pod that its node says it runs", &agent, "default", "are static pods"),
        ("a pod being deleted", &agent, "leaving", "are being deleted"),
    ];
    for (what, token, name, reason) in cases {
        let error = ca.fetch(token, name).await.unwrap_err();
        let caller = matches!(error, SourceError::Unauthenticated { .. });
        let identity = matches!(error, SourceError::PermissionDenied { .. });
        assert!(caller || identity, "{what}: {error}");
        assert!(error.to_string().contains(reason), "{what}: {error}");
    }

    // The API server and the CA remember a token for ten seconds each.
    let said = ca.refusal(&gone, "cart").await;
    assert!(said.contains("gone") || said.contains("is not known"), "{said}");

    // The node is drained: its pod runs elsewhere now.
    server.delete("/api/v1/namespaces/shop/pods/cart").await;
    server.pod("shop", "cart-2", "cart", "n2").await;
    ca.fetch(&other_node, "cart").await.expect("on the other node");
    let said = ca.refusal(&agent, "cart").await;
    assert!(said.contains("no pod with this identity is on the caller's node"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_share_one_root_and_last_through_the_api_server_being_away() {
    let Some(server) = server::start().await else { return };
    let pods = populate(&server).await;
    let (one, two) = tokio::join!(Ca::start(&server, 1), Ca::start(&server, 2));
    let agent = bound(&server, "adit-system", "adit", "agent-1", &pods.agent_1).await;
    for ca in [&one, &two] {
        let svid = ca.fetch(&agent, "cart").await.unwrap();
        assert_eq!(svid.chain().len(), 2, "the certificate and the intermediate");
    }
    let secret = server.get("/api/v1/namespaces/adit-system/secrets/adit-ca").await;
    let bundle = server.get("/api/v1/namespaces/adit-system/configmaps/adit-ca-root").await;
    let root = STANDARD.decode(secret["data"]["root-cert.pem"].as_str().unwrap()).unwrap();
    assert_eq!(bundle["data"]["root-cert.pem"].as_str().unwrap().as_bytes(), root);

    server.stop_api();
    let fresh = server.sign(&{
        let mut payload = payload(&agent);
        payload["jti"] = json!("another");
        payload
    });
    let error = one.fetch(&fresh, "cart").await.unwrap_err();
    assert!(matches!(error, SourceError::Unreachable { .. }), "{error}");
    server.start_api().await;
    one.fetch(&fresh, "cart").await.unwrap();
}

pub(crate) struct Pods {
    pub(crate) agent_1: String,
    pub(crate) agent_2: String,
    pub(crate) agent_3: String,
    pub(crate) cart: String,
}

/// Agents on n1 and n2, and pods of the shop.
pub(crate) async fn populate(server: &Server) -> Pods {
    for node in ["n1", "n2"] {
        server.apply("/api/v1/nodes", json!({"metadata": {"name": node}})).await;
    }
    server.namespace("shop").await;
    server.account("adit-system", "adit").await;
    server.account("adit-system", "adit-ca").await;
    server.mirror("shop", "proxy-n1", "n1").await;
    for name in ["cart", "pending", "elsewhere", "leaving"] {
        server.account("shop", name).await;
        let node = if name == "elsewhere" { "n2" } else { "n1" };
        server.pod("shop", name, name, node).await;
    }
    server.runs("shop", "cart", "Running", "10.91.1.9").await;
    let held = json!({"metadata": {"finalizers": ["adit.dev/test"]}});
    server.patch("/api/v1/namespaces/shop/pods/leaving", held).await;
    server.delete("/api/v1/namespaces/shop/pods/leaving").await;
    let uid = server.get("/api/v1/namespaces/shop/pods/cart").await;
    let rules = json!([
        {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]},
        {"apiGroups": [""], "resources": ["secrets", "configmaps"], "verbs": ["create"]},
        {
            "apiGroups": [""], "resources": ["secrets", "configmaps"], "verbs": ["get", "update"],
            "resourceNames": ["adit-ca", "adit-ca-root"],
        },
        {
            "apiGroups": [""], "resources": ["secrets"], "verbs": ["patch"],
            "resourceNames": ["adit-ca"],
        },
    ]);
    server.grant("adit-ca", rules, "adit-system", "adit-ca").await;
    Pods {
        agent_1: server.pod("adit-system", "agent-1", "adit", "n1").await,
        agent_2: server.pod("adit-system", "agent-2", "adit", "n2").await,
        agent_3: server.pod("adit-system", "agent-3", "adit", "n1").await,
        cart: uid["metadata"]["uid"].as_str().unwrap().to_owned(),
    }
}

/// The specification of a token for this pod.
fn token_for(pod: &str, uid: &str, audience: &str) -> Value {
    let object = json!({"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid});
    json!({"audiences": [audience], "boundObjectRef": object})
}

pub(crate) async fn bound(
    server: &Server,
    namespace: &str,
    account: &str,
    pod: &str,
    uid: &str,
) -> String {
    server.token(namespace, account, token_for(pod, uid, "adit-ca")).await
}

/// A token without an end, as the token controller put them into Secrets. The API server takes it for
/// its own audience.
async fn legacy(server: &Server) -> String {
    let account = server.get("/api/v1/namespaces/adit-system/serviceaccounts/adit").await;
    let uid = account["metadata"]["uid"].as_str().unwrap();
    let claim = |name: &str| format!("kubernetes.io/serviceaccount/{name}");
    let token = server.sign(&json!({
        "iss": "kubernetes/serviceaccount",
        "sub": "system:serviceaccount:adit-system:adit",
        claim("namespace"): "adit-system",
        claim("secret.name"): "old",
        claim("service-account.name"): "adit",
        claim("service-account.uid"): uid,
    }));
    let secret = json!({
        "type": "kubernetes.io/service-account-token",
        "metadata": {
            "name": "old",
            "annotations": {
                "kubernetes.io/service-account.name": "adit",
                "kubernetes.io/service-account.uid": uid,
            },
        },
        "data": {"token": STANDARD.encode(&token)},
    });
    server.apply("/api/v1/namespaces/adit-system/secrets", secret).await;
    token
}

fn payload(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

impl Server {
    /// The roots that the CA publishes.
    pub(crate) async fn roots(&self) -> String {
        let bundle = self.get("/api/v1/namespaces/adit-system/configmaps/adit-ca-root").await;
        bundle["data"]["root-cert.pem"].as_str().unwrap().to_owned()
    }

    /// A token with these claims, signed with the API server's own key.
    fn sign(&self, payload: &Value) -> String {
        let key = fs::read(self.directory().join("sa.key")).unwrap();
        let key = pem::parse(key).unwrap();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.contents());
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256"}"#);
        let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(payload.to_string()));
        let signature = key.unwrap().sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// What the API server itself says of a token.
    async fn review_says(&self, token: &str, audience: Option<&str>, authenticated: bool) {
        let audiences: Vec<&str> = audience.into_iter().collect();
        let review = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview",
            "spec": {"token": token, "audiences": audiences},
        });
        let answer = self.apply("/apis/authentication.k8s.io/v1/tokenreviews", review).await;
        let said = answer["status"]["authenticated"].as_bool() == Some(true);
        assert_eq!(said, authenticated, "{answer}");
    }
}

/// A CA in this process, with the token and the role of its own service account.
pub(crate) struct Ca {
    address: SocketAddr,
    root: PathBuf,
    directory: PathBuf,
    tasks: Vec<JoinHandle<()>>,
    trigger: Trigger,
}

impl Ca {
    pub(crate) async fn start(server: &Server, number: u16) -> Self {
        let token = server.token("adit-system", "adit-ca", json!({})).await;
        let kubeconfig = server.kubeconfig(&format!("adit-ca-{number}"), &token);
        let access = Access { kubeconfig: Some(kubeconfig) };
        let [port] = server::free_ports();
        let address: SocketAddr = ([127, 0, 0, 1], port).into();
        let trust_domain = TrustDomain::parse("cluster.local").unwrap();
        let (trigger, shutdown) = shutdown::channel();
        let worlds = Worlds::new();
        let settings = kubernetes::Settings { access: access.clone(), kinds: kubernetes::CA };
        let following = kubernetes::run(
            settings,
            trust_domain.clone(),
            worlds.clone(),
            StatusHandle::new(),
            shutdown.clone(),
        );
        let options = ServeOptions {
            listen: address,
            trust_domain,
            names: vec!["adit-ca.adit-system.svc".to_owned()],
            addresses: Vec::new(),
            backing: Backing::Kubernetes(ca::kubernetes::Options {
                access,
                namespace: "adit-system".to_owned(),
                agent: ObjectName::new("adit-system", "adit"),
                audience: "adit-ca".to_owned(),
                secret: "adit-ca".to_owned(),
                bundle: "adit-ca-root".to_owned(),
            }),
        };
        let serving = async move { ca::serve(options, worlds, shutdown).await.unwrap() };
        let tasks = vec![tokio::spawn(following), tokio::spawn(serving)];
        // It listens when it can answer.
        let began = tokio::time::Instant::now();
        while TcpStream::connect(address).await.is_err() {
            assert!(began.elapsed() < Duration::from_secs(60), "the CA does not listen");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let root = server.directory().join(format!("root-{number}.pem"));
        let ca = Self { address, root, directory: server.directory().to_owned(), tasks, trigger };
        ca.mount(&server.roots().await);
        ca
    }

    /// As a kubelet does with the published roots for an agent.
    pub(crate) fn mount(&self, roots: &str) {
        fs::write(&self.root, roots).unwrap();
    }

    pub(crate) async fn fetch(&self, token: &str, name: &str) -> Result<Svid, SourceError> {
        let file = self.directory.join(format!("token-{:x}", rand::random::<u64>()));
        fs::write(&file, token).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let settings = RemoteCa {
            address: format!("https://{}", self.address).parse().unwrap(),
            root: self.root.clone(),
            token: file,
            server_name: ServerName::try_from("adit-ca.adit-system.svc").unwrap(),
        };
        let client = CaClient::new(settings, Clock::system());
        client.fetch(&id(name), Duration::from_secs(3600)).await
    }

    /// Why this is refused, in the end.
    async fn refusal(&self, token: &str, name: &str) -> String {
        let began = tokio::time::Instant::now();
        loop {
            match self.fetch(token, name).await {
                Err(error) => return error.to_string(),
                Ok(_) => assert!(began.elapsed() < Duration::from_secs(60), "{name} is granted"),
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
}

impl Drop for Ca {
    fn drop(&mut self) {
        self.trigger.advance(Phase::Forced);
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn id(name: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://cluster.local/ns/shop/sa/{name}")).unwrap()
}
