//! How the CA's root is replaced while every certificate keeps verifying: [`next`].
//!
//! 1. A new root is made, and published beside the old one. Who fetches a certificate is told both, so
//!    that when the longest certificate of before has ended, everybody trusts both.
//! 2. The new root signs, and the old root's key is forgotten. When the longest certificate of before
//!    has ended, nobody has one of the old root; tunnels that were opened with one may be in use a
//!    while longer.
//! 3. The old root is dropped.
//!
//! Until the second step nothing depends on the new root, and it can be given up. Whoever drives this
//! keeps the phase where every replica of the CA sees it, and changes it only together with the keys.

use std::time::{Duration, SystemTime};

/// What is waited beyond the longest life of a certificate: for replicas of the CA to have read their
/// keys again, for a node's copy of the published roots, and for clocks that differ.
pub const SETTLING: Duration = Duration::from_secs(3600);

/// How far a rotation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// There is none.
    Idle,
    /// Somebody wants one.
    Requested,
    /// The old root signs, and both are published.
    Distributing {
        /// Since then.
        since: SystemTime,
    },
    /// The new root signs, and both are published.
    Signing {
        /// Since then.
        since: SystemTime,
    },
    /// Somebody wants it given up.
    Aborting,
}

/// A change of the keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Make a new root and trust it beside the old one.
    MakeRoot,
    /// Sign with the new root, and forget the key of the old one.
    SignWithNew,
    /// Trust the old root no longer.
    DropOld,
    /// Forget the new root, which has signed nothing.
    DropNew,
}

/// What a rotation waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Awaited {
    /// Every certificate, and with it what its holder trusts, is newer than the new root.
    Trust,
    /// Every certificate of the old root has ended, and every tunnel that was opened with one.
    Renewal,
}

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nothing, until somebody asks for a rotation.
    Nothing,
    /// This.
    Do(Step),
    /// This, but not before that time.
    Wait {
        /// What comes then.
        step: Step,
        /// When.
        until: SystemTime,
        /// Why not now.
        awaited: Awaited,
    },
}

/// What bounds the waiting from outside of the rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lives {
    /// The longest life of a certificate that the CA signs.
    pub certificate: Duration,
    /// How long open flows go on in a tunnel whose certificates have ended.
    pub tunnel: Duration,
    /// The end of what signs now, where it is known: it can sign nothing after it.
    pub signer: Option<SystemTime>,
}

/// Why somebody who asks is told no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The old root's key is forgotten.
    #[error(
        "the new root signs already: giving it up would break what it signed; let the rotation end, and rotate again if this root must go"
    )]
    NewRootSigns,
    /// No rotation to give up.
    #[error("no rotation is under way")]
    NoRotation,
    /// One is being given up.
    #[error("a rotation is just being given up; ask again in a minute")]
    Aborting,
}

/// What is to be done now.
#[must_use]
pub fn next(phase: Phase, lives: Lives, now: SystemTime) -> Next {
    let certificate = lives.certificate.saturating_add(SETTLING);
    let tunnel = certificate.saturating_add(lives.tunnel);
    let (step, until, awaited) = match phase {
        Phase::Idle => return Next::Nothing,
        Phase::Requested => return Next::Do(Step::MakeRoot),
        Phase::Aborting => return Next::Do(Step::DropNew),
        Phase::Distributing { since } => {
            // The old one can sign nothing after its end: waiting longer would protect nobody.
            let until = since.checked_add(certificate).into_iter().chain(lives.signer).min();
            (Step::SignWithNew, until, Awaited::Trust)
        }
        Phase::Signing { since } => (Step::DropOld, since.checked_add(tunnel), Awaited::Renewal),
    };
    match until {
        Some(until) if now < until => Next::Wait { step, until, awaited },
        Some(_) => Next::Do(step),
        // A date beyond what can be counted is far from over.
        None => Next::Wait { step, until: SystemTime::UNIX_EPOCH + FAR, awaited },
    }
}

/// The year 9999, the last that a certificate can name.
const FAR: Duration = Duration::from_secs(253_402_300_799);

