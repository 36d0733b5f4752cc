//! The other end of a tunnel, played by the test: with certificates of its own making, and without
//! any check of what adit presents.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use adit_e2e::Pod;
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, client as h2_client, server as h2_server};
use http::{Method, Request, Response};
use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
};
use time::OffsetDateTime;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

const HBONE: u16 = 15008;
const PATIENCE: Duration = Duration::from_secs(20);

/// A certificate with its chain and key.
pub(crate) struct Credentials {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

/// A CA that issues what it is asked for.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    chain: Vec<CertificateDer<'static>>,
}

/// When a certificate is valid.
#[derive(Clone, Copy)]
pub(crate) enum Validity {
    Now,
    Past,
    Future,
}

impl Authority {
    /// The mesh's own CA: the test has read its key from the CA's directory.
    #[track_caller]
    pub(crate) fn of_the_mesh(directory: &Path) -> Self {
        let pem = fs::read_to_string(directory.join("ca-cert.pem")).unwrap();
        let key = fs::read_to_string(directory.join("ca-key.pem")).unwrap();
        let key = KeyPair::from_pem(&key).unwrap();
        Self {
            issuer: Issuer::from_ca_cert_pem(&pem, key).unwrap(),
            chain: vec![CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()],
        }
    }

    /// A CA that nobody trusts.
    pub(crate) fn stranger() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Self { chain: vec![certificate.der().clone()], issuer: Issuer::new(params, key) }
    }

    /// A certificate with these URI names.
    pub(crate) fn issue(&self, uris: &[&str], validity: Validity) -> Credentials {
        let mut params = CertificateParams::default();
        for uri in uris {
            params.subject_alt_names.push(SanType::URI((*uri).try_into().unwrap()));
        }
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let now = OffsetDateTime::now_utc();
        let (from, to) = match validity {
            Validity::Now => (-1, 1),
            Validity::Past => (-3, -1),
            Validity::Future => (1, 3),
        };
        params.not_before = now + time::Duration::hours(from);
        params.not_after = now + time::Duration::hours(to);
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let mut chain = vec![leaf.der().clone()];
        chain.extend(self.chain.iter().cloned());
        Credentials { chain, key: PrivateKeyDer::try_from(key.serialize_der()).unwrap() }
    }
}

/// Runs asynchronous work on a thread inside a pod.
pub(crate) fn inside<T: Send>(pod: &Pod, work: impl Future<Output = T> + Send) -> T {
    pod.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async { tokio::time::timeout(PATIENCE, work).await.unwrap() })
    })
    .unwrap()
}

/// Opens a TLS connection to a pod's tunnel port, with or without a certificate.
pub(crate) async fn dial(
    pod: std::net::IpAddr,
    credentials: Option<Credentials>,
) -> io::Result<client::TlsStream<TcpStream>> {
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Gullible));
    let mut config = match credentials {
        Some(own) => config.with_client_auth_cert(own.chain, own.key).unwrap(),
        None => config.with_no_client_auth(),
    };
    config.enable_sni = false;
    config.alpn_protocols = vec![b"h2".to_vec()];
    let tcp = TcpStream::connect(SocketAddr::new(pod, HBONE)).await?;
    let name = ServerName::IpAddress(pod.into());
    TlsConnector::from(Arc::new(config)).connect(name, tcp).await
}

/// A CONNECT for this authority.
pub(crate) fn connect_to(authority: &str) -> http::request::Builder {
    Request::builder().method(Method::CONNECT).uri(authority)
}

/// Sends one request on a connection of its own, a payload with it, and returns the status and
/// what came back.
pub(crate) async fn ask(
    tls: client::TlsStream<TcpStream>,
    request: Request<()>,
    payload: &'static [u8],
) -> Result<(u16, Vec<u8>), h2::Error> {
    Box::pin(ask_on(tls, request, payload)).await
}

async fn ask_on(
    tls: client::TlsStream<TcpStream>,
    request: Request<()>,
    payload: &'static [u8],
) -> Result<(u16, Vec<u8>), h2::Error> {
    let (sender, connection) = h2_client::handshake(tls).await?;
    let driver = tokio::spawn(connection);
    let mut sender = sender.ready().await?;
    let (response, mut body) = sender.send_request(request, false)?;
    let response = response.await?;
    let status = response.status().as_u16();
    let mut received = Vec::new();
    if status == 200 {
        body.send_data(Bytes::from_static(payload), true)?;
        read_all(response.into_body(), &mut received).await?;
    }
    driver.abort();
    Ok((status, received))
}

async fn read_all(mut body: RecvStream, into: &mut Vec<u8>) -> Result<(), h2::Error> {
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        into.extend_from_slice(&chunk);
    }
    Ok(())
}

