//! Policies found by the pods that they are for, without looking at all of them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::object::Selector;

/// Things that are each for the pods of a selector. The order in which a pod's come is: those for
/// every pod, then the others by their selector's first label key; within that, as they were added.
#[derive(Debug, Clone)]
pub(super) struct Selected<T> {
    all: Vec<T>,
    /// The first label of the selector: its key, its value.
    by_label: BTreeMap<Arc<str>, ByValue<T>>,
}

/// Things by the value of their selector's first label.
type ByValue<T> = HashMap<Arc<str>, Vec<(Selector, T)>>;

impl<T> Selected<T> {
    /// Adds a thing that is for the pods which `selector` names.
    pub(super) fn add(&mut self, selector: &Selector, thing: T) {
        let Some((key, value)) = selector.labels().next() else {
            return self.all.push(thing);
        };
        let values = self.by_label.entry(Arc::clone(key)).or_default();
        values.entry(Arc::clone(value)).or_default().push((selector.clone(), thing));
    }

    /// The things that are for every pod.
    pub(super) fn for_all(&self) -> &[T] {
        &self.all
    }

    /// The things that are for pods of a selector and for a pod with these labels.
    pub(super) fn by_selector<'a>(
        &'a self,
        labels: &'a BTreeMap<Arc<str>, Arc<str>>,
    ) -> impl Iterator<Item = &'a T> {
        let found = self.by_label.iter().filter_map(|(key, values)| {
            let value = labels.get(key)?;
            values.get(value)
        });
        let found = found.flatten().filter(|(selector, _)| selector.matches(labels));
        found.map(|(_, thing)| thing)
    }

    /// All that is for a pod with these labels.
    pub(super) fn matching<'a>(
        &'a self,
        labels: &'a BTreeMap<Arc<str>, Arc<str>>,
    ) -> impl Iterator<Item = &'a T> {
        self.all.iter().chain(self.by_selector(labels))
    }
}

impl<T> Default for Selected<T> {
    fn default() -> Self {
        Self { all: Vec::new(), by_label: BTreeMap::new() }
    }
}
