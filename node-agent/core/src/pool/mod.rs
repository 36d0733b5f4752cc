//! Which tunnel a new stream goes into: when to dial, to probe, to let go ([`Pool`]). One machine
//! per worker; it knows tunnels by number and never touches one.

mod tunnel;

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::identity::SpiffeId;
use crate::workload::PodUid;
use tunnel::{Health, Tunnel};

/// What makes two flows share a tunnel. The pods' UIDs are part of it, so that a tunnel never
/// serves a pod that got its address later; the source's, so that a tunnel's TCP connection always
/// comes from the address of the pod that speaks in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The pod that calls.
    pub source: PodUid,
    /// The pod that is called.
    pub destination: PodUid,
    /// The address of it that is dialled.
    pub address: IpAddr,
    /// The identity that the other end must prove.
    pub identity: SpiffeId,
}

/// The number of a tunnel, never reused by its pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TunnelId(pub u64);

/// The number of a flow that waits for a tunnel, chosen by the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WaiterId(pub u64);

/// The pool's limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Streams in one tunnel at a time.
    pub max_streams: u32,
    /// A tunnel without streams is closed after this time.
    pub idle: Duration,
    /// A tunnel that was silent for this long is probed with a PING.
    pub ping_interval: Duration,
    /// A tunnel that has not answered a PING after this time is lost.
    pub ping_timeout: Duration,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A flow wants a stream. It is answered by one [`Command::Assign`], or by the failure of the
    /// dial that it waits for, which the driver passes on.
    Want(WaiterId, Key),
    /// A flow no longer wants one. Nothing happens if it was answered already.
    GaveUp(WaiterId),
    /// A dial succeeded.
    Dialled(TunnelId),
    /// A dial failed; the waiters are told by [`Command::Fail`].
    DialFailed(TunnelId),
    /// A stream that was assigned has ended.
    StreamEnded(TunnelId),
    /// Something was heard from the other end at the time given: a PING's answer, or anything else.
    Heard(TunnelId),
    /// The other end takes so many streams at a time (`SETTINGS_MAX_CONCURRENT_STREAMS`).
    Takes(TunnelId, u32),
    /// The tunnel takes no new streams: the other end said so (GOAWAY), or its term is over (see
    /// [`crate::term`]).
    GoingAway(TunnelId),
    /// The tunnel broke or was closed.
    Lost(TunnelId),
    /// A pod of this node is gone: its tunnels go too.
    PodGone(PodUid),
}

/// What the driver must do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Dial a tunnel.
    Dial(TunnelId, Key),
    /// Give this flow a stream in this tunnel.
    Assign(WaiterId, TunnelId),
    /// Tell this flow that its dial failed.
    Fail(WaiterId, TunnelId),
    /// Send a PING, and report the answer with [`Input::Heard`].
    Ping(TunnelId),
    /// Close the tunnel; streams in it are lost. The pool has forgotten it.
    Close(TunnelId, Closed),
}

/// Why the pool closes a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// Without a stream for the idle time.
    Idle,
    /// It took no new streams any more, and its last one ended.
    Retired,
    /// It did not answer a PING.
    Silent,
    /// Its pod is gone.
    PodGone,
}

/// The machine. See the crate's contract.
#[derive(Debug)]
pub struct Pool {
    limits: Limits,
    next: u64,
    tunnels: BTreeMap<TunnelId, Tunnel>,
    by_key: BTreeMap<Key, Vec<TunnelId>>,
    waiting: BTreeMap<WaiterId, TunnelId>,
    commands: VecDeque<Command>,
}

impl Pool {
    /// An empty pool.
    #[must_use]
    pub const fn new(limits: Limits) -> Self {
        Self {
            limits,
            next: 0,
            tunnels: BTreeMap::new(),
            by_key: BTreeMap::new(),
            waiting: BTreeMap::new(),
            commands: VecDeque::new(),
        }
    }

    /// Takes an event in.
    pub fn handle(&mut self, input: Input, now: Instant) {
        match input {
            Input::Want(waiter, key) => self.want(waiter, key, now),
            Input::GaveUp(waiter) => self.gave_up(waiter),
            Input::Dialled(id) => self.dialled(id, now),
            Input::DialFailed(id) => self.dial_failed(id),
            Input::StreamEnded(id) => self.stream_ended(id, now),
            Input::Heard(id) => {
                if let Some(tunnel) = self.tunnels.get_mut(&id) {
                    tunnel.heard(now);
                }
            }
            Input::Takes(id, streams) => {
                if let Some(tunnel) = self.tunnels.get_mut(&id) {
                    tunnel.takes(streams);
                }
            }
            Input::GoingAway(id) => self.going_away(id),
            Input::Lost(id) => self.forget(id),
            Input::PodGone(uid) => self.pod_gone(&uid),
        }
    }

