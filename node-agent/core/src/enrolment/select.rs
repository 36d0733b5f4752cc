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
    /// The pod belongs to the mesh and is a static pod. Such a pod has no service account, and the
    /// object that stands for it is made by its node, in any namespace that the node likes
    /// (`NodeRestriction` asks only that it is bound to that node): an identity for it would be one for
    /// the asking.
    #[error(
        "static pod: it has no service account, so the CA issues no identity for it; run it by a \
         DaemonSet, or label it adit.dev/mode=none in its manifest"
    )]
    StaticPod,
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
            Self::StaticPod => "static_pod",
        }
    }

    /// Whether the pod was to be enrolled by its labels: it is refused, and nobody asked for that.
    #[must_use]
    pub const fn is_refusal(self) -> bool {
        match self {
            Self::StaticPod => true,
            Self::NamespaceNotLabelled | Self::PodOptedOut | Self::HostNetwork | Self::Finished => {
                false
            }
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
        (MeshMode::Ambient, _) | (MeshMode::Unset, MeshMode::Ambient) => match pod.mirror_of {
            None => Ok(()),
            Some(_) => Err(NotEnrolled::StaticPod),
        },
        (MeshMode::Unset, MeshMode::Unset | MeshMode::None) => {
            Err(NotEnrolled::NamespaceNotLabelled)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::super::walk::{identity, uid};
    use super::*;
    use crate::workload::{Namespace, ObjectName, Owner};
    use crate::world::Delta;

    #[test]
    fn a_static_pod_is_refused_only_where_its_labels_would_enrol_it() {
        let modes = [("shop", MeshMode::Ambient), ("bank", MeshMode::Unset)];
        let spaces = modes.map(|(name, mode)| Namespace {
            name: Arc::from(name),
            mode,
            labels: BTreeMap::new(),
        });
        let (world, _) = World::default().apply(spaces.map(Delta::Namespace));
        for (namespace, mode, expected) in [
            ("shop", MeshMode::Unset, NotEnrolled::StaticPod),
            ("bank", MeshMode::Ambient, NotEnrolled::StaticPod),
            ("shop", MeshMode::None, NotEnrolled::PodOptedOut),
            ("bank", MeshMode::Unset, NotEnrolled::NamespaceNotLabelled),
        ] {
            let pod = pod(namespace, mode);
            assert_eq!(select(&world, &pod), Err(expected), "{namespace} {mode:?}");
            let on_the_host = Workload { host_network: true, ..pod.clone() };
            assert_eq!(select(&world, &on_the_host), Err(NotEnrolled::HostNetwork));
            let ordinary = select(&world, &Workload { mirror_of: None, ..pod });
            assert_eq!(ordinary.err(), Some(expected).filter(|why| !why.is_refusal()));
        }
    }

    fn pod(namespace: &str, mode: MeshMode) -> Workload {
        Workload {
            uid: uid("p"),
            name: ObjectName::new(namespace, "proxy-n1"),
            node: None,
            identity: identity("default"),
            addresses: Vec::new(),
            mode,
            host_network: false,
            phase: Phase::Active,
            owner: Owner { kind: Arc::from("node"), name: Arc::from("n1") },
            labels: BTreeMap::new(),
            probed: Vec::new(),
            tunnel_ports: Vec::new(),
            mirror_of: Some(Arc::from("0a1b")),
            announced: None,
            netns: None,
        }
    }
}
