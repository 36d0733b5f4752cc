//! Flows after they ended: the way up from the workers, and the ring of recent ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use adit_core::flow::FlowRecord;
use tokio::sync::mpsc;

/// The workers' side: hands records up without ever waiting. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Recorder {
    records: mpsc::Sender<FlowRecord>,
    dropped: Arc<AtomicU64>,
}

/// The control runtime's side.
#[derive(Debug)]
pub struct Records {
    /// A record when a flow was decided (`end` is `None`) and one when it ended.
    pub receiver: mpsc::Receiver<FlowRecord>,
    /// Records that found the channel full.
    pub dropped: Arc<AtomicU64>,
}

/// A channel for `capacity` records.
#[must_use]
pub fn channel(capacity: usize) -> (Recorder, Records) {
    let (sender, receiver) = mpsc::channel(capacity);
    let dropped = Arc::new(AtomicU64::new(0));
    (Recorder { records: sender, dropped: Arc::clone(&dropped) }, Records { receiver, dropped })
}

impl Recorder {
    /// Hands a record up, or counts it as dropped if nobody keeps up.
    pub fn record(&self, record: FlowRecord) {
        if self.records.try_send(record).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}
