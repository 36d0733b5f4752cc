//! When to request, renew, swap and drop the certificate of which identity. The driver
//! (`identity::store`) owns the keys and talks to the CA; this machine only says what to do.
//!
//! Two clocks are arguments. Certificates live by wall-clock time, which can jump; retries and the
//! latest moment of a renewal count on the monotonic one. A renewal is due as soon as either clock
//! says so, and an expiry is looked for at least every [`CLOCK_CHECK`].

mod entry;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant, SystemTime};

use crate::identity::SpiffeId;
use entry::{Attempt, Entry, later};

pub use entry::{State, Status, Validity};

/// The shortest pause between two requests for one identity.
pub const RETRY_MIN: Duration = Duration::from_secs(1);
/// The longest pause between two requests for one identity whose last one failed.
pub const RETRY_MAX: Duration = Duration::from_secs(60);
/// How often the wall clock is compared with the certificates, in case it was set.
pub const CLOCK_CHECK: Duration = Duration::from_secs(30);
/// Requests that are open at one time, whatever the number of identities.
pub const MAX_IN_FLIGHT: usize = 8;

/// One moment on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The monotonic clock.
    pub instant: Instant,
    /// The wall clock.
    pub unix: SystemTime,
}

/// One request to the CA. An answer counts only if it names the identity's latest request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(u64);

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Somebody needs a certificate for this identity, and will release it as often as it was
    /// wanted.
    Want(SpiffeId),
    /// Somebody needs it no longer.
    Release(SpiffeId),
    /// The CA answered with a certificate that fits the request.
    Issued {
        /// Whose certificate it is.
        identity: SpiffeId,
        /// The request it answers.
        request: RequestId,
        /// How long it is valid.
        validity: Validity,
    },
    /// The request brought no certificate.
    Failed {
        /// The identity it was for.
        identity: SpiffeId,
        /// The request.
        request: RequestId,
    },
}

/// What the driver must do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Ask the CA for a certificate.
    Request {
        /// Whose.
        identity: SpiffeId,
        /// The name of this request.
        request: RequestId,
    },
    /// Stop waiting for this request.
    Cancel {
        /// The request.
        request: RequestId,
    },
    /// Use what this request brought, from now on, in place of the certificate before.
    Install {
        /// Whose certificate it is.
        identity: SpiffeId,
        /// The request that brought it.
        request: RequestId,
    },
    /// Throw away what this request brought.
    Discard {
        /// The request.
        request: RequestId,
    },
    /// Use the identity's certificate no longer, and forget its key.
    Drop {
        /// Whose certificate it is.
        identity: SpiffeId,
        /// Why.
        cause: DropCause,
    },
}

/// Why a certificate is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropCause {
    /// The last one who wanted it released it.
    Released,
    /// It is no longer valid, and no newer one came.
    Expired,
}

impl DropCause {
    /// The spelling used by metrics, log lines and the command line.
    #[must_use]
    pub const fn as_label(self) -> &'static str {
        match self {
            Self::Released => "released",
            Self::Expired => "expired",
        }
    }
}

/// The machine.
#[derive(Debug)]
pub struct Rotation {
    entries: BTreeMap<SpiffeId, Entry>,
    commands: VecDeque<Command>,
    in_flight: usize,
    next_request: u64,
    random: u64,
    last: Moment,
}

impl Rotation {
    /// No identities yet. The seed decides the jitter of this machine's renewals and retries.
    #[must_use]
    pub const fn new(seed: u64, now: Moment) -> Self {
        Self {
            entries: BTreeMap::new(),
            commands: VecDeque::new(),
            in_flight: 0,
            next_request: 0,
            random: seed,
            last: now,
        }
    }

    /// Takes note of what happened.
    pub fn handle(&mut self, input: Input, now: Moment) {
        match input {
            Input::Want(identity) => {
                let entry = self.entries.entry(identity).or_insert_with(Entry::new);
                entry.wants = entry.wants.saturating_add(1);
            }
            Input::Release(identity) => self.release(&identity),
            Input::Issued { identity, request, validity } => {
                self.issued(identity, request, validity, now)
            }
            Input::Failed { identity, request } => {
                if self.answered(&identity, request) {
                    self.failed(&identity, now);
                }
            }
        }
        self.handle_timeout(now);
    }

