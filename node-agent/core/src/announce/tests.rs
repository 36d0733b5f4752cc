use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::{Announcer, Answer, Input, Pod, Seen, What};
use crate::enrolment::{NotEnrolled, PodState, Step};
use crate::workload::{ObjectName, PodUid};

#[test]
fn an_enrolled_pod_is_annotated_once_and_a_withdrawn_one_is_cleared() {
    let mut bench = Bench::new();
    bench.see([pod("a", PodState::Enrolled)]);
    assert_eq!(bench.next(), Some(says("enrolled")));
    bench.answer(Answer::Done);
    let mut carrying = Seen { carried: Some("enrolled".into()), ..pod("a", PodState::Enrolled) };
    bench.see([carrying.clone()]);
    bench.idle();

    carrying.state = PodState::Withdrawing(Step::Routes);
    bench.see([carrying.clone()]);
    bench.quiet(Duration::from_secs(9));
    carrying.state = PodState::NotEnrolled(NotEnrolled::NamespaceNotLabelled);
    bench.see([carrying.clone()]);
    assert_eq!(bench.next(), Some(What::Annotation(None)));
    bench.answer(Answer::Done);
    carrying.carried = None;
    bench.see([carrying]);
    bench.idle();
}

#[test]
fn what_an_earlier_agent_wrote_stands_while_a_pod_is_on_its_way_and_no_longer() {
    let mut bench = Bench::new();
    let on_its_way =
        Seen { carried: Some("enrolled".into()), ..pod("a", PodState::AwaitingCertificate) };
    bench.see([on_its_way]);
    bench.quiet(Duration::from_secs(9));
    assert_eq!(bench.next(), Some(says("refused: it has no certificate yet")));
    assert_eq!(bench.elapsed(), Duration::from_secs(10));
}

#[test]
fn a_pod_that_can_never_be_enrolled_is_refused_at_once_and_one_that_is_left_out_is_not() {
    let mut bench = Bench::new();
    bench.see([pod("a", PodState::NotEnrolled(NotEnrolled::PodOptedOut))]);
    bench.idle();
    bench.see([pod("a", PodState::NotEnrolled(NotEnrolled::StaticPod))]);
    let why = NotEnrolled::StaticPod.to_string();
    assert_eq!(bench.next(), Some(says(&format!("refused: {why}"))));
    bench.answer(Answer::Done);
    let Some(What::Event { note, .. }) = bench.next() else { panic!("no Event") };
    assert_eq!(note, why);
}

#[test]
fn a_pod_without_an_address_has_not_started_and_is_not_called_refused() {
    let mut bench = Bench::new();
    let starting = Seen { addressed: false, ..pod("a", PodState::AwaitingNamespace) };
    bench.see([starting.clone()]);
    bench.idle();
    // Nor may it say of itself what is not true.
    bench.see([Seen { carried: Some("enrolled".into()), ..starting }]);
    assert_eq!(bench.next(), Some(What::Annotation(None)));
    bench.answer(Answer::Done);
    bench.see([pod("a", PodState::AwaitingNamespace)]);
    let lost = "refused: no network namespace of it was found on its node";
    assert_eq!(bench.next(), Some(says(lost)));
}

#[test]
fn a_pod_that_is_refused_for_ever_costs_one_annotation_one_event_and_a_count_now_and_then() {
    let mut bench = Bench::new();
    let mut refused = failed("a", "no such file", 0);
    let (mut annotations, mut events, mut series) = (0, 0, Vec::new());
    let mut name = String::new();
    // A day of a retry every half minute.
    for retry in 0..2880 {
        refused.since = UNIX_EPOCH + Duration::from_secs(30 * retry);
        bench.see([refused.clone()]);
        while let Some(what) = bench.due() {
            match what {
                What::Annotation(value) => {
                    annotations += 1;
                    refused.carried = value.map(Arc::from);
                }
                What::Event { name: given, note } => {
                    events += 1;
                    assert_eq!(note, "open: no such file");
                    name = given;
                }
                What::Series { name: given, count } => {
                    assert_eq!(given, name);
                    series.push(count);
                }
            }
            bench.answer(Answer::Done);
            bench.see([refused.clone()]);
        }
        bench.pass(Duration::from_secs(30));
    }
    assert_eq!((annotations, events), (1, 1));
    assert!(series.is_sorted() && (40..60).contains(&series.len()), "{series:?}");
    assert!(series.last().is_some_and(|last| (2800..=2880).contains(last)), "{series:?}");
}

