//! Readiness: everything that must be up before the agent is ready holds a guard; dropping the last
//! one makes it ready. A guard taken later (draining) makes it unready again.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The set of guards. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<&'static str, usize>>>);

/// Something the agent is not ready without. Dropping it says that it is there.
#[derive(Debug)]
#[must_use = "dropping a guard says that what it stands for is ready"]
pub struct Guard {
    what: &'static str,
    readiness: Readiness,
}

impl Readiness {
    /// Ready, until a guard is taken.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Not ready until the guard is dropped. `what` completes the sentence "waiting for …".
    pub fn guard(&self, what: &'static str) -> Guard {
        *self.lock().entry(what).or_default() += 1;
        Guard { what, readiness: self.clone() }
    }

    /// What is still missing, in alphabetical order; empty when ready.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        self.lock().keys().copied().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut guards = self.readiness.lock();
        if let Some(count) = guards.get_mut(self.what) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                guards.remove(self.what);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_ready_when_the_last_guard_is_dropped_and_unready_with_a_later_one() {
        let readiness = Readiness::new();
        let first = readiness.guard("certificates");
        let second = readiness.guard("certificates");
        let other = readiness.guard("a first look at the manifests");
        assert_eq!(readiness.missing(), ["a first look at the manifests", "certificates"]);
        drop(first);
        drop(other);
        assert_eq!(readiness.missing(), ["certificates"]);
        drop(second);
        assert!(readiness.missing().is_empty());
        let draining = readiness.guard("the end of the drain");
        assert_eq!(readiness.missing(), ["the end of the drain"]);
        drop(draining);
    }
}
