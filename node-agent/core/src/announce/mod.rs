//! What the cluster is told: of pods ([`Pod`]) whether they are enrolled, as an annotation and, where one is
//! refused, an Event; of policies ([`Policy`]) what adit makes of them, as a condition of their status. An
//! [`Announcer`] compares what an object carries by the word of discovery with what is true, and asks for
//! one write at a time.
//!
//! Nothing waits for it, and nothing piles up: it holds one entry for each object, and what is written is
//! what is true when the turn comes. A pod that is refused for ever costs one annotation, one Event, and a
//! new count of it at growing intervals.

mod pod;
mod policy;
#[cfg(test)]
mod tests;
mod turn;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::Bound;
use std::time::{Duration, Instant};

use crate::enrolment::splitmix;

pub use pod::{ANNOTATION, Pod, Seen, What, Write};
pub use policy::{CONDITION, Condition, Policy, PolicySeen, PolicyWrite, Stated, judge};

/// The time between two writes of one machine, at least.
const GAP: Duration = Duration::from_millis(100);

/// The first pause after the API server did not answer, and the longest.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(120);

/// An object of which something is told.
pub trait Subject: Debug {
    /// What it is known by, as long as it lives.
    type Key: Clone + Debug + Ord;
    /// How it is now.
    type Seen: Debug;
    /// Something to write.
    type Write: Clone + Debug;

    /// Seen for the first time.
    fn new(seen: Self::Seen, now: Instant) -> Self;
    /// Seen again.
    fn see(&mut self, seen: Self::Seen, now: Instant);
    /// When it is its turn; `None` if there is nothing to tell.
    fn due(&self) -> Option<Instant>;
    /// What is due.
    fn next(&self, now: Instant, random: u64) -> Option<Self::Write>;
    /// A write of it has ended, and not with [`Answer::Away`].
    fn answered(&mut self, write: Self::Write, answer: Answer, now: Instant);
}

/// What happened.
#[derive(Debug)]
pub enum Input<S: Subject> {
    /// These are all objects now; of one that is not among them nothing needs to be told.
    Seen(Vec<(S::Key, S::Seen)>),
    /// The last write has ended.
    Answered(Answer),
}

/// How a write ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It is done.
    Done,
    /// There is no such object any more, or another one has its name.
    Gone,
    /// The API server will not do it.
    Refused,
    /// The API server cannot be asked now.
    Away,
}

/// The machine.
#[derive(Debug)]
pub struct Announcer<S: Subject> {
    subjects: BTreeMap<S::Key, S>,
    /// The write that is under way.
    asking: Option<(S::Key, S::Write)>,
    /// Whether the driver was told of it.
    told: bool,
    free_at: Option<Instant>,
    /// The last one that had its turn.
    last: Option<S::Key>,
    failures: u32,
    random: u64,
}

impl<S: Subject> Announcer<S> {
    /// Nothing to tell yet. The seed decides the jitter of pauses and the names of Events: each process needs
    /// another.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self {
            subjects: BTreeMap::new(),
            asking: None,
            told: false,
            free_at: None,
            last: None,
            failures: 0,
            random: seed,
        }
    }

    /// Takes note of what happened.
    pub fn handle(&mut self, input: Input<S>, now: Instant) {
        match input {
            Input::Seen(subjects) => self.see(subjects, now),
            Input::Answered(answer) => self.answered(answer, now),
        }
        self.choose(now);
    }

    /// Does what was due at or before `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.choose(now);
    }

    /// When [`Self::handle_timeout`] has something to do, and what.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        if self.asking.is_some() {
            return None;
        }
        let due = self.subjects.values().filter_map(S::due).min()?;
        Some((self.free_at.map_or(due, |free| free.max(due)), "announce"))
    }

    /// The write to ask for now. The next one comes when this one was answered.
    pub fn poll_command(&mut self) -> Option<S::Write> {
        let (_, write) = self.asking.as_ref().filter(|_| !self.told)?;
        self.told = true;
        Some(write.clone())
    }

    fn see(&mut self, seen: Vec<(S::Key, S::Seen)>, now: Instant) {
        let mut before = std::mem::take(&mut self.subjects);
        for (key, seen) in seen {
            let subject = match before.remove(&key) {
                Some(mut subject) => {
                    subject.see(seen, now);
                    subject
                }
                None => S::new(seen, now),
            };
            self.subjects.insert(key, subject);
        }
        // Nobody asked for it yet, and it may not be true any more.
        if !self.told {
            self.asking = None;
        }
    }

    fn answered(&mut self, answer: Answer, now: Instant) {
        let Some((key, write)) = self.asking.take() else {
            return;
        };
        if answer == Answer::Away {
            self.free_at = Some(now + self.pause());
            self.failures = self.failures.saturating_add(1);
            return;
        }
        self.failures = 0;
        self.free_at = Some(now + GAP);
        if let Some(subject) = self.subjects.get_mut(&key) {
            subject.answered(write, answer, now);
        }
    }

    /// Between half of 1, 2, 4 … 120 seconds and all of it.
    fn pause(&mut self) -> Duration {
        self.random = splitmix(self.random);
        let longest = PAUSE.saturating_mul(1 << self.failures.min(16)).min(LONGEST_PAUSE);
        let percent = u32::try_from(self.random % 51).unwrap_or(0);
        longest * (50 + percent) / 100
    }

    /// Gives the next one that has something due its turn: each comes before one has a second.
    fn choose(&mut self, now: Instant) {
        if self.asking.is_some() || self.free_at.is_some_and(|free| now < free) {
            return;
        }
        let is_due = |subject: &S| subject.due().is_some_and(|due| due <= now);
        let after = self.last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let behind = self.subjects.range((after, Bound::Unbounded));
        let next = behind.chain(&self.subjects).find(|(_, subject)| is_due(subject));
        let Some((key, subject)) = next else {
            return;
        };
        self.random = splitmix(self.random);
        if let Some(write) = subject.next(now, self.random) {
            self.last = Some(key.clone());
            self.asking = Some((key.clone(), write));
            self.told = false;
        }
    }
}

/// At most so many bytes of a text, and a mark where it was cut.
fn shortened(text: String, longest: usize) -> String {
    if text.len() <= longest {
        return text;
    }
    let end = (0..=longest).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{}…", text.get(..end).unwrap_or_default())
}
