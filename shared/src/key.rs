//! Keys of the maps, the numbers in them, and the limits that their sizes come from.

/// Pods on a node.
pub const MAX_PODS: u32 = 1024;
/// Data-plane workers on a node.
pub const MAX_WORKERS: u32 = 16;
/// Own addresses of a pod that the look-up program knows, per family.
pub const MAX_ADDRESSES: usize = 8;
/// Listeners of a pod per worker, with one to spare for a listener to come.
pub const ROLES: u32 = 4;
/// Size of [`crate::names::LISTENERS`].
pub const MAX_SLOTS: u32 = MAX_PODS * ROLES * MAX_WORKERS;

/// The mark of captured connections.
pub const MARK: u32 = 0x111;
/// The bits of the mark that the routing rule looks at.
pub const MARK_MASK: u32 = 0xfff;
/// The mark of the agent's connections to a pod's application, which the application's accepted
/// sockets inherit: the same to the routing rule, and told apart by the accept hook.
pub const INWARD_MARK: u32 = 0x1111;
/// The port that HBONE tunnels come in on.
pub const HBONE_PORT: u16 = 15008;

/// Which of a worker's listeners of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Role {
    /// Connections that the pod opened.
    Outbound = 0,
    /// Tunnels to the pod.
    Hbone = 1,
    /// Everything else that comes to the pod from outside.
    Plaintext = 2,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 3] = [Self::Outbound, Self::Hbone, Self::Plaintext];
}

/// What the programs count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Counter {
    /// Connections of enrolled pods that were marked.
    Marked = 0,
    /// Connections of enrolled pods that the agent opened itself.
    Agent = 1,
    /// Connections refused because the mark could not be set.
    MarkFailed = 2,
    /// Binds that went on without SO_REUSEADDR because it could not be set.
    ReuseFailed = 3,
    /// Connections steered to an outbound listener.
    Outbound = 4,
    /// Connections steered to a tunnel listener.
    Hbone = 5,
    /// Connections steered to a plaintext listener.
    Plaintext = 6,
    /// Connections dropped because the agent has no listener there.
    NoListener = 7,
    /// Connections dropped because the kernel refused the listener.
    AssignFailed = 8,
    /// Accepted sockets of applications that were bound to the loopback interface.
    Bound = 9,
    /// Those that could not be.
    BindFailed = 10,
}

/// Size of [`crate::names::COUNTERS`].
pub const COUNTERS: u32 = Counter::BindFailed as u32 + 1;

impl Counter {
    /// All counters, in the order of their keys.
    pub const ALL: [Self; 11] = [
        Self::Marked,
        Self::Agent,
        Self::MarkFailed,
        Self::ReuseFailed,
        Self::Outbound,
        Self::Hbone,
        Self::Plaintext,
        Self::NoListener,
        Self::AssignFailed,
        Self::Bound,
        Self::BindFailed,
    ];

    /// The spelling used by metrics and the command line.
    #[must_use]
    pub const fn as_label(self) -> &'static str {
        match self {
            Self::Marked => "connect_marked",
            Self::Agent => "connect_agent",
            Self::MarkFailed => "connect_mark_failed",
            Self::ReuseFailed => "bind_reuse_failed",
            Self::Outbound => "steered_outbound",
            Self::Hbone => "steered_hbone",
            Self::Plaintext => "steered_plaintext",
            Self::NoListener => "dropped_no_listener",
            Self::AssignFailed => "dropped_assign_failed",
            Self::Bound => "accept_bound",
            Self::BindFailed => "accept_bind_failed",
        }
    }
}
