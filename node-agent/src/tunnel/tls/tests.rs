//! Two streams over loopback, each attached on the test's runtime after its handshake.

use std::sync::Arc;

use rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

type Client = TlsStream<UnbufferedClientConnection>;
type Server = TlsStream<UnbufferedServerConnection>;

#[tokio::test]
async fn carries_megabytes_both_ways_at_once_unchanged() {
    let (client, server) = pair().await;
    let data: Arc<[u8]> =
        (0..8_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (client, server) =
        tokio::join!(exchange(client, Arc::clone(&data)), exchange(server, Arc::clone(&data)));
    assert!(client == *data, "what the client got");
    assert!(server == *data, "what the server got");
}

#[tokio::test]
async fn small_writes_wait_for_the_flush_and_arrive_whole() {
    let (mut client, mut server) = pair().await;
    for word in ["one ", "two ", "three"] {
        client.write_all(word.as_bytes()).await.unwrap();
    }
    assert_eq!(client.tls.staged, 13, "nothing is sealed before the flush");
    client.flush().await.unwrap();
    let mut got = [0; 13];
    server.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"one two three");
}

#[tokio::test]
async fn a_close_notify_ends_the_stream_and_a_bare_fin_is_an_error() {
    let (mut client, mut server) = pair().await;
    client.write_all(b"bye").await.unwrap();
    client.shutdown().await.unwrap();
    let mut got = Vec::new();
    server.read_to_end(&mut got).await.unwrap();
    assert_eq!(got, b"bye");

    let (mut client, mut server) = pair().await;
    client.tcp.shutdown().await.unwrap();
    let cut = server.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn what_came_with_the_last_handshake_message_is_not_lost_on_the_way_to_the_worker() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (client, server) = configs();
    let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    let server = UnbufferedServerConnection::new(server).unwrap();
    let server = tokio::spawn(async move {
        // Lets the client's Finished and its first bytes arrive together.
        let detached = Detached::handshake(accepted, server).await.unwrap();
        detached.attach().unwrap()
    });
    let session = UnbufferedClientConnection::new(client, name()).unwrap();
    let mut client = Detached::handshake(tcp, session).await.unwrap().attach().unwrap();
    client.write_all(b"early").await.unwrap();
    client.flush().await.unwrap();
    let mut got = [0; 5];
    server.await.unwrap().read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"early");
}

#[tokio::test]
async fn garbage_instead_of_a_handshake_is_an_error_and_answered_with_an_alert() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    tcp.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let session = UnbufferedServerConnection::new(configs().1).unwrap();
    let error = Detached::handshake(accepted, session).await.err().unwrap();
    assert!(matches!(error, HandshakeError::Tls(_)), "{error:?}");
    let mut alert = Vec::new();
    // The alert, then a close; the unread garbage may turn the close into a reset.
    let _reset: io::Result<usize> = tcp.read_to_end(&mut alert).await;
    assert_eq!(alert.first(), Some(&21), "content type alert (RFC 8446, section 5.1)");
}

#[tokio::test]
async fn an_idle_stream_holds_no_buffer() {
    let (mut client, mut server) = pair().await;
    for _ in 0..3 {
        client.write_all(&[7; 100_000]).await.unwrap();
        client.flush().await.unwrap();
        server.read_exact(&mut vec![0; 100_000]).await.unwrap();
    }
    for tls in [&client.tls.outgoing, &client.tls.staging] {
        assert_eq!(tls.capacity(), 0);
    }
    assert_eq!((server.tls.incoming.capacity(), server.tls.plain.capacity()), (0, 0));
}

async fn exchange<S: Session>(mut stream: TlsStream<S>, data: Arc<[u8]>) -> Vec<u8> {
    let mut got = vec![0; data.len()];
    let (mut reader, mut writer) = tokio::io::split(&mut stream);
    let send = async {
        // Sizes around the record's and the stage's.
        let mut rest = &data[..];
        for size in [1, 100, 16_383, 16_384, 16_385, 65_535, 65_537, 300_000].iter().cycle() {
            let (part, left) = rest.split_at((*size).min(rest.len()));
            writer.write_all(part).await.unwrap();
            rest = left;
            if rest.is_empty() {
                break;
            }
        }
        writer.flush().await.unwrap();
    };
    tokio::join!(send, async { reader.read_exact(&mut got).await.unwrap() });
    got
}

async fn pair() -> (Client, Server) {
    Box::pin(connected()).await
}

async fn connected() -> (Client, Server) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (client, server) = configs();
    let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    let client = UnbufferedClientConnection::new(client, name()).unwrap();
    let server = UnbufferedServerConnection::new(server).unwrap();
    let (client, server) =
        tokio::join!(Detached::handshake(tcp, client), Detached::handshake(accepted, server));
    (client.unwrap().attach().unwrap(), server.unwrap().attach().unwrap())
}

fn name() -> ServerName<'static> {
    ServerName::try_from("peer").unwrap()
}

fn configs() -> (Arc<rustls::ClientConfig>, Arc<rustls::ServerConfig>) {
    let made = rcgen::generate_simple_self_signed(["peer".to_owned()]).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    (Arc::new(client), Arc::new(server))
}
