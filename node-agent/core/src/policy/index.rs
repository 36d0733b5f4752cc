//! The policies that may have a say on a pod's flows, found without looking at all of them.

use std::sync::Arc;
use std::time::SystemTime;

use super::compile::Compiled;
use super::object::{Effect, PeerAuthentication, PolicyId};
use super::select::Selected;
use crate::workload::Workload;

/// The policies of one scope: the mesh or a namespace.
#[derive(Debug, Default)]
pub(super) struct Scope {
    pub(super) enforced: Layer,
    pub(super) dry_run: Layer,
}

/// Those of a scope that are enforced, or those that are only evaluated.
#[derive(Debug, Default)]
pub(super) struct Layer {
    /// The oldest first.
    peer: Selected<Arc<PeerAuthentication>>,
    deny: Selected<Arc<Compiled>>,
    allow: Selected<Arc<Compiled>>,
}

/// The layers that have a say on one pod. Of those of the same scope, a dry-run layer comes first:
/// it is there to stand in for what is enforced.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    pod: &'a Workload,
    mesh: [Option<&'a Layer>; 2],
    namespace: [Option<&'a Layer>; 2],
}

/// Where a PeerAuthentication stands: the first that says something holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// It selects the pod by labels.
    Workload,
    /// It is for the pod's namespace.
    Namespace,
    /// It is for the mesh.
    Mesh,
}

impl Scope {
    /// Those of several namespaces as one scope. A root namespace's PeerAuthentications with a
    /// selector are for no pod.
    pub(super) fn new<'a>(
        peer: impl IntoIterator<Item = &'a Arc<PeerAuthentication>>,
        authorization: impl IntoIterator<Item = &'a Arc<Compiled>>,
        mesh: bool,
    ) -> Self {
        let mut scope = Self::default();
        let mut peer: Vec<_> = peer.into_iter().collect();
        peer.sort_by(|a, b| age(a).cmp(&age(b)));
        for policy in peer {
            let ignored = mesh && !policy.selector().is_empty();
            if !ignored {
                let layer = scope.layer(policy.dry_run());
                layer.peer.add(policy.selector(), Arc::clone(policy));
            }
        }
        for compiled in authorization {
            let policy = compiled.policy();
            let layer = scope.layer(policy.dry_run());
            match policy.effect() {
                Some(Effect::Deny) => layer.deny.add(policy.selector(), Arc::clone(compiled)),
                Some(Effect::Allow) => layer.allow.add(policy.selector(), Arc::clone(compiled)),
                None => {}
            }
        }
        scope
    }

    const fn layer(&mut self, dry_run: bool) -> &mut Layer {
        if dry_run { &mut self.dry_run } else { &mut self.enforced }
    }
}

impl Layer {
    fn has_say_on(&self, pod: &Workload) -> bool {
        let Self { peer, deny, allow } = self;
        peer.matching(&pod.labels).next().is_some()
            || deny.matching(&pod.labels).next().is_some()
            || allow.matching(&pod.labels).next().is_some()
    }

    fn oldest<'a>(
        &'a self,
        level: Level,
        pod: &'a Workload,
    ) -> Option<&'a Arc<PeerAuthentication>> {
        match level {
            Level::Workload => {
                let selecting = self.peer.by_selector(&pod.labels);
                selecting.min_by(|a, b| age(a).cmp(&age(b)))
            }
            Level::Namespace | Level::Mesh => self.peer.for_all().first(),
        }
    }
}

impl<'a> View<'a> {
    /// What is enforced on a pod.
    pub(super) fn enforced(
        pod: &'a Workload,
        mesh: &'a Scope,
        namespace: Option<&'a Scope>,
    ) -> Self {
        let namespace = namespace.map(|scope| &scope.enforced);
        Self { pod, mesh: [None, Some(&mesh.enforced)], namespace: [None, namespace] }
    }

    /// The same and what would be enforced with it; `None` if that is nothing.
    pub(super) fn with_dry_run(
        pod: &'a Workload,
        mesh: &'a Scope,
        namespace: Option<&'a Scope>,
    ) -> Option<Self> {
        let dry_mesh = Some(&mesh.dry_run).filter(|layer| layer.has_say_on(pod));
        let dry_namespace = namespace.map(|scope| &scope.dry_run);
        let dry_namespace = dry_namespace.filter(|layer| layer.has_say_on(pod));
        if dry_mesh.is_none() && dry_namespace.is_none() {
            return None;
        }
        let namespace = namespace.map(|scope| &scope.enforced);
        Some(Self {
            pod,
            mesh: [dry_mesh, Some(&mesh.enforced)],
            namespace: [dry_namespace, namespace],
        })
    }

    /// The PeerAuthentications that may say something, in the order in which they are asked: one
    /// at each level.
    pub(super) fn peers(self) -> impl Iterator<Item = (Level, &'a Arc<PeerAuthentication>)> {
        let Self { pod, mesh, namespace } = self;
        let levels =
            [(Level::Workload, namespace), (Level::Namespace, namespace), (Level::Mesh, mesh)];
        levels.into_iter().filter_map(move |(level, layers)| {
            let policy = layers.into_iter().flatten().find_map(|layer| layer.oldest(level, pod))?;
            Some((level, policy))
        })
    }

    /// The policies that refuse.
    pub(super) fn denies(self) -> impl Iterator<Item = &'a Arc<Compiled>> {
        self.layers().flat_map(move |layer| layer.deny.matching(&self.pod.labels))
    }

    /// The policies that let in.
    pub(super) fn allows(self) -> impl Iterator<Item = &'a Arc<Compiled>> {
        self.layers().flat_map(move |layer| layer.allow.matching(&self.pod.labels))
    }

    /// Dry-run before enforced, mesh before namespace.
    fn layers(self) -> impl Iterator<Item = &'a Layer> {
        let [dry_mesh, mesh] = self.mesh;
        let [dry_namespace, namespace] = self.namespace;
        [dry_mesh, dry_namespace, mesh, namespace].into_iter().flatten()
    }
}

/// What orders PeerAuthentications of the same place: the smallest is in force.
pub(super) fn age(policy: &PeerAuthentication) -> (Option<SystemTime>, &PolicyId) {
    (policy.created(), policy.id())
}

impl Level {
    /// The spelling used by the command line.
    #[must_use]
    pub const fn as_label(self) -> &'static str {
        match self {
            Self::Workload => "workload",
            Self::Namespace => "namespace",
            Self::Mesh => "mesh",
        }
    }
}