/// Asks for a rotation. The phase that this makes, or `None` if one is under way already.
///
/// # Errors
/// Why it cannot be asked for now.
pub const fn request(phase: Phase) -> Result<Option<Phase>, Refused> {
    match phase {
        Phase::Idle => Ok(Some(Phase::Requested)),
        Phase::Requested | Phase::Distributing { .. } | Phase::Signing { .. } => Ok(None),
        Phase::Aborting => Err(Refused::Aborting),
    }
}

/// Asks to give a rotation up. The phase that this makes, or `None` if that was asked already.
///
/// # Errors
/// Why it cannot be given up.
pub const fn abort(phase: Phase) -> Result<Option<Phase>, Refused> {
    match phase {
        Phase::Idle => Err(Refused::NoRotation),
        Phase::Requested => Ok(Some(Phase::Idle)),
        Phase::Distributing { .. } => Ok(Some(Phase::Aborting)),
        Phase::Signing { .. } => Err(Refused::NewRootSigns),
        Phase::Aborting => Ok(None),
    }
}

impl Phase {
    /// The spelling used in objects, in log lines and by the command line.
    #[must_use]
    pub const fn as_label(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Requested => "requested",
            Self::Distributing { .. } => "distributing",
            Self::Signing { .. } => "signing",
            Self::Aborting => "aborting",
        }
    }

    /// The phase of this name; `None` for another name, or where it has no date that it needs.
    #[must_use]
    pub fn from_label(label: &str, since: Option<SystemTime>) -> Option<Self> {
        match (label, since) {
            ("idle", _) => Some(Self::Idle),
            ("requested", _) => Some(Self::Requested),
            ("distributing", Some(since)) => Some(Self::Distributing { since }),
            ("signing", Some(since)) => Some(Self::Signing { since }),
            ("aborting", _) => Some(Self::Aborting),
            _ => None,
        }
    }

    /// When the phase began, where that counts.
    #[must_use]
    pub const fn since(self) -> Option<SystemTime> {
        match self {
            Self::Distributing { since } | Self::Signing { since } => Some(since),
            Self::Idle | Self::Requested | Self::Aborting => None,
        }
    }
}

impl Step {
    /// The phase after it was done at this time.
    #[must_use]
    pub const fn done(self, now: SystemTime) -> Phase {
        match self {
            Self::MakeRoot => Phase::Distributing { since: now },
            Self::SignWithNew => Phase::Signing { since: now },
            Self::DropOld | Self::DropNew => Phase::Idle,
        }
    }

    /// In words.
    #[must_use]
    pub const fn as_text(self) -> &'static str {
        match self {
            Self::MakeRoot => "make a new root and trust it beside the old one",
            Self::SignWithNew => "sign with the new root, and forget the key of the old one",
            Self::DropOld => "trust the old root no longer",
            Self::DropNew => "forget the new root, which has signed nothing",
        }
    }
}

