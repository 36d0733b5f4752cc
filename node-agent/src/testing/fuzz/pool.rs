//! The pool of tunnels: inputs in any order that its driver can give, against a model of what the
//! driver sees.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use adit_core::identity::SpiffeId;
use adit_core::pool::{Closed, Command, Input, Key, Limits, Pool, TunnelId, WaiterId};
use adit_core::workload::PodUid;

use super::choices::Choices;

/// A sequence of inputs.
///
/// # Panics
/// If a flow is answered twice, never, or with a tunnel of another key; if a tunnel is given a
/// stream that it cannot take; or if a tunnel is closed for a reason that does not hold.
pub fn pool(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let mut driver = Driver::new(&mut choices);
    while !choices.is_empty() {
        driver.step(&mut choices);
    }
    driver.converge();
}

struct Driver {
    pool: Pool,
    limits: Limits,
    now: Instant,
    tunnels: BTreeMap<TunnelId, Tunnel>,
    waiters: BTreeMap<WaiterId, Waiter>,
    /// What the last input was about, where a command must have that cause.
    gone: Option<PodUid>,
}

struct Tunnel {
    key: Key,
    /// Streams at a time that the other end takes.
    takes: u32,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Dialling,
    Open { streams: u32, going: bool, idle_since: Instant, pinged: Option<Instant> },
    Over,
}

enum Waiter {
    Waits(Key),
    Answered,
    GaveUp,
}

impl Driver {
    fn new(choices: &mut Choices<'_>) -> Self {
        let limits = Limits {
            max_streams: 1 + u32::from(choices.byte() % 4),
            idle: Duration::from_secs(1) + choices.seconds(),
            ping_interval: Duration::from_secs(1) + choices.seconds() / 8,
            ping_timeout: Duration::from_secs(1) + choices.seconds() / 8,
        };
        Self {
            pool: Pool::new(limits),
            limits,
            now: Instant::now(),
            tunnels: BTreeMap::new(),
            waiters: BTreeMap::new(),
            gone: None,
        }
    }

    fn step(&mut self, choices: &mut Choices<'_>) {
        let any: Vec<TunnelId> = self.tunnels.keys().copied().collect();
        let dialling = self.ids(|state| state == State::Dialling);
        match choices.below(13) {
            0..=2 => self.want(key(choices)),
            3 => {
                let all: Vec<WaiterId> = self.waiters.keys().copied().collect();
                self.give_up(choices.of(&all));
            }
            4 | 5 => self.dialled(choices.of(&dialling)),
            6 => self.dial_failed(choices.of(&dialling)),
            7 => self.stream_ended(choices.of(&any)),
            8 => self.heard(choices.of(&any)),
            9 => self.going_away(choices.of(&any)),
            10 if choices.below(2) == 0 => self.lost(choices.of(&any)),
            10 => self.pod_gone(key(choices).source),
            11 => {
                let takes = u32::from(choices.byte() % 6);
                self.takes(choices.of(&any), takes);
            }
            _ => {
                let next = self.pool.poll_timeout().map(|(at, _)| at);
                let ahead = self.now + choices.seconds();
                self.pass(next.filter(|_| choices.below(2) == 0).unwrap_or(ahead));
            }
        }
    }

    fn want(&mut self, key: Key) {
        let waiter = WaiterId(self.waiters.len() as u64);
        self.waiters.insert(waiter, Waiter::Waits(key.clone()));
        self.put(Input::Want(waiter, key));
    }

    fn give_up(&mut self, waiter: Option<WaiterId>) {
        let Some(waiter) = waiter else { return };
        if let Some(state @ Waiter::Waits(_)) = self.waiters.get_mut(&waiter) {
            *state = Waiter::GaveUp;
        }
        self.put(Input::GaveUp(waiter));
    }

    fn dialled(&mut self, id: Option<TunnelId>) {
        let Some(id) = id else { return };
        let (idle_since, streams, going, pinged) = (self.now, 0, false, None);
        self.set(id, State::Open { streams, going, idle_since, pinged });
        self.put(Input::Dialled(id));
    }

    fn dial_failed(&mut self, id: Option<TunnelId>) {
        let Some(id) = id else { return };
        self.set(id, State::Over);
        self.put(Input::DialFailed(id));
    }

