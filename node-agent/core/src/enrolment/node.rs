//! The machine of all pods of the node.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use super::backoff::splitmix;
use super::pod::{Pod, PodInput};
use super::{Command, Input};
use crate::identity::SpiffeId;
use crate::workload::PodUid;

/// The enrolment of the pods of this node.
#[derive(Debug)]
pub struct Enrolment {
    pods: BTreeMap<PodUid, Pod>,
    identities: BTreeMap<SpiffeId, Holders>,
    /// Which identity a pod holds.
    holds: BTreeMap<PodUid, SpiffeId>,
    synced: bool,
    closing: bool,
    seed: u64,
    commands: VecDeque<Command>,
}

/// The pods that need one identity.
#[derive(Debug, Default)]
struct Holders {
    pods: BTreeSet<PodUid>,
    ready: bool,
}

impl Enrolment {
    /// No pods yet. The seed decides the jitter of the retries.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self {
            pods: BTreeMap::new(),
            identities: BTreeMap::new(),
            holds: BTreeMap::new(),
            synced: false,
            closing: false,
            seed,
            commands: VecDeque::new(),
        }
    }

    /// Takes note of what happened.
    pub fn handle(&mut self, input: Input, now: Instant) {
        match input {
            Input::Adopted { uid, alive } => {
                self.learn(&uid);
                self.tell(&uid, PodInput::Adopted { alive }, now);
            }
            Input::Wanted(target) => {
                let uid = target.uid.clone();
                self.learn(&uid);
                self.tell(&uid, PodInput::Wanted(target), now);
            }
            Input::Unwanted(uid, why) => {
                self.learn(&uid);
                self.tell(&uid, PodInput::Unwanted(why), now);
            }
            Input::Gone(uid) => self.tell(&uid, PodInput::Gone, now),
            Input::Finished(uid, job, result) => {
                self.tell(&uid, PodInput::Finished(job, result), now);
            }
            Input::Idle(uid, number) => self.tell(&uid, PodInput::Idle(number), now),
            Input::CertificateReady(identity) => self.handle_certificate(&identity, now),
            Input::Synced => {
                self.synced = true;
                self.tell_all(|| PodInput::Synced, now);
            }
            Input::Shutdown => {
                self.closing = true;
                self.tell_all(|| PodInput::Shutdown, now);
            }
        }
    }

    /// Does what was due at or before `now`.
    pub fn handle_timeout(&mut self, now: Instant) {
        let all: Vec<PodUid> = self.pods.keys().cloned().collect();
        for uid in all {
            let Some(pod) = self.pods.get_mut(&uid) else {
                continue;
            };
            if pod.poll_timeout().is_some_and(|(at, _)| at <= now) {
                pod.handle_timeout(now);
                self.settle(&uid, now);
            }
        }
    }

    /// The next deadline, and why it exists.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.pods.values().filter_map(Pod::poll_timeout).min()
    }

    /// What the driver must do now.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// Whether no job is under way and none is due: after [`Input::Shutdown`] the process may end.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.pods.values().all(Pod::is_settled)
    }

    fn learn(&mut self, uid: &PodUid) {
        if !self.pods.contains_key(uid) {
            let seed =
                uid.as_str().bytes().fold(self.seed, |seed, byte| splitmix(seed ^ u64::from(byte)));
            let pod = Pod::new(uid.clone(), self.synced, self.closing, seed);
            self.pods.insert(uid.clone(), pod);
        }
    }

    fn tell(&mut self, uid: &PodUid, input: PodInput, now: Instant) {
        if let Some(pod) = self.pods.get_mut(uid) {
            pod.handle(input, now);
            self.settle(uid, now);
        }
    }

    fn tell_all(&mut self, input: impl Fn() -> PodInput, now: Instant) {
        let all: Vec<PodUid> = self.pods.keys().cloned().collect();
        for uid in all {
            self.tell(&uid, input(), now);
        }
    }

    fn handle_certificate(&mut self, identity: &SpiffeId, now: Instant) {
        let Some(holders) = self.identities.get_mut(identity) else {
            return;
        };
        holders.ready = true;
        for uid in holders.pods.clone() {
            self.tell(&uid, PodInput::Certificate(identity.clone()), now);
        }
    }

    /// Takes over what a pod has to say, until its identity is the one it holds.
    fn settle(&mut self, uid: &PodUid, now: Instant) {
        loop {
            let Some(pod) = self.pods.get_mut(uid) else {
                return;
            };
            let needs = pod.identity().cloned();
            let over = pod.is_over();
            while let Some(command) = pod.poll_command() {
                self.commands.push_back(command);
            }
            if over {
                self.pods.remove(uid);
            }
            if self.holds.get(uid) == needs.as_ref() {
                return;
            }
            self.let_go(uid);
            let Some(identity) = needs else {
                return;
            };
            if self.take_hold(uid, &identity)
                && let Some(pod) = self.pods.get_mut(uid)
            {
                pod.handle(PodInput::Certificate(identity), now);
            }
        }
    }

    /// Whether the identity's certificate is there already.
    fn take_hold(&mut self, uid: &PodUid, identity: &SpiffeId) -> bool {
        self.holds.insert(uid.clone(), identity.clone());
        let holders = self.identities.entry(identity.clone()).or_default();
        if holders.pods.is_empty() {
            self.commands.push_back(Command::Acquire(identity.clone()));
        }
        holders.pods.insert(uid.clone());
        holders.ready
    }

    fn let_go(&mut self, uid: &PodUid) {
        let Some(identity) = self.holds.remove(uid) else {
            return;
        };
        if let Some(pod) = self.pods.get_mut(uid) {
            pod.handle_release();
        }
        let Some(holders) = self.identities.get_mut(&identity) else {
            return;
        };
        holders.pods.remove(uid);
        if holders.pods.is_empty() {
            self.identities.remove(&identity);
            self.commands.push_back(Command::Release(identity));
        }
    }
}
