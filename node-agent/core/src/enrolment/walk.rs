//! Random walks: whatever comes in whatever order, what must never be done is not done, and in the
//! end every pod is where it belongs. [`walk`] takes its choices from bytes, as a fuzzer gives them.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that fails must end"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Command, Enrolment, Input, Job, NotEnrolled, PodState, Step, Target};
use crate::identity::SpiffeId;
use crate::workload::{ObjectName, PodUid};

/// One walk.
///
/// # Panics
/// If the machine did what must never be done, or lost a pod.
pub fn walk(bytes: &[u8]) {
    let mut walk = Walk::new(bytes);
    walk.begin();
    while walk.choices.len() > 4 {
        walk.stride();
    }
    walk.converge();
}

/// What the other side of the machine would see of one pod.
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
#[derive(Debug, Default)]
struct Model {
    want: Option<Want>,
    job: Option<Job>,
    opened: Option<Arc<Target>>,
    /// May stand.
    standing: BTreeSet<Step>,
    /// Stands.
    sure: BTreeSet<Step>,
    /// The listeners were not given away yet.
    fresh: bool,
    serving: bool,
    flows: bool,
    relics: Option<bool>,
    sealed: bool,
    /// An earlier agent's steps may stand while there are no listeners.
    inherited: bool,
    asked: Option<u64>,
    state: Option<PodState>,
}

#[derive(Debug, Clone, PartialEq)]
enum Want {
    Wanted(Target),
    Unwanted(NotEnrolled),
    Gone,
}

struct Walk<'a> {
    choices: &'a [u8],
    enrolment: Enrolment,
    now: Instant,
    pods: BTreeMap<PodUid, Model>,
    certificates: BTreeMap<SpiffeId, bool>,
    synced: bool,
}

impl<'a> Walk<'a> {
    #[expect(clippy::disallowed_methods, reason = "an origin for made-up instants")]
    fn new(choices: &'a [u8]) -> Self {
        Self {
            choices,
            enrolment: Enrolment::new(choices.len() as u64),
            now: Instant::now(),
            pods: BTreeMap::new(),
            certificates: BTreeMap::new(),
            synced: false,
        }
    }

    fn choose(&mut self, n: usize) -> usize {
        let Some((first, rest)) = self.choices.split_first() else {
            return 0;
        };
        self.choices = rest;
        usize::from(*first) % n
    }

    fn begin(&mut self) {
        for name in ["p", "q"] {
            let relics = match self.choose(3) {
                0 => None,
                n => Some(n == 1),
            };
            let Some(alive) = relics else { continue };
            let uid = uid(name);
            self.pods.entry(uid.clone()).or_default().relics = relics;
            self.send(Input::Adopted { uid, alive });
        }
    }

    fn stride(&mut self) {
        match self.choose(12) {
            0..=2 => self.discover(),
            3..=6 => self.answer(true),
            7 => self.answer(false),
            8 => self.certify(),
            9 => self.idle(),
            10 => self.pass(),
            _ if !self.synced && self.choose(4) == 0 => {
                self.synced = true;
                self.send(Input::Synced);
            }
            _ => {}
        }
    }

    fn discover(&mut self) {
        let name = ["p", "q", "r"][self.choose(3)];
        let uid = uid(name);
        let want = match self.choose(8) {
            0 => Want::Gone,
            1 => Want::Unwanted(NotEnrolled::Finished),
            2 | 3 => Want::Unwanted(NotEnrolled::PodOptedOut),
            _ => {
                let mut target = target(name, ["cart", "till"][usize::from(self.choose(5) == 0)]);
                match self.choose(6) {
                    0 => target.netns = None,
                    1 => target.netns = Some("/run/netns/b".into()),
                    2 => target.addresses.clear(),
                    _ => {}
                }
                Want::Wanted(target)
            }
        };
        let known = self.pods.contains_key(&uid);
        if known || want != Want::Gone {
            self.pods.entry(uid.clone()).or_default().want = Some(want.clone());
        }
        self.send(match want {
            Want::Wanted(target) => Input::Wanted(target),
            Want::Unwanted(why) => Input::Unwanted(uid, why),
            Want::Gone => Input::Gone(uid),
        });
    }

    fn answer(&mut self, well: bool) {
        let busy: Vec<PodUid> = self.pods_where(|pod| pod.job.is_some());
        if busy.is_empty() {
            return;
        }
        let uid = busy[self.choose(busy.len())].clone();
        let pod = self.pods.get_mut(&uid).unwrap();
        let job = pod.job.take().unwrap();
        if well {
            pod.succeed(&job);
        }
        let result = if well { Ok(()) } else { Err(Arc::from("refused")) };
        self.send(Input::Finished(uid, job, result));
    }

