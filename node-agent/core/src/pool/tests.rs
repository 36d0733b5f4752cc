//! A pool is a list of inputs with the commands expected.

use super::*;

const LIMITS: Limits = Limits {
    max_streams: 2,
    idle: Duration::from_secs(300),
    ping_interval: Duration::from_secs(10),
    ping_timeout: Duration::from_secs(5),
};

#[test]
fn flows_of_one_key_share_a_dial_and_a_tunnel() {
    let mut pool = Driver::new();
    assert_eq!(pool.want(1, "a"), [dial(0, "a")]);
    assert_eq!(pool.want(2, "a"), []);
    assert_eq!(pool.put(Input::Dialled(TunnelId(0))), [assign(1, 0), assign(2, 0)]);
}

#[test]
fn a_full_tunnel_gets_a_second_one_beside_it_and_serves_again_when_it_has_room() {
    let mut pool = Driver::new();
    pool.open(0, "a");
    assert_eq!(pool.want(1, "a"), [assign(1, 0)]);
    assert_eq!(pool.want(2, "a"), [dial(1, "a")]);
    assert_eq!(pool.put(Input::StreamEnded(TunnelId(0))), []);
    assert_eq!(pool.want(3, "a"), [assign(3, 0)]);
}

#[test]
fn more_waiters_than_a_tunnel_holds_dial_another() {
    let mut pool = Driver::new();
    assert_eq!(pool.want(1, "a"), [dial(0, "a")]);
    assert_eq!(pool.want(2, "a"), []);
    assert_eq!(pool.want(3, "a"), [dial(1, "a")]);
}

#[test]
fn other_identities_addresses_and_pods_never_share_a_tunnel() {
    let mut pool = Driver::new();
    pool.open(0, "a");
    for (waiter, other) in [(11, "b"), (12, "c")] {
        let commands = pool.want(waiter, other);
        assert!(matches!(commands.as_slice(), [Command::Dial(..)]), "{commands:?}");
    }
    let mut reused = key("a");
    reused.destination = PodUid::parse("the-next-pod-at-this-address").unwrap();
    let commands = pool.put(Input::Want(WaiterId(13), reused));
    assert!(matches!(commands.as_slice(), [Command::Dial(..)]), "{commands:?}");
}

#[test]
fn a_failed_dial_fails_its_waiters_only_and_the_next_flow_dials_again() {
    let mut pool = Driver::new();
    pool.want(1, "a");
    pool.want(2, "a");
    pool.put(Input::GaveUp(WaiterId(2)));
    let failed = Command::Fail(WaiterId(1), TunnelId(0));
    assert_eq!(pool.put(Input::DialFailed(TunnelId(0))), [failed]);
    assert_eq!(pool.want(3, "a"), [dial(1, "a")]);
}

#[test]
fn a_tunnel_that_is_going_away_takes_no_stream_and_closes_with_its_last_one() {
    let mut pool = Driver::new();
    pool.open(0, "a");
    assert_eq!(pool.put(Input::GoingAway(TunnelId(0))), []);
    assert_eq!(pool.want(1, "a"), [dial(1, "a")]);
    let closed = Command::Close(TunnelId(0), Closed::Retired);
    assert_eq!(pool.put(Input::StreamEnded(TunnelId(0))), [closed]);
}

#[test]
fn a_silent_tunnel_is_probed_and_lost_when_it_does_not_answer() {
    let mut pool = Driver::new();
    pool.open(0, "a");
    assert_eq!(pool.advance(10), [Command::Ping(TunnelId(0))]);
    assert_eq!(pool.advance(4), []);
    assert_eq!(pool.advance(1), [Command::Close(TunnelId(0), Closed::Silent)]);
    assert_eq!(pool.want(1, "a"), [dial(1, "a")]);
}

#[test]
fn a_tunnel_that_answers_lives_on() {
    let mut pool = Driver::new();
    pool.open(0, "a");
    assert_eq!(pool.advance(10), [Command::Ping(TunnelId(0))]);
    pool.put(Input::Heard(TunnelId(0)));
    assert_eq!(pool.advance(5), []);
    assert_eq!(pool.advance(5), [Command::Ping(TunnelId(0))]);
}

