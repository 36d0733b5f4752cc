//! The end of the process as everything else sees it: running, draining, forced.

use tokio::sync::watch;

/// How far the end has come. It only ever advances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Serve.
    Running,
    /// Take nothing new, let what is open finish.
    Draining,
    /// End now.
    Forced,
}

/// The side that ends things.
#[derive(Debug)]
pub struct Trigger(watch::Sender<Phase>);

/// The side that watches for the end. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Receiver<Phase>);

/// A trigger and its watcher, running.
#[must_use]
pub fn channel() -> (Trigger, Shutdown) {
    let (sender, receiver) = watch::channel(Phase::Running);
    (Trigger(sender), Shutdown(receiver))
}

impl Trigger {
    /// Moves on to `phase`, or stays where it is if it is there or further.
    pub fn advance(&self, phase: Phase) {
        self.0.send_if_modified(|now| {
            let later = phase > *now;
            *now = phase.max(*now);
            later
        });
    }
}

impl Shutdown {
    /// The phase now.
    #[must_use]
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Waits until `phase` is reached. A trigger that was dropped counts as [`Phase::Forced`].
    pub async fn reached(&mut self, phase: Phase) {
        let _ended: Result<_, watch::error::RecvError> = self.0.wait_for(|now| *now >= phase).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_phase_is_never_taken_back() {
        let (trigger, mut shutdown) = channel();
        assert_eq!(shutdown.phase(), Phase::Running);
        trigger.advance(Phase::Forced);
        trigger.advance(Phase::Draining);
        assert_eq!(shutdown.phase(), Phase::Forced);
        shutdown.reached(Phase::Draining).await;
    }

    #[tokio::test]
    async fn a_lost_trigger_ends_the_wait() {
        let (trigger, mut shutdown) = channel();
        drop(trigger);
        shutdown.reached(Phase::Draining).await;
    }
}
