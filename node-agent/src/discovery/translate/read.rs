//! One object as JSON → what it says of the world. The same for every source.

use adit_core::identity::TrustDomain;
use k8s_openapi::api::core::v1;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::discovery::translate;
use crate::discovery::translate::{Invalid, Kind, Object};

/// An object that is not valid.
#[derive(Debug)]
pub struct Unreadable {
    /// The fields and what is wrong with each.
    pub error: String,
    /// For a policy: what holds in its place where its last good version is not known.
    pub closed: Option<Object>,
}

impl From<Invalid> for Unreadable {
    fn from(invalid: Invalid) -> Self {
        Self { error: invalid.to_string(), closed: None }
    }
}

/// Reads an object of this kind; `None` for one that says nothing of the world: an ExternalName, or
/// an EndpointSlice of domain names or of no service.
///
/// # Errors
/// What is wrong with it.
pub fn read(
    kind: Kind,
    value: Value,
    trust_domain: &TrustDomain,
) -> Result<Option<Object>, Unreadable> {
    match kind {
        Kind::Namespace => {
            let namespace = translate::namespace(&decode::<v1::Namespace>(value)?)?;
            Ok(Some(Object::Namespace(namespace)))
        }
        Kind::Node => {
            let node = translate::node(&decode::<v1::Node>(value)?)?;
            Ok(Some(Object::Node(node)))
        }
        Kind::Pod => {
            let pod = translate::pod(&decode::<v1::Pod>(value)?, trust_domain)?;
            Ok(Some(Object::Pod(Box::new(pod))))
        }
        Kind::Service => {
            let service = translate::service(&decode::<v1::Service>(value)?)?;
            Ok(service.map(|service| Object::Service(Box::new(service))))
        }
        Kind::EndpointSlice => {
            let slice = translate::endpoint_slice(&decode::<EndpointSlice>(value)?);
            Ok(slice?.map(|slice| Object::Slice(Box::new(slice))))
        }
        Kind::NetworkPolicy => {
            let policy = translate::network_policy(&decode::<NetworkPolicy>(value)?)?;
            Ok(Some(Object::NetworkPolicy(Box::new(policy))))
        }
        Kind::PeerAuthentication => {
            let object = |policy| Object::PeerAuthentication(Box::new(policy));
            translate::peer_authentication(&value).map(object).map(Some).map_err(|wrong| {
                let closed = translate::closed_peer_authentication(&value).map(object);
                Unreadable { error: all_said(&wrong), closed }
            })
        }
        Kind::AuthorizationPolicy => {
            let object = |policy| Object::AuthorizationPolicy(Box::new(policy));
            translate::authorization_policy(&value).map(object).map(Some).map_err(|wrong| {
                let closed = translate::closed_authorization_policy(&value).map(object);
                Unreadable { error: all_said(&wrong), closed }
            })
        }
    }
}

fn decode<T: DeserializeOwned>(value: Value) -> Result<T, Unreadable> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let cause = error.into_inner();
        let error = if path == "." { cause.to_string() } else { format!("{path}: {cause}") };
        Unreadable { error, closed: None }
    })
}

fn all_said(wrong: &[Invalid]) -> String {
    let wrong: Vec<String> = wrong.iter().map(ToString::to_string).collect();
    wrong.join("; ")
}
