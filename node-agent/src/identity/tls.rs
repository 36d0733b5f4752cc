//! TLS as the tunnel speaks it: 1.3 only, HTTP/2 only, post-quantum key exchange first, both ends
//! authenticated, no resumption. A resumed session would skip the check of the peer's certificate,
//! which may have expired since.

use std::sync::{Arc, LazyLock};

use adit_core::flow::TlsInfo;
use adit_core::identity::{SpiffeId, TrustDomain};
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;
use rustls::{
    CipherSuite, ClientConfig, CommonState, Error, NamedGroup, ProtocolVersion, ServerConfig,
};

use crate::pki::Bundle;

use super::clock::Clock;
use super::verify::{ClientCheck, ServerCheck};

/// The only application protocol of a tunnel: HTTP/2 (RFC 9113, section 3.2).
pub const ALPN: &[u8] = b"h2";

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    Arc::new(CryptoProvider {
        kx_groups: vec![
            aws_lc_rs::kx_group::X25519MLKEM768,
            aws_lc_rs::kx_group::X25519,
            aws_lc_rs::kx_group::SECP256R1,
        ],
        cipher_suites: vec![
            aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
            aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
            aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..aws_lc_rs::default_provider()
    })
});

/// The one crypto provider: AWS-LC with the groups and ciphers that adit uses, in that order.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::clone(&PROVIDER)
}

/// What TLS agreed on; `None` before the handshake is complete, or if it is something that
/// [`provider`] does not offer.
#[must_use]
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "rustls lists everything that IANA does; only what is offered can be agreed on"
)]
pub fn tls_info(state: &CommonState) -> Option<TlsInfo> {
    let version = match state.protocol_version()? {
        ProtocolVersion::TLSv1_3 => "TLSv1.3",
        _ => return None,
    };
    let group = match state.negotiated_key_exchange_group()?.name() {
        NamedGroup::X25519MLKEM768 => "X25519MLKEM768",
        NamedGroup::X25519 => "x25519",
        NamedGroup::secp256r1 => "secp256r1",
        _ => return None,
    };
    let cipher = match state.negotiated_cipher_suite()?.suite() {
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        _ => return None,
    };
    Some(TlsInfo { version, group, cipher })
}

/// For accepting tunnels: any peer of the trust domain.
pub(super) fn server_config(
    own: &Arc<CertifiedKey>,
    bundle: &Bundle,
    trust_domain: TrustDomain,
    clock: &Clock,
) -> Result<ServerConfig, Error> {
    let check = ClientCheck::try_new(bundle.store(), trust_domain)
        .map_err(|error| Error::General(error.to_string()))?;
    let mut config = ServerConfig::builder_with_details(provider(), time(clock))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(check))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(own))));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    // The tunnel seals and opens records itself.
    config.enable_secret_extraction = true;
    config.max_early_data_size = 0;
    Ok(config)
}

/// For dialling a tunnel to exactly this identity.
pub(super) fn client_config(
    own: &Arc<CertifiedKey>,
    bundle: &Bundle,
    expected: &SpiffeId,
    (trust_domain, clock): (TrustDomain, &Clock),
) -> Result<ClientConfig, Error> {
    let check = ServerCheck::new(bundle.store(), expected.clone(), trust_domain);
    let mut config = ClientConfig::builder_with_details(provider(), time(clock))
        .with_protocol_versions(&[&TLS13])?
        .dangerous() // as rustls calls a verifier of one's own: it checks more than the default
        .with_custom_certificate_verifier(Arc::new(check))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(own))));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    // The tunnel seals and opens records itself.
    config.enable_secret_extraction = true;
    config.enable_early_data = false;
    Ok(config)
}

fn time(clock: &Clock) -> Arc<dyn TimeProvider> {
    Arc::new(clock.clone())
}