    fn certify(&mut self) {
        let waiting = self.certificates.iter().find(|(_, ready)| !**ready);
        let Some((identity, _)) = waiting else { return };
        let identity = identity.clone();
        self.certificates.insert(identity.clone(), true);
        self.send(Input::CertificateReady(identity));
    }

    fn idle(&mut self) {
        let asked = self.pods_where(|pod| pod.asked.is_some());
        let Some(uid) = asked.first() else { return };
        let pod = self.pods.get_mut(uid).unwrap();
        let number = pod.asked.take().unwrap();
        if !pod.standing.contains(&Step::Lookup) {
            pod.flows = false;
        }
        self.send(Input::Idle(uid.clone(), number));
    }

    fn pass(&mut self) {
        if let Some((at, _)) = self.enrolment.poll_timeout() {
            self.now = self.now.max(at);
            self.enrolment.handle_timeout(self.now);
            self.check();
            let next = self.enrolment.poll_timeout();
            assert!(next.is_none_or(|(at, _)| at > self.now), "{next:?}");
        }
    }

    /// From here on everything answers, and well.
    fn converge(&mut self) {
        self.synced = true;
        self.send(Input::Synced);
        let end = self.now + Duration::from_secs(3600);
        for _ in 0..1000 {
            self.answer(true);
            self.certify();
            self.idle();
            self.pass();
        }
        assert!(self.now < end, "still waiting");
        assert_eq!(self.enrolment.poll_timeout(), None);
        let mut needed = BTreeSet::new();
        for (uid, pod) in &self.pods {
            assert_eq!(pod.job, None, "{uid}");
            // What an earlier agent captured stays so until it is known where the pod is.
            let waits = pod.relics == Some(true) && pod.state == Some(PodState::AwaitingNamespace);
            assert!(pod.relics.is_none() || waits, "{uid}: {:?} {:?}", pod.relics, pod.state);
            match (&pod.want, &pod.state) {
                (Some(Want::Wanted(target)), Some(PodState::Enrolled)) => {
                    assert_eq!(pod.sure, BTreeSet::from(Step::ALL), "{uid}");
                    assert!(pod.serving && !pod.opened.as_ref().unwrap().differs(target));
                    needed.insert(target.identity.clone());
                }
                (Some(Want::Wanted(target)), Some(PodState::AwaitingNamespace)) => {
                    assert!(!target.is_located() && pod.is_clear(), "{uid}");
                    needed.insert(target.identity.clone());
                }
                (Some(Want::Unwanted(why)), Some(state)) => {
                    assert_eq!(*state, PodState::NotEnrolled(*why), "{uid}");
                    assert!(pod.is_clear(), "{uid}");
                }
                (Some(Want::Gone) | None, None) => assert!(pod.is_clear(), "{uid}"),
                other => panic!("{uid}: {other:?}"),
            }
        }
        let held: BTreeSet<SpiffeId> = self.certificates.keys().cloned().collect();
        assert_eq!(held, needed);
    }

    fn pods_where(&self, which: impl Fn(&Model) -> bool) -> Vec<PodUid> {
        let found = self.pods.iter().filter(|(_, pod)| which(pod));
        found.map(|(uid, _)| uid.clone()).collect()
    }

    fn send(&mut self, input: Input) {
        self.enrolment.handle(input, self.now);
        self.check();
    }

    fn check(&mut self) {
        while let Some(command) = self.enrolment.poll_command() {
            match command {
                Command::Acquire(identity) => {
                    assert_eq!(self.certificates.insert(identity, false), None);
                }
                Command::Release(identity) => {
                    assert!(self.certificates.remove(&identity).is_some());
                }
                Command::AwaitIdle(uid, number) => {
                    let pod = self.pods.get_mut(&uid).unwrap();
                    assert!(pod.asked.is_none_or(|last| last < number));
                    pod.asked = Some(number);
                }
                Command::Close(uid) => {
                    let pod = self.pods.get_mut(&uid).unwrap();
                    assert!(pod.standing.is_empty() && !pod.serving && pod.job.is_none());
                    assert!(pod.opened.take().is_some());
                    pod.inherited = false;
                }
                Command::Show(uid, state) => self.pods.get_mut(&uid).unwrap().state = state,
                Command::Start(uid, job) => {
                    let pod = self.pods.get_mut(&uid).unwrap();
                    pod.start(&job, &self.certificates, self.synced);
                    pod.job = Some(job);
                }
            }
        }
    }
}