    /// Does what is due at this moment.
    pub fn handle_timeout(&mut self, now: Moment) {
        self.last = now;
        for (identity, entry) in &mut self.entries {
            if entry.expire(now) {
                self.commands.push_back(Command::Drop {
                    identity: identity.clone(),
                    cause: DropCause::Expired,
                });
            }
        }
        self.request_what_is_due(now);
    }

    /// The next moment at which [`Self::handle_timeout`] has something to do, and why.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        let free = self.in_flight < MAX_IN_FLIGHT;
        let mut next: Option<(Instant, &'static str)> = None;
        let mut offer = |at: Option<Instant>, why| {
            if let Some(at) = at
                && next.is_none_or(|(earliest, _)| at < earliest)
            {
                next = Some((at, why));
            }
        };
        for entry in self.entries.values() {
            // Without a free place only an answer can start the next request.
            if free {
                offer(entry.retry_at(), "retry");
                offer(entry.renew_at(self.last), "renew");
            }
            if let Some(expiry) = entry.expiry_at(self.last) {
                offer(Some(expiry), "expiry");
                offer(Some(later(self.last.instant, CLOCK_CHECK)), "clock check");
            }
        }
        next
    }

    /// What the driver must do now, one command at a time, until there is none.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// How each identity stands, in the order of their names.
    pub fn statuses(&self) -> impl Iterator<Item = (&SpiffeId, Status)> {
        let last = self.last;
        self.entries.iter().map(move |(identity, entry)| (identity, entry.status(last)))
    }

    fn release(&mut self, identity: &SpiffeId) {
        let Some(entry) = self.entries.get_mut(identity) else {
            return;
        };
        entry.wants = entry.wants.saturating_sub(1);
        if entry.wants > 0 {
            return;
        }
        if let Some(entry) = self.entries.remove(identity) {
            if let Attempt::InFlight(request) = entry.attempt {
                self.in_flight = self.in_flight.saturating_sub(1);
                self.commands.push_back(Command::Cancel { request });
            }
            if entry.held.is_some() {
                self.commands.push_back(Command::Drop {
                    identity: identity.clone(),
                    cause: DropCause::Released,
                });
            }
        }
    }

    /// Whether this request is the identity's latest and unanswered one, which it then is no more.
    fn answered(&mut self, identity: &SpiffeId, request: RequestId) -> bool {
        let Some(entry) = self.entries.get_mut(identity) else {
            return false;
        };
        if entry.attempt != Attempt::InFlight(request) {
            return false;
        }
        entry.attempt = Attempt::Settled;
        self.in_flight = self.in_flight.saturating_sub(1);
        true
    }

    fn issued(&mut self, identity: SpiffeId, request: RequestId, validity: Validity, now: Moment) {
        if !self.answered(&identity, request) {
            self.commands.push_back(Command::Discard { request });
            return;
        }
        if !validity.contains(now.unix) {
            self.commands.push_back(Command::Discard { request });
            self.failed(&identity, now);
            return;
        }
        let random = self.random();
        if let Some(entry) = self.entries.get_mut(&identity) {
            entry.install(validity, random, now);
        }
        self.commands.push_back(Command::Install { identity, request });
    }

    fn failed(&mut self, identity: &SpiffeId, now: Moment) {
        let random = self.random();
        if let Some(entry) = self.entries.get_mut(identity) {
            entry.back_off(random, now);
        }
    }

    /// Identities that have no certificate go first.
    fn request_what_is_due(&mut self, now: Moment) {
        for first in [true, false] {
            let due = self
                .entries
                .iter_mut()
                .filter(|(_, entry)| entry.held.is_none() == first && entry.is_due(now));
            for (identity, entry) in due {
                if self.in_flight >= MAX_IN_FLIGHT {
                    return;
                }
                let request = RequestId(self.next_request);
                self.next_request = self.next_request.wrapping_add(1);
                self.in_flight += 1;
                entry.attempt = Attempt::InFlight(request);
                self.commands.push_back(Command::Request { identity: identity.clone(), request });
            }
        }
    }

    /// The next number of the SplitMix64 sequence, as a fraction in `0.0..1.0`.
    fn random(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let bits = u32::try_from((z ^ (z >> 31)) >> 32).unwrap_or(0);
        f64::from(bits) / (f64::from(u32::MAX) + 1.0)
    }
}