#[test]
fn reasons_that_change_all_the_time_are_told_at_growing_intervals() {
    let mut bench = Bench::new();
    let mut writes = 0;
    for second in 0..3600 {
        bench.see([failed("a", &format!("pid {second}"), second)]);
        while bench.due().is_some() {
            writes += 1;
            bench.answer(Answer::Done);
        }
        bench.pass(Duration::from_secs(1));
    }
    assert!(writes < 3600 / 5 + 20, "{writes}");
}

#[test]
fn while_the_api_server_is_away_it_is_asked_ever_more_rarely_and_then_the_newest_state_is_written()
{
    let mut bench = Bench::new();
    bench.see([pod("a", PodState::Enrolled), pod("b", PodState::Enrolled)]);
    let mut asked = 0;
    while bench.elapsed() < Duration::from_secs(3600) {
        assert!(bench.next().is_some());
        bench.answer(Answer::Away);
        asked += 1;
    }
    assert!((30..80).contains(&asked), "{asked}");
    let gone = PodState::NotEnrolled(NotEnrolled::PodOptedOut);
    bench.see([pod("a", gone.clone()), pod("b", PodState::Enrolled)]);
    // The one that is under way for the first one may still come.
    let mut written = Vec::new();
    while let Some(what) = bench.next() {
        written.push((bench.uid(), what));
        bench.answer(Answer::Done);
        let b = Seen { carried: Some("enrolled".into()), ..pod("b", PodState::Enrolled) };
        bench.see([pod("a", gone.clone()), b]);
    }
    assert_eq!(written, [("b".to_owned(), says("enrolled"))]);
}

#[test]
fn writes_are_spread_and_no_pod_starves_another() {
    let mut bench = Bench::new();
    let many = (0..100).map(|i| pod(&format!("p{i:03}"), PodState::Enrolled));
    bench.see(many.collect::<Vec<_>>());
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..100 {
        assert!(bench.next().is_some());
        assert!(seen.insert(bench.uid()), "each once before one comes twice");
        bench.answer(Answer::Done);
    }
    assert!(bench.elapsed() >= Duration::from_millis(9900), "{:?}", bench.elapsed());
}

#[test]
fn a_write_that_is_forbidden_is_tried_again_rarely_and_holds_up_no_other_pod() {
    let mut bench = Bench::new();
    bench.see([pod("a", PodState::Enrolled), pod("b", PodState::Enrolled)]);
    let mut tries = 0;
    while bench.elapsed() < Duration::from_secs(3600) {
        assert!(bench.next().is_some());
        let refused = bench.uid() == "a";
        tries += u32::from(refused);
        bench.answer(if refused { Answer::Refused } else { Answer::Done });
        let b = Seen { carried: Some("enrolled".into()), ..pod("b", PodState::Enrolled) };
        bench.see([pod("a", PodState::Enrolled), b]);
    }
    assert!((5..15).contains(&tries), "{tries}");
}

#[test]
fn somebody_who_writes_the_annotation_too_does_not_make_a_quarrel() {
    let mut bench = Bench::new();
    let mut writes = 0;
    let forged = Seen { carried: Some("refused: nonsense".into()), ..pod("a", PodState::Enrolled) };
    while bench.elapsed() < Duration::from_secs(3600) {
        bench.see([forged.clone()]);
        assert_eq!(bench.next(), Some(says("enrolled")));
        writes += 1;
        bench.answer(Answer::Done);
    }
    assert!((5..20).contains(&writes), "{writes}");
}

