//! How a source is, for whoever shows it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use adit_core::policy::PolicyId;
use tokio::sync::watch;

/// How a source is now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SourceStatus {
    /// Files that were read, where the source is one of files.
    pub files: usize,
    /// Objects that are in force.
    pub objects: usize,
    /// What is wrong, in a fixed order.
    pub errors: Vec<String>,
    /// Why what is in force is not what the source says now: it cannot be reached or read, or has lost
    /// everything at once. Also the first of the errors.
    pub stale: Option<String>,
    /// Policies whose newest version is wrong, and how; the last good one stays in force.
    pub rejected: BTreeMap<PolicyId, String>,
    /// Why the NetworkPolicies that are known may not be those that there are. Nothing is decided by them:
    /// it is no error.
    pub network_policies_lack: Option<String>,
    /// When the world last changed because of the source.
    pub last_change: Option<SystemTime>,
}

/// The current [`SourceStatus`]. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct StatusHandle(watch::Sender<Arc<SourceStatus>>);

impl StatusHandle {
    /// A handle that says that nothing has been read yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The status now.
    #[must_use]
    pub fn load(&self) -> Arc<SourceStatus> {
        Arc::clone(&self.0.borrow())
    }

    /// The status as it changes.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<Arc<SourceStatus>> {
        self.0.subscribe()
    }

    /// The status from now on.
    pub(super) fn update(&self, status: SourceStatus) {
        self.0.send_if_modified(|now| {
            let differs = **now != status;
            if differs {
                *now = Arc::new(status);
            }
            differs
        });
    }
}
