//! What proved who is at the other end of a tunnel, kept to be judged again when the roots change.

use std::time::{Duration, SystemTime};

use adit_core::flow::TlsFailure;
use adit_core::identity::SpiffeId;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier as _;

use crate::pki::{Bundle, Facts};

use super::verify::{ClientCheck, ServerCheck, peer_identity};

/// The chain that a peer proved its identity with.
#[derive(Debug)]
pub struct Proof {
    identity: SpiffeId,
    chain: Vec<CertificateDer<'static>>,
    role: Role,
    /// The dates within which every certificate of the chain is valid.
    not_before: SystemTime,
    not_after: SystemTime,
    /// The roots that it was judged by last, and the judgement.
    judged: (Bundle, bool),
}

/// The peer's part in the handshake, which its certificate must be made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It dialled.
    Client,
    /// It was dialled.
    Server,
}

impl Proof {
    /// Keeps a chain that a handshake has just verified by `bundle`.
    ///
    /// # Errors
    /// [`TlsFailure::NoPeerCertificate`] or [`TlsFailure::NotSpiffe`].
    pub fn try_new(
        chain: &[CertificateDer<'_>],
        role: Role,
        bundle: &Bundle,
    ) -> Result<Self, TlsFailure> {
        let identity = peer_identity(chain)?;
        let (mut not_before, mut not_after) = (SystemTime::UNIX_EPOCH, None);
        for certificate in chain {
            let facts = Facts::read(certificate).map_err(|_malformed| TlsFailure::NotSpiffe)?;
            not_before = facts.not_before.max(not_before);
            not_after = Some(not_after.unwrap_or(facts.not_after).min(facts.not_after));
        }
        let not_after = not_after.ok_or(TlsFailure::NoPeerCertificate)?;
        let chain = chain.iter().map(|certificate| certificate.clone().into_owned()).collect();
        let judged = (bundle.clone(), true);
        Ok(Self { identity, chain, role, not_before, not_after, judged })
    }

    /// The identity that it proves.
    #[must_use]
    pub const fn identity(&self) -> &SpiffeId {
        &self.identity
    }

    /// The last moment at which all of it is valid.
    #[must_use]
    pub const fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Whether a root of `bundle` is above it. Not a question of dates: what has expired since is
    /// looked at as of the time at which it was valid.
    pub fn is_trusted(&mut self, bundle: &Bundle, now: SystemTime) -> bool {
        let (by, trusted) = &self.judged;
        if by.certificates() == bundle.certificates() {
            return *trusted;
        }
        let trusted = self.convinces(bundle, now.max(self.not_before).min(self.not_after));
        self.judged = (bundle.clone(), trusted);
        trusted
    }

    /// The last judgement.
    #[must_use]
    pub const fn is_trusted_still(&self) -> bool {
        self.judged.1
    }

    fn convinces(&self, bundle: &Bundle, at: SystemTime) -> bool {
        let Some((leaf, intermediates)) = self.chain.split_first() else { return false };
        let at = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let at = UnixTime::since_unix_epoch(at);
        let domain = self.identity.trust_domain().clone();
        match self.role {
            Role::Client => ClientCheck::try_new(bundle.store(), domain)
                .is_ok_and(|check| check.verify_client_cert(leaf, intermediates, at).is_ok()),
            Role::Server => {
                let check = ServerCheck::new(bundle.store(), self.identity.clone(), domain);
                // Means nothing to the check.
                let name = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
                check.verify_server_cert(leaf, intermediates, &name, &[], at).is_ok()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::mint::{HOUR, Mint, id, now};

    #[test]
    fn a_chain_is_trusted_as_long_as_its_root_is_in_the_bundle_in_either_role() {
        let (mint, other) = (Mint::new(), Mint::new());
        let both = [mint.bundle(), other.bundle()].map(|bundle| bundle.certificates()[0].clone());
        let both = Bundle::try_new(both, "both").unwrap();
        let (leaf, _key) = mint.leaf(&id("peer"), |_| {});
        for role in [Role::Client, Role::Server] {
            let mut proof =
                Proof::try_new(std::slice::from_ref(&leaf), role, &mint.bundle()).unwrap();
            assert_eq!(proof.identity(), &id("peer"));
            assert!(proof.is_trusted(&mint.bundle(), now()));
            assert!(proof.is_trusted(&both, now()), "{role:?}");
            assert!(!proof.is_trusted(&other.bundle(), now()), "{role:?}");
            assert!(!proof.is_trusted(&other.bundle(), now()), "{role:?}: remembered");
            assert!(proof.is_trusted(&mint.bundle(), now()), "{role:?}");
        }
    }

    #[test]
    fn neither_its_end_nor_a_clock_that_was_set_makes_it_untrusted() {
        let (mint, other) = (Mint::new(), Mint::new());
        let both = [mint.bundle(), other.bundle()].map(|bundle| bundle.certificates()[0].clone());
        let both = Bundle::try_new(both, "both").unwrap();
        let (leaf, _key) = mint.leaf(&id("peer"), |_| {});
        for at in [now() + 2 * HOUR, now() - 3 * HOUR] {
            let chain = std::slice::from_ref(&leaf);
            let mut proof = Proof::try_new(chain, Role::Server, &mint.bundle()).unwrap();
            assert!(proof.is_trusted(&both, at));
            assert!(!proof.is_trusted(&other.bundle(), at));
        }
    }
}
