//! When a tunnel was last heard of, kept by what receives its bytes. A PING's answer may wait behind
//! megabytes of data; the data then tells that the other end lives.

use std::cell::Cell;
use std::rc::Rc;

use tokio::time::Instant;

/// The time at which the last bytes came. Cheap to clone; never leaves its thread.
#[derive(Debug, Clone)]
pub(crate) struct Activity(Rc<Cell<Instant>>);

impl Activity {
    pub(crate) fn new() -> Self {
        Self(Rc::new(Cell::new(Instant::now())))
    }

    /// Bytes have come.
    pub(crate) fn mark(&self) {
        self.0.set(Instant::now());
    }

    pub(crate) fn last(&self) -> Instant {
        self.0.get()
    }
}
