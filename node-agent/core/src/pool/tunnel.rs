//! What the pool knows of one tunnel: its streams, and when it was last heard of.

use std::time::{Duration, Instant};

use super::{Key, Limits, WaiterId};

/// A tunnel that was silent for longer than this is probed as soon as it is given a new stream, so
/// that a peer that vanished while the tunnel was idle is noticed within the PING time limit and not
/// within the interval on top of it.
const STALE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Tunnel {
    pub(super) key: Key,
    pub(super) waiters: Vec<WaiterId>,
    /// Streams at a time that the other end takes.
    takes: u32,
    state: State,
}

#[derive(Debug)]
enum State {
    Dialling,
    Open {
        streams: u32,
        heard: Instant,
        probed: Option<Instant>,
        idle_since: Option<Instant>,
        going: bool,
    },
}

/// What a tunnel needs now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Health {
    Well,
    ProbeDue,
    Silent,
    Idle,
}

impl Tunnel {
    pub(super) const fn dialling(key: Key) -> Self {
        Self { key, waiters: Vec::new(), takes: u32::MAX, state: State::Dialling }
    }

    pub(super) const fn is_dialling(&self) -> bool {
        matches!(self.state, State::Dialling)
    }

    /// Opens the tunnel and hands out those who waited for it.
    pub(super) fn dialled(&mut self, now: Instant) -> Vec<WaiterId> {
        if self.is_dialling() {
            let (streams, heard, probed, going) = (0, now, None, false);
            self.state = State::Open { streams, heard, probed, idle_since: Some(now), going };
        }
        std::mem::take(&mut self.waiters)
    }

    /// Notes how many streams the other end takes.
    pub(super) const fn takes(&mut self, streams: u32) {
        self.takes = streams;
    }

    /// Whether a new stream may go in. Not while a PING has been without an answer for a while: the
    /// request of that stream could not be taken back if the tunnel turns out to be lost.
    pub(super) fn has_room(&self, limits: &Limits, now: Instant) -> bool {
        match self.state {
            State::Dialling => false,
            State::Open { streams, going, probed, .. } => {
                let suspect = probed.is_some_and(|at| now.duration_since(at) >= STALE);
                !going && !suspect && streams < limits.max_streams.min(self.takes)
            }
        }
    }

    pub(super) const fn has_room_when_dialled(&self, limits: &Limits) -> bool {
        self.is_dialling() && self.waiters.len() < limits.max_streams as usize
    }

    /// Counts a stream; true if the tunnel should be probed because it was silent for a while.
    pub(super) fn assign(&mut self, now: Instant) -> bool {
        let State::Open { streams, heard, idle_since, .. } = &mut self.state else {
            return false;
        };
        *streams += 1;
        *idle_since = None;
        now.duration_since(*heard) >= STALE
    }

    pub(super) const fn stream_ended(&mut self, now: Instant) {
        let State::Open { streams, idle_since, .. } = &mut self.state else {
            return;
        };
        *streams = streams.saturating_sub(1);
        if *streams == 0 {
            *idle_since = Some(now);
        }
    }

    /// Something came at that time, which may have passed a while ago.
    pub(super) fn heard(&mut self, at: Instant) {
        let State::Open { heard, probed, .. } = &mut self.state else {
            return;
        };
        *heard = at.max(*heard);
        // Whatever comes after a PING was sent is as good as its answer.
        *probed = probed.filter(|probed| at < *probed);
    }

    /// Notes that a PING is on its way; false if one is already.
    pub(super) const fn probe(&mut self, now: Instant) -> bool {
        let State::Open { probed, .. } = &mut self.state else {
            return false;
        };
        if probed.is_some() {
            return false;
        }
        *probed = Some(now);
        true
    }

    pub(super) const fn going_away(&mut self) {
        if let State::Open { going, .. } = &mut self.state {
            *going = true;
        }
    }

    /// Takes no stream any more and has none left.
    pub(super) const fn is_retired(&self) -> bool {
        matches!(self.state, State::Open { streams: 0, going: true, .. })
    }

    pub(super) fn health(&self, limits: &Limits, now: Instant) -> Health {
        let State::Open { heard, probed, idle_since, .. } = self.state else {
            return Health::Well;
        };
        let passed = |since: Instant, limit: Duration| now.duration_since(since) >= limit;
        if probed.is_some_and(|at| passed(at, limits.ping_timeout)) {
            Health::Silent
        } else if idle_since.is_some_and(|since| passed(since, limits.idle)) {
            Health::Idle
        } else if probed.is_none() && passed(heard, limits.ping_interval) {
            Health::ProbeDue
        } else {
            Health::Well
        }
    }

    pub(super) fn deadline(&self, limits: &Limits) -> Option<(Instant, &'static str)> {
        let State::Open { heard, probed, idle_since, .. } = self.state else {
            return None;
        };
        let life = match probed {
            Some(at) => (at + limits.ping_timeout, "answer to a PING"),
            None => (heard + limits.ping_interval, "PING"),
        };
        let idle = idle_since.map(|since| (since + limits.idle, "idle tunnel"));
        Some(idle.map_or(life, |idle| idle.min(life)))
    }
}
