//! The policies that are known, by namespace, and the pods they are for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::policy::compile::Compiled;
use crate::policy::index::{self, Scope, View};
use crate::policy::invalid::{Gap, GapReason};
use crate::policy::object::{
    AuthorizationPolicy, PeerAuthentication, PolicyId, PolicyKind, Selector,
};
use crate::policy::select::Selected;
use crate::workload::{ObjectName, Workload};

/// The namespaces whose policies are for the whole mesh, unless others are configured.
pub const ROOT_NAMESPACES: [&str; 2] = ["adit-system", "istio-system"];

/// All policies. Cloning it costs three reference counts. A policy is compiled when it comes; a
/// change indexes the policies of its own namespace anew, and shares those of all others.
#[derive(Debug, Clone)]
pub struct PolicySet {
    roots: Arc<BTreeSet<Arc<str>>>,
    namespaces: Arc<BTreeMap<Arc<str>, Arc<Policies>>>,
    /// Those of the root namespaces.
    mesh: Arc<Scope>,
}

/// The policies of one namespace, by name.
#[derive(Debug, Clone, Default)]
struct Policies {
    peer: BTreeMap<Arc<str>, Arc<PeerAuthentication>>,
    authorization: BTreeMap<Arc<str>, Arc<Compiled>>,
    /// Empty for a root namespace.
    scope: Arc<Scope>,
}

/// The pods that a policy is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// The namespace; `None` is the whole mesh.
    pub namespace: Option<Arc<str>>,
    /// The labels.
    pub selector: Selector,
}

/// Which pods a number of policies were or are for.
#[derive(Debug, Default)]
pub(crate) struct Touched {
    mesh: Selected<()>,
    namespaces: BTreeMap<Arc<str>, Selected<()>>,
}

impl PolicySet {
    /// No policies, and these root namespaces.
    #[must_use]
    pub fn new(roots: impl IntoIterator<Item = Arc<str>>) -> Self {
        Self {
            roots: Arc::new(roots.into_iter().collect()),
            namespaces: Arc::default(),
            mesh: Arc::default(),
        }
    }

    /// The namespaces whose policies are for the whole mesh.
    #[must_use]
    pub fn roots(&self) -> &BTreeSet<Arc<str>> {
        &self.roots
    }

    /// All PeerAuthentications, by namespace and name.
    pub fn peer_authentications(&self) -> impl Iterator<Item = &Arc<PeerAuthentication>> {
        self.namespaces.values().flat_map(|policies| policies.peer.values())
    }

    /// All AuthorizationPolicies, by namespace and name.
    pub fn authorization_policies(&self) -> impl Iterator<Item = &Arc<AuthorizationPolicy>> {
        let compiled =
            self.namespaces.values().flat_map(|policies| policies.authorization.values());
        compiled.map(|compiled| compiled.policy())
    }

    /// The PeerAuthentication of this name.
    #[must_use]
    pub fn peer_authentication(&self, name: &ObjectName) -> Option<&Arc<PeerAuthentication>> {
        self.namespaces.get(&name.namespace)?.peer.get(&name.name)
    }

    /// The AuthorizationPolicy of this name.
    #[must_use]
    pub fn authorization_policy(&self, name: &ObjectName) -> Option<&Arc<AuthorizationPolicy>> {
        let compiled = self.namespaces.get(&name.namespace)?.authorization.get(&name.name)?;
        Some(compiled.policy())
    }

    /// Whether there is such a policy.
    #[must_use]
    pub fn contains(&self, id: &PolicyId) -> bool {
        match id.kind {
            PolicyKind::PeerAuthentication => self.peer_authentication(&id.name).is_some(),
            PolicyKind::AuthorizationPolicy => self.authorization_policy(&id.name).is_some(),
        }
    }

