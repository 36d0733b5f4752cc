//! Handshakes in memory. Every refusal differs from the handshake that succeeds in one thing only.

use std::sync::Arc;
use std::time::Duration;

use adit_core::flow::TlsInfo;
use rcgen::{ExtendedKeyUsagePurpose, SanType};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ServerConfig, ServerConnection};

use super::*;
use crate::identity::mint::{HOUR, Mint, clock, id, now, uri};
use crate::identity::{ALPN, tls_info};

#[test]
fn two_peers_of_one_mesh_agree_on_post_quantum_tls_and_know_each_other() {
    let mint = Mint::new();
    let [client, server] = ["client", "server"].map(|name| mint.svid(&id(name), HOUR, &clock()));
    let config = client.unwrap().client_config(&id("server")).unwrap();
    let ended = handshake(config, server.unwrap().server_config());
    let (client, server) = (ended.client.unwrap(), ended.server.unwrap());

    let expected =
        TlsInfo { version: "TLSv1.3", group: "X25519MLKEM768", cipher: "TLS_AES_256_GCM_SHA384" };
    assert_eq!(tls_info(&client), Some(expected));
    assert_eq!(tls_info(&server), Some(expected));
    assert_eq!(client.alpn_protocol(), Some(ALPN));
    assert_eq!(server.alpn_protocol(), Some(ALPN));
    assert_eq!(server.server_name(), None, "no SNI is sent");
    assert_eq!(client.tls13_tickets_received(), 0);
    let of = |chain: Option<&[CertificateDer<'_>]>| peer_identity(chain.unwrap());
    assert_eq!(of(client.peer_certificates()), Ok(id("server")));
    assert_eq!(of(server.peer_certificates()), Ok(id("client")));
}

#[test]
fn a_server_refuses_a_client_for_what_is_wrong_with_its_certificate() {
    for case in cases() {
        let mint = Mint::new();
        let client = mint.peer(&id("client"), case.change);
        let server = mint.peer(&id("server"), |_| {});
        let ended = handshake(client.client(&id("server")), server.server());
        ended.refused(case.failure, "server", case.what);
        // Only the one who refuses knows why.
        assert_eq!(
            classify(&ended.client.unwrap_err()),
            TlsFailure::RejectedByPeer,
            "{}",
            case.what
        );
    }
}

#[test]
fn a_client_refuses_a_server_for_what_is_wrong_with_its_certificate() {
    for case in cases() {
        let mint = Mint::new();
        let client = mint.peer(&id("client"), |_| {});
        let server = mint.peer(&id("server"), case.change);
        let ended = handshake(client.client(&id("server")), server.server());
        ended.refused(case.failure, "client", case.what);
        assert_eq!(
            classify(&ended.server.unwrap_err()),
            TlsFailure::RejectedByPeer,
            "{}",
            case.what
        );
    }
}

#[test]
fn a_dns_name_beside_the_one_identity_does_no_harm() {
    let mint = Mint::new();
    let client = mint.peer(&id("client"), |params| {
        params.subject_alt_names.push(dns("example.com"));
    });
    let server = mint.peer(&id("server"), |_| {});
    handshake(client.client(&id("server")), server.server()).succeeded();
}

#[test]
fn a_certificate_for_the_other_end_of_tls_only_is_refused() {
    let server_only = |params: &mut rcgen::CertificateParams| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    };
    let mint = Mint::new();
    let client = mint.peer(&id("client"), server_only);
    let server = mint.peer(&id("server"), server_only);
    let good = mint.peer(&id("client"), |_| {});
    handshake(good.client(&id("server")), server.server()).succeeded();
    let ended = handshake(client.client(&id("server")), server.server());
    ended.refused(TlsFailure::UntrustedIssuer, "server", "server use only");
}

#[test]
fn a_client_accepts_exactly_the_identity_it_expects() {
    let mint = Mint::new();
    let client = mint.peer(&id("client"), |_| {});
    let server = mint.peer(&id("server"), |_| {});
    handshake(client.client(&id("server")), server.server()).succeeded();

    let ended = handshake(client.client(&id("other")), server.server());
    ended.refused(TlsFailure::WrongIdentity, "client", "wrong identity");
    let error = io::Error::new(io::ErrorKind::InvalidData, ended.client.unwrap_err());
    assert_eq!(classify_io(&error), TlsFailure::WrongIdentity);
    let peer = rejected_peer(&error).unwrap();
    assert_eq!(peer.proved, Some(id("server")));
    assert!(peer.to_string().contains("test/sa/server"), "{peer}");
}