#[test]
fn anything_that_came_after_the_ping_is_as_good_as_its_answer_and_what_came_before_is_not() {
    let mut pool = Driver::new();
    pool.open(0, "a");
    let before = pool.now;
    assert_eq!(pool.advance(10), [Command::Ping(TunnelId(0))]);
    pool.machine.handle(Input::Heard(TunnelId(0)), before);
    assert_eq!(pool.advance(4), []);
    pool.put(Input::Heard(TunnelId(0)));
    assert_eq!(pool.advance(4), []);
    pool.machine.handle(Input::Heard(TunnelId(0)), before);
    assert_eq!(pool.advance(6), [Command::Ping(TunnelId(0))]);
    assert_eq!(pool.advance(5), [Command::Close(TunnelId(0), Closed::Silent)]);
}

#[test]
fn a_peer_that_takes_fewer_streams_gets_a_second_tunnel_earlier() {
    let mut pool = Driver::new();
    pool.open(0, "a");
    pool.put(Input::Takes(TunnelId(0), 1));
    assert_eq!(pool.want(1, "a"), [dial(1, "a")]);
    pool.put(Input::Takes(TunnelId(0), 7));
    assert_eq!(pool.want(2, "a"), [assign(2, 0)], "its room is this end's again");
    assert_eq!(pool.want(3, "a"), [], "it waits for the one being dialled");
}

#[test]
fn a_tunnel_that_was_silent_is_probed_together_with_its_next_stream() {
    let mut pool = Driver::new();
    pool.open(0, "a");
    pool.advance(2);
    assert_eq!(pool.want(1, "a"), [assign(1, 0), Command::Ping(TunnelId(0))]);
    assert_eq!(pool.advance(5), [Command::Close(TunnelId(0), Closed::Silent)]);
}

#[test]
fn a_tunnel_that_leaves_a_ping_unanswered_for_a_second_gets_no_new_stream_until_it_is_heard() {
    let mut pool = Driver::new();
    pool.open(0, "a");
    pool.put(Input::StreamEnded(TunnelId(0)));
    assert_eq!(pool.advance(10), [Command::Ping(TunnelId(0))]);
    assert_eq!(pool.want(1, "a"), [assign(1, 0)]);
    pool.advance(1);
    assert_eq!(pool.want(2, "a"), [dial(1, "a")]);
    pool.put(Input::Heard(TunnelId(0)));
    assert_eq!(pool.want(3, "a"), [assign(3, 0)]);
}

#[test]
fn a_tunnel_without_streams_closes_after_the_idle_time_and_not_before() {
    let mut pool = Driver::new();
    pool.open(0, "a");
    pool.put(Input::StreamEnded(TunnelId(0)));
    for _ in 0..29 {
        pool.advance(10);
        pool.put(Input::Heard(TunnelId(0)));
    }
    assert_eq!(pool.advance(10), [Command::Close(TunnelId(0), Closed::Idle)]);
    assert_eq!(pool.machine.poll_timeout(), None);
}

#[test]
fn the_tunnels_of_a_pod_that_is_gone_close_and_its_dials_fail() {
    let mut pool = Driver::new();
    pool.open(0, "a");
    pool.want(7, "b");
    let commands = pool.put(Input::PodGone(key("a").source));
    assert_eq!(
        commands,
        [Command::Close(TunnelId(0), Closed::PodGone), Command::Fail(WaiterId(7), TunnelId(1))]
    );
    let late = Command::Close(TunnelId(1), Closed::PodGone);
    assert_eq!(pool.put(Input::Dialled(TunnelId(1))), [late]);
}

#[test]
fn any_sequence_of_inputs_answers_every_waiter_once_and_overfills_no_tunnel() {
    for seed in 0..300_u64 {
        exercise(seed);
    }
}

