//! The authority that signs now. It may be another one from one request to the next.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::pki::Authority;

/// A place for the authority.
#[derive(Debug)]
pub(super) struct Signing(ArcSwap<Authority>);

impl Signing {
    pub(super) fn new(authority: Authority) -> Self {
        Self(ArcSwap::from_pointee(authority))
    }

    pub(super) fn load(&self) -> Arc<Authority> {
        self.0.load_full()
    }

    pub(super) fn store(&self, authority: Authority) {
        self.0.store(Arc::new(authority));
    }
}
