//! The machine of one pod.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::backoff::Setbacks;
use super::ebb::{Ebb, Gate};
use super::ladder::{Ladder, Rung};
use super::{Command, Job, NotEnrolled, PodState, Step, Target};
use crate::identity::SpiffeId;
use crate::workload::PodUid;

/// How long a pod that an earlier agent captured waits for its certificate. Its connections hang
/// until its listeners stand; after this time it is served without one, so that they fail with that
/// reason, and those that need no tunnel work.
const PATIENCE: Duration = Duration::from_secs(10);

/// What happened to one pod.
#[derive(Debug)]
pub(super) enum PodInput {
    Adopted { alive: bool },
    Synced,
    Wanted(Target),
    Unwanted(NotEnrolled),
    Gone,
    Certificate(SpiffeId),
    Finished(Job, Result<(), Arc<str>>),
    Idle(u64),
    Shutdown,
}

/// What discovery says of the pod.
#[derive(Debug, PartialEq, Eq)]
enum Want {
    /// Nothing yet: an earlier agent left it.
    Unknown,
    Wanted(Arc<Target>),
    Unwanted(NotEnrolled),
    Gone,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
enum Aim {
    Rest,
    Open(Arc<Target>),
    Up,
    /// `hurry`: open flows are not waited for.
    Down {
        hurry: bool,
    },
    Forget,
}

/// Whether a captured pod still waits for its certificate; see [`PATIENCE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Patience {
    Endless,
    Until(Instant),
    Over,
}

/// One pod.
#[derive(Debug)]
pub(super) struct Pod {
    uid: PodUid,
    want: Want,
    ladder: Ladder,
    ebb: Ebb,
    setbacks: Setbacks,
    /// The identity whose certificate is there.
    certificate: Option<SpiffeId>,
    patience: Patience,
    busy: Option<Job>,
    synced: bool,
    closing: bool,
    shown: Option<PodState>,
    commands: VecDeque<Command>,
}

impl Pod {
    pub(super) fn new(uid: PodUid, synced: bool, closing: bool, seed: u64) -> Self {
        Self {
            uid,
            want: Want::Unknown,
            ladder: Ladder::default(),
            ebb: Ebb::default(),
            setbacks: Setbacks::new(seed),
            certificate: None,
            patience: Patience::Endless,
            busy: None,
            synced,
            closing,
            shown: None,
            commands: VecDeque::new(),
        }
    }