#[test]
fn a_peer_of_another_root_is_refused_by_whoever_does_not_trust_it() {
    let [mint, other] = [Mint::new(), Mint::new()];
    let stranger = || other.peer(&id("client"), |_| {}).trusting(&mint);
    let server = mint.peer(&id("server"), |_| {});
    let ended = handshake(stranger().client(&id("server")), server.server());
    ended.refused(TlsFailure::UntrustedIssuer, "server", "client of another root");

    let client = mint.peer(&id("client"), |_| {});
    let ended = handshake(client.client(&id("client")), stranger().server());
    ended.refused(TlsFailure::UntrustedIssuer, "client", "server of another root");
}

#[test]
fn a_client_without_a_certificate_is_refused() {
    let mint = Mint::new();
    let server = mint.peer(&id("server"), |_| {});
    let mut config = expecting_server(&mint, (*provider()).clone()).with_no_client_auth();
    config.alpn_protocols = vec![ALPN.to_vec()];
    let ended = handshake(config, server.server());
    ended.refused(TlsFailure::NoPeerCertificate, "server", "no certificate");
    let at_client = classify(&ended.client.unwrap_err());
    assert_eq!(at_client, TlsFailure::RejectedByPeer);
}

#[test]
fn http_1_only_is_a_protocol_failure() {
    let mint = Mint::new();
    let client = mint.peer(&id("client"), |_| {});
    let server = mint.peer(&id("server"), |_| {});
    let mut config = client.client(&id("server"));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let ended = handshake(config, server.server());
    ended.refused(TlsFailure::Protocol, "server", "ALPN");
}

#[test]
fn a_peer_without_post_quantum_key_exchange_gets_an_elliptic_curve() {
    let mint = Mint::new();
    let client = mint.peer(&id("client"), |_| {});
    let server = mint.peer(&id("server"), |_| {});
    let mut old = (*provider()).clone();
    old.kx_groups.retain(|group| group.name() != rustls::NamedGroup::X25519MLKEM768);
    let resolver = rustls::sign::SingleCertAndKey::from(client.own());
    let mut config = expecting_server(&mint, old).with_client_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![ALPN.to_vec()];
    let ended = handshake(config, server.server());
    let info = tls_info(&ended.client.unwrap()).unwrap();
    assert_eq!(info.group, "x25519");
    ended.server.unwrap();
}

/// rustls is built with TLS 1.3 only; a hello of TLS 1.2 (RFC 5246, section 7.4.1.2) is therefore
/// written out: version 0x0303, one cipher of 1.2, no extension `supported_versions`.
#[test]
fn a_client_of_tls_1_2_is_refused() {
    let mint = Mint::new();
    let server = Arc::new(mint.peer(&id("server"), |_| {}).server());
    let mut hello = vec![0x03, 0x03];
    hello.extend([7; 32]);
    hello.push(0);
    hello.extend([0, 2, 0xc0, 0x2b]); // TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
    hello.extend([1, 0]);
    let extensions = [
        0x00, 0x0a, 0, 4, 0, 2, 0x00, 0x17, // supported_groups: secp256r1
        0x00, 0x0d, 0, 4, 0, 2, 0x04, 0x03, // signature_algorithms: ecdsa_secp256r1_sha256
    ];
    hello.extend([0, length(&extensions)]);
    hello.extend(extensions);
    let mut record = vec![0x16, 0x03, 0x01, 0, length(&hello) + 4];
    record.extend([1, 0, 0, length(&hello)]);
    record.extend(hello);

    let mut server = ServerConnection::new(server).unwrap();
    server.read_tls(&mut record.as_slice()).unwrap();
    let error = server.process_new_packets().unwrap_err();
    let wanted = Error::PeerIncompatible(PeerIncompatible::SupportedVersionsExtensionRequired);
    assert_eq!(error, wanted);
    assert_eq!(classify(&error), TlsFailure::Protocol);
}

#[test]
fn garbage_is_a_protocol_failure() {
    let mint = Mint::new();
    let server = Arc::new(mint.peer(&id("server"), |_| {}).server());
    for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 64], &[0xff; 64]] {
        let mut server = ServerConnection::new(Arc::clone(&server)).unwrap();
        server.read_tls(&mut &bytes[..]).unwrap();
        let error = server.process_new_packets().unwrap_err();
        assert_eq!(classify(&error), TlsFailure::Protocol);
    }
}