    /// Whether a policy is the narrowest reading of a manifest that is not valid.
    #[must_use]
    pub fn is_closed(&self, id: &PolicyId) -> bool {
        match id.kind {
            PolicyKind::PeerAuthentication => {
                self.peer_authentication(&id.name).is_some_and(|policy| policy.is_closed())
            }
            PolicyKind::AuthorizationPolicy => {
                self.authorization_policy(&id.name).is_some_and(|policy| policy.is_closed())
            }
        }
    }

    /// The pods that a policy is for; `None` if there is no such policy or it is for none.
    #[must_use]
    pub fn reach(&self, id: &PolicyId) -> Option<Reach> {
        let selector = match id.kind {
            PolicyKind::PeerAuthentication => {
                let policy = self.peer_authentication(&id.name)?;
                let ignored = self.is_root(&id.name.namespace) && !policy.selector().is_empty();
                (!ignored).then(|| policy.selector())?
            }
            PolicyKind::AuthorizationPolicy => {
                let policy = self.authorization_policy(&id.name)?;
                policy.effect().map(|_| policy.selector())?
            }
        };
        let mesh = self.is_root(&id.name.namespace);
        let namespace = (!mesh).then(|| Arc::clone(&id.name.namespace));
        Some(Reach { namespace, selector: selector.clone() })
    }

    /// What of a policy is not enforced as it is written; nothing if there is no such policy.
    #[must_use]
    pub fn gaps(&self, id: &PolicyId) -> Vec<Gap> {
        match id.kind {
            PolicyKind::PeerAuthentication => {
                let Some(policy) = self.peer_authentication(&id.name) else {
                    return Vec::new();
                };
                let mut gaps = policy.gaps().to_vec();
                if self.is_root(&id.name.namespace) && !policy.selector().is_empty() {
                    gaps.push(GapReason::SelectorInRoot.at("spec.selector"));
                }
                if self.is_outranked(policy) {
                    gaps.push(GapReason::Outranked.at("metadata.creationTimestamp"));
                }
                gaps
            }
            PolicyKind::AuthorizationPolicy => self
                .authorization_policy(&id.name)
                .map_or_else(Vec::new, |policy| policy.gaps().to_vec()),
        }
    }

    /// Whether another policy of the same place and the same selector is older.
    fn is_outranked(&self, policy: &Arc<PeerAuthentication>) -> bool {
        let place = |policy: &PeerAuthentication| {
            let namespace = &policy.id().name.namespace;
            (!self.is_root(namespace)).then(|| Arc::clone(namespace))
        };
        let own = place(policy);
        self.peer_authentications().any(|other| {
            other.dry_run() == policy.dry_run()
                && other.selector() == policy.selector()
                && index::age(other) < index::age(policy)
                && place(other) == own
        })
    }

    /// The policies that have a say on a pod's flows.
    pub(super) fn enforced_on<'a>(&'a self, pod: &'a Workload) -> View<'a> {
        View::enforced(pod, &self.mesh, self.scope(pod))
    }

    /// The same and those that are only evaluated; `None` if there are none of these.
    pub(super) fn dry_run_on<'a>(&'a self, pod: &'a Workload) -> Option<View<'a>> {
        View::with_dry_run(pod, &self.mesh, self.scope(pod))
    }

    fn scope(&self, pod: &Workload) -> Option<&Scope> {
        self.namespaces.get(&pod.name.namespace).map(|policies| &*policies.scope)
    }

