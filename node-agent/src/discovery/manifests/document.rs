//! One document of a manifest → the object it describes.

use adit_core::identity::TrustDomain;
use k8s_openapi::api::core::v1;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::discovery::manifests::yaml;
use crate::discovery::translate;
use crate::discovery::translate::{Invalid, Key, Kind, Object};

/// Where an object stands in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    /// The number of the document, from 1; documents without content do not count.
    pub(super) document: usize,
    /// The index in a List.
    pub(super) item: Option<usize>,
}

/// What became of one object of a file.
#[derive(Debug)]
pub(super) struct Reading {
    /// Where it stands.
    pub(super) place: Place,
    /// What it is known by, where that much can be read.
    pub(super) key: Option<Key>,
    /// The object; or what is wrong.
    pub(super) result: Result<Object, Rejected>,
}

/// Something that is not valid.
#[derive(Debug)]
pub(super) struct Rejected {
    /// The field and what is wrong with it.
    pub(super) error: String,
    /// For a policy: what holds in its place where its last good version is not known.
    pub(super) closed: Option<Object>,
}

/// Reads a file's text: one JSON value, or any number of YAML documents.
pub(super) fn read_all(text: &str, json: bool, trust_domain: &TrustDomain) -> Vec<Reading> {
    let values = if json {
        vec![yaml::parse_json(text)]
    } else {
        let documents = yaml::documents(text);
        documents.iter().map(|text| yaml::parse_yaml(text)).collect()
    };
    let numbered = (1..).zip(values);
    numbered.flat_map(|(document, value)| read(document, value, trust_domain)).collect()
}

/// Reads one document: an object, or the items of a List. Objects that adit does not use give
/// nothing but a debug line.
fn read(document: usize, value: Result<Value, String>, trust_domain: &TrustDomain) -> Vec<Reading> {
    let place = Place { document, item: None };
    let mut readings = Vec::new();
    match value {
        Ok(Value::Null) => {}
        Ok(mut value) => match take_items(&mut value) {
            None => readings.extend(read_object(place, value, trust_domain)),
            Some(Value::Array(items)) => {
                for (i, item) in items.into_iter().enumerate() {
                    let item_place = Place { document, item: Some(i) };
                    readings.extend(read_object(item_place, item, trust_domain));
                }
            }
            Some(_) => readings.push(Reading {
                place,
                key: None,
                result: Err(Rejected::new(place, "items: not a list")),
            }),
        },
        Err(error) => {
            readings.push(Reading { place, key: None, result: Err(Rejected::new(place, &error)) })
        }
    }
    readings
}

/// The items of a `List`, a `PodList` and so on.
fn take_items(value: &mut Value) -> Option<Value> {
    let kind = value.get("kind")?.as_str()?;
    let list = kind.ends_with("List");
    if list { Some(value.get_mut("items")?.take()) } else { None }
}

fn read_object(place: Place, value: Value, trust_domain: &TrustDomain) -> Option<Reading> {
    let text = |name| value.get(name).and_then(Value::as_str);
    let (Some(api_version), Some(kind)) = (text("apiVersion"), text("kind")) else {
        return Some(Reading {
            place,
            key: None,
            result: Err(Rejected::new(place, "apiVersion, kind: missing: not a Kubernetes object")),
        });
    };
    let Some(kind) = Kind::from_type(api_version, kind) else {
        tracing::debug!(
            document = place.document,
            item = place.item,
            api_version,
            kind,
            "manifest of a kind that is not used"
        );
        return None;
    };
    let metadata = |name| value.get("metadata")?.get(name)?.as_str();
    let key = Key::of(kind, metadata("namespace"), metadata("name"));
    let mut closed = None;
    let result = match kind {
        Kind::Namespace => decode(value).and_then(|object: v1::Namespace| {
            let namespace = translate::namespace(&object).map_err(said)?;
            Ok(Some(Object::Namespace(namespace)))
        }),
        Kind::Pod => decode(value).and_then(|object: v1::Pod| {
            let mut pod = translate::pod(&object, trust_domain).map_err(said)?;
            pod.workload.netns = translate::netns(&object.metadata).map_err(said)?;
            Ok(Some(Object::Pod(Box::new(pod))))
        }),
        Kind::Service => decode(value).and_then(|object: v1::Service| {
            let service = translate::service(&object).map_err(said)?;
            Ok(service.map(|service| Object::Service(Box::new(service))))
        }),
        Kind::EndpointSlice => decode(value).and_then(|object: EndpointSlice| {
            let slice = translate::endpoint_slice(&object).map_err(said)?;
            Ok(slice.map(|slice| Object::Slice(Box::new(slice))))
        }),
        Kind::PeerAuthentication => {
            let object = |policy| Object::PeerAuthentication(Box::new(policy));
            translate::peer_authentication(&value).map(object).map(Some).map_err(|wrong| {
                closed = translate::closed_peer_authentication(&value).map(object);
                all_said(&wrong)
            })
        }
        Kind::AuthorizationPolicy => {
            let object = |policy| Object::AuthorizationPolicy(Box::new(policy));
            translate::authorization_policy(&value).map(object).map(Some).map_err(|wrong| {
                closed = translate::closed_authorization_policy(&value).map(object);
                all_said(&wrong)
            })
        }
    };
    let result = match result {
        Ok(None) => {
            let object = key.as_ref().map(ToString::to_string);
            tracing::debug!(
                document = place.document,
                item = place.item,
                object,
                "manifest without TCP addresses: an ExternalName, or a slice of names or of no \
                 service"
            );
            return None;
        }
        Ok(Some(object)) => Ok(object),
        Err(error) => Err(Rejected { closed, ..Rejected::new(place, &error) }),
    };
    Some(Reading { place, key, result })
}

fn decode<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let cause = error.into_inner();
        if path == "." { cause.to_string() } else { format!("{path}: {cause}") }
    })
}

#[expect(clippy::needless_pass_by_value, reason = "an argument of map_err")]
fn said(error: Invalid) -> String {
    error.to_string()
}

fn all_said(wrong: &[Invalid]) -> String {
    let wrong: Vec<String> = wrong.iter().map(ToString::to_string).collect();
    wrong.join("; ")
}

impl Rejected {
    fn new(place: Place, error: &str) -> Self {
        let error = match place.item {
            Some(item) => format!("items[{item}].{error}"),
            None => error.to_owned(),
        };
        Self { error, closed: None }
    }
}
