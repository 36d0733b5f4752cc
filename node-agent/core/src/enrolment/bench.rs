//! An [`Enrolment`] on a bench: inputs go in, commands come out as short sentences.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::walk::uid;
use super::{Command, Enrolment, Input, Job, PodState};
use crate::workload::PodUid;

pub(super) struct Bench {
    pub(super) enrolment: Enrolment,
    pub(super) now: Instant,
    jobs: VecDeque<(PodUid, Job)>,
    asked: Option<(PodUid, u64)>,
    pub(super) states: BTreeMap<PodUid, PodState>,
}

impl Bench {
    #[expect(clippy::disallowed_methods, reason = "an origin for made-up instants")]
    pub(super) fn new() -> Self {
        Self {
            enrolment: Enrolment::new(7),
            now: Instant::now(),
            jobs: VecDeque::new(),
            asked: None,
            states: BTreeMap::new(),
        }
    }

    /// One input; what is to be done then, without what is only shown.
    pub(super) fn send(&mut self, input: Input) -> Vec<String> {
        self.enrolment.handle(input, self.now);
        self.collect()
    }

    /// Lets time pass to the next deadline and through it.
    pub(super) fn pass(&mut self) -> Vec<String> {
        let (at, _) = self.enrolment.poll_timeout().expect("a deadline");
        self.now = self.now.max(at);
        self.enrolment.handle_timeout(self.now);
        self.collect()
    }

    pub(super) fn wait(&mut self, time: Duration) -> Vec<String> {
        self.now += time;
        self.enrolment.handle_timeout(self.now);
        self.collect()
    }

    /// The oldest job ends well.
    pub(super) fn succeed(&mut self) -> Vec<String> {
        let (uid, job) = self.jobs.pop_front().expect("a job");
        self.send(Input::Finished(uid, job, Ok(())))
    }

    pub(super) fn fail(&mut self, error: &str) -> Vec<String> {
        let (uid, job) = self.jobs.pop_front().expect("a job");
        self.send(Input::Finished(uid, job, Err(Arc::from(error))))
    }

    /// All jobs end well, as long as there are any.
    pub(super) fn run(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        while !self.jobs.is_empty() {
            all.extend(self.succeed());
        }
        all
    }

    /// The workers answer the last question.
    pub(super) fn idle(&mut self) -> Vec<String> {
        let (uid, number) = self.asked.take().expect("a question");
        self.send(Input::Idle(uid, number))
    }

    pub(super) fn state(&self, uid: &str) -> Option<&PodState> {
        self.states.get(&self::uid(uid))
    }

    fn collect(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        while let Some(command) = self.enrolment.poll_command() {
            match command {
                Command::Acquire(id) => all.push(format!("acquire {}", id.service_account())),
                Command::Release(id) => all.push(format!("release {}", id.service_account())),
                Command::Close(uid) => all.push(format!("close {uid}")),
                Command::AwaitIdle(uid, number) => {
                    all.push(format!("await idle {uid}"));
                    self.asked = Some((uid, number));
                }
                Command::Start(uid, job) => {
                    all.push(text(&uid, &job));
                    self.jobs.push_back((uid, job));
                }
                Command::Show(uid, Some(state)) => {
                    self.states.insert(uid, state);
                }
                Command::Show(uid, None) => {
                    self.states.remove(&uid);
                }
            }
        }
        all
    }
}

fn text(uid: &PodUid, job: &Job) -> String {
    match job {
        Job::Open(_) => format!("open {uid}"),
        Job::Perform(step) => format!("do {}", step.as_label()),
        Job::Serve => String::from("serve"),
        Job::Undo(step) => format!("undo {}", step.as_label()),
        Job::Retire => String::from("retire"),
        Job::Forget => format!("forget {uid}"),
    }
}
