//! The machine under a clock that steps from deadline to deadline.

use super::*;

const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);

#[test]
fn requests_an_identity_once_however_often_it_is_wanted() {
    let mut bench = Bench::new();
    bench.input(Input::Want(id("a")));
    assert_eq!(bench.commands(), [request("a", 0)]);
    bench.input(Input::Want(id("a")));
    assert_eq!(bench.commands(), []);
    assert_eq!(bench.state("a"), Some(State::Requesting));

    bench.issue("a", 0, HOUR);
    assert_eq!(bench.commands(), [install("a", 0)]);
    bench.input(Input::Release(id("a")));
    assert_eq!(bench.commands(), []);
    bench.input(Input::Release(id("a")));
    assert_eq!(bench.commands(), [dropped("a", DropCause::Released)]);
    assert_eq!(bench.rotation.poll_timeout(), None);
}

#[test]
fn renews_at_about_half_of_the_life_that_is_left() {
    for seed in 0..200 {
        let mut bench = Bench::seeded(seed);
        bench.certified("a", 24 * HOUR);
        let waited = bench.step_to_next_command();
        assert_eq!(bench.commands(), [request("a", 1)]);
        let share = waited.as_secs_f64() / (24 * HOUR).as_secs_f64();
        assert!((0.45..=0.551).contains(&share), "{share}");
    }
}

#[test]
fn back_dating_does_not_bring_the_renewal_forward() {
    let mut bench = Bench::new();
    bench.input(Input::Want(id("a")));
    bench.commands();
    let now = bench.now.unix;
    bench.input(Input::Issued {
        identity: id("a"),
        request: RequestId(0),
        validity: Validity { not_before: now - 10 * HOUR, not_after: now + HOUR },
    });
    bench.commands();
    assert!(bench.step_to_next_command() > HOUR.mul_f64(0.44));
}

#[test]
fn identities_that_start_together_do_not_renew_together() {
    let mut bench = Bench::new();
    bench.certified("a", 24 * HOUR);
    bench.certified("b", 24 * HOUR);
    bench.step_to_next_command();
    assert_eq!(bench.commands().len(), 1);
}

#[test]
fn a_failed_renewal_keeps_the_valid_certificate_and_is_retried() {
    let mut bench = Bench::new();
    bench.certified("a", HOUR);
    bench.step_to_next_command();
    assert_eq!(bench.commands(), [request("a", 1)]);
    bench.fail("a", 1);
    assert_eq!(bench.commands(), []);
    assert_eq!(bench.state("a"), Some(State::Valid));
    assert_eq!(bench.status("a").unwrap().failures, 1);

    bench.step_to_next_command();
    assert_eq!(bench.commands(), [request("a", 2)]);
    bench.issue("a", 2, HOUR);
    assert_eq!(bench.commands(), [install("a", 2)]);
    let status = bench.status("a").unwrap();
    assert_eq!((status.failures, status.renewals), (0, 1));
}

#[test]
fn retries_come_at_doubling_distances_between_one_second_and_one_minute() {
    let mut bench = Bench::new();
    bench.input(Input::Want(id("a")));
    let mut waits = Vec::new();
    for attempt in 0..10 {
        assert_eq!(bench.commands(), [request("a", attempt)]);
        bench.fail("a", attempt);
        assert_eq!(bench.state("a"), Some(State::Failed));
        waits.push(bench.step_to_next_command().as_secs_f64());
    }
    let expected = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0, 60.0];
    for (wait, base) in waits.iter().zip(expected) {
        assert!((1.0..=60.0).contains(wait), "{waits:?}");
        assert!((base * 0.74..=base * 1.26).contains(wait), "{waits:?}");
    }
}

#[test]
fn retries_come_closer_as_the_end_of_the_certificate_does() {
    let mut bench = Bench::new();
    bench.certified("a", 60 * SECOND);
    let started = bench.now.unix;
    let mut attempts = 0;
    let mut last_wait = Duration::ZERO;
    while bench.state("a") == Some(State::Valid) {
        last_wait = bench.step_to_next_command();
        for command in bench.commands() {
            if let Command::Request { request, .. } = command {
                attempts += 1;
                bench.fail("a", request.0);
            }
        }
    }
    let lived = bench.now.unix.duration_since(started).unwrap();
    assert!(lived <= 61 * SECOND, "{lived:?}");
    assert!((5..=40).contains(&attempts), "{attempts}");
    assert!(last_wait <= 2 * SECOND, "{last_wait:?}");
}

