//! When a tunnel was last heard of, kept by what receives its bytes. A PING's answer may wait behind
//! megabytes of data; the data then tells that the other end lives.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

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

/// Completes when the other end has left a PING unanswered for too long, and nothing else has come
/// meanwhile. `ping` sends one and completes with true when it is answered, with false if the
/// connection has ended.
pub(super) async fn silence(
    mut ping: impl AsyncFnMut() -> bool,
    activity: &Activity,
    (interval, limit): (Duration, Duration),
) {
    loop {
        sleep_until(activity.last() + interval).await;
        if activity.last().elapsed() < interval {
            continue;
        }
        let mut pong = std::pin::pin!(ping());
        let mut heard = Instant::now();
        loop {
            match timeout_at(heard + limit, &mut pong).await {
                Ok(true) => break,
                // Whatever drives the connection says why.
                Ok(false) => std::future::pending().await,
                Err(_elapsed) if activity.last() > heard => heard = activity.last(),
                Err(_elapsed) => return,
            }
        }
        activity.mark();
    }
}
