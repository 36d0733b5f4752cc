//! A kube-apiserver with an etcd of its own, and requests to it.

use std::fs;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use adit::discovery::kubernetes::Access;
use http::{Method, Request};
use kube::Client;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, KeyUsagePurpose};
use serde_json::{Value, json};

const ADMIN: &str = "token-of-the-administrator";

/// What the tokens of the kubelets begin with; the node's name follows.
const NODE: &str = "token-of-the-kubelet-of-";

/// A cluster without nodes' processes: objects only.
pub(crate) struct Server {
    directory: PathBuf,
    binaries: PathBuf,
    etcd: Child,
    api: Mutex<Option<Child>>,
    etcd_port: u16,
    api_port: u16,
}

/// `None`, and a word about it, where the binaries are not here.
#[expect(clippy::print_stderr, reason = "whoever runs the tests should know what was left out")]
pub(crate) async fn start() -> Option<Server> {
    let root = std::env::var_os("ADIT_K8S_ROOT")
        .map_or_else(|| PathBuf::from("/var/cache/adit-k8s"), PathBuf::from);
    let binaries = root.join("bin");
    if !["etcd", "kube-apiserver"].iter().all(|name| binaries.join(name).is_file()) {
        let why = format!("no etcd and kube-apiserver in {}", binaries.display());
        let required = std::env::var("ADIT_K8S_REQUIRE").is_ok_and(|value| value == "1");
        assert!(!required, "{why}");
        eprintln!("SKIPPED: {why}");
        return None;
    }
    let name = format!("adit-apiserver-{:x}", rand::random::<u64>());
    let directory = std::env::temp_dir().join(name);
    fs::create_dir(&directory).unwrap();
    let [etcd_port, peer_port, api_port] = free_ports();
    make_files(&directory);
    let etcd = spawn(
        &binaries.join("etcd"),
        &directory,
        "etcd",
        &[
            "--name=e",
            &format!("--data-dir={}", directory.join("etcd").display()),
            &format!("--listen-client-urls=http://127.0.0.1:{etcd_port}"),
            &format!("--advertise-client-urls=http://127.0.0.1:{etcd_port}"),
            &format!("--listen-peer-urls=http://127.0.0.1:{peer_port}"),
            &format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer_port}"),
            &format!("--initial-cluster=e=http://127.0.0.1:{peer_port}"),
            "--unsafe-no-fsync",
            "--log-level=warn",
        ],
    );
    let api = Mutex::new(None);
    let server = Server { directory, binaries, etcd, api, etcd_port, api_port };
    server.start_api().await;
    server.apply("/api/v1/namespaces", json!({"metadata": {"name": "adit-system"}})).await;
    Some(server)
}

