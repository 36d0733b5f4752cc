//! For fuzzing: records of any kind in any order and any pieces, good ones and bad ones, against a
//! model of what may come of them.
#![expect(clippy::expect_used, reason = "a finding must end the run")]

use rustls::ConnectionTrafficSecrets;
use rustls::crypto::cipher::{AeadKey, Iv};
use tokio::io::ReadBuf;

use super::handshake::Secrets;
use super::incoming::Incoming;
use super::messages::Messages;
use super::receiver::{End, IDLE_RECORDS, Receiver};
use super::record::{HEADER, Key, PLAINTEXT, TRAILER};

const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;
const TICKET: u8 = 4;
const UPDATE: u8 = 24;

/// Plays what the bytes say.
///
/// # Panics
/// If the receiver hands out anything but the data of the good records before the first bad one, all
/// of it and in order; if it takes a bad record; or if it refuses a good one.
pub(crate) fn walk(bytes: &[u8]) {
    let mut choices = bytes.iter().copied();
    let from_server = choices.next().unwrap_or(0) & 1 == 0;
    let mut peer = Peer::new(from_server);
    while let Some(choice) = choices.next() {
        peer.step(choice, &mut choices);
    }
    let mut steps = bytes.iter().rev().copied().cycle();
    let mut reader = Reader::new(from_server);
    while reader.step(&peer.wire, &mut || steps.next().unwrap_or(7)) {}
    reader.check(&peer);
}

/// The other end, and what must come of what it sends.
struct Peer {
    key: Key,
    epoch: u8,
    wire: Vec<u8>,
    from_server: bool,
    data: Vec<u8>,
    outcome: Outcome,
    idle: u32,
    /// Of a message that was sent in part.
    said: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// More may come.
    Open,
    /// The end was told.
    Finished,
    /// A record was bad.
    Refused,
    /// What is no record was sent: it is refused once enough of it has come.
    Garbled,
}

impl Peer {
    fn new(from_server: bool) -> Self {
        let (wire, data, said) = (Vec::new(), Vec::new(), Vec::new());
        let (outcome, idle) = (Outcome::Open, 0);
        Self { key: key(0), epoch: 0, wire, from_server, data, outcome, idle, said }
    }

    fn step(&mut self, choice: u8, choices: &mut impl Iterator<Item = u8>) {
        let mut next = || choices.next().unwrap_or(0);
        match choice % 12 {
            0..=2 => {
                let sizes = [1, 5, usize::from(next()), 0, 1000, PLAINTEXT - 1, PLAINTEXT];
                let size = sizes.get(usize::from(next()) % sizes.len()).copied().unwrap_or(1);
                self.record(DATA, &vec![next(); size], 0);
            }
            3 => self.record(DATA, &[next()], usize::from(next())),
            // At the limit of what a record may hold with its padding, and beyond it.
            4 => self.record(DATA, &[next()], PLAINTEXT - 3 + usize::from(next() % 8)),
            5 => self.record(HANDSHAKE, &[UPDATE, 0, 0, 1, next() % 3], 0),
            6 => {
                let ticket = [&[TICKET, 0, 0, 40][..], &[7; 40]].concat();
                let (from, to) = (usize::from(next() % 44), usize::from(next() % 45));
                self.record(HANDSHAKE, ticket.get(from..to).unwrap_or(&ticket), 0);
            }
            7 => {
                let said: Vec<u8> = (0..next() % 8).map(|_| next()).collect();
                self.record(HANDSHAKE, &said, 0);
            }
            8 => {
                let what = [0, 90, 90, 40].get(usize::from(next() % 4)).copied();
                self.record(ALERT, &[1, what.unwrap_or(0)], 0);
            }
            9 => {
                let said: Vec<u8> = (0..next() % 4).map(|_| next()).collect();
                self.record(next(), &said, usize::from(next() % 2));
            }
            10 => {
                let garbage = (0..=next() % 24).map(|_| next());
                self.wire.extend(garbage);
                self.conclude(Outcome::Garbled);
            }
            _ => {
                let at = self.wire.len() + HEADER;
                let before = (self.data.len(), self.outcome);
                self.record(DATA, b"changed on its way", 0);
                if let Some(byte) = self.wire.get_mut(at + usize::from(next() % 34)) {
                    *byte ^= next() | 1;
                }
                if before.1 == Outcome::Open {
                    self.data.truncate(before.0);
                    self.outcome = Outcome::Refused;
                }
            }
        }
    }

