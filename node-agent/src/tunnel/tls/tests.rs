//! Two streams over loopback, each attached on the test's runtime after its handshake.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

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
    assert_eq!(client.outgoing.staged(), 13, "nothing is sealed before the flush");
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
async fn goes_on_with_another_key_when_one_is_worn_or_the_other_end_asks() {
    let (mut client, mut server) = pair().await;
    for round in 0..3_u8 {
        client.update_due = true;
        server.update_due = round == 1;
        let mut got = [0; 2];
        for _ in 0..2 {
            client.write_all(&[round]).await.unwrap();
            client.flush().await.unwrap();
            client.write_all(&[round + 1]).await.unwrap();
            client.flush().await.unwrap();
            server.read_exact(&mut got).await.unwrap();
            assert_eq!(got, [round, round + 1]);
            std::mem::swap(&mut client, &mut server);
        }
    }

    client.outgoing.say(&mut client.keys.seal, Content::Handshake, &[24, 0, 0, 1, 1]).unwrap();
    client.keys.seal = Key::new(0, &client.keys.next.next_to_seal().unwrap()).unwrap();
    client.write_all(b"and yours?").await.unwrap();
    client.flush().await.unwrap();
    server.read_exact(&mut [0; 10]).await.unwrap();
    assert!(!server.update_due, "it answered at once");
    server.write_all(b"mine too").await.unwrap();
    server.flush().await.unwrap();
    client.read_exact(&mut [0; 8]).await.unwrap();
    assert_eq!(client.receiver.idle(), 0, "the data came after the update");
}

#[tokio::test]
async fn endless_updates_of_the_key_are_refused() {
    let (mut client, mut server) = pair().await;
    for _ in 0..=receiver::IDLE_RECORDS {
        client.update_due = true;
        client.flush().await.unwrap();
    }
    let error = server.read(&mut [0]).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn a_ticket_that_was_not_asked_for_is_read_over() {
    let (mut client, mut server) = pair().await;
    let ticket = [&[4, 0, 1, 0][..], &[7; 256]].concat();
    for half in [&ticket[..100], &[&ticket[100..], &ticket].concat()] {
        server.outgoing.say(&mut server.keys.seal, Content::Handshake, half).unwrap();
    }
    server.write_all(b"hello").await.unwrap();
    server.flush().await.unwrap();
    let mut got = [0; 5];
    client.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"hello");

    client.outgoing.say(&mut client.keys.seal, Content::Handshake, &ticket).unwrap();
    client.flush().await.unwrap();
    let error = server.read(&mut got).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "a client has no tickets to give");
}

#[tokio::test]
async fn a_record_that_was_changed_ends_the_stream_and_both_ends_know() {
    let (mut client, mut server) = pair().await;
    client.outgoing.stage(&mut client.keys.seal, b"hello").unwrap();
    client.outgoing.seal(&mut client.keys.seal).unwrap();
    let mut record = client.outgoing.unsent().to_vec();
    *record.last_mut().unwrap() ^= 1;
    client.tcp.write_all(&record).await.unwrap();
    let error = server.read(&mut [0; 5]).await.unwrap_err();
    assert!(error.to_string().contains("changed"), "{error}");
    let error = client.read(&mut [0]).await.unwrap_err();
    assert!(error.to_string().contains("alert"), "{error}");
}

#[tokio::test]
async fn speaks_with_rustls_itself_at_the_other_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (client, server) = configs();
    let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    let server = UnbufferedServerConnection::new(server).unwrap();
    let connector = tokio_rustls::TlsConnector::from(client);
    let (client, server) =
        tokio::join!(connector.connect(name(), tcp), Shaken::shake(accepted, server));
    let (mut client, server) = (client.unwrap(), attach(server.unwrap()));
    client.get_mut().1.refresh_traffic_keys().unwrap();
    let data: Arc<[u8]> = (0..3_000_000_u32).map(|n| (n >> 24 ^ n >> 7).to_le_bytes()[0]).collect();
    let (client, server) =
        tokio::join!(exchange(client, Arc::clone(&data)), exchange(server, Arc::clone(&data)));
    assert!(client == *data && server == *data);
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
        Shaken::shake(accepted, server).await.unwrap().detach().unwrap()
    });
    let session = UnbufferedClientConnection::new(client, name()).unwrap();
    let mut client = attach(Shaken::shake(tcp, session).await.unwrap());
    client.write_all(b"early").await.unwrap();
    client.flush().await.unwrap();
    let mut got = [0; 5];
    server.await.unwrap().attach().unwrap().read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"early");
}

