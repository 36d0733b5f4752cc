//! What the cluster is told of this node's pods: an annotation on each that belongs to the mesh, and an
//! Event where one is refused. The [`Announcer`] compares what discovery says that a pod carries with what
//! is true, and asks for one write at a time.
//!
//! Nothing waits for it, and nothing piles up: it holds one entry for each pod of the node, and what is
//! written is what is true when the turn comes. A pod that is refused for ever costs one annotation, one
//! Event, and a new count of it at growing intervals.

mod pod;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::enrolment::{PodState, splitmix};
use crate::workload::{ObjectName, PodUid};
use pod::Pod;

/// The annotation: `enrolled`, or `refused: ` and why.
pub const ANNOTATION: &str = "adit.dev/status";

/// The time between two writes of one node, at least.
const GAP: Duration = Duration::from_millis(100);

/// The first pause after the API server did not answer, and the longest.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(120);

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

/// What happened.
#[derive(Debug)]
pub enum Input {
    /// These are the node's pods now; one that is not among them needs to be told nothing of.
    Pods(Vec<Seen>),
    /// The last [`Write`] has ended.
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

/// A write that the API server is to be asked for.
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

/// The machine.
#[derive(Debug)]
pub struct Announcer {
    pods: BTreeMap<PodUid, Pod>,
    /// The write that is under way.
    asking: Option<(PodUid, What)>,
    /// Whether the driver was told of it.
    told: bool,
    free_at: Option<Instant>,
    /// The last pod that had its turn.
    last: Option<PodUid>,
    failures: u32,
    random: u64,
}

impl Announcer {
    /// No pods yet. The seed decides the jitter of pauses and the names of Events: each process needs
    /// another.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self {
            pods: BTreeMap::new(),
            asking: None,
            told: false,
            free_at: None,
            last: None,
            failures: 0,
            random: seed,
        }
    }

    /// Takes note of what happened.
    pub fn handle(&mut self, input: Input, now: Instant) {
        match input {
            Input::Pods(pods) => self.see(pods, now),
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
        let due = self.pods.values().filter_map(Pod::due).min()?;
        Some((self.free_at.map_or(due, |free| free.max(due)), "announce"))
    }

    /// The write to ask for now. The next one comes when this one was answered.
    pub fn poll_command(&mut self) -> Option<Write> {
        let (uid, what) = self.asking.as_ref().filter(|_| !self.told)?;
        self.told = true;
        let pod = self.pods.get(uid)?.name().clone();
        Some(Write { uid: uid.clone(), pod, what: what.clone() })
    }

    fn see(&mut self, pods: Vec<Seen>, now: Instant) {
        let mut before = std::mem::take(&mut self.pods);
        for seen in pods {
            let uid = seen.uid.clone();
            let pod = match before.remove(&uid) {
                Some(mut pod) => {
                    pod.see(seen, now);
                    pod
                }
                None => Pod::new(seen, now),
            };
            self.pods.insert(uid, pod);
        }
        // Nobody asked for it yet, and nobody needs it.
        let is_void = |(uid, _): &(PodUid, What)| !self.told && !self.pods.contains_key(uid);
        if self.asking.as_ref().is_some_and(is_void) {
            self.asking = None;
        }
    }

    fn answered(&mut self, answer: Answer, now: Instant) {
        let Some((uid, what)) = self.asking.take() else {
            return;
        };
        if answer == Answer::Away {
            self.free_at = Some(now + self.pause());
            self.failures = self.failures.saturating_add(1);
            return;
        }
        self.failures = 0;
        self.free_at = Some(now + GAP);
        if let Some(pod) = self.pods.get_mut(&uid) {
            pod.answered(what, answer, now);
        }
    }

    /// Between half of 1, 2, 4 … 120 seconds and all of it.
    fn pause(&mut self) -> Duration {
        self.random = splitmix(self.random);
        let longest = PAUSE.saturating_mul(1 << self.failures.min(16)).min(LONGEST_PAUSE);
        let percent = u32::try_from(self.random % 51).unwrap_or(0);
        longest * (50 + percent) / 100
    }

    /// Gives the next pod that has something due its turn: each comes before one has a second.
    fn choose(&mut self, now: Instant) {
        if self.asking.is_some() || self.free_at.is_some_and(|free| now < free) {
            return;
        }
        let is_due = |pod: &Pod| pod.due().is_some_and(|due| due <= now);
        let after = self.last.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
        let behind = self.pods.range((after, Bound::Unbounded));
        let next = behind.chain(&self.pods).find(|(_, pod)| is_due(pod));
        let Some((uid, pod)) = next.map(|(uid, pod)| (uid.clone(), pod)) else {
            return;
        };
        self.random = splitmix(self.random);
        if let Some(what) = pod.next(now, self.random) {
            self.last = Some(uid.clone());
            self.asking = Some((uid, what));
            self.told = false;
        }
    }
}
