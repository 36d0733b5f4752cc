//! The pods of this node: drives their enrolment. What is to be done, and when, is decided by
//! [`adit_core::enrolment`]; here it is done, to a [`Datapath`](crate::datapath::Datapath), the
//! [`Certificates`] and the [`Workers`], and shown as [`Enrolments`].

mod driver;
mod jobs;
mod outside;
mod places;

#[cfg(test)]
mod tests;

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use adit_core::identity::SpiffeId;
use adit_core::workload::{ObjectName, PodUid};
use tokio::sync::watch;

use crate::datapath::{EnrolledPod, Listeners};

pub use adit_core::enrolment::PodState;
pub use driver::Enroller;
pub use places::{Find, Place, Places};

/// A pod of this node, as `adit workloads` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodStatus {
    /// Its UID.
    pub uid: PodUid,
    /// Its namespace and name.
    pub name: ObjectName,
    /// Its identity.
    pub identity: SpiffeId,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The path of the network namespace that its enrolment has opened.
    pub netns: Option<Arc<str>>,
    /// How far it is.
    pub state: PodState,
    /// Since when.
    pub since: SystemTime,
}

/// The pods of this node, to look at. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Enrolments(watch::Receiver<Arc<[PodStatus]>>);

/// What enrolment needs of the certificates.
pub trait Certificates: Send + Sync + 'static {
    /// Gets a certificate for the identity, however long that takes, and keeps it fresh. Dropping
    /// the future before it returns withdraws the wish.
    fn acquire(&self, identity: &SpiffeId) -> impl Future<Output = ()> + Send;

    /// Takes one [`Certificates::acquire`] back that has returned.
    fn release(&self, identity: &SpiffeId);
}

/// What enrolment needs of the workers.
pub trait Workers: Send + Sync + 'static {
    /// Accepts connections of the pod from now on, each worker on its own listeners. Returns when
    /// all of them accept. After an error [`Workers::remove`] is called.
    fn add(
        &self,
        pod: &Arc<EnrolledPod>,
        listeners: Vec<Listeners>,
    ) -> impl Future<Output = io::Result<()>> + Send;

    /// Returns as soon as no worker has a flow of the pod. It keeps accepting.
    fn idle(&self, uid: &PodUid) -> impl Future<Output = ()> + Send;

    /// Closes the pod's listeners and ends the flows that are left. Returns when no worker holds
    /// a socket of the pod any more.
    fn remove(&self, uid: &PodUid) -> impl Future<Output = ()> + Send;
}

impl Enrolments {
    /// Shows what this says.
    #[must_use]
    pub const fn new(published: watch::Receiver<Arc<[PodStatus]>>) -> Self {
        Self(published)
    }

    /// The pods of this node that discovery knows, by UID.
    #[must_use]
    pub fn list(&self) -> Vec<PodStatus> {
        self.0.borrow().to_vec()
    }

    /// Waits until the list is another one than at the last call, or at the clone. `false`: the
    /// enroller has ended, and it will not change any more.
    pub async fn changed(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }
}
