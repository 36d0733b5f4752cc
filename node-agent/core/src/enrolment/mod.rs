//! The enrolment of pods: which pods ([`select`]), in which steps ([`Step`]), and the machine that
//! takes every pod of the node there and back ([`Enrolment`]).
//!
//! A pod climbs a ladder: its namespace is opened, its listeners are made and given to the workers,
//! and what leads connections to them follows, the capture last. It comes down the same way. What
//! stands is never assumed: a step that failed half-way is undone like one that was done.
//! [`Step::Hold`] alone comes after the capture, because the pod need not wait for it.
//!
//! # Withdrawing without touching open connections
//!
//! A captured connection needs some of the steps for as long as it lives, others only while it is
//! made. The connect programs act on `connect` only, and the look-up program on a SYN only
//! (`__inet_lookup_listener`), so [`Step::Capture`] and [`Step::Lookup`] are undone first and new
//! connections go direct. The rule and the routes carry every packet of an open one: the pod's
//! socket keeps its mark, and a connection that the agent made to the application returns to it
//! through the same table. So [`Step::Routes`] is undone only when the workers have reported that
//! no flow of the pod is left. Until then a pod that is wanted again takes up where it stands.

mod backoff;
mod ebb;
mod ladder;
mod node;
mod pod;
mod select;

#[cfg(test)]
mod bench;
#[cfg(test)]
mod tests;
#[cfg(any(test, feature = "testing"))]
mod walk;

use std::net::IpAddr;
use std::sync::Arc;

use crate::identity::SpiffeId;
use crate::workload::{ObjectName, PodUid};

pub(crate) use backoff::splitmix;
pub use node::Enrolment;
pub use select::{NotEnrolled, select};
#[cfg(any(test, feature = "testing"))]
pub use walk::walk;

/// One step of a pod's enrolment. They are done in this order and undone in the reverse one, so
/// that a pod's connections are captured only when everything that carries them stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// The agent's listening sockets in the pod's network namespace.
    Listeners,
    /// The listeners' places in the map that the socket look-up program reads.
    Slots,
    /// The rule, the routes and the sysctl in the pod's network namespace. They stand before the
    /// look-up program, because the agent's connection to the application needs them: without
    /// `tcp_fwmark_accept` the application's SYN-ACK would leave by the pod's interface.
    Routes,
    /// The socket look-up program on the pod's network namespace: from here on connections to the
    /// pod come to the agent.
    Lookup,
    // The guard on the host's side of the pod's veth will stand here.
    /// The pod's place in the map that the connect programs read: from here on connections of the
    /// pod come to the agent.
    Capture,
    /// The program that lets connections wait while the agent is away. It takes the kernel two grace
    /// periods and leads nothing anywhere, so the pod may start before. Without it a connection is
    /// refused while the agent is away, never let out. So a failure undoes nothing, and is tried
    /// again; what stands of it goes with [`Step::Lookup`], whose refusals it holds back.
    Hold,
}

/// A pod that belongs to the mesh, as discovery describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Its UID.
    pub uid: PodUid,
    /// Its namespace and name.
    pub name: ObjectName,
    /// Its identity.
    pub identity: SpiffeId,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// The path of its network namespace, if it is known.
    pub netns: Option<Arc<str>>,
}

/// What happened.
#[derive(Debug, Clone)]
pub enum Input {
    /// An earlier agent left this pod captured; `alive`: its network namespace still exists. These
    /// come first, before anything of discovery.
    Adopted {
        /// The pod.
        uid: PodUid,
        /// Whether its network namespace still exists.
        alive: bool,
    },
    /// Discovery has given its first complete list.
    Synced,
    /// Discovery: the pod is on this node and belongs to the mesh.
    Wanted(Target),
    /// Discovery: the pod is on this node and does not belong to the mesh.
    Unwanted(PodUid, NotEnrolled),
    /// Discovery: the pod is deleted, or not on this node.
    Gone(PodUid),
    /// The first certificate of an identity that was acquired is there.
    CertificateReady(SpiffeId),
    /// A job has ended: well, or with this error.
    Finished(PodUid, Job, Result<(), Arc<str>>),
    /// The workers have no flow of this pod, in answer to the [`Command::AwaitIdle`] of this number.
    Idle(PodUid, u64),
    /// The agent ends. Captured pods stay captured for the next one; what is half done is undone.
    Shutdown,
}

