//! What is to be told of one pod, and when.

use std::time::{Duration, Instant};

use super::{Answer, Seen, What};
use crate::enrolment::PodState;
use crate::workload::ObjectName;

/// A state on the way to another is told when it has lasted for this long.
const SETTLE: Duration = Duration::from_secs(10);

/// The time between two annotations of one pod, at least: what was written comes back through
/// discovery meanwhile.
const SPACING: Duration = Duration::from_secs(5);

/// The first pause after the API server refused to write, and the longest.
const REFUSED: Duration = Duration::from_secs(30);
const LONGEST_REFUSED: Duration = Duration::from_secs(600);

/// The first time between two Events of one pod, and the longest. The API server forgets an Event
/// after an hour without news of it.
const REPEAT: Duration = Duration::from_secs(60);
const LONGEST_REPEAT: Duration = Duration::from_secs(1800);

/// The longest reason, in bytes. An Event's note has 1024.
const REASON: usize = 900;

/// The longest beginning of an Event's name that is the pod's; a whole name has 253 characters.
const NAME: usize = 200;

/// One pod.
#[derive(Debug)]
pub(super) struct Pod {
    seen: Seen,
    /// When its state was first seen.
    since: Instant,
    annotation: Turn,
    /// What its annotation was last given. To write the same again means that somebody else writes it
    /// too, or that discovery lags behind.
    written: Option<Option<String>>,
    events: Turn,
    /// How often it was seen refused since it last was not.
    refusals: u32,
    /// The Event that tells of it.
    event: Option<Event>,
}

#[derive(Debug)]
struct Event {
    name: String,
    note: String,
    /// How many refusals it tells of.
    count: u32,
    /// How many there were before it.
    before: u32,
}

/// When there may be the next write of a kind.
#[derive(Debug, Default)]
struct Turn {
    not_before: Option<Instant>,
    /// How often the pause before it has doubled.
    doubled: u32,
}

/// What is true of a pod, in the cluster's words.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Silent,
    Enrolled,
    Refused(String),
}

impl Pod {
    pub(super) fn new(seen: Seen, now: Instant) -> Self {
        let mut pod = Self {
            seen,
            since: now,
            annotation: Turn::default(),
            written: None,
            events: Turn::default(),
            refusals: 0,
            event: None,
        };
        pod.count();
        pod
    }

    pub(super) const fn name(&self) -> &ObjectName {
        &self.seen.name
    }

    pub(super) fn see(&mut self, seen: Seen, now: Instant) {
        let is_new = seen.since != self.seen.since
            || seen.state != self.seen.state
            || seen.addressed != self.seen.addressed;
        self.seen = seen;
        if is_new {
            self.since = now;
            self.count();
        }
    }

    fn count(&mut self) {
        match self.seen.state {
            PodState::Failed { .. } => self.refusals = self.refusals.saturating_add(1),
            PodState::Enrolled | PodState::NotEnrolled(_) => {
                self.refusals = 0;
                self.event = None;
                self.events.doubled = 0;
            }
            PodState::AwaitingNamespace
            | PodState::AwaitingCertificate
            | PodState::Enrolling(_)
            | PodState::Withdrawing(_) => {}
        }
    }

    /// What is to be told, and from when on.
    fn verdict(&self) -> (Verdict, Instant) {
        let refused = |why: &str| Verdict::Refused(shortened(why));
        let settled = self.since + SETTLE;
        match &self.seen.state {
            PodState::Enrolled => (Verdict::Enrolled, self.since),
            PodState::NotEnrolled(_) => (Verdict::Silent, self.since),
            PodState::Failed { step, error } => {
                let step = step.map_or("open", |step| step.as_label());
                (refused(&format!("{step}: {error}")), self.since)
            }
            PodState::AwaitingNamespace if self.seen.addressed => {
                (refused("no network namespace of it was found on its node"), settled)
            }
            // It has not started.
            PodState::AwaitingNamespace | PodState::Withdrawing(_) => (Verdict::Silent, settled),
            PodState::AwaitingCertificate => (refused("it has no certificate yet"), settled),
            PodState::Enrolling(step) => {
                (refused(&format!("{}: not done yet", step.as_label())), settled)
            }
        }
    }