    /// Acts on every deadline that has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        let due: Vec<(TunnelId, Health)> = self
            .tunnels
            .iter()
            .map(|(id, tunnel)| (*id, tunnel.health(&self.limits, now)))
            .collect();
        for (id, health) in due {
            match health {
                Health::Well => {}
                Health::ProbeDue => self.ping(id, now),
                Health::Silent => self.close(id, Closed::Silent),
                Health::Idle => self.close(id, Closed::Idle),
            }
        }
    }

    /// The next deadline, and why it exists.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, &'static str)> {
        self.tunnels.values().filter_map(|tunnel| tunnel.deadline(&self.limits)).min()
    }

    /// The next thing to do.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    fn want(&mut self, waiter: WaiterId, key: Key, now: Instant) {
        let ids = self.by_key.get(&key).map_or(&[][..], Vec::as_slice);
        let usable = |id: &&TunnelId| {
            self.tunnels.get(*id).is_some_and(|tunnel| tunnel.has_room(&self.limits, now))
        };
        if let Some(&id) = ids.iter().find(usable) {
            self.assign(waiter, id, now);
            return;
        }
        let dialling = ids.iter().find(|id| {
            self.tunnels.get(*id).is_some_and(|tunnel| tunnel.has_room_when_dialled(&self.limits))
        });
        let id = if let Some(&id) = dialling { id } else { self.dial(key) };
        if let Some(tunnel) = self.tunnels.get_mut(&id) {
            tunnel.waiters.push(waiter);
            self.waiting.insert(waiter, id);
        }
    }

    fn dial(&mut self, key: Key) -> TunnelId {
        let id = TunnelId(self.next);
        self.next += 1;
        self.tunnels.insert(id, Tunnel::dialling(key.clone()));
        self.by_key.entry(key.clone()).or_default().push(id);
        self.commands.push_back(Command::Dial(id, key));
        id
    }

    fn assign(&mut self, waiter: WaiterId, id: TunnelId, now: Instant) {
        let Some(tunnel) = self.tunnels.get_mut(&id) else {
            return;
        };
        let stale = tunnel.assign(now);
        self.commands.push_back(Command::Assign(waiter, id));
        if stale {
            self.ping(id, now);
        }
    }

    fn ping(&mut self, id: TunnelId, now: Instant) {
        if self.tunnels.get_mut(&id).is_some_and(|tunnel| tunnel.probe(now)) {
            self.commands.push_back(Command::Ping(id));
        }
    }

    fn gave_up(&mut self, waiter: WaiterId) {
        let Some(id) = self.waiting.remove(&waiter) else {
            return;
        };
        if let Some(tunnel) = self.tunnels.get_mut(&id) {
            tunnel.waiters.retain(|other| *other != waiter);
        }
    }

    fn dialled(&mut self, id: TunnelId, now: Instant) {
        let Some(tunnel) = self.tunnels.get_mut(&id) else {
            // Its pod went while it was dialled.
            self.commands.push_back(Command::Close(id, Closed::PodGone));
            return;
        };
        for waiter in tunnel.dialled(now) {
            self.waiting.remove(&waiter);
            self.assign(waiter, id, now);
        }
    }

    fn dial_failed(&mut self, id: TunnelId) {
        let Some(tunnel) = self.tunnels.get_mut(&id) else {
            return;
        };
        for waiter in std::mem::take(&mut tunnel.waiters) {
            self.waiting.remove(&waiter);
            self.commands.push_back(Command::Fail(waiter, id));
        }
        self.forget(id);
    }

    fn stream_ended(&mut self, id: TunnelId, now: Instant) {
        let Some(tunnel) = self.tunnels.get_mut(&id) else {
            return;
        };
        tunnel.stream_ended(now);
        if tunnel.is_retired() {
            self.close(id, Closed::Retired);
        }
    }

    fn going_away(&mut self, id: TunnelId) {
        let Some(tunnel) = self.tunnels.get_mut(&id) else {
            return;
        };
        tunnel.going_away();
        if tunnel.is_retired() {
            self.close(id, Closed::Retired);
        }
    }

    fn pod_gone(&mut self, uid: &PodUid) {
        let gone: Vec<TunnelId> = self
            .tunnels
            .iter()
            .filter(|(_, tunnel)| tunnel.key.source == *uid)
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            if self.tunnels.get(&id).is_some_and(Tunnel::is_dialling) {
                self.dial_failed(id);
            } else {
                self.close(id, Closed::PodGone);
            }
        }
    }

    fn close(&mut self, id: TunnelId, why: Closed) {
        self.forget(id);
        self.commands.push_back(Command::Close(id, why));
    }

    fn forget(&mut self, id: TunnelId) {
        let Some(tunnel) = self.tunnels.remove(&id) else {
            return;
        };
        for waiter in tunnel.waiters {
            self.waiting.remove(&waiter);
            self.commands.push_back(Command::Fail(waiter, id));
        }
        if let Some(ids) = self.by_key.get_mut(&tunnel.key) {
            ids.retain(|other| *other != id);
            if ids.is_empty() {
                self.by_key.remove(&tunnel.key);
            }
        }
    }
}

#[cfg(test)]
mod tests;