/// Something to do to one pod. A pod has one job at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Job {
    /// Open its network namespace.
    Open(Arc<Target>),
    /// Do a step.
    Perform(Step),
    /// Give its listeners to the workers; ends when they accept connections.
    Serve,
    /// Undo a step.
    Undo(Step),
    /// Take the pod from the workers; ends when they have closed its listeners and ended what
    /// flows were left.
    Retire,
    /// Remove what an earlier agent left of it.
    Forget,
}

/// What the driver must do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Get a certificate for this identity, keep it fresh, and say when the first one is there.
    Acquire(SpiffeId),
    /// No pod of this node has this identity any more.
    Release(SpiffeId),
    /// Start a job and say how it ended.
    Start(PodUid, Job),
    /// Say, with this number, as soon as the workers have no flow of the pod. An earlier question
    /// about the same pod is void.
    AwaitIdle(PodUid, u64),
    /// Let go of the pod's open namespace.
    Close(PodUid),
    /// The pod's state is now this; `None`: there is nothing more to say of the pod.
    Show(PodUid, Option<PodState>),
}

/// How far a pod's enrolment is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PodState {
    /// It does not belong to the mesh.
    NotEnrolled(NotEnrolled),
    /// It belongs to the mesh, but its network namespace or its address is not known yet.
    AwaitingNamespace,
    /// Its first certificate has not been issued yet. Its connections are not touched, unless an
    /// earlier agent captured it: then they wait.
    AwaitingCertificate,
    /// This step is being done.
    Enrolling(Step),
    /// Captured and served, and held while no agent is there.
    Enrolled,
    /// This step is being undone, or waits for open connections to end before it is.
    Withdrawing(Step),
    /// This step failed, or undoing it did. It will be tried again; what was done until then is
    /// undone, except in a pod that an earlier agent captured, and after [`Step::Hold`]: that pod
    /// stays captured.
    Failed {
        /// The step, or `None` if the namespace could not be opened.
        step: Option<Step>,
        /// The whole error, causes included.
        error: String,
    },
}

impl Step {
    /// All steps, in order.
    pub const ALL: [Self; 6] =
        [Self::Listeners, Self::Slots, Self::Routes, Self::Lookup, Self::Capture, Self::Hold];

    /// The spelling used by metrics, log lines and the command line.
    #[must_use]
    pub const fn as_label(self) -> &'static str {
        match self {
            Self::Listeners => "listeners",
            Self::Slots => "slots",
            Self::Routes => "routes",
            Self::Lookup => "lookup",
            Self::Capture => "capture",
            Self::Hold => "hold",
        }
    }
}

impl Target {
    /// Whether enough is known to open the pod.
    pub(crate) fn is_located(&self) -> bool {
        self.netns.is_some() && !self.addresses.is_empty()
    }

    /// Whether a pod that was opened as `self` must be opened anew to be `other`. A namespace that
    /// is not named any more is not another one.
    pub(crate) fn differs(&self, other: &Self) -> bool {
        let moved = other.netns.is_some() && other.netns != self.netns;
        moved
            || self.name != other.name
            || self.identity != other.identity
            || self.addresses != other.addresses
    }
}

impl Job {
    /// The step that failed, if this job did.
    pub(crate) const fn step(&self) -> Option<Step> {
        match self {
            Self::Open(_) => None,
            Self::Perform(step) | Self::Undo(step) => Some(*step),
            Self::Serve | Self::Retire => Some(Step::Listeners),
            Self::Forget => Some(Step::Capture),
        }
    }
}

impl PodState {
    /// The spelling used by metrics, log lines and the command line.
    #[must_use]
    pub const fn as_label(&self) -> &'static str {
        match self {
            Self::NotEnrolled(_) => "not_enrolled",
            Self::AwaitingNamespace => "awaiting_namespace",
            Self::AwaitingCertificate => "awaiting_certificate",
            Self::Enrolling(_) => "enrolling",
            Self::Enrolled => "enrolled",
            Self::Withdrawing(_) => "withdrawing",
            Self::Failed { .. } => "failed",
        }
    }
}
