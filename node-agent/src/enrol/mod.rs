//! The pods of this node: drives their enrolment.

use std::net::IpAddr;
use std::time::SystemTime;

use adit_core::enrolment::{NotEnrolled, Step};
use adit_core::identity::SpiffeId;
use adit_core::workload::{ObjectName, PodUid};

/// A pod of this node, as `adit workloads` shows it.
#[derive(Debug, Clone)]
pub struct PodStatus {
    /// Its UID.
    pub uid: PodUid,
    /// Its namespace and name.
    pub name: ObjectName,
    /// Its identity.
    pub identity: SpiffeId,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// How far it is.
    pub state: PodState,
    /// Since when.
    pub since: SystemTime,
}

/// How far a pod's enrolment is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodState {
    /// It does not belong to the mesh.
    NotEnrolled(NotEnrolled),
    /// It belongs to the mesh, but no network namespace of it is known yet.
    AwaitingNamespace,
    /// Its first certificate has not been issued yet; connections are not captured.
    AwaitingCertificate,
    /// This step is being done.
    Enrolling(Step),
    /// Captured and served.
    Enrolled,
    /// This step is being undone.
    Withdrawing(Step),
    /// This step failed; everything was undone and will be tried again.
    Failed {
        /// The step, or `None` if the namespace could not be opened.
        step: Option<Step>,
        /// The whole error, causes included.
        error: String,
    },
}