    pub(super) fn handle(&mut self, input: PodInput, now: Instant) {
        match input {
            PodInput::Adopted { alive } => self.ladder.adopt(alive),
            PodInput::Synced => self.synced = true,
            PodInput::Wanted(target) => self.handle_want(Want::Wanted(Arc::new(target)), now),
            PodInput::Unwanted(why) => self.handle_want(Want::Unwanted(why), now),
            PodInput::Gone => self.handle_want(Want::Gone, now),
            PodInput::Certificate(identity) => self.certificate = Some(identity),
            PodInput::Finished(job, result) => self.handle_finished(&job, result, now),
            PodInput::Idle(number) => {
                let settle = self.ladder.was_served() && !self.closing;
                self.ebb.handle_idle(number, settle, now);
            }
            PodInput::Shutdown => self.closing = true,
        }
        self.advance(now);
    }

    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.setbacks.handle_timeout(now);
        self.ebb.handle_timeout(now);
        if matches!(self.patience, Patience::Until(until) if until <= now) {
            self.patience = Patience::Over;
        }
        self.advance(now);
    }

    /// The next deadline, and why it exists.
    pub(super) fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let retry = self.setbacks.pending().map(|setback| (setback.at, "retry"));
        let patience = match self.patience {
            Patience::Until(until) => Some((until, "certificate of an adopted pod")),
            Patience::Endless | Patience::Over => None,
        };
        let ebb = self.ebb.poll_timeout();
        [retry, patience, ebb].into_iter().flatten().min()
    }

    pub(super) fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// The identity that the pod needs now.
    pub(super) fn identity(&self) -> Option<&SpiffeId> {
        if let Some(opened) = self.ladder.opened() {
            return Some(&opened.identity);
        }
        if let Some(Job::Open(target)) = &self.busy {
            return Some(&target.identity);
        }
        match &self.want {
            Want::Wanted(target) => Some(&target.identity),
            Want::Unknown | Want::Unwanted(_) | Want::Gone => None,
        }
    }

    /// Whether nothing is left to know or to do about the pod.
    pub(super) fn is_over(&self) -> bool {
        let known = match self.want {
            Want::Gone => false,
            Want::Unknown => !self.synced,
            Want::Wanted(_) | Want::Unwanted(_) => true,
        };
        !known && self.busy.is_none() && self.ladder.is_clear()
    }

    /// Whether the pod is where it stays until something happens.
    pub(super) fn is_settled(&self) -> bool {
        self.busy.is_none() && self.aim() == Aim::Rest
    }

    /// The pod's identity was released; if it is acquired again, its certificate is a new one.
    pub(super) fn handle_release(&mut self) {
        self.certificate = None;
    }

    fn handle_want(&mut self, want: Want, now: Instant) {
        if self.want == want {
            return;
        }
        let waits = self.ladder.is_captured_before() && matches!(want, Want::Wanted(_));
        if waits && self.patience == Patience::Endless {
            self.patience = Patience::Until(now + PATIENCE);
        }
        self.want = want;
        self.setbacks.clear();
    }

    fn handle_finished(&mut self, job: &Job, result: Result<(), Arc<str>>, now: Instant) {
        if self.busy.as_ref() != Some(job) {
            return;
        }
        self.busy = None;
        match result {
            Ok(()) => {
                self.ladder.handle_success(job);
                if self.ladder.is_complete() {
                    self.setbacks.clear();
                }
            }
            Err(error) => {
                self.ladder.handle_failure(job);
                let step = matches!(job, Job::Perform(_) | Job::Serve);
                // The pod may have started by then.
                let held = *job == Job::Perform(Step::Hold);
                let hold = !step || held || self.ladder.is_sealed();
                self.setbacks.record(job, error, hold, now);
            }
        }
    }

    /// Does what can be done now.
    fn advance(&mut self, now: Instant) {
        while self.busy.is_none() {
            if self.setbacks.pending().is_some_and(|setback| setback.hold) {
                break;
            }
            match self.possible_aim() {
                Aim::Rest => break,
                Aim::Open(target) => self.start(Job::Open(target)),
                Aim::Forget => self.start(Job::Forget),
                Aim::Up => self.climb(),
                Aim::Down { hurry } => {
                    if !self.descend(hurry, now) {
                        break;
                    }
                }
            }
        }
        self.show();
    }

    fn possible_aim(&self) -> Aim {
        let aim = self.aim();
        let climbs = matches!(aim, Aim::Open(_) | Aim::Up);
        if climbs && !self.may_climb() {
            return Aim::Rest;
        }
        aim
    }

    /// Where the pod belongs, whether or not it can go there yet.
    fn aim(&self) -> Aim {
        if self.closing {
            return self.aim_at_the_end();
        }
        if self.ladder.relics() == Some(false) {
            return Aim::Forget;
        }
        let kept = !self.synced && self.ladder.is_captured_before();
        match &self.want {
            Want::Wanted(target) => self.aim_at_target(target),
            Want::Unknown | Want::Unwanted(_) | Want::Gone if kept => Aim::Rest,
            Want::Unknown | Want::Unwanted(_) | Want::Gone if self.ladder.relics().is_some() => {
                Aim::Forget
            }
            Want::Unwanted(why) if self.ladder.opened().is_some() => {
                Aim::Down { hurry: *why == NotEnrolled::Finished }
            }
            Want::Gone if self.ladder.opened().is_some() => Aim::Down { hurry: true },
            Want::Unknown | Want::Unwanted(_) | Want::Gone => Aim::Rest,
        }
    }

    fn aim_at_target(&self, target: &Arc<Target>) -> Aim {
        let failed = self.setbacks.pending().is_some();
        match self.ladder.opened() {
            Some(opened) if opened.differs(target) => Aim::Down { hurry: true },
            Some(_) if failed => Aim::Down { hurry: false },
            Some(_) if self.ladder.is_complete() => Aim::Rest,
            Some(_) => Aim::Up,
            None if failed || !target.is_located() => Aim::Rest,
            None => Aim::Open(Arc::clone(target)),
        }
    }

    /// At the end of the agent captured pods are left to the next one; what is half done must not
    /// lead connections to listeners that are about to end.
    fn aim_at_the_end(&self) -> Aim {
        let wanted = matches!(self.want, Want::Wanted(_));
        let served = wanted && self.ladder.is_served();
        if served && !self.ladder.is_complete() && self.setbacks.pending().is_none() {
            return Aim::Up;
        }
        let stays = self.ladder.is_captured_before() || served;
        if stays || self.ladder.opened().is_none() {
            return Aim::Rest;
        }
        Aim::Down { hurry: matches!(self.want, Want::Gone) }
    }

    /// Whether the pod's certificate is there, or was waited for long enough.
    fn may_climb(&self) -> bool {
        let Want::Wanted(target) = &self.want else {
            return true;
        };
        let ready = self.certificate.as_ref() == Some(&target.identity);
        ready || (self.patience == Patience::Over && self.ladder.is_captured_before())
    }

    fn climb(&mut self) {
        self.ebb.reset();
        if let Some(job) = self.ladder.next_up() {
            self.start(job);
        }
    }

    /// One rung down. `false`: it must wait.
    fn descend(&mut self, hurry: bool, now: Instant) -> bool {
        let Some(rung) = self.ladder.top() else {
            self.ladder.close();
            self.ebb.reset();
            self.commands.push_back(Command::Close(self.uid.clone()));
            return true;
        };
        let gate = match rung {
            Rung::Lookup if !hurry && !self.closing && self.ladder.was_served() => {
                self.ebb.linger(now)
            }
            Rung::Routes if !hurry && self.ladder.is_exposed() => self.ebb.empty(),
            Rung::Listeners
            | Rung::Workers
            | Rung::Slots
            | Rung::Routes
            | Rung::Lookup
            | Rung::Capture
            | Rung::Hold => Gate::Open,
        };
        match gate {
            Gate::Open => {
                self.start(rung.down());
                true
            }
            Gate::Closed => false,
            Gate::Ask(number) => {
                let ask = Command::AwaitIdle(self.uid.clone(), number);
                self.commands.push_back(ask);
                false
            }
        }
    }

    fn start(&mut self, job: Job) {
        self.ladder.handle_start(&job);
        self.commands.push_back(Command::Start(self.uid.clone(), job.clone()));
        self.busy = Some(job);
    }

    fn show(&mut self) {
        let state = if self.is_over() { None } else { self.state() };
        if self.shown != state {
            self.shown.clone_from(&state);
            self.commands.push_back(Command::Show(self.uid.clone(), state));
        }
    }

    /// The state to show; `None` for a pod that discovery does not name.
    fn state(&self) -> Option<PodState> {
        if self.want == Want::Unknown {
            return None;
        }
        if let Some(setback) = self.setbacks.pending() {
            return Some(setback.state());
        }
        if let Some(job) = &self.busy {
            return Some(job.state());
        }
        if let Some(rung) = self.ladder.top()
            && matches!(self.aim(), Aim::Down { .. })
        {
            return Some(PodState::Withdrawing(rung.step()));
        }
        Some(match &self.want {
            Want::Wanted(_) if self.ladder.is_complete() => PodState::Enrolled,
            Want::Wanted(target) if !target.is_located() && self.ladder.opened().is_none() => {
                PodState::AwaitingNamespace
            }
            Want::Wanted(_) => PodState::AwaitingCertificate,
            Want::Unwanted(why) if !self.ladder.is_captured_before() => PodState::NotEnrolled(*why),
            Want::Unwanted(_) | Want::Gone | Want::Unknown => PodState::Withdrawing(Step::Capture),
        })
    }
}

impl Job {
    const fn state(&self) -> PodState {
        match self {
            Self::Open(_) | Self::Serve => PodState::Enrolling(Step::Listeners),
            Self::Perform(step) => PodState::Enrolling(*step),
            Self::Undo(step) => PodState::Withdrawing(*step),
            Self::Retire => PodState::Withdrawing(Step::Listeners),
            Self::Forget => PodState::Withdrawing(Step::Capture),
        }
    }
}
