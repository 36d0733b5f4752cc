//! What is to be told of one pod, and when.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::turn::{LONGEST_REFUSED, REFUSED, SPACING, Turn};
use super::{Answer, Subject, shortened};
use crate::enrolment::PodState;
use crate::workload::{ObjectName, PodUid};

/// The annotation: `enrolled`, or `refused: ` and why.
pub const ANNOTATION: &str = "adit.dev/status";

/// A state on the way to another is told when it has lasted for this long.
const SETTLE: Duration = Duration::from_secs(10);

/// The first time between two Events of one pod, and the longest. The API server forgets an Event
/// after an hour without news of it.
const REPEAT: Duration = Duration::from_secs(60);
const LONGEST_REPEAT: Duration = Duration::from_secs(1800);

/// The longest reason, in bytes. An Event's note has 1024.
const REASON: usize = 900;

/// The longest beginning of an Event's name that is the pod's; a whole name has 253 characters.
const NAME: usize = 200;

/// A pod of this node, as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Its UID.
    pub uid: PodUid,
    /// Its namespace and name.
    pub name: ObjectName,
    /// Whether it has an address, so that its network namespace exists.
    pub addressed: bool,
    /// How far its enrolment is.
    pub state: PodState,
    /// Since when; another time is another state, though it may look the same.
    pub since: SystemTime,
    /// What its annotation says.
    pub carried: Option<Arc<str>>,
}

/// Something to write of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The pod.
    pub uid: PodUid,
    /// Its namespace and name.
    pub pod: ObjectName,
    /// What of it.
    pub what: What,
}

/// What is to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// The pod's annotation has this value, or is not there.
    Annotation(Option<String>),
    /// A new Event.
    Event {
        /// Its name, which no other has.
        name: String,
        /// Its text, at most 1024 bytes.
        note: String,
    },
    /// The Event of this name has been seen this many times by now.
    Series {
        /// The name.
        name: String,
        /// How often.
        count: u32,
    },
}

/// A pod of this node, and what was told of it.
#[derive(Debug)]
pub struct Pod {
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

/// What is true of a pod, in the cluster's words.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Silent,
    Enrolled,
    Refused(String),
}

impl Pod {
    fn count(&mut self) {
        match self.seen.state {
            PodState::Failed { .. } => self.refusals = self.refusals.saturating_add(1),
            PodState::NotEnrolled(why) if why.is_refusal() => {
                self.refusals = self.refusals.saturating_add(1);
            }
            PodState::Enrolled | PodState::NotEnrolled(_) => {
                self.refusals = 0;
                self.event = None;
                self.events.calm();
            }
            PodState::AwaitingNamespace
            | PodState::AwaitingCertificate
            | PodState::Enrolling(_)
            | PodState::Withdrawing(_) => {}
        }
    }

    /// What is to be told, and from when on.
    fn verdict(&self) -> (Verdict, Instant) {
        let refused = |why: &str| Verdict::Refused(one_line(why));
        let settled = self.since + SETTLE;
        match &self.seen.state {
            PodState::Enrolled => (Verdict::Enrolled, self.since),
            PodState::NotEnrolled(why) if why.is_refusal() => {
                (refused(&why.to_string()), self.since)
            }
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
}

impl Subject for Pod {
    type Key = PodUid;
    type Seen = Seen;
    type Write = Write;

    fn new(seen: Seen, now: Instant) -> Self {
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

    fn see(&mut self, seen: Seen, now: Instant) {
        let is_new = seen.since != self.seen.since
            || seen.state != self.seen.state
            || seen.addressed != self.seen.addressed;
        self.seen = seen;
        if is_new {
            self.since = now;
            self.count();
        }
    }

    fn due(&self) -> Option<Instant> {
        let (verdict, from) = self.verdict();
        let annotation = self.wants_annotation(&verdict).then(|| self.annotation.at(from));
        let event = self.wants_event(&verdict).then(|| self.events.at(from));
        annotation.into_iter().chain(event).min()
    }

    fn next(&self, now: Instant, random: u64) -> Option<Write> {
        let write = |what| Write { uid: self.seen.uid.clone(), pod: self.seen.name.clone(), what };
        let (verdict, from) = self.verdict();
        if self.wants_annotation(&verdict) && self.annotation.at(from) <= now {
            return Some(write(What::Annotation(verdict.annotation())));
        }
        if !self.wants_event(&verdict) || self.events.at(from) > now {
            return None;
        }
        let Verdict::Refused(note) = verdict else {
            return None;
        };
        Some(write(match &self.event {
            Some(event) if event.note == note => {
                What::Series { name: event.name.clone(), count: event.seen(self.refusals) }
            }
            _ => What::Event { name: event_name(&self.seen.name.name, random), note },
        }))
    }

    fn answered(&mut self, write: Write, answer: Answer, now: Instant) {
        let what = write.what;
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
                    turn.calm();
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

impl Verdict {
    fn annotation(&self) -> Option<String> {
        match self {
            Self::Silent => None,
            Self::Enrolled => Some("enrolled".to_owned()),
            Self::Refused(why) => Some(format!("refused: {why}")),
        }
    }
}

/// In one line.
fn one_line(why: &str) -> String {
    let line = why.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    shortened(line, REASON)
}

/// The pod's name and a number, as Kubernetes' own components name Events.
fn event_name(pod: &str, random: u64) -> String {
    let end = pod.len().min(NAME);
    let start = pod.get(..end).unwrap_or(pod);
    let start = start.trim_end_matches(|c: char| !c.is_ascii_alphanumeric());
    format!("{start}.{random:016x}")
}
