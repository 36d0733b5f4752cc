//! Whether the CA signs an identity for a caller: [`decide`]. The rule is that a node can have the
//! identities of the pods that run on it and no others, so that a stolen node gives away no more than
//! what runs there.
//!
//! What the caller is comes from the API server's review of its token, where pods run from the CA's
//! own watch. What the caller says of itself counts for nothing.

use crate::identity::{SpiffeId, TrustDomain};
use crate::workload::{NodeName, ObjectName, Phase, PodUid, Workload};
use crate::world::World;

/// What a reviewed token says of whoever presents it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// The service account.
    pub account: ObjectName,
    /// The pod that the token is bound to (claims `pod-name` and `pod-uid`).
    pub pod: Option<(ObjectName, PodUid)>,
    /// The node that this pod runs on (claim `node-name`, Kubernetes 1.30).
    pub node: Option<NodeName>,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// A node that is known by a token of its own.
    Node(NodeName),
    /// A pod that has shown a token of its service account.
    Pod(Claims),
}

/// For whom the CA signs, and what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Whose identities are signed.
    pub trust_domain: TrustDomain,
    /// The service account of the agents, for callers that are pods.
    pub agent: ObjectName,
}

/// Why a certificate may be issued, for the record of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The node that asked.
    pub node: NodeName,
    /// A pod there that has the identity.
    pub pod: PodUid,
}

/// Why a certificate is not issued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// The token is of another service account than the agents'.
    #[error("the token is not of the agents' service account")]
    OtherAccount,
    /// The token is bound to no pod.
    #[error("the token is not bound to a pod: a projected token is needed")]
    NoPod,
    /// The token names no node.
    #[error("the token names no node: Kubernetes 1.30 or later is needed")]
    NoNode,
    /// The CA's own watch does not know the pod that calls.
    #[error("the pod that the token is bound to is not known")]
    CallerUnknown,
    /// The pod that calls is another one than the token says.
    #[error("the pod that the token is bound to has another name or service account")]
    CallerOther,
    /// The pod that calls runs elsewhere than the token says.
    #[error("the pod that the token is bound to runs on another node")]
    CallerElsewhere,
    /// The pod that calls has finished.
    #[error("the pod that the token is bound to has finished")]
    CallerFinished,
    /// The identity is of another trust domain.
    #[error("the identity is of another trust domain")]
    OtherTrustDomain,
    /// No pod with the identity is scheduled on the node.
    #[error("no pod with this identity is on the caller's node")]
    NotOnNode,
    /// Every pod with the identity on the node is a static pod. Of those the node makes the object
    /// itself, in any namespace: what a stolen node says runs on it is not what was scheduled there.
    #[error("the pods with this identity on the caller's node are static pods, which have none")]
    StaticPod,
    /// Every pod with the identity on the node is being deleted.
    #[error("the pods with this identity on the caller's node are being deleted")]
    Terminating,
    /// Every pod with the identity on the node has finished.
    #[error("the pods with this identity on the caller's node have finished")]
    Finished,
}

impl Denied {
    /// The spelling used by metrics, log lines and the command line.
    #[must_use]
    pub const fn as_label(self) -> &'static str {
        match self {
            Self::OtherAccount => "other_service_account",
            Self::NoPod => "token_not_bound",
            Self::NoNode => "token_without_node",
            Self::CallerUnknown => "caller_unknown",
            Self::CallerOther => "caller_other_pod",
            Self::CallerElsewhere => "caller_on_other_node",
            Self::CallerFinished => "caller_finished",
            Self::OtherTrustDomain => "other_trust_domain",
            Self::NotOnNode => "not_hosted",
            Self::StaticPod => "static_pod",
            Self::Terminating => "pod_terminating",
            Self::Finished => "pod_finished",
        }
    }

    /// Whether the caller is not who may ask at all, whatever it asks for.
    #[must_use]
    pub const fn is_of_caller(self) -> bool {
        match self {
            Self::OtherAccount
            | Self::NoPod
            | Self::NoNode
            | Self::CallerUnknown
            | Self::CallerOther
            | Self::CallerElsewhere
            | Self::CallerFinished => true,
            Self::OtherTrustDomain
            | Self::NotOnNode
            | Self::StaticPod
            | Self::Terminating
            | Self::Finished => false,
        }
    }

    /// Whether a pod that is just being learned of could change it: the caller's watch may be ahead
    /// of the CA's.
    #[must_use]
    pub const fn may_pass(self) -> bool {
        match self {
            Self::CallerUnknown
            | Self::NotOnNode
            | Self::StaticPod
            | Self::Terminating
            | Self::Finished => true,
            Self::OtherAccount
            | Self::NoPod
            | Self::NoNode
            | Self::CallerOther
            | Self::CallerElsewhere
            | Self::CallerFinished
            | Self::OtherTrustDomain => false,
        }
    }
}

/// The node that calls, whatever it asks for. An agent that is being deleted still drains, and may
/// call.
///
/// # Errors
/// Why it is none that may ask.
pub fn caller(world: &World, rules: &Rules, caller: &Caller) -> Result<NodeName, Denied> {
    let claims = match caller {
        Caller::Node(node) => return Ok(node.clone()),
        Caller::Pod(claims) => claims,
    };
    if claims.account != rules.agent {
        return Err(Denied::OtherAccount);
    }
    let (name, uid) = claims.pod.as_ref().ok_or(Denied::NoPod)?;
    let node = claims.node.as_ref().ok_or(Denied::NoNode)?;
    let pod = world.workload(uid).ok_or(Denied::CallerUnknown)?;
    if pod.name != *name || !runs_as(pod, &rules.agent) {
        return Err(Denied::CallerOther);
    }
    if pod.node.as_ref() != Some(node) {
        return Err(Denied::CallerElsewhere);
    }
    if pod.phase == Phase::Finished {
        return Err(Denied::CallerFinished);
    }
    Ok(node.clone())
}

/// Whether the caller may have a certificate for this identity.
///
/// # Errors
/// Why not.
pub fn decide(
    world: &World,
    rules: &Rules,
    caller: &Caller,
    identity: &SpiffeId,
) -> Result<Grant, Denied> {
    let node = self::caller(world, rules, caller)?;
    if *identity.trust_domain() != rules.trust_domain {
        return Err(Denied::OtherTrustDomain);
    }
    let mut denied = Denied::NotOnNode;
    for pod in world.workloads_on(&node).filter(|pod| pod.identity == *identity) {
        if pod.mirror_of.is_some() {
            if denied == Denied::NotOnNode {
                denied = Denied::StaticPod;
            }
            continue;
        }
        match pod.phase {
            // Pending too: a pod that starts needs its certificate before its first container.
            Phase::Active => return Ok(Grant { node: node.clone(), pod: pod.uid.clone() }),
            Phase::Terminating => denied = Denied::Terminating,
            Phase::Finished if matches!(denied, Denied::NotOnNode | Denied::StaticPod) => {
                denied = Denied::Finished
            }
            Phase::Finished => {}
        }
    }
    Err(denied)
}

fn runs_as(pod: &Workload, account: &ObjectName) -> bool {
    pod.identity.namespace() == &*account.namespace
        && pod.identity.service_account() == &*account.name
}

#[cfg(test)]
mod tests;
