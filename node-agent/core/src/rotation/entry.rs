//! One identity of the rotation: what it holds, and what was tried for it.

use std::time::{Duration, Instant, SystemTime};

use super::{CLOCK_CHECK, Moment, RETRY_MAX, RETRY_MIN, RequestId};

/// The two dates of a certificate; both belong to it (RFC 5280, section 4.1.2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The first moment.
    pub not_before: SystemTime,
    /// The last moment.
    pub not_after: SystemTime,
}

/// How an identity stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It has a valid certificate; renewing it may be failing all the same.
    Valid,
    /// Its first certificate is awaited.
    Requesting,
    /// It never had one, and the last request failed.
    Failed,
    /// It had one that was not renewed in time.
    Expired,
    /// It has one that is not valid yet: the wall clock was set back.
    NotYetValid,
}

/// How an identity stands, in full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// In one word.
    pub state: State,
    /// The dates of the certificate that is held, or that expired last.
    pub validity: Option<Validity>,
    /// How often a certificate took the place of another.
    pub renewals: u64,
    /// Requests that failed since the last one that did not.
    pub failures: u32,
    /// Whether a request is open now.
    pub requesting: bool,
    /// When the CA is asked next; `None` while it is being asked or waits for its turn.
    pub next_attempt: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) wants: u32,
    pub(super) held: Option<Held>,
    pub(super) attempt: Attempt,
    expired: Option<Validity>,
    failures: u32,
    renewals: u64,
}

/// A valid certificate, and when its renewal is due: by either clock.
#[derive(Debug)]
pub(super) struct Held {
    validity: Validity,
    renew_unix: SystemTime,
    renew_instant: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attempt {
    /// Nothing is open. Due at once without a certificate, with one when its renewal is due.
    Settled,
    /// The last request failed.
    Waiting(Instant),
    /// The CA is being asked.
    InFlight(RequestId),
}

impl State {
    /// The spelling used by metrics, log lines and the command line.
    #[must_use]
    pub const fn as_label(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Requesting => "requesting",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
        }
    }
}

impl Validity {
    /// Whether a certificate with these dates may be used at this time.
    #[must_use]
    pub fn contains(&self, unix: SystemTime) -> bool {
        self.not_before <= unix && unix <= self.not_after
    }
}

impl Entry {
    pub(super) const fn new() -> Self {
        Self {
            wants: 0,
            held: None,
            attempt: Attempt::Settled,
            expired: None,
            failures: 0,
            renewals: 0,
        }
    }

    /// Takes a certificate into use. Its renewal is due after 45 to 55 % of the life that is left,
    /// so that identities that started together do not renew together.
    pub(super) fn install(&mut self, validity: Validity, random: f64, now: Moment) {
        let life = until(validity.not_after, now.unix);
        let wait = life.mul_f64(0.45 + 0.1 * random).max(RETRY_MIN);
        if self.held.is_some() || self.expired.is_some() {
            self.renewals = self.renewals.saturating_add(1);
        }
        self.held = Some(Held {
            validity,
            renew_unix: now.unix.checked_add(wait).unwrap_or(validity.not_after),
            renew_instant: later(now.instant, wait),
        });
        self.expired = None;
        self.failures = 0;
        self.attempt = Attempt::Settled;
    }

    /// Waits before the next request: 1, 2, 4 … 60 seconds, each a quarter more or less, but no
    /// longer than half of the life that the certificate still has.
    pub(super) fn back_off(&mut self, random: f64, now: Moment) {
        let doubling = 1u32 << self.failures.min(6);
        self.failures = self.failures.saturating_add(1);
        let delay = RETRY_MIN.saturating_mul(doubling).min(RETRY_MAX).mul_f64(0.75 + 0.5 * random);
        let left = self
            .held
            .as_ref()
            .map_or(RETRY_MAX, |held| until(held.validity.not_after, now.unix) / 2);
        let delay = delay.min(left).clamp(RETRY_MIN, RETRY_MAX);
        self.attempt = Attempt::Waiting(later(now.instant, delay));
    }

    /// Gives the certificate up if it may no longer be used, and says whether it did.
    pub(super) fn expire(&mut self, now: Moment) -> bool {
        let over = |held: &mut Held| now.unix > held.validity.not_after;
        let Some(held) = self.held.take_if(over) else {
            return false;
        };
        self.expired = Some(held.validity);
        true
    }

    pub(super) fn is_due(&self, now: Moment) -> bool {
        match (self.attempt, &self.held) {
            (Attempt::InFlight(_), _) => false,
            (Attempt::Waiting(until), _) => until <= now.instant,
            (Attempt::Settled, None) => true,
            (Attempt::Settled, Some(held)) => {
                let unusable = now.unix < held.validity.not_before;
                unusable || held.renew_unix <= now.unix || held.renew_instant <= now.instant
            }
        }
    }

    pub(super) const fn retry_at(&self) -> Option<Instant> {
        match self.attempt {
            Attempt::Waiting(until) => Some(until),
            Attempt::Settled | Attempt::InFlight(_) => None,
        }
    }

    pub(super) fn renew_at(&self, now: Moment) -> Option<Instant> {
        let held = self.held.as_ref()?;
        if self.attempt != Attempt::Settled {
            return None;
        }
        let by_unix = later(now.instant, until(held.renew_unix, now.unix));
        Some(by_unix.min(held.renew_instant))
    }

    /// The first moment at which the certificate may no longer be used, by the wall clock as it
    /// stands.
    pub(super) fn expiry_at(&self, now: Moment) -> Option<Instant> {
        let held = self.held.as_ref()?;
        let left = until(held.validity.not_after, now.unix);
        Some(later(now.instant, left + Duration::from_millis(1)))
    }

    pub(super) fn status(&self, now: Moment) -> Status {
        let state = match (&self.held, self.expired) {
            (Some(held), _) if now.unix < held.validity.not_before => State::NotYetValid,
            (Some(_), _) => State::Valid,
            (None, Some(_)) => State::Expired,
            (None, None) if self.failures > 0 => State::Failed,
            (None, None) => State::Requesting,
        };
        Status {
            state,
            validity: self.held.as_ref().map(|held| held.validity).or(self.expired),
            renewals: self.renewals,
            failures: self.failures,
            requesting: matches!(self.attempt, Attempt::InFlight(_)),
            next_attempt: self.retry_at().or_else(|| self.renew_at(now)),
        }
    }
}

/// `instant` moved on by `delay`; for a delay beyond what the clock can count, the next moment at
/// which the clocks are looked at anyway.
pub(super) fn later(instant: Instant, delay: Duration) -> Instant {
    instant.checked_add(delay).or_else(|| instant.checked_add(CLOCK_CHECK)).unwrap_or(instant)
}

/// The time from `now` to `then`, zero if that has passed.
fn until(then: SystemTime, now: SystemTime) -> Duration {
    then.duration_since(now).unwrap_or(Duration::ZERO)
}