    /// When it is this pod's turn.
    pub(super) fn due(&self) -> Option<Instant> {
        let (verdict, from) = self.verdict();
        let annotation = self.wants_annotation(&verdict).then(|| self.annotation.at(from));
        let event = self.wants_event(&verdict).then(|| self.events.at(from));
        annotation.into_iter().chain(event).min()
    }

    /// What is due.
    pub(super) fn next(&self, now: Instant, random: u64) -> Option<What> {
        let (verdict, from) = self.verdict();
        if self.wants_annotation(&verdict) && self.annotation.at(from) <= now {
            return Some(What::Annotation(verdict.annotation()));
        }
        if !self.wants_event(&verdict) || self.events.at(from) > now {
            return None;
        }
        let Verdict::Refused(note) = verdict else {
            return None;
        };
        Some(match &self.event {
            Some(event) if event.note == note => {
                What::Series { name: event.name.clone(), count: event.seen(self.refusals) }
            }
            _ => What::Event { name: event_name(&self.seen.name.name, random), note },
        })
    }

    fn wants_annotation(&self, verdict: &Verdict) -> bool {
        verdict.annotation().as_deref() != self.seen.carried.as_deref()
    }

    fn wants_event(&self, verdict: &Verdict) -> bool {
        let Verdict::Refused(note) = verdict else {
            return false;
        };
        self.event
            .as_ref()
            .is_none_or(|event| event.note != *note || event.seen(self.refusals) > event.count)
    }

    pub(super) fn answered(&mut self, what: What, answer: Answer, now: Instant) {
        let turn = match what {
            What::Annotation(_) => &mut self.annotation,
            What::Event { .. } | What::Series { .. } => &mut self.events,
        };
        if answer != Answer::Done {
            turn.wait(REFUSED, LONGEST_REFUSED, now);
            if matches!((what, answer), (What::Series { .. }, Answer::Gone)) {
                // It was too old: the next one begins anew.
                self.event = None;
            }
            return;
        }
        match what {
            What::Annotation(value) => {
                if self.written.as_ref() != Some(&value) {
                    turn.doubled = 0;
                }
                turn.wait(SPACING, LONGEST_REFUSED, now);
                self.written = Some(value);
            }
            What::Event { name, note } => {
                turn.wait(REPEAT, LONGEST_REPEAT, now);
                let before = self.refusals.saturating_sub(1);
                self.event = Some(Event { name, note, count: 1, before });
            }
            What::Series { count, .. } => {
                turn.wait(REPEAT, LONGEST_REPEAT, now);
                if let Some(event) = &mut self.event {
                    event.count = count;
                }
            }
        }
    }
}

impl Event {
    const fn seen(&self, refusals: u32) -> u32 {
        refusals.saturating_sub(self.before)
    }
}

impl Turn {
    fn at(&self, from: Instant) -> Instant {
        self.not_before.map_or(from, |at| at.max(from))
    }

    fn wait(&mut self, first: Duration, longest: Duration, now: Instant) {
        let pause = first.saturating_mul(1 << self.doubled.min(16)).min(longest);
        self.doubled = self.doubled.saturating_add(1);
        self.not_before = Some(now + pause);
    }
}

impl Verdict {
    fn annotation(&self) -> Option<String> {
        match self {
            Self::Silent => None,
            Self::Enrolled => Some("enrolled".to_owned()),
            Self::Refused(why) => Some(format!("refused: {why}")),
        }
    }
}

/// A reason as one short line.
fn shortened(why: &str) -> String {
    let line: String =
        why.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
    if line.len() <= REASON {
        return line;
    }
    let end = (0..=REASON).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0);
    format!("{}…", line.get(..end).unwrap_or_default())
}

/// The pod's name and a number, as Kubernetes' own components name Events.
fn event_name(pod: &str, random: u64) -> String {
    let end = pod.len().min(NAME);
    let start = pod.get(..end).unwrap_or(pod);
    let start = start.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
    format!("{start}.{random:016x}")
}