#[test]
fn an_event_that_the_api_server_has_forgotten_begins_anew() {
    let mut bench = Bench::new();
    let carried = Some("refused: open: e".into());
    let at = |second| Seen { carried: carried.clone(), ..failed("a", "e", second) };
    bench.see([at(0)]);
    let Some(What::Event { name: first, .. }) = bench.next() else { panic!("no Event") };
    bench.answer(Answer::Done);
    bench.see([at(1)]);
    assert_eq!(bench.next(), Some(What::Series { name: first.clone(), count: 2 }));
    bench.answer(Answer::Gone);
    let Some(What::Event { name: second, .. }) = bench.next() else { panic!("no Event") };
    assert_ne!(first, second);
}

#[test]
fn a_reason_is_one_line_that_fits_and_a_name_is_one_that_kubernetes_takes() {
    let mut bench = Bench::new();
    let long = "x".repeat(253);
    bench.see([failed(&long, &format!("two\nlines {}", "ü".repeat(2000)), 0)]);
    let Some(What::Annotation(Some(value))) = bench.next() else { panic!("no annotation") };
    assert!(value.starts_with("refused: open: two lines ü") && value.ends_with('…'), "{value}");
    bench.answer(Answer::Done);
    let Some(What::Event { name, note }) = bench.next() else { panic!("no Event") };
    assert!(name.len() <= 253 && note.len() <= 1024, "{} {}", name.len(), note.len());
}

struct Bench {
    machine: Announcer<Pod>,
    start: Instant,
    now: Instant,
    asked: Option<String>,
}

impl Bench {
    fn new() -> Self {
        #[expect(clippy::disallowed_methods, reason = "a beginning from which the test counts")]
        let start = Instant::now();
        Self { machine: Announcer::new(7), start, now: start, asked: None }
    }

    fn see(&mut self, pods: impl Into<Vec<Seen>>) {
        let pods: Vec<Seen> = pods.into();
        let pods = pods.into_iter().map(|pod| (pod.uid.clone(), pod)).collect();
        self.machine.handle(Input::Seen(pods), self.now);
    }

    fn answer(&mut self, answer: Answer) {
        self.machine.handle(Input::Answered(answer), self.now);
    }

    /// What is asked for at this very moment.
    fn due(&mut self) -> Option<What> {
        let write = self.machine.poll_command()?;
        self.asked = Some(write.uid.to_string());
        Some(write.what)
    }

    /// What is asked for next, however long that takes.
    fn next(&mut self) -> Option<What> {
        loop {
            if let Some(what) = self.due() {
                return Some(what);
            }
            let (at, _) = self.machine.poll_timeout()?;
            self.now = self.now.max(at);
            self.machine.handle_timeout(self.now);
        }
    }

    /// The pod that the last write was for.
    fn uid(&self) -> String {
        self.asked.clone().unwrap()
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.machine.handle_timeout(self.now);
    }

    fn quiet(&mut self, time: Duration) {
        self.pass(time);
        assert_eq!(self.due(), None);
    }

    fn idle(&mut self) {
        assert_eq!(self.next(), None);
    }

    fn elapsed(&self) -> Duration {
        self.now - self.start
    }
}

fn pod(name: &str, state: PodState) -> Seen {
    let uid = name.get(..name.len().min(63)).unwrap();
    Seen {
        uid: PodUid::parse(uid).unwrap(),
        name: ObjectName::new("shop", name),
        addressed: true,
        state,
        since: SystemTime::UNIX_EPOCH,
        carried: None,
    }
}

fn failed(name: &str, error: &str, second: u64) -> Seen {
    let state = PodState::Failed { step: None, error: error.to_owned() };
    Seen { since: UNIX_EPOCH + Duration::from_secs(second), ..pod(name, state) }
}

fn says(value: &str) -> What {
    What::Annotation(Some(value.to_owned()))
}
