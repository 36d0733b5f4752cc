//! When a job that failed is tried again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Job, PodState, Step};

/// No retry comes later than this.
const LONGEST: Duration = Duration::from_secs(60);

/// The last failure, while its retry is due.
#[derive(Debug)]
pub(super) struct Setback {
    /// When to try again.
    pub(super) at: Instant,
    /// Nothing is to be done until then; otherwise the pod comes down meanwhile.
    pub(super) hold: bool,
    step: Option<Step>,
    error: Arc<str>,
}

/// The failures of one pod since it last was where it should be.
#[derive(Debug)]
pub(super) struct Setbacks {
    pending: Option<Setback>,
    attempt: u32,
    random: u64,
}

impl Setbacks {
    pub(super) const fn new(seed: u64) -> Self {
        Self { pending: None, attempt: 0, random: seed }
    }

    pub(super) const fn pending(&self) -> Option<&Setback> {
        self.pending.as_ref()
    }

    pub(super) fn record(&mut self, job: &Job, error: Arc<str>, hold: bool, now: Instant) {
        self.random = splitmix(self.random);
        self.pending = Some(Setback {
            at: now + delay(self.attempt, self.random),
            hold,
            step: job.step(),
            error,
        });
        self.attempt = self.attempt.saturating_add(1);
    }

    /// Lets the retry begin once it is due.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        if self.pending.as_ref().is_some_and(|p| p.at <= now) {
            self.pending = None;
        }
    }

    /// All is well, or what is to be done has changed.
    pub(super) fn clear(&mut self) {
        self.pending = None;
        self.attempt = 0;
    }
}

impl Setback {
    pub(super) fn state(&self) -> PodState {
        PodState::Failed { step: self.step, error: String::from(&*self.error) }
    }
}

/// Between half of 2, 4, 8 … 60 seconds and all of it.
fn delay(attempt: u32, random: u64) -> Duration {
    let longest = Duration::from_secs(2).saturating_mul(1 << attempt.min(16)).min(LONGEST);
    let half = longest / 2;
    let percent = u32::try_from(random % 101).unwrap_or(0);
    half + half * percent / 100
}

/// One round of SplitMix64: spreads the retries of pods that failed together.
pub(crate) const fn splitmix(state: u64) -> u64 {
    let z = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_doubles_from_a_second_to_a_minute_and_is_jittered() {
        let range = |attempt| (delay(attempt, 0), delay(attempt, 100));
        let seconds = Duration::from_secs;
        assert_eq!(range(0), (seconds(1), seconds(2)));
        assert_eq!(range(1), (seconds(2), seconds(4)));
        assert_eq!(range(4), (seconds(16), seconds(32)));
        assert_eq!(range(5), (seconds(30), seconds(60)));
        assert_eq!(range(u32::MAX), (seconds(30), seconds(60)));
    }
}