#[test]
fn an_expired_certificate_is_dropped_and_the_next_one_taken() {
    let mut bench = Bench::new();
    bench.certified("a", 10 * SECOND);
    bench.step(11 * SECOND);
    assert_eq!(bench.commands(), [dropped("a", DropCause::Expired), request("a", 1)]);
    assert_eq!(bench.state("a"), Some(State::Expired));
    bench.fail("a", 1);
    assert_eq!(bench.state("a"), Some(State::Expired));
    bench.step_to_next_command();
    assert_eq!(bench.commands(), [request("a", 2)]);
    bench.issue("a", 2, HOUR);
    assert_eq!(bench.commands(), [install("a", 2)]);
    assert_eq!(bench.state("a"), Some(State::Valid));
}

#[test]
fn the_moment_of_not_after_still_belongs_to_the_certificate() {
    let mut bench = Bench::new();
    bench.certified("a", 10 * SECOND);
    bench.step(10 * SECOND);
    assert_eq!(bench.state("a"), Some(State::Valid));
}

#[test]
fn a_request_whose_identity_is_released_is_cancelled_and_its_answer_thrown_away() {
    let mut bench = Bench::new();
    bench.input(Input::Want(id("a")));
    bench.commands();
    bench.input(Input::Release(id("a")));
    let cancel = Command::Cancel { request: RequestId(0) };
    assert_eq!(bench.commands(), [cancel]);
    bench.issue("a", 0, HOUR);
    assert_eq!(bench.commands(), [discard(0)]);
    assert_eq!(bench.state("a"), None);
}

#[test]
fn an_answer_to_an_older_request_does_not_count() {
    let mut bench = Bench::new();
    bench.input(Input::Want(id("a")));
    bench.input(Input::Release(id("a")));
    bench.input(Input::Want(id("a")));
    assert_eq!(bench.commands().last(), Some(&request("a", 1)));
    bench.fail("a", 0);
    bench.issue("a", 0, HOUR);
    assert_eq!(bench.commands(), [discard(0)]);
    bench.issue("a", 1, HOUR);
    assert_eq!(bench.commands(), [install("a", 1)]);
    bench.issue("a", 1, HOUR);
    assert_eq!(bench.commands(), [discard(1)]);
}

#[test]
fn a_release_without_a_want_changes_nothing() {
    let mut bench = Bench::new();
    bench.input(Input::Release(id("a")));
    assert_eq!(bench.commands(), []);
    assert_eq!(bench.state("a"), None);
}

#[test]
fn certificates_that_are_not_valid_now_are_refused_and_retried_without_hammering() {
    let cases = [(3600i64, 7200i64, "not valid yet"), (-7200, -3600, "expired")];
    for (from, to, what) in cases {
        let mut bench = Bench::new();
        bench.certified("a", HOUR);
        bench.step_to_next_command();
        bench.commands();
        let now = bench.now.unix;
        bench.input(Input::Issued {
            identity: id("a"),
            request: RequestId(1),
            validity: Validity { not_before: shift(now, from), not_after: shift(now, to) },
        });
        assert_eq!(bench.commands(), [discard(1)], "{what}");
        assert_eq!(bench.state("a"), Some(State::Valid), "{what}");
        assert!(bench.step_to_next_command() >= SECOND / 2, "{what}");
    }
}

#[test]
fn a_certificate_of_a_moment_is_not_renewed_more_than_once_a_second() {
    let mut bench = Bench::new();
    bench.certified("a", Duration::from_millis(200));
    let waited = bench.step_to_next_command();
    assert_eq!(bench.commands().len(), 2, "expired, and requested again");
    assert!(waited >= Duration::from_millis(200));
}

#[test]
fn a_clock_that_jumps_forward_renews_or_expires_at_the_next_look() {
    let mut bench = Bench::new();
    bench.certified("a", 10 * HOUR);
    bench.now.unix += 6 * HOUR;
    bench.step(CLOCK_CHECK);
    assert_eq!(bench.commands(), [request("a", 1)]);
    bench.now.unix += 6 * HOUR;
    bench.step(CLOCK_CHECK);
    assert_eq!(bench.commands(), [dropped("a", DropCause::Expired)]);
}

