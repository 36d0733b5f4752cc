//! Where the API server keeps each kind.

use crate::discovery::translate::Kind;

/// A kind of object as a collection of the API server.
#[derive(Debug, Clone)]
pub(super) struct Resource {
    /// The kind.
    pub(super) kind: Kind,
    /// Which of the objects are wanted.
    pub(super) fields: Option<&'static str>,
    /// Paths of the same objects in several versions of the API, best first.
    paths: &'static [&'static str],
    version: usize,
}

impl Resource {
    pub(super) fn of(kind: Kind) -> Self {
        let paths: &[&str] = match kind {
            Kind::Namespace => &["/api/v1/namespaces"],
            Kind::Node => &["/api/v1/nodes"],
            Kind::Pod => &["/api/v1/pods"],
            Kind::Service => &["/api/v1/services"],
            Kind::EndpointSlice => &["/apis/discovery.k8s.io/v1/endpointslices"],
            Kind::NetworkPolicy => &["/apis/networking.k8s.io/v1/networkpolicies"],
            Kind::PeerAuthentication => &[
                "/apis/security.istio.io/v1/peerauthentications",
                "/apis/security.istio.io/v1beta1/peerauthentications",
            ],
            Kind::AuthorizationPolicy => &[
                "/apis/security.istio.io/v1/authorizationpolicies",
                "/apis/security.istio.io/v1beta1/authorizationpolicies",
            ],
        };
        let fields = match kind {
            // What has finished has no address any more: the server need not send it.
            Kind::Pod => Some("status.phase!=Succeeded,status.phase!=Failed"),
            Kind::Namespace
            | Kind::Node
            | Kind::Service
            | Kind::EndpointSlice
            | Kind::PeerAuthentication
            | Kind::AuthorizationPolicy
            | Kind::NetworkPolicy => None,
        };
        Self { kind, fields, paths, version: 0 }
    }

    /// The path of the collection.
    pub(super) fn path(&self) -> &'static str {
        self.paths.get(self.version).copied().unwrap_or_default()
    }

    /// Whether a cluster may be without it: a custom resource.
    pub(super) const fn is_optional(&self) -> bool {
        matches!(self.kind, Kind::PeerAuthentication | Kind::AuthorizationPolicy)
    }

    /// Takes the next version of the API; `false` if that is the first one again.
    pub(super) const fn try_next_version(&mut self) -> bool {
        self.version = (self.version + 1) % self.paths.len();
        self.version != 0
    }
}