    /// Indexes the namespaces of policies that have changed.
    pub(crate) fn index<'a>(&mut self, changed: impl IntoIterator<Item = &'a Arc<PolicyId>>) {
        let changed = changed.into_iter().map(|id| &id.name.namespace);
        let changed: BTreeSet<_> = changed.collect();
        let roots = Arc::clone(&self.roots);
        let (changed_roots, changed): (Vec<_>, Vec<_>) =
            changed.into_iter().partition(|namespace| roots.contains(*namespace));
        for namespace in changed {
            let namespaces = Arc::make_mut(&mut self.namespaces);
            if let Some(policies) = namespaces.get_mut(namespace) {
                let policies = Arc::make_mut(policies);
                let Policies { peer, authorization, .. } = &policies;
                let scope = Scope::new(peer.values(), authorization.values(), false);
                policies.scope = Arc::new(scope);
            }
        }
        if !changed_roots.is_empty() {
            let of = roots.iter().filter_map(|root| self.namespaces.get(root));
            let peer = of.clone().flat_map(|policies| policies.peer.values());
            let authorization = of.flat_map(|policies| policies.authorization.values());
            self.mesh = Arc::new(Scope::new(peer, authorization, true));
        }
    }

    fn is_root(&self, namespace: &str) -> bool {
        self.roots.contains(namespace)
    }

    /// Puts a policy in the place of its last version, to be indexed. `false` if that was the same.
    pub(crate) fn put_peer(&mut self, policy: PeerAuthentication) -> bool {
        let name = &policy.id().name;
        if self.peer_authentication(name).map(|old| &**old) == Some(&policy) {
            return false;
        }
        let id = Arc::clone(policy.id());
        let policies = self.namespace(&name.namespace);
        policies.peer.insert(Arc::clone(&id.name.name), Arc::new(policy));
        true
    }

    /// Puts a policy in the place of its last version, to be indexed. `false` if that was the same.
    pub(crate) fn put_authorization(&mut self, policy: AuthorizationPolicy) -> bool {
        let name = &policy.id().name;
        if self.authorization_policy(name).map(|old| &**old) == Some(&policy) {
            return false;
        }
        let id = Arc::clone(policy.id());
        let policies = self.namespace(&name.namespace);
        let compiled = Compiled::new(Arc::new(policy));
        policies.authorization.insert(Arc::clone(&id.name.name), Arc::new(compiled));
        true
    }

    /// Removes a policy, if there is such a one; the rest is to be indexed.
    pub(crate) fn remove(&mut self, id: &PolicyId) -> bool {
        let PolicyId { kind, name } = id;
        let known = match kind {
            PolicyKind::PeerAuthentication => self.peer_authentication(name).is_some(),
            PolicyKind::AuthorizationPolicy => self.authorization_policy(name).is_some(),
        };
        if !known {
            return false;
        }
        let policies = self.namespace(&name.namespace);
        match kind {
            PolicyKind::PeerAuthentication => drop(policies.peer.remove(&name.name)),
            PolicyKind::AuthorizationPolicy => drop(policies.authorization.remove(&name.name)),
        }
        if policies.peer.is_empty() && policies.authorization.is_empty() {
            Arc::make_mut(&mut self.namespaces).remove(&name.namespace);
        }
        true
    }

    fn namespace(&mut self, name: &Arc<str>) -> &mut Policies {
        let namespaces = Arc::make_mut(&mut self.namespaces);
        Arc::make_mut(namespaces.entry(Arc::clone(name)).or_default())
    }
}

impl Default for PolicySet {
    fn default() -> Self {
        Self::new(ROOT_NAMESPACES.map(Arc::from))
    }
}

impl Reach {
    /// Whether the policy is for this pod.
    #[must_use]
    pub fn covers(&self, pod: &Workload) -> bool {
        self.namespace.as_ref().is_none_or(|namespace| *namespace == pod.name.namespace)
            && self.selector.matches(&pod.labels)
    }
}

impl Touched {
    /// Counts in what a policy is for.
    pub(crate) fn add(&mut self, reach: Option<Reach>) {
        let Some(Reach { namespace, selector }) = reach else {
            return;
        };
        let place = match namespace {
            None => &mut self.mesh,
            Some(namespace) => self.namespaces.entry(namespace).or_default(),
        };
        place.add(&selector, ());
    }

    /// Whether one of the policies is for this pod.
    pub(crate) fn covers(&self, pod: &Workload) -> bool {
        let namespace = self.namespaces.get(&pod.name.namespace);
        self.mesh.matching(&pod.labels).next().is_some()
            || namespace.is_some_and(|policies| policies.matching(&pod.labels).next().is_some())
    }
}

#[cfg(test)]
mod tests;