#[test]
fn the_clocks_are_compared_often_enough_to_notice_a_jump() {
    let mut bench = Bench::new();
    bench.certified("a", 10 * HOUR);
    let (at, why) = bench.rotation.poll_timeout().unwrap();
    assert_eq!((at - bench.now.instant, why), (CLOCK_CHECK, "clock check"));
}

#[test]
fn a_certificate_that_is_not_valid_yet_after_a_jump_back_is_replaced_and_kept_until_then() {
    let mut bench = Bench::new();
    bench.certified("a", 10 * HOUR);
    bench.now.unix -= HOUR;
    bench.step(CLOCK_CHECK);
    assert_eq!(bench.commands(), [request("a", 1)]);
    assert_eq!(bench.state("a"), Some(State::NotYetValid));
    bench.fail("a", 1);
    bench.now.unix += HOUR;
    bench.step(SECOND);
    assert_eq!(bench.state("a"), Some(State::Valid), "the clock was set right again");
    bench.now.unix -= HOUR;
    bench.step(CLOCK_CHECK);
    assert_eq!(bench.commands(), [request("a", 2)]);
    bench.issue("a", 2, HOUR);
    assert_eq!(bench.commands(), [install("a", 2)]);
    assert_eq!(bench.state("a"), Some(State::Valid));
}

#[test]
fn a_clock_that_jumps_back_does_not_put_the_renewal_off() {
    let mut bench = Bench::new();
    bench.certified("a", 10 * HOUR);
    // Valid for long before now, as certificates of a CA that dates them back.
    bench.now.unix -= 100 * HOUR;
    let waited = bench.step_to_next_command();
    assert_eq!(bench.commands(), [request("a", 1)]);
    assert!(waited <= 6 * HOUR, "{waited:?}");
}

#[test]
fn only_so_many_requests_are_open_at_a_time_and_the_others_get_their_turn() {
    let mut bench = Bench::new();
    let names: Vec<String> = (0..MAX_IN_FLIGHT + 3).map(|n| format!("n{n:02}")).collect();
    for name in &names {
        bench.input(Input::Want(id(name)));
    }
    let open = bench.commands();
    assert_eq!(open.len(), MAX_IN_FLIGHT);
    assert_eq!(bench.rotation.poll_timeout(), None);

    bench.fail("n00", 0);
    assert_eq!(bench.commands(), [request("n08", 8)]);
    bench.issue("n01", 1, HOUR);
    assert_eq!(bench.commands(), [install("n01", 1), request("n09", 9)]);
    bench.input(Input::Release(id("n02")));
    assert_eq!(bench.commands(), [Command::Cancel { request: RequestId(2) }, request("n10", 10)]);
}

#[test]
fn identities_without_a_certificate_go_before_renewals() {
    let mut bench = Bench::new();
    let names: Vec<String> = (0..MAX_IN_FLIGHT).map(|n| format!("b{n}")).collect();
    for name in &names {
        bench.certified(name, HOUR);
    }
    bench.now.unix += HOUR.mul_f64(0.6);
    bench.input(Input::Want(id("z")));
    assert_eq!(bench.commands().first(), Some(&request("z", 8)));
}

#[test]
fn dates_beyond_the_clock_do_not_overflow() {
    let mut bench = Bench::new();
    bench.certified("a", Duration::from_secs(u64::MAX / 4));
    assert_eq!(bench.state("a"), Some(State::Valid));
    assert!(bench.rotation.poll_timeout().is_some());
}

