//! How soon something is written of one object again.

use std::time::{Duration, Instant};

/// The time between two writes of the same of one object, at least: what was written comes back through
/// discovery meanwhile.
pub(super) const SPACING: Duration = Duration::from_secs(5);

/// The first pause after the API server refused to write, and the longest.
pub(super) const REFUSED: Duration = Duration::from_secs(30);
pub(super) const LONGEST_REFUSED: Duration = Duration::from_secs(600);

/// When there may be the next write of a kind.
#[derive(Debug, Default)]
pub(super) struct Turn {
    not_before: Option<Instant>,
    /// How often the pause before it has doubled.
    doubled: u32,
}

impl Turn {
    pub(super) fn at(&self, from: Instant) -> Instant {
        self.not_before.map_or(from, |at| at.max(from))
    }

    pub(super) fn wait(&mut self, first: Duration, longest: Duration, now: Instant) {
        let pause = first.saturating_mul(1 << self.doubled.min(16)).min(longest);
        self.doubled = self.doubled.saturating_add(1);
        self.not_before = Some(now + pause);
    }

    /// The next pause is a first one.
    pub(super) const fn calm(&mut self) {
        self.doubled = 0;
    }
}