    /// Sends a record that is authentic, and says what comes of it.
    fn record(&mut self, content: u8, plain: &[u8], padding: usize) {
        // The largest that the header's length can tell without being refused for it.
        let padding = padding.min(PLAINTEXT + 256 - TRAILER - plain.len().min(PLAINTEXT));
        let inner = [plain, &[content], &vec![0; padding]].concat();
        let mut record = vec![0; HEADER + inner.len() + TRAILER - 1];
        record.splice(HEADER..HEADER + inner.len(), inner.iter().copied());
        self.key.seal_inner(&mut record).expect("a record that can be sealed");
        self.wire.extend(record);
        if self.outcome != Outcome::Open {
            return;
        }
        // Zeros at the end are padding whoever sent them, and the type is what stands before them
        // (RFC 8446, section 5.4).
        let told =
            inner.iter().rposition(|byte| *byte != 0).and_then(|at| inner.split_at_checked(at));
        let Some((plain, &[content, ..])) = told else {
            return self.conclude(Outcome::Refused);
        };
        if inner.len() > PLAINTEXT + 1 {
            return self.conclude(Outcome::Refused);
        }
        match (content, plain) {
            (HANDSHAKE, [_, ..]) => self.tell(plain),
            _ if !self.said.is_empty() => self.conclude(Outcome::Refused),
            (DATA, []) | (ALERT, [_, 90]) => self.idle(),
            (DATA, _) => {
                self.idle = 0;
                self.data.extend(plain);
            }
            (ALERT, [_, 0]) => self.conclude(Outcome::Finished),
            _ => self.conclude(Outcome::Refused),
        }
    }

    /// Messages of the session, whole or in part.
    fn tell(&mut self, said: &[u8]) {
        self.said.extend(said);
        while let &[kind, a, b, c, ref body @ ..] = self.said.as_slice() {
            let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            let update = kind == UPDATE;
            let good = match kind {
                TICKET => self.from_server && length <= 1 << 16,
                UPDATE => length == 1 && body.len() <= 1 && body.first().is_none_or(|b| *b < 2),
                _ => false,
            };
            if !good {
                return self.conclude(Outcome::Refused);
            }
            if body.len() < length {
                return;
            }
            self.said.drain(..4 + length);
            self.idle();
            if update && self.outcome == Outcome::Open {
                self.epoch = self.epoch.wrapping_add(1);
                self.key = key(self.epoch);
            }
        }
    }

    fn idle(&mut self) {
        self.idle += 1;
        if self.idle > IDLE_RECORDS {
            self.conclude(Outcome::Refused);
        }
    }

    /// The first conclusion counts.
    fn conclude(&mut self, outcome: Outcome) {
        if self.outcome == Outcome::Open {
            self.outcome = outcome;
        }
    }
}

/// This end.
struct Reader {
    receiver: Receiver,
    secrets: Epochs,
    got: Vec<u8>,
    fed: usize,
    failed: bool,
}

impl Reader {
    fn new(from_server: bool) -> Self {
        let incoming = Incoming::new(&[], &[]);
        let receiver = Receiver::new(incoming, key(0), Messages::new(from_server), End::Open);
        let (got, fed, failed) = (Vec::new(), 0, false);
        Self { receiver, secrets: Epochs(0), got, fed, failed }
    }

    /// Reads, or receives more; false when nothing is left to do.
    fn step(&mut self, wire: &[u8], choice: &mut impl FnMut() -> u8) -> bool {
        let mut room = vec![0; 1 + 64 * usize::from(choice())];
        let mut buf = ReadBuf::new(&mut room);
        let delivered = self.receiver.deliver(&mut buf, &mut self.secrets);
        self.failed |= delivered.is_err();
        self.got.extend(buf.filled());
        if !buf.filled().is_empty() {
            return true;
        }
        if self.failed || self.receiver.is_finished() {
            return false;
        }
        let left = wire.get(self.fed..).unwrap_or_default();
        let room = self.receiver.room();
        assert!(!room.is_empty(), "no room for the rest of a record");
        let n = left.len().min(room.len()).min(1 + 97 * usize::from(choice()));
        for (to, from) in room.iter_mut().zip(left.iter().take(n)) {
            *to = *from;
        }
        self.receiver.received(n);
        self.fed += n;
        n > 0
    }

    fn check(&mut self, peer: &Peer) {
        assert!(self.got == peer.data, "{} bytes came of {}", self.got.len(), peer.data.len());
        let (failed, finished) = (self.failed, self.receiver.is_finished());
        match peer.outcome {
            Outcome::Open => assert!(!failed && !finished, "failed: {failed}"),
            Outcome::Finished => assert!(!failed && finished, "failed: {failed}"),
            Outcome::Refused => assert!(failed && !finished, "it was taken"),
            Outcome::Garbled => assert!(!finished),
        }
        // Nothing follows a failure.
        let mut room = [0; 64];
        let mut buf = ReadBuf::new(&mut room);
        let again = self.receiver.deliver(&mut buf, &mut self.secrets);
        assert_eq!(again.is_err(), failed);
        assert!(buf.filled().is_empty());
    }
}

/// Keys by number.
struct Epochs(u8);

impl Secrets for Epochs {
    fn next_to_seal(&mut self) -> Result<ConnectionTrafficSecrets, rustls::Error> {
        self.next_to_open()
    }

    fn next_to_open(&mut self) -> Result<ConnectionTrafficSecrets, rustls::Error> {
        self.0 = self.0.wrapping_add(1);
        Ok(secrets(self.0))
    }
}

fn secrets(epoch: u8) -> ConnectionTrafficSecrets {
    let (key, iv) = (AeadKey::from([epoch; 32]), Iv::copy(&[epoch; 12]));
    ConnectionTrafficSecrets::Aes128Gcm { key, iv }
}

fn key(epoch: u8) -> Key {
    Key::new(0, &secrets(epoch)).expect("a key of the right length")
}
