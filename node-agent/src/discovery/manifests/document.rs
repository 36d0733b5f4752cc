//! One document of a manifest → the object it describes.

use std::sync::Arc;

use adit_core::identity::TrustDomain;
use serde_json::Value;

use crate::discovery::manifests::yaml;
use crate::discovery::translate;
use crate::discovery::translate::{Key, Kind, Object, Unreadable};

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
    let netns = if kind == Kind::Pod { netns(&value) } else { Ok(None) };
    let result = netns.and_then(|netns| {
        let mut object = translate::read(kind, value, trust_domain)?;
        if let Some(Object::Pod(pod)) = &mut object {
            pod.workload.netns = netns;
        }
        Ok(object)
    });
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
        Err(Unreadable { error, closed }) => {
            Err(Rejected { closed, ..Rejected::new(place, &error) })
        }
    };
    Some(Reading { place, key, result })
}

/// Manifests are as trusted as the agent's own configuration: a pod of this node may name its network
/// namespace in them.
fn netns(pod: &Value) -> Result<Option<Arc<str>>, Unreadable> {
    let annotations = pod.get("metadata").and_then(|metadata| metadata.get("annotations"));
    let path = annotations.and_then(|all| all.get(translate::NETNS_ANNOTATION));
    Ok(translate::netns(path.and_then(Value::as_str))?)
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
