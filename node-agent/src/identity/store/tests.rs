//! The store with a source that answers as told, under a paused clock.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};

use tokio::task::JoinHandle;
use tokio::time::{advance, timeout};

use super::*;
use crate::identity::BadAnswer;
use crate::identity::mint::{HOUR, Mint, id, now};
use crate::shutdown;

#[tokio::test(start_paused = true)]
async fn the_first_certificate_is_awaited_and_then_there_for_everybody() {
    let bench = Bench::start(HOUR, [Say::Wait(Duration::from_secs(3)), Say::Issue]);
    assert!(bench.certificates.current(&id("a")).is_none());
    let started = Instant::now();
    let first = bench.certificates.acquire(&id("a")).await.unwrap();
    assert!(started.elapsed() >= Duration::from_secs(3));
    let second = bench.certificates.acquire(&id("a")).await.unwrap();
    assert_eq!(first.serial(), second.serial());
    assert_eq!(bench.asked(), 1);
    let status = bench.status("a");
    assert_eq!((status.state, status.renewals), (State::Valid, 0));
    assert_eq!(status.serial.as_deref(), Some(first.serial()));
}

#[tokio::test(start_paused = true)]
async fn the_last_release_drops_the_certificate() {
    let bench = Bench::start(HOUR, []);
    bench.certificates.acquire(&id("a")).await.unwrap();
    bench.certificates.acquire(&id("a")).await.unwrap();
    bench.certificates.release(&id("a"));
    bench.until(|| bench.certificates.list().len() == 1).await;
    assert!(bench.certificates.current(&id("a")).is_some());
    bench.certificates.release(&id("a"));
    bench.until(|| bench.certificates.list().is_empty()).await;
    assert!(bench.certificates.current(&id("a")).is_none());
}

#[tokio::test(start_paused = true)]
async fn a_wish_that_follows_a_release_at_once_waits_for_a_certificate_that_stays() {
    let bench = Bench::start(HOUR, []);
    let first = bench.certificates.acquire(&id("a")).await.unwrap();
    bench.certificates.release(&id("a"));
    let second = bench.certificates.acquire(&id("a")).await.unwrap();
    assert_ne!(first.serial(), second.serial());
    let current = bench.certificates.current(&id("a")).unwrap();
    assert_eq!(current.serial(), second.serial());
}

