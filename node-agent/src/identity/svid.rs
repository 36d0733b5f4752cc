//! One identity's certificate with its key, and the TLS configurations made of them.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use adit_core::identity::SpiffeId;
use adit_core::rotation::Validity;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig};

use crate::pki::Bundle;

use super::clock::Clock;
use super::tls;

/// A certificate that proves an identity, its key, and what its peers must chain to. It was checked
/// when it came: chain, name and key fit each other.
pub struct Svid {
    pub(super) identity: SpiffeId,
    pub(super) validity: Validity,
    pub(super) serial: String,
    pub(super) own: Arc<CertifiedKey>,
    pub(super) bundle: Bundle,
    pub(super) server: Arc<ServerConfig>,
    pub(super) clock: Clock,
}

impl Svid {
    /// Whose certificate it is.
    #[must_use]
    pub const fn identity(&self) -> &SpiffeId {
        &self.identity
    }

    /// The certificate and the intermediates above it.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.own.cert
    }

    /// The roots that peers must chain to.
    #[must_use]
    pub const fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// The first moment of its life.
    #[must_use]
    pub const fn not_before(&self) -> SystemTime {
        self.validity.not_before
    }

    /// The last moment of its life.
    #[must_use]
    pub const fn not_after(&self) -> SystemTime {
        self.validity.not_after
    }

    /// Its serial number in hexadecimal digits.
    #[must_use]
    pub fn serial(&self) -> &str {
        &self.serial
    }

    /// Whether it may be used now.
    #[must_use]
    pub fn is_valid(&self) -> bool {
        self.validity.contains(self.clock.now())
    }

    /// Whether its life has not begun by now.
    pub(super) fn is_early(&self) -> bool {
        self.clock.now() < self.validity.not_before
    }

    /// For accepting tunnels to this identity from any peer of the trust domain.
    #[must_use]
    pub fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// For dialling a tunnel from this identity to exactly the expected one. The name given to the
    /// connection means nothing and is not sent.
    ///
    /// # Errors
    /// What rustls says; not to be expected with the provider that is built in.
    pub fn client_config(&self, expected: &SpiffeId) -> Result<Arc<ClientConfig>, rustls::Error> {
        let names = (self.identity.trust_domain().clone(), &self.clock);
        let config = tls::client_config(&self.own, &self.bundle, expected, names)?;
        Ok(Arc::new(config))
    }
}

impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid")
            .field("identity", &self.identity)
            .field("serial", &self.serial)
            .field("validity", &self.validity)
            .finish_non_exhaustive()
    }
}