#[tokio::test]
async fn garbage_instead_of_a_handshake_is_an_error_and_answered_with_an_alert() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    tcp.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let session = UnbufferedServerConnection::new(configs().1).unwrap();
    let error = Shaken::shake(accepted, session).await.err().unwrap();
    assert!(matches!(error, HandshakeError::Tls(_)), "{error:?}");
    let mut alert = Vec::new();
    // The alert, then a close; the unread garbage may turn the close into a reset.
    let _reset: io::Result<usize> = tcp.read_to_end(&mut alert).await;
    assert_eq!(alert.first(), Some(&21), "content type alert (RFC 8446, section 5.1)");
}

#[tokio::test]
async fn a_reader_without_room_loses_nothing() {
    let (mut client, mut server) = pair().await;
    client.write_all(b"hello").await.unwrap();
    client.flush().await.unwrap();
    server.read_exact(&mut [0; 2]).await.unwrap();
    let none =
        std::future::poll_fn(|cx| Pin::new(&mut server).poll_read(cx, &mut ReadBuf::new(&mut [])));
    tokio::time::timeout(Duration::from_secs(5), none).await.unwrap().unwrap();
    let mut rest = [0; 3];
    server.read_exact(&mut rest).await.unwrap();
    assert_eq!(&rest, b"llo");
}

#[tokio::test]
async fn what_came_before_a_bad_record_is_handed_out_and_nothing_after_it() {
    let (mut client, mut server) = pair().await;
    client.write_all(b"good").await.unwrap();
    client.flush().await.unwrap();
    client.outgoing.say(&mut client.keys.seal, Content::Alert, &[2, 80]).unwrap();
    client.write_all(b"and more").await.unwrap();
    client.flush().await.unwrap();
    let mut got = Vec::new();
    let error = server.read_to_end(&mut got).await.unwrap_err();
    assert_eq!((error.kind(), &got[..]), (io::ErrorKind::InvalidData, &b"good"[..]));
    let again = server.read(&mut [0; 8]).await.unwrap_err();
    assert_eq!(again.kind(), io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn nothing_is_sent_after_close_notify() {
    let (mut client, mut server) = pair().await;
    client.shutdown().await.unwrap();
    let error = client.write(b"late").await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
}

#[tokio::test]
async fn an_idle_stream_holds_no_buffer() {
    let (mut client, mut server) = pair().await;
    for _ in 0..3 {
        client.write_all(&[7; 100_000]).await.unwrap();
        client.flush().await.unwrap();
        server.read_exact(&mut vec![0; 100_000]).await.unwrap();
    }
    assert!(!client.outgoing.holds_a_buffer());
    // Whoever reads next finds nothing, and waits without a buffer.
    let mut byte = [0];
    let next = std::future::poll_fn(|cx| {
        Poll::Ready(Pin::new(&mut server).poll_read(cx, &mut ReadBuf::new(&mut byte)))
    });
    assert!(next.await.is_pending());
    assert!(!server.receiver.holds_a_buffer());
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, data: Arc<[u8]>) -> Vec<u8> {
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

async fn pair() -> (TlsStream, TlsStream) {
    Box::pin(connected()).await
}

async fn connected() -> (TlsStream, TlsStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (client, server) = configs();
    let tcp = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    let client = UnbufferedClientConnection::new(client, name()).unwrap();
    let server = UnbufferedServerConnection::new(server).unwrap();
    let (client, server) =
        tokio::join!(Shaken::shake(tcp, client), Shaken::shake(accepted, server));
    (attach(client.unwrap()), attach(server.unwrap()))
}

fn attach<S: Session>(shaken: Shaken<S>) -> TlsStream {
    shaken.detach().unwrap().attach().unwrap()
}

fn name() -> ServerName<'static> {
    ServerName::try_from("peer").unwrap()
}

fn configs() -> (Arc<rustls::ClientConfig>, Arc<rustls::ServerConfig>) {
    let made = rcgen::generate_simple_self_signed(["peer".to_owned()]).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut client = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let mut server = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    client.enable_secret_extraction = true;
    server.enable_secret_extraction = true;
    server.send_tls13_tickets = 0;
    (Arc::new(client), Arc::new(server))
}