#[tokio::test(start_paused = true)]
async fn an_acquire_that_is_dropped_withdraws_its_wish() {
    let bench = Bench::start(HOUR, [Say::Wait(HOUR)]);
    let wanted = id("a");
    let gave_up = timeout(Duration::from_secs(1), bench.certificates.acquire(&wanted));
    gave_up.await.unwrap_err();
    bench.until(|| bench.certificates.list().is_empty()).await;
    let finished = bench.source.finished.lock().unwrap();
    assert_eq!(*finished, 0, "the request was cancelled");
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_renewed_before_it_expires_and_swapped() {
    let bench = Bench::start(HOUR, []);
    let first = bench.certificates.acquire(&id("a")).await.unwrap();
    for _ in 0..100 {
        advance(Duration::from_secs(60)).await;
        bench.settle().await;
        let current = bench.certificates.current(&id("a"));
        assert!(current.is_some(), "there is always a valid certificate");
    }
    let status = bench.status("a");
    assert!((2..=4).contains(&status.renewals), "{status:?}");
    let current = bench.certificates.current(&id("a")).unwrap();
    assert_ne!(current.serial(), first.serial());
}

#[tokio::test(start_paused = true)]
async fn with_the_ca_away_the_certificate_stays_until_it_expires_and_comes_back_by_itself() {
    let bench = Bench::start(HOUR, [Say::Issue]);
    bench.certificates.acquire(&id("a")).await.unwrap();
    *bench.source.otherwise.lock().unwrap() = Say::Fail;
    advance(Duration::from_secs(50 * 60)).await;
    bench.until(|| bench.status("a").failures > 3).await;
    assert!(bench.certificates.current(&id("a")).is_some());
    let status = bench.status("a");
    assert_eq!(status.state, State::Valid);
    let error = status.last_error.unwrap();
    assert_eq!(error.reason, NoCertificate::BadAnswer);
    assert!(error.text.contains("another key"), "{}", error.text);
    assert!(status.next_attempt.is_some() || status.requesting);

    advance(Duration::from_secs(11 * 60)).await;
    assert!(bench.certificates.current(&id("a")).is_none());
    bench.until(|| bench.status("a").state == State::Expired).await;
    assert!(bench.status("a").last_error.unwrap().since < now() + Duration::from_secs(51 * 60));

    *bench.source.otherwise.lock().unwrap() = Say::Issue;
    bench.until(|| bench.status("a").state == State::Valid).await;
    assert!(bench.certificates.current(&id("a")).is_some());
    assert_eq!(bench.status("a").last_error, None);
}

#[tokio::test(start_paused = true)]
async fn a_clock_set_forward_is_noticed_at_the_next_use_and_told_apart_from_a_failing_ca() {
    let bench = Bench::start(HOUR, [Say::Issue]);
    bench.certificates.acquire(&id("a")).await.unwrap();
    *bench.source.otherwise.lock().unwrap() = Say::Wait(Duration::from_secs(5));
    bench.set_clock(2 * 3600);
    let before = Instant::now();
    assert_eq!(bench.certificates.usable(&id("a")).unwrap_err(), NoCertificate::Expired);
    *bench.source.otherwise.lock().unwrap() = Say::Issue;
    bench.until(|| bench.certificates.usable(&id("a")).is_ok()).await;
    let took = before.elapsed();
    assert!(took < Duration::from_secs(1), "nobody waits for the next look at the clock: {took:?}");
    assert_eq!(bench.status("a").renewals, 1);
}

#[tokio::test(start_paused = true)]
async fn a_clock_set_back_is_told_and_a_certificate_of_that_time_taken() {
    let bench = Bench::start(HOUR, [Say::Issue]);
    bench.certificates.acquire(&id("a")).await.unwrap();
    bench.set_clock(-7200);
    assert_eq!(bench.certificates.usable(&id("a")).unwrap_err(), NoCertificate::NotYetValid);
    bench.until(|| bench.certificates.usable(&id("a")).is_ok()).await;
    assert_eq!(bench.status("a").state, State::Valid);
}

#[tokio::test(start_paused = true)]
async fn without_a_certificate_it_is_the_last_failure_that_is_told() {
    let bench = Bench::start(HOUR, [Say::Issue]);
    let unasked = bench.certificates.usable(&id("b")).unwrap_err();
    assert_eq!(unasked, NoCertificate::Awaited);
    bench.certificates.acquire(&id("a")).await.unwrap();
    *bench.source.otherwise.lock().unwrap() = Say::Fail;
    bench.set_clock(2 * 3600);
    let told = || bench.certificates.usable(&id("a")).err();
    bench.until(|| told() == Some(NoCertificate::BadAnswer)).await;
}

#[tokio::test(start_paused = true)]
async fn a_root_that_expires_ends_its_certificates_and_is_told_until_there_is_another() {
    let mint = Mint::expiring(now() + HOUR / 2);
    let bench = Bench::start_with(mint, HOUR, []);
    let first = bench.certificates.acquire(&id("a")).await.unwrap();
    assert_eq!(first.not_after(), now() + HOUR / 2, "no longer than its root");
    advance(HOUR / 2 + Duration::from_secs(1)).await;
    let told = || bench.certificates.usable(&id("a")).err();
    bench.until(|| told() == Some(NoCertificate::CaExpired)).await;
    let error = bench.status("a").last_error.unwrap();
    assert!(error.text.contains("has expired"), "{}", error.text);
    *bench.source.mint.lock().unwrap() = Mint::new();
    bench.until(|| told().is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_that_panics_counts_as_failed() {
    let bench = Bench::start(HOUR, [Say::Panic, Say::Issue]);
    bench.certificates.acquire(&id("a")).await.unwrap();
    assert_eq!(bench.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn when_the_end_is_forced_nobody_waits_any_more() {
    let bench = Bench::start(HOUR, [Say::Wait(1000 * HOUR)]);
    let waiting = bench.certificates.clone();
    let waiting = tokio::spawn(async move { waiting.acquire(&id("a")).await.map(|_| ()) });
    bench.until(|| bench.asked() == 1).await;
    bench.trigger.advance(Phase::Forced);
    assert_eq!(waiting.await.unwrap(), Err(Stopped));
    bench.task.await.unwrap();
    assert!(bench.certificates.acquire(&id("b")).await.is_err());
}

struct Bench {
    certificates: Certificates,
    source: Arc<Script>,
    step: Arc<AtomicI64>,
    trigger: shutdown::Trigger,
    task: JoinHandle<()>,
}

#[derive(Clone, Copy)]
enum Say {
    Issue,
    Fail,
    Panic,
    Wait(Duration),
}

/// Answers with the lines of a script, and then always the same.
struct Script {
    mint: Mutex<Mint>,
    clock: Clock,
    lines: Mutex<VecDeque<Say>>,
    otherwise: Mutex<Say>,
    asked: Mutex<u64>,
    finished: Mutex<u64>,
}

impl Source for Arc<Script> {
    async fn fetch(&self, identity: &SpiffeId, lifetime: Duration) -> Result<Svid, SourceError> {
        *self.asked.lock().unwrap() += 1;
        let result = loop {
            let line = self.lines.lock().unwrap().pop_front();
            let line = line.unwrap_or_else(|| *self.otherwise.lock().unwrap());
            match line {
                Say::Issue => {
                    break self.mint.lock().unwrap().svid(identity, lifetime, &self.clock);
                }
                Say::Fail => break Err(BadAnswer::OtherKey),
                Say::Panic => panic!("as told"),
                Say::Wait(time) => tokio::time::sleep(time).await,
            }
        };
        *self.finished.lock().unwrap() += 1;
        Ok(result?)
    }
}

impl Bench {
    fn start(lifetime: Duration, lines: impl IntoIterator<Item = Say>) -> Self {
        Self::start_with(Mint::new(), lifetime, lines)
    }

    fn start_with(mint: Mint, lifetime: Duration, lines: impl IntoIterator<Item = Say>) -> Self {
        let origin = Instant::now();
        let step = Arc::new(AtomicI64::new(0));
        let stepped = Arc::clone(&step);
        let clock = Clock::new(move || {
            let step = stepped.load(Ordering::Relaxed);
            let by = Duration::from_secs(step.unsigned_abs());
            let running = now() + origin.elapsed();
            if step < 0 { running - by } else { running + by }
        });
        let source = Arc::new(Script {
            mint: Mutex::new(mint),
            clock: clock.clone(),
            lines: Mutex::new(lines.into_iter().collect()),
            otherwise: Mutex::new(Say::Issue),
            asked: Mutex::new(0),
            finished: Mutex::new(0),
        });
        let (certificates, rotating) = Certificates::new(Arc::clone(&source), lifetime, clock);
        let (trigger, shutdown) = shutdown::channel();
        let task = tokio::spawn(rotating.run(shutdown));
        Self { certificates, source, step, trigger, task }
    }

    /// Sets the wall clock off by so many seconds.
    fn set_clock(&self, seconds: i64) {
        self.step.store(seconds, Ordering::Relaxed);
    }

    fn asked(&self) -> u64 {
        *self.source.asked.lock().unwrap()
    }

    #[track_caller]
    fn status(&self, name: &str) -> CertificateStatus {
        let list = self.certificates.list();
        let found = list.iter().find(|status| status.identity == id(name));
        found.cloned().expect("listed")
    }

    /// Lets every task run that can.
    async fn settle(&self) {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    /// Waits for a condition; under the paused clock this goes from deadline to deadline.
    async fn until(&self, condition: impl Fn() -> bool) {
        let mut changed = self.certificates.changed.clone();
        let wait = async {
            while !condition() {
                let _either: Result<_, _> =
                    timeout(Duration::from_millis(100), changed.changed()).await;
            }
        };
        timeout(HOUR, wait).await.expect("the condition came true");
    }
}
