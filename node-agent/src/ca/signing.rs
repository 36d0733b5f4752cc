//! The authority that signs now. It may be another one from one request to the next.
//!
//! Where replicas share the keys, one that cannot read them for long stops to sign: they may have been
//! replaced, and what the old ones sign may soon be trusted by nobody.

use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::time::{Duration, Instant};

use crate::pki::Authority;

/// Keys that were last read this long ago sign nothing. Less than a rotation of the root waits
/// (`adit_core::root_rotation::SETTLING`).
const UNREAD: Duration = Duration::from_secs(600);

/// The keys were not read for too long.
#[derive(Debug, thiserror::Error)]
#[error("the CA could not read its keys for {} minutes, and does not know whether they still count", UNREAD.as_secs() / 60)]
pub(super) struct Unread;

/// A place for the authority.
#[derive(Debug)]
pub(super) struct Signing {
    authority: ArcSwap<Authority>,
    /// When the keys were last read; `None` if nobody replaces them.
    read: Option<Mutex<Instant>>,
}

impl Signing {
    /// Keys that nobody replaces while this process lives.
    pub(super) fn fixed(authority: Authority) -> Self {
        Self { authority: ArcSwap::from_pointee(authority), read: None }
    }

    /// Keys that must be read again and again.
    pub(super) fn shared(authority: Authority) -> Self {
        let read = Some(Mutex::new(Instant::now()));
        Self { authority: ArcSwap::from_pointee(authority), read }
    }

    /// The authority, whether or not it may still sign.
    pub(super) fn load(&self) -> Arc<Authority> {
        self.authority.load_full()
    }

    /// The authority to sign with.
    pub(super) fn current(&self) -> Result<Arc<Authority>, Unread> {
        let read =
            self.read.as_ref().map(|read| *read.lock().unwrap_or_else(PoisonError::into_inner));
        if read.is_some_and(|read| read.elapsed() > UNREAD) {
            return Err(Unread);
        }
        Ok(self.load())
    }

    pub(super) fn store(&self, authority: Authority) {
        self.authority.store(Arc::new(authority));
    }

    /// The keys were just read.
    pub(super) fn confirm(&self) {
        if let Some(read) = &self.read {
            *read.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use adit_core::identity::TrustDomain;

    use super::*;
    use crate::pki::{CA_CERT, CA_KEY, Material, ROOT_CERT, make};

    #[tokio::test(start_paused = true)]
    async fn keys_that_could_not_be_read_for_long_sign_nothing_until_they_are_read() {
        let signing = Signing::shared(authority());
        tokio::time::advance(UNREAD).await;
        assert!(signing.current().is_ok());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(signing.current().is_err());
        signing.confirm();
        assert!(signing.current().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn keys_of_files_sign_for_as_long_as_the_process_lives() {
        let signing = Signing::fixed(authority());
        tokio::time::advance(UNREAD * 1000).await;
        assert!(signing.current().is_ok());
    }

    fn authority() -> Authority {
        let domain = TrustDomain::parse("cluster.local").unwrap();
        let made = make(&domain, SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
        let made: std::collections::BTreeMap<_, _> = made.unwrap().into_iter().collect();
        let part = |name| (name, made.get(name).unwrap().clone().into_bytes());
        let origin = "test".to_owned();
        let (key, certificate, roots) = (part(CA_KEY), part(CA_CERT), part(ROOT_CERT));
        Authority::try_new(Material { origin, key, certificate, chain: Vec::new(), roots }).unwrap()
    }
}