    /// Also of a tunnel that is closed: the stream's end and the close cross.
    fn stream_ended(&mut self, id: Option<TunnelId>) {
        let Some(id) = id else { return };
        let now = self.now;
        match self.tunnels.get_mut(&id).map(|tunnel| &mut tunnel.state) {
            Some(State::Open { streams, idle_since, .. }) if *streams > 0 => {
                *streams -= 1;
                *idle_since = now;
            }
            Some(State::Over) => {}
            Some(State::Open { .. } | State::Dialling) | None => return,
        }
        self.put(Input::StreamEnded(id));
    }

    fn heard(&mut self, id: Option<TunnelId>) {
        let Some(id) = id else { return };
        match self.tunnels.get_mut(&id).map(|tunnel| &mut tunnel.state) {
            Some(State::Open { pinged, .. }) => *pinged = None,
            Some(State::Over) => {}
            Some(State::Dialling) | None => return,
        }
        self.put(Input::Heard(id));
    }

    fn going_away(&mut self, id: Option<TunnelId>) {
        let Some(id) = id else { return };
        match self.tunnels.get_mut(&id).map(|tunnel| &mut tunnel.state) {
            Some(State::Open { going, .. }) => *going = true,
            Some(State::Over) => {}
            Some(State::Dialling) | None => return,
        }
        self.put(Input::GoingAway(id));
    }

    fn takes(&mut self, id: Option<TunnelId>, streams: u32) {
        let Some(id) = id else { return };
        match self.tunnels.get_mut(&id) {
            Some(Tunnel { state: State::Dialling, .. }) | None => return,
            Some(tunnel) => tunnel.takes = streams,
        }
        self.put(Input::Takes(id, streams));
    }

    fn lost(&mut self, id: Option<TunnelId>) {
        let Some(id) = id else { return };
        if self.state(id) != State::Dialling {
            self.set(id, State::Over);
            self.put(Input::Lost(id));
        }
    }

    /// A dial that is under way may still come through: see [`Command::Close`].
    fn pod_gone(&mut self, uid: PodUid) {
        let dialling = self.ids(|state| state == State::Dialling);
        let own = |id: &TunnelId| self.tunnels.get(id).is_some_and(|t| t.key.source == uid);
        let late: Vec<TunnelId> = dialling.into_iter().filter(own).collect();
        self.gone = Some(uid.clone());
        self.put(Input::PodGone(uid));
        for id in late {
            self.dialled(Some(id));
            assert_eq!(self.state(id), State::Over, "{id:?} was not closed");
        }
        self.gone = None;
    }

    fn pass(&mut self, to: Instant) {
        self.now = self.now.max(to);
        self.pool.handle_timeout(self.now);
        self.check();
        let next = self.pool.poll_timeout();
        assert!(next.is_none_or(|(at, _)| at > self.now), "a deadline that stays: {next:?}");
    }

    fn put(&mut self, input: Input) {
        self.pool.handle(input, self.now);
        self.check();
    }

    fn check(&mut self) {
        while let Some(command) = self.pool.poll_command() {
            match command {
                Command::Dial(id, key) => {
                    let tunnel = Tunnel { key, takes: u32::MAX, state: State::Dialling };
                    assert!(self.tunnels.insert(id, tunnel).is_none(), "{id:?} is used again");
                }
                Command::Assign(waiter, id) => self.assigned(waiter, id),
                Command::Fail(waiter, id) => {
                    let key = self.answer(waiter);
                    assert_eq!(self.tunnels.get(&id).map(|tunnel| &tunnel.key), Some(&key));
                }
                Command::Ping(id) => {
                    let Some(Tunnel { state: State::Open { pinged, .. }, .. }) =
                        self.tunnels.get_mut(&id)
                    else {
                        panic!("PING in {id:?}, which is not open");
                    };
                    assert!(pinged.is_none(), "two PINGs at once in {id:?}");
                    *pinged = Some(self.now);
                }
                Command::Close(id, why) => self.closed(id, why),
            }
        }
        self.check_waiters();
    }

    fn assigned(&mut self, waiter: WaiterId, id: TunnelId) {
        let key = self.answer(waiter);
        let max = self.limits.max_streams;
        let tunnel = self.tunnels.get_mut(&id).filter(|tunnel| tunnel.key == key);
        let Some(Tunnel { state: State::Open { streams, going: false, .. }, takes, .. }) = tunnel
        else {
            panic!("{waiter:?} was given {id:?}");
        };
        *streams += 1;
        assert!(*streams <= max.min(*takes), "{streams} streams in {id:?}");
    }

