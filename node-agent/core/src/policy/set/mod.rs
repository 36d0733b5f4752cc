//! The policies that are known, by namespace, and the pods they are for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::policy::invalid::{Gap, GapReason};
use crate::policy::object::{
    AuthorizationPolicy, PeerAuthentication, PolicyId, PolicyKind, Selector,
};
use crate::policy::select::Selected;
use crate::workload::{ObjectName, Workload};

/// The namespaces whose policies are for the whole mesh, unless others are configured.
pub const ROOT_NAMESPACES: [&str; 2] = ["adit-system", "istio-system"];

/// All policies. Cloning it costs two reference counts; a change copies what is of the same
/// namespace.
#[derive(Debug, Clone)]
pub struct PolicySet {
    roots: Arc<BTreeSet<Arc<str>>>,
    namespaces: Arc<BTreeMap<Arc<str>, Arc<Policies>>>,
}

/// The policies of one namespace, by name.
#[derive(Debug, Clone, Default)]
struct Policies {
    peer: BTreeMap<Arc<str>, Arc<PeerAuthentication>>,
    authorization: BTreeMap<Arc<str>, Arc<AuthorizationPolicy>>,
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
        Self { roots: Arc::new(roots.into_iter().collect()), namespaces: Arc::default() }
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
        self.namespaces.values().flat_map(|policies| policies.authorization.values())
    }

    /// The PeerAuthentication of this name.
    #[must_use]
    pub fn peer_authentication(&self, name: &ObjectName) -> Option<&Arc<PeerAuthentication>> {
        self.namespaces.get(&name.namespace)?.peer.get(&name.name)
    }

    /// The AuthorizationPolicy of this name.
    #[must_use]
    pub fn authorization_policy(&self, name: &ObjectName) -> Option<&Arc<AuthorizationPolicy>> {
        self.namespaces.get(&name.namespace)?.authorization.get(&name.name)
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
                gaps
            }
            PolicyKind::AuthorizationPolicy => self
                .authorization_policy(&id.name)
                .map_or_else(Vec::new, |policy| policy.gaps().to_vec()),
        }
    }

    fn is_root(&self, namespace: &str) -> bool {
        self.roots.contains(namespace)
    }

    /// Puts a policy in the place of its last version. `false` if that was the same.
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

    /// Puts a policy in the place of its last version. `false` if that was the same.
    pub(crate) fn put_authorization(&mut self, policy: AuthorizationPolicy) -> bool {
        let name = &policy.id().name;
        if self.authorization_policy(name).map(|old| &**old) == Some(&policy) {
            return false;
        }
        let id = Arc::clone(policy.id());
        let policies = self.namespace(&name.namespace);
        policies.authorization.insert(Arc::clone(&id.name.name), Arc::new(policy));
        true
    }

    /// Removes a policy, if there is such a one.
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