impl Server {
    pub(crate) async fn start_api(&self) {
        let at = |name: &str| self.directory.join(name).display().to_string();
        let api = spawn(
            &self.binaries.join("kube-apiserver"),
            &self.directory,
            "apiserver",
            &[
                &format!("--etcd-servers=http://127.0.0.1:{}", self.etcd_port),
                "--bind-address=127.0.0.1",
                "--advertise-address=127.0.0.1",
                &format!("--secure-port={}", self.api_port),
                "--endpoint-reconciler-type=none",
                "--service-cluster-ip-range=10.96.0.0/16",
                &format!("--tls-cert-file={}", at("api.crt")),
                &format!("--tls-private-key-file={}", at("api.key")),
                "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
                &format!("--service-account-key-file={}", at("sa.pub")),
                &format!("--service-account-signing-key-file={}", at("sa.key")),
                "--authorization-mode=Node,RBAC",
                "--enable-admission-plugins=NodeRestriction",
                "--allow-privileged=true",
                &format!("--token-auth-file={}", at("tokens.csv")),
                &format!("--cert-dir={}", at("certs")),
                "--profiling=false",
            ],
        );
        *self.api.lock().unwrap_or_else(PoisonError::into_inner) = Some(api);
        let began = Instant::now();
        while let Err(error) = self.request(Method::GET, "/readyz", None).await {
            let log = fs::read_to_string(self.directory.join("apiserver.log")).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(5).collect();
            assert!(began.elapsed() < Duration::from_secs(120), "{error}: {tail:#?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    pub(crate) fn stop_api(&self) {
        let api = self.api.lock().unwrap_or_else(PoisonError::into_inner).take();
        end(&mut api.unwrap());
    }

    /// The administrator's way in.
    pub(crate) fn access(&self) -> Access {
        Access { kubeconfig: Some(self.kubeconfig("admin", ADMIN)) }
    }

    /// A kubeconfig with this token.
    pub(crate) fn kubeconfig(&self, name: &str, token: &str) -> PathBuf {
        self.write_kubeconfig(name, token, self.api_port)
    }

    /// The administrator's, through this port of the loopback.
    pub(crate) fn kubeconfig_at(&self, name: &str, port: u16) -> PathBuf {
        self.write_kubeconfig(name, ADMIN, port)
    }

    fn write_kubeconfig(&self, name: &str, token: &str, port: u16) -> PathBuf {
        let path = self.directory.join(format!("{name}.conf"));
        let ca = self.directory.join("ca.crt");
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {
                "server": format!("https://127.0.0.1:{port}"),
                "certificate-authority": ca,
            }}],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        });
        fs::write(&path, text.to_string()).unwrap();
        path
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    pub(crate) const fn port(&self) -> u16 {
        self.api_port
    }

    pub(crate) async fn client(&self) -> Client {
        self.access().client().await.unwrap()
    }

    pub(crate) async fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<String, kube::Error> {
        request(&self.access(), method, path, body).await
    }

    async fn value(&self, method: Method, path: &str, body: Option<&Value>) -> Value {
        let what = format!("{method} {path}");
        let text = self.request(method, path, body).await;
        let text = text.unwrap_or_else(|error| panic!("{what}: {error}"));
        serde_json::from_str(&text).unwrap()
    }

    /// Creates an object in a collection.
    pub(crate) async fn apply(&self, collection: &str, object: Value) -> Value {
        self.value(Method::POST, collection, Some(&object)).await
    }

    /// The same, for a kind that was just defined.
    pub(crate) async fn apply_when_served(&self, collection: &str, object: Value) {
        let began = Instant::now();
        while let Err(error) = self.request(Method::POST, collection, Some(&object)).await {
            assert!(began.elapsed() < Duration::from_secs(60), "{error}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    pub(crate) async fn patch(&self, path: &str, change: Value) -> Value {
        self.value(Method::PATCH, path, Some(&change)).await
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        self.value(Method::GET, path, None).await
    }

    /// Deletes an object at once.
    pub(crate) async fn delete(&self, path: &str) {
        let at_once = json!({"gracePeriodSeconds": 0});
        self.value(Method::DELETE, path, Some(&at_once)).await;
    }

    pub(crate) async fn namespace(&self, name: &str) {
        self.apply("/api/v1/namespaces", json!({"metadata": {"name": name}})).await;
    }

    pub(crate) async fn account(&self, namespace: &str, name: &str) {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts");
        self.apply(&path, json!({"metadata": {"name": name}})).await;
    }

    /// A pod of this account on this node, its UID.
    pub(crate) async fn pod(
        &self,
        namespace: &str,
        name: &str,
        account: &str,
        node: &str,
    ) -> String {
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        let pod = json!({
            "metadata": {"name": name},
            "spec": {
                "serviceAccountName": account,
                "automountServiceAccountToken": false,
                "nodeName": node,
                "containers": [{"name": "c", "image": "none.test/none"}],
            },
        });
        let pod = self.apply(&path, pod).await;
        pod["metadata"]["uid"].as_str().unwrap().to_owned()
    }

    /// The mirror of a static pod, as the kubelet of this node makes it.
    pub(crate) async fn mirror(&self, namespace: &str, name: &str, node: &str) {
        let token = format!("{NODE}{node}");
        let kubelet = Access { kubeconfig: Some(self.kubeconfig(node, &token)) };
        let owner = self.get(&format!("/api/v1/nodes/{node}")).await;
        let owner = json!({
            "apiVersion": "v1", "kind": "Node", "name": node, "controller": true,
            "uid": owner["metadata"]["uid"],
        });
        let hash = "0123456789abcdef0123456789abcdef";
        let annotations =
            json!({"kubernetes.io/config.mirror": hash, "kubernetes.io/config.hash": hash});
        let pod = json!({
            "metadata": {"name": name, "annotations": annotations, "ownerReferences": [owner]},
            "spec": {"nodeName": node, "containers": [{"name": "c", "image": "none.test/none"}]},
        });
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        let began = Instant::now();
        // The node's authorizer and its admission learn of the node a moment later.
        while let Err(error) = request(&kubelet, Method::POST, &path, Some(&pod)).await {
            assert!(began.elapsed() < Duration::from_secs(60), "{error}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// An object, as soon as it is as it should be.
    pub(crate) async fn until(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let began = tokio::time::Instant::now();
        loop {
            let object = self.get(path).await;
            if wanted(&object) {
                return object;
            }
            assert!(began.elapsed() < Duration::from_secs(90), "{path}: {object}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Applies what a file of deploy/ holds.
    pub(crate) async fn deploy(&self, file: &str) {
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
        let text = fs::read_to_string(deploy.join(file)).unwrap();
        for document in serde_yaml::Deserializer::from_str(&text) {
            let object: Value = serde::Deserialize::deserialize(document).unwrap();
            let kind = object["kind"].as_str().unwrap();
            let (group, plural) = match object["apiVersion"].as_str().unwrap() {
                "v1" => ("/api/v1".to_owned(), kind),
                version => (format!("/apis/{version}"), kind),
            };
            let plural = match plural.to_lowercase() {
                policy if policy.ends_with("policy") => policy.replace("policy", "policies"),
                other => format!("{other}s"),
            };
            let namespace = object["metadata"]["namespace"].as_str();
            let namespace = namespace.map(|name| format!("/namespaces/{name}")).unwrap_or_default();
            self.apply(&format!("{group}{namespace}/{plural}"), object).await;
        }
    }

    /// Gives a service account a role in the whole cluster.
    pub(crate) async fn grant(&self, role: &str, rules: Value, namespace: &str, account: &str) {
        let base = "/apis/rbac.authorization.k8s.io/v1";
        let named = json!({"name": role});
        self.apply(&format!("{base}/clusterroles"), json!({"metadata": named, "rules": rules}))
            .await;
        let subject = json!({"kind": "ServiceAccount", "namespace": namespace, "name": account});
        let reference =
            json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role});
        let binding = json!({"metadata": named, "subjects": [subject], "roleRef": reference});
        self.apply(&format!("{base}/clusterrolebindings"), binding).await;
    }

    /// A token of a service account, as the TokenRequest's specification says.
    pub(crate) async fn token(&self, namespace: &str, account: &str, spec: Value) -> String {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let answer = self.apply(&path, json!({"spec": spec})).await;
        answer["status"]["token"].as_str().unwrap().to_owned()
    }

    /// As a kubelet would: the pod runs and has this address.
    pub(crate) async fn runs(&self, namespace: &str, name: &str, phase: &str, address: &str) {
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/status");
        let status = json!({
            "phase": phase, "podIP": address, "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": "True"}],
        });
        self.patch(&path, json!({"status": status})).await;
    }
}

/// A request by whoever has this way in.
pub(crate) async fn request(
    access: &Access,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<String, kube::Error> {
    let kind = match method {
        Method::PATCH => "application/merge-patch+json",
        _ => "application/json",
    };
    let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
    let request = Request::builder().method(method).uri(path).header("content-type", kind);
    let client = access.client().await.unwrap();
    client.request_text(request.body(body).unwrap()).await
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(api) = self.api.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            end(api);
        }
        end(&mut self.etcd);
        let _left: std::io::Result<()> = fs::remove_dir_all(&self.directory);
    }
}

fn end(child: &mut Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

fn spawn(binary: &Path, directory: &Path, name: &str, arguments: &[&str]) -> Child {
    let log = File::options()
        .create(true)
        .append(true)
        .open(directory.join(format!("{name}.log")))
        .unwrap();
    Command::new(binary)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .spawn()
        .unwrap()
}

pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

fn make_files(directory: &Path) {
    let write = |name: &str, text: &str| fs::write(directory.join(name), text).unwrap();
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca = CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap();
    write("ca.crt", &ca.pem());
    let api = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
    let key = KeyPair::generate().unwrap();
    write("api.crt", &api.signed_by(&key, &ca).unwrap().pem());
    write("api.key", &key.serialize_pem());
    let account = KeyPair::generate().unwrap();
    write("sa.key", &account.serialize_pem());
    write("sa.pub", &account.public_key_pem());
    let kubelets = ["n1", "n2"]
        .map(|node| format!("{NODE}{node},system:node:{node},uid-{node},\"system:nodes\"\n"));
    let admin = format!("{ADMIN},admin,uid-1,\"system:masters\"\n");
    write("tokens.csv", &(admin + &kubelets.concat()));
}
