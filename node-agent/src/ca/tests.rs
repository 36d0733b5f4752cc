//! The CA over real gRPC and TLS on loopback, with the agent's own client and with bad ones.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use adit_core::identity::SpiffeId;
use adit_core::rotation::State;
use adit_core::workload::{
    MeshMode, NodeName, ObjectName, Owner, Phase as PodPhase, PodUid, Workload,
};
use adit_core::world::Delta;
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tonic::Code;
use tonic::transport::Channel;

use super::*;
use crate::identity::{
    CaClient, CaSettings, Certificates, Configured, RemoteCa, Source, SourceError, Svid,
};
use crate::pki;
use crate::proto::istio_ca::IstioCertificateRequest;
use crate::proto::istio_ca::istio_certificate_service_client::IstioCertificateServiceClient;
use crate::shutdown::{self, Trigger};

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn a_node_gets_the_identities_of_its_pods_and_no_others() {
    let ca = Ca::start().await;
    let svid = ca.fetch("token-a", "cart", HOUR).await.unwrap();
    assert_eq!(*svid.identity(), id("cart"));
    assert_eq!(svid.chain().len(), 2, "the certificate and the intermediate");
    let life = svid.not_after().duration_since(Clock::system().now());
    assert!(life.unwrap() <= HOUR);

    for (token, name) in [("token-a", "shop"), ("token-b", "cart"), ("token-a", "done")] {
        let error = ca.fetch(token, name, HOUR).await.unwrap_err();
        assert!(matches!(error, SourceError::PermissionDenied { .. }), "{token} {name}: {error}");
    }
    ca.fetch("token-b", "shop", HOUR).await.unwrap();
}

#[tokio::test]
async fn a_pod_that_comes_and_goes_is_noticed() {
    let ca = Ca::start().await;
    ca.fetch("token-a", "late", HOUR).await.unwrap_err();
    ca.worlds.publish([pod("late", "node-a", PodPhase::Active)]);
    ca.fetch("token-a", "late", HOUR).await.unwrap();
    ca.worlds.publish([Delta::WorkloadGone(PodUid::parse("late").unwrap())]);
    ca.fetch("token-a", "late", HOUR).await.unwrap_err();
}

#[tokio::test]
async fn a_wrong_token_is_not_accepted() {
    let ca = Ca::start().await;
    let error = ca.fetch("token-c", "cart", HOUR).await.unwrap_err();
    assert!(matches!(error, SourceError::Unauthenticated { .. }), "{error}");
    let error = ca.fetch("", "cart", HOUR).await.unwrap_err();
    assert!(matches!(error, SourceError::Local(_)), "{error}");
}

#[tokio::test]
async fn too_long_a_life_is_cut_to_a_day() {
    let ca = Ca::start().await;
    let svid = ca.fetch("token-a", "cart", 1000 * HOUR).await.unwrap();
    let life = svid.not_after().duration_since(Clock::system().now());
    let life = life.unwrap();
    assert!(life > 23 * HOUR && life <= 24 * HOUR, "{life:?}");
}

