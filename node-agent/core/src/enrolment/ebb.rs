//! The waits of a withdrawal: for peers that have not heard of it, and for open flows to end.

use std::time::{Duration, Instant};

/// How long the pod's tunnel port stays open when the pod leaves the mesh: the agents of other
/// nodes learn of it from the same source at another moment, and until then dial the tunnel.
const LINGER: Duration = Duration::from_secs(3);

/// How long the routes stay after the last flow ended. The agent's end of a connection is closed
/// while the kernel may still deliver its last bytes to the pod, whose acknowledgements take
/// table 100; sent elsewhere they would be answered by a reset.
const SETTLE: Duration = Duration::from_secs(5);

/// How far a withdrawal has waited.
#[derive(Debug, Default)]
pub(super) struct Ebb {
    stage: Stage,
    asked: u64,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    #[default]
    Flow,
    Lingering(Instant),
    Lingered,
    /// Asked the workers.
    Emptying,
    Settling(Instant),
    Settled,
    /// Asked again: the first answer may have missed a connection that waited to be accepted.
    EmptyingAgain,
    Quiet,
}

/// Whether a rung may be undone.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Gate {
    Open,
    Closed,
    /// Ask the workers, with this number, to say when they have no flow.
    Ask(u64),
}

impl Ebb {
    /// The pod goes up: a later withdrawal waits anew.
    pub(super) const fn reset(&mut self) {
        self.stage = Stage::Flow;
    }

    /// Before the pod's tunnel port closes.
    pub(super) fn linger(&mut self, now: Instant) -> Gate {
        match self.stage {
            Stage::Flow => {
                self.stage = Stage::Lingering(now + LINGER);
                Gate::Closed
            }
            Stage::Lingering(_) => Gate::Closed,
            Stage::Lingered
            | Stage::Emptying
            | Stage::Settling(_)
            | Stage::Settled
            | Stage::EmptyingAgain
            | Stage::Quiet => Gate::Open,
        }
    }

    /// Before the way of open flows closes.
    pub(super) const fn empty(&mut self) -> Gate {
        let next = match self.stage {
            Stage::Flow | Stage::Lingering(_) | Stage::Lingered => Stage::Emptying,
            Stage::Settled => Stage::EmptyingAgain,
            Stage::Emptying | Stage::Settling(_) | Stage::EmptyingAgain => return Gate::Closed,
            Stage::Quiet => return Gate::Open,
        };
        self.stage = next;
        self.asked += 1;
        Gate::Ask(self.asked)
    }

    /// The workers answered. `settle`: whether flows may have ended just now.
    pub(super) fn handle_idle(&mut self, number: u64, settle: bool, now: Instant) {
        if number != self.asked {
            return;
        }
        match self.stage {
            Stage::Emptying if settle => self.stage = Stage::Settling(now + SETTLE),
            Stage::Emptying | Stage::EmptyingAgain => self.stage = Stage::Quiet,
            Stage::Flow
            | Stage::Lingering(_)
            | Stage::Lingered
            | Stage::Settling(_)
            | Stage::Settled
            | Stage::Quiet => {}
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if let Some((until, _)) = self.poll_timeout()
            && until <= now
        {
            let settled = matches!(self.stage, Stage::Settling(_));
            self.stage = if settled { Stage::Settled } else { Stage::Lingered };
        }
    }

    pub(super) const fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        match self.stage {
            Stage::Lingering(until) => Some((until, "peers may still tunnel to the pod")),
            Stage::Settling(until) => Some((until, "last bytes of ended flows")),
            Stage::Flow
            | Stage::Lingered
            | Stage::Emptying
            | Stage::Settled
            | Stage::EmptyingAgain
            | Stage::Quiet => None,
        }
    }
}