/// How a tunnel server of the test treats requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Conduct {
    /// Answers with this status, and with 200 echoes.
    Answer(u16),
    /// Takes a request, and breaks the connection before it answers.
    BreakOff,
    /// Resets the first request of all as not processed, and echoes the others.
    RefuseFirst,
    /// Echoes, and on its first connection says GOAWAY after the first request.
    GoAway,
}

/// What a request looked like that reached a tunnel server of the test.
#[derive(Debug, Clone)]
pub(crate) struct Heard {
    /// The connection it came on, counted from 0.
    pub(crate) connection: usize,
    pub(crate) sni: Option<String>,
    pub(crate) alpn: Option<Vec<u8>>,
    pub(crate) group: Option<rustls::NamedGroup>,
    pub(crate) certificates: usize,
    pub(crate) method: Method,
    pub(crate) authority: String,
    pub(crate) headers: http::HeaderMap,
}

/// A tunnel server in a pod, which echoes what comes through it.
pub(crate) struct TunnelServer {
    pub(crate) heard: Arc<Mutex<Vec<Heard>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<anyhow::Result<()>>>,
}

impl TunnelServer {
    /// Serves on the pod's tunnel port with this certificate and answers each request so.
    #[track_caller]
    pub(crate) fn start(pod: &Pod, credentials: Credentials, status: u16) -> Self {
        Self::start_with(pod, credentials, Conduct::Answer(status))
    }

    /// Serves with this certificate and treats requests so.
    #[track_caller]
    pub(crate) fn start_with(pod: &Pod, credentials: Credentials, conduct: Conduct) -> Self {
        let mut config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(Arc::new(Gullible))
            .with_single_cert(credentials.chain, credentials.key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let heard = Arc::default();
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let into = Arc::clone(&heard);
        let thread = pod.netns().spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let any = SocketAddr::from(([0_u16; 8], HBONE));
                let listener = TcpListener::bind(any).await.unwrap();
                ready.send(()).unwrap();
                tokio::select! {
                    () = accept(listener, acceptor, into, conduct) => {}
                    _ = stopped => {}
                }
            });
        });
        is_ready.recv_timeout(PATIENCE).unwrap();
        Self { heard, stop: Some(stop), thread: Some(thread.unwrap()) }
    }

    pub(crate) fn requests(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }
}

impl Drop for TunnelServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    heard: Arc<Mutex<Vec<Heard>>>,
    conduct: Conduct,
) {
    for number in 0.. {
        let (tcp, _) = listener.accept().await.unwrap();
        let (acceptor, heard) = (acceptor.clone(), Arc::clone(&heard));
        tokio::spawn(async move {
            // A client that does not like the certificate ends it here.
            if let Ok(tls) = acceptor.accept(tcp).await {
                Box::pin(serve(tls, number, heard, conduct)).await;
            }
        });
    }
}

async fn serve(
    tls: server::TlsStream<TcpStream>,
    number: usize,
    heard: Arc<Mutex<Vec<Heard>>>,
    conduct: Conduct,
) {
    let session = tls.get_ref().1;
    let (sni, alpn) =
        (session.server_name().map(str::to_owned), session.alpn_protocol().map(<[u8]>::to_vec));
    let group = session.negotiated_key_exchange_group().map(|group| group.name());
    let certificates = session.peer_certificates().map_or(0, <[_]>::len);
    let Ok(mut connection) = h2_server::handshake(tls).await else {
        return;
    };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let first = heard.lock().unwrap().is_empty();
        heard.lock().unwrap().push(Heard {
            connection: number,
            sni: sni.clone(),
            alpn: alpn.clone(),
            group,
            certificates,
            method: request.method().clone(),
            authority: request.uri().authority().map(ToString::to_string).unwrap_or_default(),
            headers: request.headers().clone(),
        });
        let status = match conduct {
            Conduct::Answer(status) => status,
            Conduct::BreakOff => return,
            Conduct::RefuseFirst if first => {
                respond.send_reset(h2::Reason::REFUSED_STREAM);
                continue;
            }
            Conduct::RefuseFirst => 200,
            Conduct::GoAway => {
                if number == 0 {
                    connection.graceful_shutdown();
                }
                200
            }
        };
        tokio::spawn(answer(request.into_body(), respond, status));
    }
}

async fn answer(
    body: RecvStream,
    mut respond: SendResponse<Bytes>,
    status: u16,
) -> Result<(), h2::Error> {
    let response = Response::builder().status(status).body(()).unwrap();
    let mut out = respond.send_response(response, status != 200)?;
    if status == 200 {
        let mut text = Vec::new();
        read_all(body, &mut text).await?;
        out.send_data(text.into(), true)?;
    }
    Ok(())
}

/// Believes everything: the question is what adit does.
#[derive(Debug)]
struct Gullible;

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Gullible {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}
