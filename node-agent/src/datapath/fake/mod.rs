//! A datapath in memory and on loopback, for tests of the agent without a kernel program.
//!
//! Cluster addresses exist in a [`FakeNetwork`] only; behind each stands a loopback socket. A pod
//! is steered like a real one: what it opens goes to the agent from [`Step::Capture`] on, what is
//! opened to it from [`Step::Lookup`] on. A pod whose address is of 127.0.0.0/8 also has that
//! address on its sockets, so that a peer sees it.

mod network;
mod pod;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use adit_core::enrolment::Step;
use adit_core::workload::PodUid;

use crate::datapath::{Adopted, Datapath, DatapathError, PodTarget};

pub use network::{FakeNetwork, Inward};
pub use pod::FakePod;

/// The datapath. Cheap to clone, so that a test keeps the one that the agent owns.
#[derive(Debug, Clone)]
pub struct FakeDatapath {
    network: FakeNetwork,
    workers: usize,
    state: Arc<Mutex<State>>,
}

/// What was asked of the datapath.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// To open a pod.
    Open(PodUid),
    /// To do a step.
    Perform(PodUid, Step),
    /// To undo a step.
    Undo(PodUid, Step),
    /// To forget a pod.
    Forget(PodUid),
}

#[derive(Debug, Default)]
struct State {
    adopted: BTreeMap<PodUid, bool>,
    pods: BTreeMap<PodUid, Weak<FakePod>>,
    asked: Vec<Asked>,
    failing: Vec<Asked>,
}

impl FakeDatapath {
    /// A datapath whose pods get listeners for so many workers.
    #[must_use]
    pub fn new(network: &FakeNetwork, workers: usize) -> Self {
        Self { network: network.clone(), workers, state: Arc::default() }
    }

    /// An earlier agent left this pod captured.
    pub fn leave_behind(&self, uid: &PodUid, alive: bool) {
        lock(&self.state).adopted.insert(uid.clone(), alive);
    }

    /// The next time this is asked, it fails.
    pub fn fail_once(&self, what: Asked) {
        lock(&self.state).failing.push(what);
    }

    /// Everything that was asked since the last call, failures included.
    pub fn take_asked(&self) -> Vec<Asked> {
        std::mem::take(&mut lock(&self.state).asked)
    }

    /// The pod, as long as somebody has it open.
    #[must_use]
    pub fn pod(&self, uid: &PodUid) -> Option<Arc<FakePod>> {
        lock(&self.state).pods.get(uid)?.upgrade()
    }

    fn ask(&self, what: &Asked) -> Result<(), DatapathError> {
        let mut state = lock(&self.state);
        state.asked.push(what.clone());
        let Some(at) = state.failing.iter().position(|failing| failing == what) else {
            return Ok(());
        };
        state.failing.remove(at);
        Err(DatapathError::Socket {
            what: "told to fail",
            source: io::Error::from(io::ErrorKind::OutOfMemory),
        })
    }
}

impl Datapath for FakeDatapath {
    type Pod = FakePod;

    fn adopted(&self) -> Vec<Adopted> {
        let adopted = lock(&self.state).adopted.clone();
        adopted.into_iter().map(|(uid, alive)| Adopted { uid, alive }).collect()
    }

    async fn open(&self, target: &PodTarget) -> Result<Arc<FakePod>, DatapathError> {
        tokio::task::yield_now().await;
        self.ask(&Asked::Open(target.uid.clone()))?;
        let mut state = lock(&self.state);
        let before = state.adopted.remove(&target.uid).is_some();
        let pod = Arc::new(FakePod::new(target, &self.network, before));
        state.pods.insert(target.uid.clone(), Arc::downgrade(&pod));
        Ok(pod)
    }

    async fn perform(&self, pod: &Arc<FakePod>, step: Step) -> Result<(), DatapathError> {
        tokio::task::yield_now().await;
        self.ask(&Asked::Perform(pod.uid().clone(), step))?;
        pod.perform(step, self.workers)
            .map_err(|source| DatapathError::Socket { what: "bind a listener on loopback", source })
    }

    async fn undo(&self, pod: &Arc<FakePod>, step: Step) -> Result<(), DatapathError> {
        tokio::task::yield_now().await;
        self.ask(&Asked::Undo(pod.uid().clone(), step))?;
        pod.undo(step);
        Ok(())
    }

    async fn forget(&self, uid: &PodUid) -> Result<(), DatapathError> {
        tokio::task::yield_now().await;
        self.ask(&Asked::Forget(uid.clone()))?;
        lock(&self.state).adopted.remove(uid);
        Ok(())
    }
}

/// A test that panicked with the lock held has failed anyway.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