#[test]
fn whatever_happens_a_machine_asks_no_identity_more_than_once_a_second_and_never_forgets_one() {
    for seed in 0..50 {
        let mut bench = Bench::seeded(seed);
        let mut dice = Rotation::new(seed ^ 0xabcd, bench.now);
        let mut asked: BTreeMap<SpiffeId, Instant> = BTreeMap::new();
        for name in ["a", "b", "c"] {
            bench.input(Input::Want(id(name)));
        }
        for _ in 0..400 {
            let commands = bench.commands();
            for command in commands {
                let Command::Request { identity, request } = command else {
                    continue;
                };
                if let Some(before) = asked.insert(identity.clone(), bench.now.instant) {
                    let pause = bench.now.instant - before;
                    assert!(pause >= Duration::from_millis(900), "{pause:?}");
                }
                let input = if dice.random() < 0.5 {
                    Input::Failed { identity, request }
                } else {
                    let not_before = bench.now.unix;
                    let life = HOUR.mul_f64(dice.random()) + SECOND;
                    let not_after = not_before + life;
                    let validity = Validity { not_before, not_after };
                    Input::Issued { identity, request, validity }
                };
                bench.input(input);
            }
            bench.step_to_next_command();
        }
        assert_eq!(asked.len(), 3);
    }
}

// The bench: a machine, a clock, and short names.

struct Bench {
    rotation: Rotation,
    now: Moment,
    pending: Vec<Command>,
}

impl Bench {
    fn new() -> Self {
        Self::seeded(7)
    }

    #[expect(clippy::disallowed_methods, reason = "an origin for the stepped clock")]
    fn seeded(seed: u64) -> Self {
        let now = Moment {
            instant: Instant::now(),
            unix: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
        };
        Self { rotation: Rotation::new(seed, now), now, pending: Vec::new() }
    }

    fn input(&mut self, input: Input) {
        self.rotation.handle(input, self.now);
    }

    fn issue(&mut self, name: &str, request: u64, life: Duration) {
        self.input(Input::Issued {
            identity: id(name),
            request: RequestId(request),
            validity: Validity { not_before: self.now.unix, not_after: self.now.unix + life },
        });
    }

    fn fail(&mut self, name: &str, request: u64) {
        self.input(Input::Failed { identity: id(name), request: RequestId(request) });
    }

    /// Wants an identity and answers its request.
    #[track_caller]
    fn certified(&mut self, name: &str, life: Duration) {
        self.input(Input::Want(id(name)));
        let commands = self.commands();
        let Some(Command::Request { identity, request }) = commands.first().cloned() else {
            panic!("not requested: {commands:?}");
        };
        assert_eq!(identity, id(name));
        self.issue(name, request.0, life);
        assert_eq!(self.commands(), [install(name, request.0)]);
    }

    fn commands(&mut self) -> Vec<Command> {
        let mut commands = std::mem::take(&mut self.pending);
        commands.extend(std::iter::from_fn(|| self.rotation.poll_command()));
        commands
    }

    fn step(&mut self, by: Duration) {
        self.now.instant += by;
        self.now.unix += by;
        self.rotation.handle_timeout(self.now);
    }

    /// Goes from deadline to deadline until there is something to do, and says how long that took.
    #[track_caller]
    fn step_to_next_command(&mut self) -> Duration {
        let start = self.now.instant;
        for _ in 0..100_000 {
            let (at, _why) = self.rotation.poll_timeout().expect("a deadline");
            self.step(at.saturating_duration_since(self.now.instant));
            self.pending.extend(std::iter::from_fn(|| self.rotation.poll_command()));
            if !self.pending.is_empty() {
                return self.now.instant - start;
            }
        }
        panic!("no command after 100000 deadlines");
    }

    fn status(&self, name: &str) -> Option<Status> {
        self.rotation
            .statuses()
            .find(|(identity, _)| **identity == id(name))
            .map(|(_, status)| status)
    }

    fn state(&self, name: &str) -> Option<State> {
        self.status(name).map(|status| status.state)
    }
}

fn shift(time: SystemTime, seconds: i64) -> SystemTime {
    let by = Duration::from_secs(seconds.unsigned_abs());
    if seconds < 0 { time - by } else { time + by }
}

fn id(name: &str) -> SpiffeId {
    SpiffeId::parse(&format!("spiffe://cluster.local/ns/test/sa/{name}")).unwrap()
}

fn request(name: &str, request: u64) -> Command {
    Command::Request { identity: id(name), request: RequestId(request) }
}

fn install(name: &str, request: u64) -> Command {
    Command::Install { identity: id(name), request: RequestId(request) }
}

fn discard(request: u64) -> Command {
    Command::Discard { request: RequestId(request) }
}

fn dropped(name: &str, cause: DropCause) -> Command {
    Command::Drop { identity: id(name), cause }
}
