//! Label selectors (`meta/v1` LabelSelector).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What labels must be like, in everything; an empty one matches all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LabelSelector(pub Vec<Requirement>);

/// What one label must be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// Its key.
    pub key: Arc<str>,
    /// How it must be.
    pub operator: Operator,
}

/// How a label must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operator {
    /// There, with one of these values. One of `matchLabels` has a single one.
    In(BTreeSet<Arc<str>>),
    /// Not there, or with none of these values.
    NotIn(BTreeSet<Arc<str>>),
    /// There.
    Exists,
    /// Not there.
    DoesNotExist,
}

impl LabelSelector {
    /// Whether these labels are as they must be.
    #[must_use]
    pub fn matches(&self, labels: &BTreeMap<Arc<str>, Arc<str>>) -> bool {
        self.0.iter().all(|Requirement { key, operator }| {
            let value = labels.get(key);
            match operator {
                Operator::In(values) => value.is_some_and(|value| values.contains(value)),
                Operator::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
                Operator::Exists => value.is_some(),
                Operator::DoesNotExist => value.is_none(),
            }
        })
    }
}
