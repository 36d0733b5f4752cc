//! The enrolment of pods: which pods ([`select`]), and in which steps ([`Step`]).

mod select;

pub use select::{NotEnrolled, select};

/// One step of a pod's enrolment. They are done in this order and undone in the reverse one, so
/// that a pod's connections are captured only when everything behind them stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// The agent's listening sockets in the pod's network namespace, accepting.
    Listeners,
    /// The listeners' places in the map that the socket look-up program reads.
    Slots,
    /// The socket look-up program on the pod's network namespace.
    Lookup,
    /// The rule, the routes and the sysctl in the pod's network namespace.
    Routes,
    // The guard on the host's side of the pod's veth will stand here.
    /// The pod's place in the map that the connect programs read: from here on it is captured.
    Capture,
}

impl Step {
    /// All steps, in order.
    pub const ALL: [Self; 5] =
        [Self::Listeners, Self::Slots, Self::Lookup, Self::Routes, Self::Capture];

    /// The spelling used by metrics, log lines and the command line.
    #[must_use]
    pub const fn as_label(self) -> &'static str {
        match self {
            Self::Listeners => "listeners",
            Self::Slots => "slots",
            Self::Lookup => "lookup",
            Self::Routes => "routes",
            Self::Capture => "capture",
        }
    }
}