#[tokio::test]
async fn requests_that_are_wrong_are_refused_each_for_its_reason() {
    let ca = Ca::start().await;
    let mut client = ca.raw().await;
    let cart = pki::request(&id("cart")).unwrap().1;
    let shop = pki::request(&id("shop")).unwrap().1;
    let own = id("cart").to_string();
    let token = Some("Bearer token-a");
    let foreign = SpiffeId::parse("spiffe://other/ns/test/sa/cart").unwrap();
    let foreign = pki::request(&foreign).unwrap().1;
    let long = "x".repeat(100_000);
    let (bad, denied) = (Code::InvalidArgument, Code::PermissionDenied);
    let own = Some(own.as_str());
    let cases = [
        ("no token", None, ask(&cart, own, 60), Code::Unauthenticated),
        ("no CSR", token, ask("", own, 60), bad),
        ("bad CSR", token, ask("garbage", own, 60), bad),
        ("other SAN", token, ask(&shop, own, 60), bad),
        ("bad identity", token, ask(&cart, Some("cart"), 60), bad),
        ("negative life", token, ask(&cart, own, -1), bad),
        ("too long", token, ask(&long, own, 60), Code::OutOfRange),
        ("other trust domain", token, ask(&foreign, None, 60), denied),
        ("of another node", token, ask(&shop, None, 60), denied),
    ];
    for (what, token, message, code) in cases {
        let mut request = tonic::Request::new(message);
        if let Some(token) = token {
            let token = token.parse().unwrap();
            request.metadata_mut().insert("authorization", token);
        }
        let status = client.create_certificate(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{what}: {status}");
    }
    // The twins: by its CSR alone, and with the default life.
    let mut request = tonic::Request::new(ask(&cart, None, 0));
    let metadata = request.metadata_mut();
    metadata.insert("authorization", "Bearer token-a".parse().unwrap());
    let answer = client.create_certificate(request).await.unwrap();
    assert_eq!(answer.into_inner().cert_chain.len(), 3);
}

#[tokio::test]
async fn garbage_and_silence_do_not_keep_the_others_from_being_served() {
    let ca = Ca::start().await;
    let mut open = Vec::new();
    for bytes in [&b""[..], b"GET / HTTP/1.1\r\n\r\n", &[0x16, 3, 1, 0xff, 0xff], &[0; 4096]] {
        let mut stream = TcpStream::connect(ca.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        open.push(stream);
    }
    ca.fetch("token-a", "cart", HOUR).await.unwrap();
}

#[tokio::test]
async fn the_client_believes_no_ca_but_the_one_it_is_told() {
    let [ca, other] = [Ca::start().await, Ca::start().await];
    let mut settings = ca.settings("token-a");
    settings.root = other.path("ca").join(pki::ROOT_CERT);
    let error = fetch(settings, "cart").await.unwrap_err();
    assert!(matches!(error, SourceError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains("UnknownIssuer"), "{error}");

    let mut settings = ca.settings("token-a");
    settings.server_name = ServerName::try_from("someone-else").unwrap();
    let error = fetch(settings, "cart").await.unwrap_err();
    assert!(error.to_string().contains("not valid for name"), "{error}");
}

#[tokio::test]
async fn a_ca_of_another_trust_domain_is_not_served() {
    let ca = Ca::start().await;
    let mut options = ca.options.clone();
    options.trust_domain = TrustDomain::parse("other.example").unwrap();
    let error = Bound::bind(options, Worlds::new()).await.map(|_| ());
    let error = error.unwrap_err().to_string();
    assert!(error.contains("spiffe://cluster.local"), "{error}");
}

#[tokio::test]
async fn an_agent_with_the_cas_files_signs_for_itself() {
    let ca = Ca::start().await;
    let source = Configured::new(CaSettings::File(ca.path("ca")), Clock::system());
    let svid = source.fetch(&id("any"), HOUR).await.unwrap();
    assert_eq!(*svid.identity(), id("any"));
    let missing = Configured::new(CaSettings::File(ca.path("nothing")), Clock::system());
    let error = missing.fetch(&id("any"), HOUR).await.unwrap_err();
    assert!(matches!(error, SourceError::Local(_)), "{error}");
}

#[tokio::test]
async fn certificates_of_seconds_are_renewed_and_survive_the_ca_being_away() {
    let mut ca = Ca::start().await;
    let source = CaClient::new(ca.settings("token-a"), Clock::system());
    let lifetime = Duration::from_secs(8);
    let (certificates, rotating) = Certificates::new(source, lifetime, Clock::system());
    let (trigger, shutdown) = shutdown::channel();
    let task = tokio::spawn(rotating.run(shutdown));

    let first = certificates.acquire(&id("cart")).await.unwrap();
    until(|| renewals(&certificates) == 1).await;
    let second = certificates.current(&id("cart")).unwrap();
    assert_ne!(first.serial(), second.serial());

    ca.stop().await;
    until(|| certificates.list()[0].failures > 0).await;
    let status = certificates.list()[0].clone();
    assert_eq!(status.state, State::Valid);
    let error = status.last_error.unwrap();
    assert_eq!(error.reason.as_label(), "unreachable", "{}", error.text);
    let kept = certificates.current(&id("cart")).unwrap();
    assert_eq!(kept.serial(), second.serial());

    ca.run_again().await;
    until(|| renewals(&certificates) >= 2).await;
    assert_eq!(certificates.list()[0].last_error, None);
    assert!(certificates.current(&id("cart")).is_some());
    trigger.advance(Phase::Forced);
    task.await.unwrap();
}

/// A CA with pods `cart` and `done` (finished) on node-a and `shop` on node-b.
struct Ca {
    directory: PathBuf,
    options: ServeOptions,
    address: SocketAddr,
    worlds: Worlds,
    running: Option<(Trigger, JoinHandle<Result<(), CaError>>)>,
}

impl Ca {
    async fn start() -> Self {
        let name = format!("adit-ca-{:x}", rand::random::<u64>());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir(&directory).unwrap();
        let trust_domain = TrustDomain::parse("cluster.local").unwrap();
        let made = init::run(&init::InitOptions {
            directory: directory.join("ca"),
            trust_domain: trust_domain.clone(),
        });
        assert_eq!(made.unwrap().len(), 5);
        private(&directory.join("tokens"), "node-a: token-a\nnode-b: token-b\n");
        let worlds = Worlds::new();
        worlds.publish([
            pod("cart", "node-a", PodPhase::Active),
            pod("done", "node-a", PodPhase::Finished),
            pod("shop", "node-b", PodPhase::Active),
        ]);
        let options = ServeOptions {
            listen: ([127, 0, 0, 1], 0).into(),
            trust_domain,
            names: vec!["adit-ca".to_owned()],
            addresses: Vec::new(),
            backing: Backing::Files {
                tokens: directory.join("tokens"),
                directory: directory.join("ca"),
            },
        };
        let mut ca = Self { directory, address: options.listen, options, worlds, running: None };
        ca.run_again().await;
        ca
    }

    async fn run_again(&mut self) {
        self.options.listen = self.address;
        let bound = Bound::bind(self.options.clone(), self.worlds.clone()).await;
        let bound = bound.unwrap();
        self.address = bound.address();
        let (trigger, shutdown) = shutdown::channel();
        self.running = Some((trigger, tokio::spawn(bound.run(shutdown))));
    }

    async fn stop(&mut self) {
        let (trigger, task) = self.running.take().unwrap();
        trigger.advance(Phase::Draining);
        task.await.unwrap().unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn settings(&self, token: &str) -> RemoteCa {
        let file = self.path(&format!("token-{:x}", rand::random::<u64>()));
        private(&file, &format!("{token}\n"));
        RemoteCa {
            address: format!("https://{}", self.address).parse().unwrap(),
            root: self.path("ca").join(pki::ROOT_CERT),
            token: file,
            server_name: ServerName::try_from("adit-ca").unwrap(),
        }
    }

    async fn fetch(
        &self,
        token: &str,
        name: &str,
        lifetime: Duration,
    ) -> Result<Svid, SourceError> {
        let client = CaClient::new(self.settings(token), Clock::system());
        client.fetch(&id(name), lifetime).await
    }

    /// A client that sends what it is told to.
    async fn raw(&self) -> IstioCertificateServiceClient<Channel> {
        let root = fs::read_to_string(self.path("ca").join(pki::ROOT_CERT)).unwrap();
        let tls = tonic::transport::ClientTlsConfig::new()
            .ca_certificate(tonic::transport::Certificate::from_pem(root))
            .domain_name("adit-ca");
        let channel = tonic::transport::Endpoint::from_shared(format!("https://{}", self.address))
            .unwrap()
            .tls_config(tls)
            .unwrap()
            .connect()
            .await
            .unwrap();
        IstioCertificateServiceClient::new(channel)
    }
}

impl Drop for Ca {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.directory).unwrap();
    }
}

async fn fetch(settings: RemoteCa, name: &str) -> Result<Svid, SourceError> {
    CaClient::new(settings, Clock::system()).fetch(&id(name), HOUR).await
}

fn renewals(certificates: &Certificates) -> u64 {
    certificates.list()[0].renewals
}

fn ask(csr: &str, identity: Option<&str>, validity_duration: i64) -> IstioCertificateRequest {
    let value = |text: &str| prost_types::Value {
        kind: Some(prost_types::value::Kind::StringValue(text.to_owned())),
    };
    let metadata = identity.map(|text| prost_types::Struct {
        fields: [("ImpersonatedIdentity".to_owned(), value(text))].into(),
    });
    IstioCertificateRequest { csr: csr.to_owned(), validity_duration, metadata }
}

async fn until(condition: impl Fn() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(20), "in time");
        sleep(Duration::from_millis(20)).await;
    }
}

fn private(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

fn id(name: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://cluster.local/ns/test/sa/{name}")).unwrap()
}

fn pod(name: &str, node: &str, phase: PodPhase) -> Delta {
    Delta::Workload(Workload {
        uid: PodUid::parse(name).unwrap(),
        name: ObjectName::new("test", name),
        node: Some(NodeName::new(node)),
        identity: id(name),
        addresses: Vec::new(),
        mode: MeshMode::Unset,
        host_network: false,
        phase,
        owner: Owner { kind: Arc::from("pod"), name: Arc::from(name) },
        labels: BTreeMap::new(),
        probed: Vec::new(),
        tunnel_ports: Vec::new(),
        mirror_of: None,
        announced: None,
        netns: None,
    })
}
