//! What a policy's object holds beside its specification, for whoever writes its status. Agents, who
//! write none, keep none.

use std::collections::BTreeMap;

use adit_core::policy::PolicyId;
use serde_json::Value;
use tokio::sync::watch;

use crate::discovery::kubernetes::feed::News;
use crate::discovery::kubernetes::hub;
use crate::discovery::translate::{Key, Kind};

/// How the object of a policy stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Standing {
    /// `metadata.generation`.
    pub generation: i64,
    /// `metadata.resourceVersion`.
    pub version: String,
    /// The version of the API that it came by.
    pub api_version: String,
    /// `status.conditions`, everybody's.
    pub conditions: Vec<Value>,
}

/// How the policies stand. The default keeps nothing.
#[derive(Debug, Default)]
pub struct Standings(Option<watch::Sender<BTreeMap<PolicyId, Standing>>>);

/// A policy that has changed, or is gone.
pub(super) type Change = (Key, Option<Standing>);

impl Standings {
    /// Keeps them, and shows them.
    #[must_use]
    pub fn kept() -> (Self, watch::Receiver<BTreeMap<PolicyId, Standing>>) {
        let (sender, receiver) = watch::channel(BTreeMap::new());
        (Self(Some(sender)), receiver)
    }

    pub(super) fn changes(&self, batch: &[(Kind, News)]) -> Vec<Change> {
        if self.0.is_none() {
            return Vec::new();
        }
        let changes = batch.iter().filter_map(|(kind, news)| match news {
            News::Object(value) => Some((hub::key(*kind, value)?, Some(Standing::of(value)))),
            News::Gone(value) => Some((hub::key(*kind, value)?, None)),
            News::Listing | News::Listed | News::Current | News::Absent | News::Failing(_) => None,
        });
        changes.collect()
    }

    /// Enters the changes, and lets go of what nobody knows any more.
    pub(super) fn apply(&self, changes: Vec<Change>, knows: impl Fn(&Key) -> bool) {
        let Some(kept) = &self.0 else {
            return;
        };
        kept.send_if_modified(|kept| {
            let before = kept.len();
            kept.retain(|id, _| knows(&Key::from(id)));
            let mut changed = kept.len() != before;
            for (key, standing) in changes {
                let Some(id) = key.policy() else { continue };
                changed |= match standing.filter(|_| knows(&key)) {
                    Some(standing) => kept.insert(id, standing.clone()) != Some(standing),
                    None => kept.remove(&id).is_some(),
                };
            }
            changed
        });
    }
}

impl Standing {
    fn of(object: &Value) -> Self {
        let text = |at| object.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
        let generation = object.pointer("/metadata/generation").and_then(Value::as_i64);
        let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
        Self {
            generation: generation.unwrap_or_default(),
            version: text("/metadata/resourceVersion"),
            api_version: text("/apiVersion"),
            conditions: conditions.cloned().unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_gone_or_no_longer_known_is_not_kept() {
        let (standings, shown) = Standings::kept();
        let object = |name: &str, generation: i64| {
            json!({
                "apiVersion": "security.istio.io/v1",
                "metadata": {
                    "namespace": "shop", "name": name, "generation": generation,
                    "resourceVersion": "7",
                },
                "status": {"conditions": [{"type": "a"}]},
            })
        };
        let kind = Kind::PeerAuthentication;
        let batch = ["a", "b", "c"].map(|name| (kind, News::Object(object(name, 1))));
        standings.apply(standings.changes(&batch), |_| true);
        assert_eq!(shown.borrow().len(), 3);
        let batch = [(kind, News::Gone(object("a", 1))), (kind, News::Object(object("b", 2)))];
        standings.apply(standings.changes(&batch), |key| &*key.name.name != "c");
        let shown = shown.borrow();
        let (id, standing) = shown.first_key_value().unwrap();
        assert_eq!((&*id.name.name, shown.len()), ("b", 1));
        assert_eq!((standing.generation, &*standing.version), (2, "7"));
        assert_eq!(standing.conditions, [json!({"type": "a"})]);
    }
}