    fn closed(&mut self, id: TunnelId, why: Closed) {
        let State::Open { streams, going, idle_since, pinged } = self.state(id) else {
            panic!("{id:?} closed, which is not open");
        };
        let passed = |since: Instant| self.now.duration_since(since);
        let holds = match why {
            Closed::Idle => streams == 0 && passed(idle_since) >= self.limits.idle,
            Closed::Retired => going && streams == 0,
            Closed::Silent => pinged.is_some_and(|at| passed(at) >= self.limits.ping_timeout),
            Closed::PodGone => {
                self.tunnels.get(&id).is_some_and(|t| self.gone.as_ref() == Some(&t.key.source))
            }
        };
        assert!(holds, "{id:?} closed: {why:?}");
        self.set(id, State::Over);
    }

    /// Notes that a waiter is answered, and says what it waited for.
    fn answer(&mut self, waiter: WaiterId) -> Key {
        let state = self.waiters.get_mut(&waiter);
        let Some(Waiter::Waits(key)) = state.map(|it| std::mem::replace(it, Waiter::Answered))
        else {
            panic!("{waiter:?} is answered and does not wait");
        };
        key
    }

    /// Whoever waits, waits for a dial of its key, and every dial has room for those who do.
    fn check_waiters(&self) {
        let mut waiting: BTreeMap<&Key, u32> = BTreeMap::new();
        for waiter in self.waiters.values() {
            if let Waiter::Waits(key) = waiter {
                *waiting.entry(key).or_default() += 1;
            }
        }
        for (key, count) in waiting {
            let dials = self.tunnels.values();
            let dials = dials.filter(|it| it.key == *key && it.state == State::Dialling).count();
            let room = u32::try_from(dials).unwrap_or(u32::MAX) * self.limits.max_streams;
            assert!(count <= room, "{count} wait for {dials} dials of {key:?}");
        }
    }

    /// From here on everything answers, and every stream ends.
    fn converge(&mut self) {
        for (n, id) in self.ids(|state| state == State::Dialling).into_iter().enumerate() {
            if n % 2 == 0 { self.dialled(Some(id)) } else { self.dial_failed(Some(id)) }
        }
        let waits = self.waiters.values().any(|waiter| matches!(waiter, Waiter::Waits(_)));
        assert!(!waits, "a waiter was lost");
        for id in self.ids(|state| matches!(state, State::Open { .. })) {
            while matches!(self.state(id), State::Open { streams: 1.., .. }) {
                self.stream_ended(Some(id));
            }
        }
        let end = self.now + self.limits.idle + self.limits.ping_interval;
        while let Some((at, _)) = self.pool.poll_timeout() {
            self.pass(at);
            for id in self.ids(|state| matches!(state, State::Open { pinged: Some(_), .. })) {
                self.heard(Some(id));
            }
        }
        assert!(self.now <= end, "an idle tunnel stayed open");
        assert!(self.ids(|state| state != State::Over).is_empty(), "a tunnel was forgotten");
    }

    fn ids(&self, which: impl Fn(State) -> bool) -> Vec<TunnelId> {
        self.tunnels.iter().filter(|(_, it)| which(it.state)).map(|(id, _)| *id).collect()
    }

    fn state(&self, id: TunnelId) -> State {
        self.tunnels.get(&id).map_or(State::Over, |tunnel| tunnel.state)
    }

    fn set(&mut self, id: TunnelId, state: State) {
        if let Some(tunnel) = self.tunnels.get_mut(&id) {
            tunnel.state = state;
        }
    }
}

/// One of a few keys that differ in one part.
fn key(choices: &mut Choices<'_>) -> Key {
    let uid = |text| PodUid::parse(text);
    let identity = |account| SpiffeId::parse(&format!("spiffe://mesh/ns/shop/sa/{account}")).ok();
    let choice = choices.byte();
    let parts = (
        uid(if choice & 1 == 0 { "a" } else { "b" }),
        uid(if choice & 2 == 0 { "c" } else { "d" }),
        identity(if choice & 4 == 0 { "cart" } else { "till" }),
    );
    let (Some(source), Some(destination), Some(identity)) = parts else {
        panic!("a key of fixed texts");
    };
    let address = IpAddr::from([10, 0, 0, if choice & 8 == 0 { 1 } else { 2 }]);
    Key { source, destination, address, identity }
}