impl Model {
    fn is_clear(&self) -> bool {
        self.standing.is_empty() && !self.serving && self.opened.is_none()
    }

    /// Whether the pod is to be undone without regard for its flows.
    fn may_hurry(&self) -> bool {
        match (&self.want, &self.opened) {
            (Some(Want::Wanted(target)), Some(opened)) => opened.differs(target),
            (Some(Want::Unwanted(why)), _) => *why == NotEnrolled::Finished,
            (Some(Want::Gone), _) => true,
            (Some(Want::Wanted(_)) | None, _) => false,
        }
    }

    fn start(&mut self, job: &Job, certificates: &BTreeMap<SpiffeId, bool>, synced: bool) {
        assert_eq!(self.job, None, "before {job:?}");
        let over = self.want == Some(Want::Gone) && self.state.is_none();
        assert!(!over || !self.is_clear() || self.relics.is_some(), "{job:?}");
        match job {
            Job::Open(target) => {
                assert!(self.opened.is_none() && target.is_located());
            }
            Job::Perform(step) => {
                let opened = self.opened.as_ref().unwrap();
                let certified = certificates.get(&opened.identity) == Some(&true);
                assert!(certified || self.sealed, "{step:?} without a certificate");
                let below = Step::ALL.into_iter().filter(|below| below < step);
                assert!(below.into_iter().all(|below| self.sure.contains(&below)));
                assert!(self.serving || *step == Step::Listeners, "{step:?}");
                if *step != Step::Hold {
                    self.standing.insert(*step);
                }
                self.flows |= *step >= Step::Lookup;
            }
            Job::Serve => {
                assert!(self.fresh && self.sure.contains(&Step::Listeners));
                self.fresh = false;
                self.serving = true;
            }
            Job::Retire | Job::Undo(Step::Listeners) => {
                let left = self.standing.iter().any(|step| *step > Step::Listeners);
                let unused = self.inherited && !self.sure.contains(&Step::Slots);
                assert!(self.sealed || unused || !left, "{:?}", self.standing);
                assert!(*job == Job::Retire || !self.serving);
                self.sure.remove(&Step::Listeners);
            }
            Job::Undo(step) => {
                assert_eq!(self.standing.last(), Some(step));
                let changed = self.may_hurry() || !matches!(self.want, Some(Want::Wanted(_)));
                let started = self.sure.contains(&Step::Capture);
                assert!(!(self.sealed || started) || changed, "a failure undid {step:?}");
                let quiet = *step != Step::Routes || !self.flows || self.may_hurry();
                assert!(quiet, "open flows lost their way");
                self.sure.remove(step);
                if *step == Step::Lookup {
                    self.sure.remove(&Step::Hold);
                }
            }
            Job::Forget => {
                assert!(self.opened.is_none());
                assert!(synced || self.relics == Some(false));
            }
        }
    }

    fn succeed(&mut self, job: &Job) {
        match job {
            Job::Open(target) => {
                self.opened = Some(Arc::clone(target));
                if self.relics.take().is_some() {
                    self.sealed = true;
                    self.inherited = true;
                    self.standing = BTreeSet::from(Step::ALL);
                    self.standing.remove(&Step::Listeners);
                    self.standing.remove(&Step::Hold);
                }
            }
            Job::Perform(step) => {
                self.sure.insert(*step);
                self.fresh |= *step == Step::Listeners;
            }
            Job::Serve => {}
            Job::Undo(step) => {
                self.standing.remove(step);
                self.sealed &= *step != Step::Capture;
            }
            Job::Retire => {
                self.serving = false;
                self.flows = false;
            }
            Job::Forget => self.relics = None,
        }
    }
}

pub(super) fn uid(text: &str) -> PodUid {
    PodUid::parse(text).unwrap()
}

pub(super) fn identity(account: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://mesh/ns/shop/sa/{account}")).unwrap()
}

/// A pod whose identity is called `account` and whose namespace is known.
pub(super) fn target(uid: &str, account: &str) -> Target {
    Target {
        uid: self::uid(uid),
        name: ObjectName::new("shop", uid),
        identity: identity(account),
        addresses: vec!["10.1.0.1".parse().unwrap()],
        netns: Some(Arc::from("/run/netns/a")),
    }
}
