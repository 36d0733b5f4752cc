//! The flows that ended last.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use adit_core::flow::FlowRecord;

/// A bounded list; pushing to a full one drops the oldest. Cheap to clone. Only the control runtime
/// touches it, and nobody holds the lock for longer than a copy of pointers.
#[derive(Debug, Clone)]
pub(super) struct Ring {
    capacity: usize,
    flows: Arc<Mutex<VecDeque<Arc<FlowRecord>>>>,
}

impl Ring {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, flows: Arc::default() }
    }

    pub(super) fn push(&self, flow: Arc<FlowRecord>) {
        if self.capacity == 0 {
            return;
        }
        let mut flows = self.lock();
        let oldest = (flows.len() >= self.capacity).then(|| flows.pop_front()).flatten();
        flows.push_back(flow);
        drop(flows);
        drop(oldest);
    }

    /// Oldest first.
    pub(super) fn list(&self) -> Vec<Arc<FlowRecord>> {
        self.lock().iter().map(Arc::clone).collect()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Arc<FlowRecord>>> {
        self.flows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
