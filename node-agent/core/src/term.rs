//! How long a tunnel may carry flows ([`Term`]): no longer than the certificates of its two ends say
//! who is there. Both ends decide it for themselves, and so at about the same time.

use std::time::{Duration, SystemTime};

use crate::rotation::CLOCK_CHECK;

/// The most by which a tunnel stops taking new flows before the earlier certificate expires; the
/// two ends' clocks may differ by as much.
const LONGEST_MARGIN: Duration = Duration::from_secs(60);

/// A tunnel stops taking new flows when this part of what its certificates had left is over, if that
/// leaves less than [`LONGEST_MARGIN`]: certificates of a few seconds are of use too.
const MARGIN_PART: u32 = 10;

/// The dates of one tunnel, fixed when it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Term {
    drains: SystemTime,
    expires: SystemTime,
    ends: SystemTime,
}

/// How a tunnel stands. It never goes back to an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It takes new flows.
    Serves,
    /// New flows go into another tunnel. One that is on its way already is taken.
    Drains,
    /// A certificate has expired: no flow is begun on its word. The open ones may finish.
    Expired,
    /// Nothing goes on in it.
    Ended(Outlived),
}

/// What a tunnel has outlived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outlived {
    /// The certificate of one of its ends, by the time that flows are given to finish.
    Certificate,
    /// The trust in the other end's certificate: no root of the bundle is above it any more.
    Trust,
}

impl Term {
    /// The term of a tunnel that is opened `now` with certificates that are valid until `not_after`.
    /// Flows may finish within `grace` after the earlier of them has expired.
    #[must_use]
    pub fn new(now: SystemTime, not_after: [SystemTime; 2], grace: Duration) -> Self {
        let [own, peers] = not_after;
        let expires = own.min(peers);
        let left = expires.duration_since(now).unwrap_or(Duration::ZERO);
        let margin = (left / MARGIN_PART).min(LONGEST_MARGIN);
        let drains = expires.checked_sub(margin).unwrap_or(expires);
        let ends = expires.checked_add(grace).unwrap_or(expires);
        Self { drains, expires, ends }
    }

    /// How the tunnel stands. Trust that is withdrawn ends it at once: whoever takes a root away
    /// means that what it signed proves nothing.
    #[must_use]
    pub fn standing(&self, now: SystemTime, trusted: bool) -> Standing {
        if !trusted {
            Standing::Ended(Outlived::Trust)
        } else if now >= self.ends {
            Standing::Ended(Outlived::Certificate)
        } else if now >= self.expires {
            Standing::Expired
        } else if now >= self.drains {
            Standing::Drains
        } else {
            Standing::Serves
        }
    }

    /// How long that holds, as far as time goes. At most [`CLOCK_CHECK`]: the wall clock may be set.
    #[must_use]
    pub fn holds_for(&self, now: SystemTime) -> Duration {
        let dates = [self.drains, self.expires, self.ends];
        let left = dates.iter().filter_map(|at| at.duration_since(now).ok());
        left.filter(|left| !left.is_zero()).min().map_or(CLOCK_CHECK, |left| left.min(CLOCK_CHECK))
    }
}

impl Outlived {
    /// The spelling used by metrics, log lines and the command line.
    #[must_use]
    pub const fn as_label(self) -> &'static str {
        match self {
            Self::Certificate => "tunnel_certificate_expired",
            Self::Trust => "tunnel_peer_distrusted",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn new_flows_go_elsewhere_a_margin_before_the_earlier_certificate_expires() {
        for not_after in [[at(86_400), at(90_000)], [at(90_000), at(86_400)]] {
            let term = Term::new(at(0), not_after, HOUR);
            assert_eq!(term.standing(at(86_339), true), Standing::Serves);
            assert_eq!(term.standing(at(86_340), true), Standing::Drains);
            assert_eq!(term.standing(at(86_400), true), Standing::Expired);
        }
    }

    #[test]
    fn what_is_left_of_a_short_life_is_used_for_the_most_part() {
        let term = Term::new(at(0), [at(20), at(10)], HOUR);
        assert_eq!(term.standing(at(8), true), Standing::Serves);
        assert_eq!(term.standing(at(9), true), Standing::Drains);
        let expired = Term::new(at(20), [at(10), at(30)], HOUR);
        assert_eq!(expired.standing(at(20), true), Standing::Expired);
    }

    #[test]
    fn open_flows_may_finish_within_the_grace_and_not_after_it() {
        let term = Term::new(at(0), [at(100), at(100)], HOUR);
        assert_eq!(term.standing(at(3699), true), Standing::Expired);
        assert_eq!(term.standing(at(3700), true), Standing::Ended(Outlived::Certificate));
        let strict = Term::new(at(0), [at(100), at(100)], Duration::ZERO);
        assert_eq!(strict.standing(at(99), true), Standing::Drains);
        assert_eq!(strict.standing(at(100), true), Standing::Ended(Outlived::Certificate));
    }

    #[test]
    fn a_peer_that_is_no_longer_trusted_is_cut_off_at_once_whatever_its_dates() {
        let term = Term::new(at(0), [at(100), at(100)], HOUR);
        for now in [0, 99, 200, 5000] {
            assert_eq!(term.standing(at(now), false), Standing::Ended(Outlived::Trust));
        }
    }

    #[test]
    fn it_is_looked_at_again_at_every_date_and_after_a_clock_check_at_the_latest() {
        let term = Term::new(at(0), [at(100), at(200)], Duration::from_secs(5));
        let holds = |now| term.holds_for(at(now)).as_secs();
        assert_eq!([0, 60, 89, 90, 99, 100, 104].map(holds), [30, 30, 1, 10, 1, 5, 1]);
        assert_eq!(holds(105), 30, "it has ended");
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
    }
}