#[test]
fn an_answer_must_fit_key_identity_time_and_root() {
    use crate::identity::BadAnswer;
    use crate::identity::answer::Chain;
    use crate::identity::svid::Svid;

    let [mint, other] = [Mint::new(), Mint::new()];
    let (leaf, key) = mint.leaf(&id("a"), |_| {});
    let chain = |roots: &Mint| Chain { certificates: vec![leaf.clone()], bundle: roots.bundle() };
    let again = || rcgen::KeyPair::try_from(key.serialize_der()).unwrap();
    let check = |name, key, chain| Svid::check(&id(name), key, chain, &clock()).map(|_| ());
    assert_eq!(check("a", again(), chain(&mint)), Ok(()));
    assert_eq!(check("b", again(), chain(&mint)), Err(BadAnswer::OtherIdentity));
    assert_eq!(check("a", again(), chain(&other)), Err(BadAnswer::Untrusted));
    let wrong = rcgen::KeyPair::generate().unwrap();
    assert_eq!(check("a", wrong, chain(&mint)), Err(BadAnswer::OtherKey));
    let late = crate::identity::Clock::new(|| now() + 2 * HOUR);
    let late = Svid::check(&id("a"), again(), chain(&mint), &late).map(|_| ());
    assert_eq!(late, Err(BadAnswer::NotValidNow));
    let none = Chain { certificates: Vec::new(), bundle: mint.bundle() };
    assert_eq!(check("a", again(), none), Err(BadAnswer::Malformed));
}

#[test]
fn nothing_prints_a_key() {
    let mint = Mint::new();
    let svid = mint.svid(&id("a"), HOUR, &clock()).unwrap();
    let printed = format!("{svid:?}");
    assert!(printed.contains("test/sa/a") && !printed.to_lowercase().contains("key"), "{printed}");
}

struct Case {
    what: &'static str,
    failure: TlsFailure,
    change: fn(&mut rcgen::CertificateParams),
}

fn cases() -> [Case; 7] {
    let case = |what, failure, change| Case { what, failure, change };
    [
        case("expired", TlsFailure::Expired, |params| {
            params.not_after = (now() - Duration::from_secs(1)).into();
        }),
        case("not valid yet", TlsFailure::NotYetValid, |params| {
            params.not_before = (now() + Duration::from_secs(1)).into();
        }),
        case("two URIs", TlsFailure::NotSpiffe, |params| {
            params.subject_alt_names.push(uri(&id("second")));
        }),
        case("a DNS name only", TlsFailure::NotSpiffe, |params| {
            params.subject_alt_names = vec![dns("server.example")];
        }),
        case("no name", TlsFailure::NotSpiffe, |params| {
            params.subject_alt_names = Vec::new();
        }),
        case("a URI of another form", TlsFailure::NotSpiffe, |params| {
            let text = "spiffe://cluster.local/other/form";
            params.subject_alt_names = vec![SanType::URI(text.try_into().unwrap())];
        }),
        case("another trust domain", TlsFailure::OtherTrustDomain, |params| {
            let text = "spiffe://other.example/ns/test/sa/server";
            params.subject_alt_names = vec![SanType::URI(text.try_into().unwrap())];
        }),
    ]
}

fn length(bytes: &[u8]) -> u8 {
    u8::try_from(bytes.len()).unwrap()
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

fn expecting_server(
    mint: &Mint,
    provider: rustls::crypto::CryptoProvider,
) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    let domain = id("server").trust_domain().clone();
    let check = ServerCheck::new(mint.bundle().store(), id("server"), domain);
    ClientConfig::builder_with_details(Arc::new(provider), Arc::new(clock()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(check))
}

struct Ended {
    client: Result<ClientConnection, Error>,
    server: Result<ServerConnection, Error>,
}

impl Ended {
    #[track_caller]
    fn succeeded(self) {
        self.client.unwrap();
        self.server.unwrap();
    }

    #[track_caller]
    fn refused(&self, failure: TlsFailure, by: &str, what: &str) {
        let error = match by {
            "client" => self.client.as_ref().err(),
            _ => self.server.as_ref().err(),
        };
        let error = error.unwrap_or_else(|| panic!("{what}: not refused by the {by}"));
        assert_eq!(classify(error), failure, "{what}: {error:?}");
    }
}

/// Carries bytes to and fro until both are done or have failed, alerts included.
fn handshake(client: impl Into<Arc<ClientConfig>>, server: impl Into<Arc<ServerConfig>>) -> Ended {
    let name = ServerName::try_from("192.0.2.1").unwrap();
    let mut client = ClientConnection::new(client.into(), name).unwrap();
    let mut server = ServerConnection::new(server.into()).unwrap();
    let (mut client_error, mut server_error) = (None, None);
    for _ in 0..8 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() && server_error.is_none() {
            server.read_tls(&mut rest).unwrap();
            server_error = server.process_new_packets().err();
        }
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() && client_error.is_none() {
            client.read_tls(&mut rest).unwrap();
            client_error = client.process_new_packets().err();
        }
    }
    Ended {
        client: client_error.map_or(Ok(client), Err),
        server: server_error.map_or(Ok(server), Err),
    }
}