/// A random walk, seeded; the driver's side is modelled by `streams`.
fn exercise(seed: u64) {
    let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut roll = move |n: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % n
    };
    let mut pool = Driver::new();
    let mut streams: BTreeMap<TunnelId, u32> = BTreeMap::new();
    let mut dialling = Vec::new();
    let mut open_waiters = std::collections::BTreeSet::new();
    let mut next_waiter = 0;
    for _ in 0..200 {
        let tunnel = TunnelId(roll(6));
        let commands = match roll(9) {
            0..=2 => {
                next_waiter += 1;
                open_waiters.insert(WaiterId(next_waiter));
                pool.want(next_waiter, ["a", "b"][usize::try_from(roll(2)).unwrap()])
            }
            3 => match dialling.pop() {
                Some(id) => pool.put(Input::Dialled(id)),
                None => Vec::new(),
            },
            4 => match dialling.pop() {
                Some(id) => pool.put(Input::DialFailed(id)),
                None => Vec::new(),
            },
            5 => match streams.get_mut(&tunnel) {
                Some(count) if *count > 0 => {
                    *count -= 1;
                    pool.put(Input::StreamEnded(tunnel))
                }
                _ => Vec::new(),
            },
            6 => pool.put(Input::GoingAway(tunnel)),
            7 => {
                streams.remove(&tunnel);
                pool.put(Input::Lost(tunnel))
            }
            _ => pool.advance(roll(8)),
        };
        for command in commands {
            match command {
                Command::Dial(id, _) => dialling.push(id),
                Command::Assign(waiter, id) => {
                    assert!(open_waiters.remove(&waiter), "seed {seed}: answered twice");
                    let count = streams.entry(id).or_default();
                    *count += 1;
                    assert!(*count <= LIMITS.max_streams, "seed {seed}: overfilled");
                }
                Command::Fail(waiter, id) => {
                    assert!(open_waiters.remove(&waiter), "seed {seed}: answered twice");
                    dialling.retain(|other| *other != id);
                }
                Command::Ping(_) => {}
                Command::Close(id, _) => {
                    streams.remove(&id);
                }
            }
        }
    }
    for id in dialling {
        for command in pool.put(Input::DialFailed(id)) {
            if let Command::Fail(waiter, _) = command {
                assert!(open_waiters.remove(&waiter), "seed {seed}: answered twice");
            }
        }
    }
    assert!(open_waiters.is_empty(), "seed {seed}: never answered: {open_waiters:?}");
}

struct Driver {
    machine: Pool,
    now: Instant,
}

impl Driver {
    #[expect(clippy::disallowed_methods, reason = "the origin of a test's clock")]
    fn new() -> Self {
        Self { machine: Pool::new(LIMITS), now: Instant::now() }
    }

    fn put(&mut self, input: Input) -> Vec<Command> {
        self.machine.handle(input, self.now);
        std::iter::from_fn(|| self.machine.poll_command()).collect()
    }

    fn want(&mut self, waiter: u64, name: &str) -> Vec<Command> {
        self.put(Input::Want(WaiterId(waiter), key(name)))
    }

    /// Dials a tunnel for one waiter and opens it.
    #[track_caller]
    fn open(&mut self, id: u64, name: &str) {
        assert_eq!(self.want(1000 + id, name), [dial(id, name)]);
        assert_eq!(self.put(Input::Dialled(TunnelId(id))), [assign(1000 + id, id)]);
    }

    fn advance(&mut self, seconds: u64) -> Vec<Command> {
        self.now += Duration::from_secs(seconds);
        self.machine.handle_timeout(self.now);
        std::iter::from_fn(|| self.machine.poll_command()).collect()
    }
}

fn key(name: &str) -> Key {
    Key {
        source: PodUid::parse("client").unwrap(),
        destination: PodUid::parse(name).unwrap(),
        address: "10.0.0.2".parse().unwrap(),
        identity: SpiffeId::parse(&format!("spiffe://td/ns/shop/sa/{name}")).unwrap(),
    }
}

fn dial(id: u64, name: &str) -> Command {
    Command::Dial(TunnelId(id), key(name))
}

fn assign(waiter: u64, id: u64) -> Command {
    Command::Assign(WaiterId(waiter), TunnelId(id))
}