impl Awaited {
    /// In words.
    #[must_use]
    pub const fn as_text(self) -> &'static str {
        match self {
            Self::Trust => {
                "the last certificate from before the new root was published ends: whoever holds one trusts the old root only"
            }
            Self::Renewal => {
                "the last certificate of the old root ends, and the last tunnel that was opened with one"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);
    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_rotation_takes_its_three_steps_each_when_no_certificate_is_left_that_it_would_break() {
        let mut now = at(0);
        let mut phase = request(Phase::Idle).unwrap().unwrap();
        let mut taken = Vec::new();
        while phase != Phase::Idle {
            match next(phase, LIVES, now) {
                Next::Do(step) => {
                    taken.push((step, now));
                    phase = step.done(now);
                }
                Next::Wait { until, .. } => {
                    assert!(until > now);
                    now += MINUTE;
                }
                Next::Nothing => panic!("{phase:?} is for ever"),
            }
        }
        let wait = DAY + SETTLING;
        let steps = [
            (Step::MakeRoot, at(0)),
            (Step::SignWithNew, at(0) + wait),
            (Step::DropOld, at(0) + wait * 2 + GRACE),
        ];
        assert_eq!(taken, steps);
    }

    /// A model of one node and of the longest-lived certificates: at no moment does anybody trust
    /// less than what anybody else may hold.
    #[test]
    fn whoever_renews_at_any_time_trusts_what_anybody_holds_at_any_time() {
        for first in 0..24 {
            let mut phase = Phase::Requested;
            let (mut trusted, mut signer) = (vec!["old"], "old");
            // What each holder holds: signed by, trusts, since. One renews early, one at the last moment.
            let hour = Duration::from_secs(3600);
            let mut holders = vec![("old", vec!["old"], at(0) - hour * first); 24];
            for tick in 0..120 {
                let now = at(0) + hour * tick;
                while let Next::Do(step) = next(phase, LIVES, now) {
                    match step {
                        Step::MakeRoot => trusted = vec!["old", "new"],
                        Step::SignWithNew => signer = "new",
                        Step::DropOld => trusted = vec!["new"],
                        Step::DropNew => unreachable!("nobody gave it up"),
                    }
                    phase = step.done(now);
                }
                let renew = holders
                    .iter_mut()
                    .zip(1..)
                    .filter(|(holder, hours)| now >= holder.2 + hour * *hours);
                renew.for_each(|(holder, _)| *holder = (signer, trusted.clone(), now));
                let knows =
                    |signed_by| holders.iter().all(|(_, trusts, _)| trusts.contains(signed_by));
                let known = holders.iter().all(|(signed_by, ..)| knows(signed_by));
                assert!(known, "hour {tick}: {holders:?}");
            }
            assert_eq!((trusted, phase), (vec!["new"], Phase::Idle));
        }
    }

    #[test]
    fn a_signer_that_ends_is_replaced_at_its_end() {
        let lives = Lives { signer: Some(at(60)), ..LIVES };
        let phase = Phase::Distributing { since: at(0) };
        let Next::Wait { until, awaited, .. } = next(phase, lives, at(59)) else {
            panic!("it signs");
        };
        assert_eq!((until, awaited), (at(60), Awaited::Trust));
        assert_eq!(next(phase, lives, at(60)), Next::Do(Step::SignWithNew));
        // What it has signed may live on: its end is no reason to trust it less.
        let Next::Wait { until, .. } = next(Phase::Signing { since: at(0) }, lives, at(61)) else {
            panic!("certificates live");
        };
        assert_eq!(until, at(0) + DAY + SETTLING + GRACE);
    }

    #[test]
    fn a_clock_that_was_set_back_makes_it_longer_and_a_date_that_cannot_be_never_ends_it() {
        let phase = Phase::Signing { since: at(1000) };
        assert!(matches!(next(phase, LIVES, at(0)), Next::Wait { .. }));
        let lives = Lives { certificate: Duration::MAX, ..LIVES };
        assert!(matches!(next(phase, lives, at(u32::MAX.into())), Next::Wait { .. }));
    }

    #[test]
    fn it_can_be_given_up_until_the_new_root_signs() {
        let since = at(0);
        for (phase, expected) in [
            (Phase::Idle, Err(Refused::NoRotation)),
            (Phase::Requested, Ok(Some(Phase::Idle))),
            (Phase::Distributing { since }, Ok(Some(Phase::Aborting))),
            (Phase::Signing { since }, Err(Refused::NewRootSigns)),
            (Phase::Aborting, Ok(None)),
        ] {
            assert_eq!(abort(phase), expected, "{phase:?}");
        }
        assert_eq!(next(Phase::Aborting, LIVES, since), Next::Do(Step::DropNew));
        assert_eq!(Step::DropNew.done(since), Phase::Idle);
    }

    #[test]
    fn to_ask_twice_is_to_ask_once() {
        let since = at(0);
        for phase in [Phase::Requested, Phase::Distributing { since }, Phase::Signing { since }] {
            assert_eq!(request(phase), Ok(None), "{phase:?}");
        }
        assert_eq!(request(Phase::Aborting), Err(Refused::Aborting));
        assert_eq!(next(Phase::Idle, LIVES, since), Next::Nothing);
    }

    #[test]
    fn a_phase_is_read_back_from_its_name_and_its_date() {
        let since = at(0);
        for phase in [
            Phase::Idle,
            Phase::Requested,
            Phase::Distributing { since },
            Phase::Signing { since },
            Phase::Aborting,
        ] {
            assert_eq!(Phase::from_label(phase.as_label(), phase.since()), Some(phase));
        }
        assert_eq!(Phase::from_label("signing", None), None);
        assert_eq!(Phase::from_label("Signing", Some(since)), None);
    }

    const GRACE: Duration = Duration::from_secs(12 * 3600);
    const LIVES: Lives = Lives { certificate: DAY, tunnel: GRACE, signer: None };

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
    }
}
