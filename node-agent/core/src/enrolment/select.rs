//! Whether a pod belongs to the mesh, and if not, why.

use crate::workload::{MeshMode, Phase, Workload};
use crate::world::World;

/// Why a pod is not enrolled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotEnrolled {
    /// Neither the namespace nor the pod has `adit.dev/mode: ambient`.
    #[error("namespace has no label adit.dev/mode=ambient")]
    NamespaceNotLabelled,
    /// The pod has the label `adit.dev/mode` with another value than `ambient`.
    #[error("pod has label adit.dev/mode=none")]
    PodOptedOut,
    /// The pod shares the node's network namespace.
    #[error("pod uses the host's network")]
    HostNetwork,
    /// The pod has succeeded or failed.
    #[error("pod has finished")]
    Finished,
}

impl NotEnrolled {
    /// The spelling used by metrics, log lines and the command line.
    #[must_use]
    pub const fn as_label(self) -> &'static str {
        match self {
            Self::NamespaceNotLabelled => "namespace_not_labelled",
            Self::PodOptedOut => "opted_out",
            Self::HostNetwork => "host_network",
            Self::Finished => "finished",
        }
    }
}

/// Whether a pod belongs to the mesh. Every agent answers this alike, so that a client's agent
/// knows whether the server's node expects a tunnel.
///
/// # Errors
/// Why it does not.
pub fn select(world: &World, pod: &Workload) -> Result<(), NotEnrolled> {
    if pod.host_network {
        return Err(NotEnrolled::HostNetwork);
    }
    if pod.phase == Phase::Finished {
        return Err(NotEnrolled::Finished);
    }
    let namespace = world.namespace(&pod.name.namespace).map_or(MeshMode::Unset, |ns| ns.mode);
    match (pod.mode, namespace) {
        (MeshMode::None, _) => Err(NotEnrolled::PodOptedOut),
        (MeshMode::Ambient, _) | (MeshMode::Unset, MeshMode::Ambient) => Ok(()),
        (MeshMode::Unset, MeshMode::Unset | MeshMode::None) => {
            Err(NotEnrolled::NamespaceNotLabelled)
        }
    }
}
