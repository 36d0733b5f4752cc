//! What stands of one pod, and which rung comes next.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Job, Step, Target};

/// The steps, and between them the moment when the workers get the listeners: a slot that leads to
/// a listener nobody accepts on would hold connections up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rung {
    Listeners,
    Workers,
    Slots,
    Routes,
    Lookup,
    Capture,
    Hold,
}

/// What stands of one pod.
#[derive(Debug, Default)]
pub(super) struct Ladder {
    /// As what the pod was opened.
    opened: Option<Arc<Target>>,
    /// What an earlier agent left and nobody took up yet: `Some(whether its namespace exists)`.
    relics: Option<bool>,
    /// An earlier agent captured the pod, and nobody undid it: no failure may.
    sealed: bool,
    /// What may stand, and must be undone.
    standing: BTreeSet<Rung>,
    /// What this process did and has not begun to undo.
    done: BTreeSet<Rung>,
    /// Whether this process may have flows of the pod.
    exposed: bool,
    /// Whether the pod was captured and served, so that others may still count on it.
    served: bool,
}

impl Rung {
    const ALL: [Self; 7] = [
        Self::Listeners,
        Self::Workers,
        Self::Slots,
        Self::Routes,
        Self::Lookup,
        Self::Capture,
        Self::Hold,
    ];

    /// What is in the kernel when an earlier agent left a pod captured. Its listeners and its
    /// workers ended with it.
    const LEFT_BEHIND: [Self; 4] = [Self::Slots, Self::Routes, Self::Lookup, Self::Capture];

    const fn up(self) -> Job {
        match self {
            Self::Listeners => Job::Perform(Step::Listeners),
            Self::Workers => Job::Serve,
            Self::Slots => Job::Perform(Step::Slots),
            Self::Routes => Job::Perform(Step::Routes),
            Self::Lookup => Job::Perform(Step::Lookup),
            Self::Capture => Job::Perform(Step::Capture),
            Self::Hold => Job::Perform(Step::Hold),
        }
    }

    pub(super) const fn down(self) -> Job {
        match self {
            Self::Workers => Job::Retire,
            Self::Listeners
            | Self::Slots
            | Self::Routes
            | Self::Lookup
            | Self::Capture
            | Self::Hold => Job::Undo(self.step()),
        }
    }

    pub(super) const fn step(self) -> Step {
        match self {
            Self::Listeners | Self::Workers => Step::Listeners,
            Self::Slots => Step::Slots,
            Self::Routes => Step::Routes,
            Self::Lookup => Step::Lookup,
            Self::Capture => Step::Capture,
            Self::Hold => Step::Hold,
        }
    }

    const fn of(step: Step) -> Self {
        match step {
            Step::Listeners => Self::Listeners,
            Step::Slots => Self::Slots,
            Step::Routes => Self::Routes,
            Step::Lookup => Self::Lookup,
            Step::Capture => Self::Capture,
            Step::Hold => Self::Hold,
        }
    }
}

impl Ladder {
    pub(super) const fn opened(&self) -> Option<&Arc<Target>> {
        self.opened.as_ref()
    }

    pub(super) const fn relics(&self) -> Option<bool> {
        self.relics
    }

    /// Whether the pod is captured by the work of an earlier agent.
    pub(super) const fn is_captured_before(&self) -> bool {
        self.sealed || matches!(self.relics, Some(true))
    }

    pub(super) const fn is_sealed(&self) -> bool {
        self.sealed
    }

    pub(super) const fn is_exposed(&self) -> bool {
        self.exposed
    }

    pub(super) const fn was_served(&self) -> bool {
        self.served
    }

    pub(super) fn is_complete(&self) -> bool {
        self.done.len() == Rung::ALL.len()
    }

    /// Whether all is done that the pod's connections need while the agent is there.
    pub(super) fn is_served(&self) -> bool {
        Rung::ALL.iter().all(|rung| *rung == Rung::Hold || self.done.contains(rung))
    }

    /// Whether there is nothing to undo, close or forget.
    pub(super) const fn is_clear(&self) -> bool {
        self.opened.is_none() && self.relics.is_none()
    }

    /// The highest rung that may stand.
    pub(super) fn top(&self) -> Option<Rung> {
        self.standing.last().copied()
    }

    /// The next job on the way up.
    pub(super) fn next_up(&self) -> Option<Job> {
        if self.standing.contains(&Rung::Listeners) && !self.done.contains(&Rung::Listeners) {
            // Half made, or given to the workers before, who closed them: they must be made anew.
            let workers = self.standing.contains(&Rung::Workers);
            let spent = if workers { Rung::Workers } else { Rung::Listeners };
            return Some(spent.down());
        }
        Rung::ALL.into_iter().find(|rung| !self.done.contains(rung)).map(Rung::up)
    }

    pub(super) fn adopt(&mut self, alive: bool) {
        self.relics = Some(alive);
    }

    pub(super) fn handle_start(&mut self, job: &Job) {
        match job {
            // It stands and goes with the look-up program.
            Job::Perform(Step::Hold) => {}
            Job::Perform(step) => {
                self.standing.insert(Rung::of(*step));
                self.exposed |= matches!(step, Step::Lookup | Step::Capture);
            }
            Job::Serve => {
                self.standing.insert(Rung::Workers);
                self.exposed |= self.sealed;
            }
            Job::Undo(step) => {
                self.done.remove(&Rung::of(*step));
                if *step == Step::Lookup {
                    self.done.remove(&Rung::Hold);
                }
            }
            Job::Retire => {
                self.done.remove(&Rung::Workers);
                self.done.remove(&Rung::Listeners);
            }
            Job::Open(_) | Job::Forget => {}
        }
    }

    pub(super) fn handle_success(&mut self, job: &Job) {
        match job {
            Job::Open(target) => {
                self.opened = Some(Arc::clone(target));
                if self.relics.take().is_some() {
                    self.sealed = true;
                    self.standing.extend(Rung::LEFT_BEHIND);
                }
            }
            Job::Perform(step) => {
                self.done.insert(Rung::of(*step));
                self.served |= self.is_served();
            }
            Job::Serve => {
                self.done.insert(Rung::Workers);
            }
            Job::Undo(step) => {
                self.standing.remove(&Rung::of(*step));
                self.sealed &= *step != Step::Capture;
            }
            Job::Retire => {
                self.standing.remove(&Rung::Workers);
                self.exposed = false;
                self.served = false;
            }
            Job::Forget => self.relics = None,
        }
    }

    pub(super) fn handle_failure(&mut self, job: &Job) {
        if *job == Job::Serve {
            self.done.remove(&Rung::Listeners);
        }
    }

    /// Everything is undone and the namespace let go.
    pub(super) fn close(&mut self) {
        *self = Self { relics: self.relics, ..Self::default() };
    }
}
