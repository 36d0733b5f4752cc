//! What comes from the other end: records opened in order, what its session says obeyed, and nothing
//! taken after the first thing that is wrong (RFC 8446, sections 4.6, 5 and 6).

use tokio::io::ReadBuf;

use super::handshake::Secrets;
use super::incoming::{Incoming, Opened};
use super::messages::{Message, Messages};
use super::record::{BadRecord, Key};

/// Records without data in a row, before they are taken for an attack: messages of the other end's
/// session, alerts that end nothing, and empty records.
pub(super) const IDLE_RECORDS: u32 = 32;

/// The receiving half of a stream.
pub(super) struct Receiver {
    incoming: Incoming,
    key: Key,
    messages: Messages,
    end: End,
    /// Records without data since the last one with some.
    idle: u32,
}

/// How the other end's half of the stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum End {
    #[default]
    Open,
    /// It sent close_notify: everything it sent has arrived.
    Finished,
    /// It did what it must not.
    Failed(BadRecord),
}

impl Receiver {
    pub(super) const fn new(incoming: Incoming, key: Key, messages: Messages, end: End) -> Self {
        Self { incoming, key, messages, end, idle: 0 }
    }

    /// Opens records that have come, and gives their data to the reader until it is full. Tells
    /// whether the other end asked for another key of this one.
    pub(super) fn deliver(
        &mut self,
        buf: &mut ReadBuf<'_>,
        next: &mut dyn Secrets,
    ) -> Result<bool, BadRecord> {
        let mut asked = false;
        loop {
            // What stands there then is not to be taken.
            if let End::Failed(bad) = self.end {
                return Err(bad);
            }
            self.incoming.take(buf);
            if buf.remaining() == 0 || self.is_finished() {
                return Ok(asked);
            }
            match self.open_next(next)? {
                Some(asks) => asked |= asks,
                None => return Ok(asked),
            }
        }
    }

    /// Opens records that have come until data stands there to be read, or no more of them. Tells
    /// whether the other end asked for another key of this one.
    pub(super) fn prepare(&mut self, next: &mut dyn Secrets) -> Result<bool, BadRecord> {
        let mut asked = false;
        loop {
            if let End::Failed(bad) = self.end {
                return Err(bad);
            }
            self.incoming.taken(0);
            if !self.incoming.data().is_empty() || self.is_finished() {
                return Ok(asked);
            }
            match self.open_next(next)? {
                Some(asks) => asked |= asks,
                None => return Ok(asked),
            }
        }
    }

    /// The data that stands there.
    pub(super) fn data(&self) -> &[u8] {
        self.incoming.data()
    }

    /// So much of it was dealt with.
    pub(super) fn consume(&mut self, n: usize) {
        self.incoming.taken(n);
    }

    fn open_next(&mut self, next: &mut dyn Secrets) -> Result<Option<bool>, BadRecord> {
        self.open(next).inspect_err(|bad| self.end = End::Failed(*bad))
    }

    /// Whether the other end has said that nothing more comes.
    pub(super) fn is_finished(&self) -> bool {
        self.end == End::Finished
    }

    /// Room for more. Called when all data has been taken.
    pub(super) fn room(&mut self) -> &mut [u8] {
        self.incoming.room()
    }

    /// So many bytes were received into the room.
    pub(super) fn received(&mut self, n: usize) {
        self.incoming.received(n);
    }

    /// Opens one record, if one has come whole.
    fn open(&mut self, next: &mut dyn Secrets) -> Result<Option<bool>, BadRecord> {
        let Some(opened) = self.incoming.open(&mut self.key)? else { return Ok(None) };
        match opened {
            Opened::Handshake(said) => {
                self.messages.add(&said);
                return self.obey(next).map(Some);
            }
            Opened::Data(_) | Opened::Alert(_) if self.messages.is_amid_one() => {
                return Err(BadRecord::Unexpected);
            }
            Opened::Data(0) => self.count_idle()?,
            Opened::Data(_) => self.idle = 0,
            Opened::Alert(alert) => self.heed(alert)?,
        }
        Ok(Some(false))
    }

    /// Does what the other end's session says.
    fn obey(&mut self, next: &mut dyn Secrets) -> Result<bool, BadRecord> {
        let mut asks = false;
        while let Some(message) = self.messages.next()? {
            self.count_idle()?;
            if let Message::KeyUpdate { asked } = message {
                let key = next.next_to_open().and_then(|secrets| Key::new(0, &secrets));
                self.key = key.map_err(|_refused| BadRecord::Unexpected)?;
                asks |= asked;
            }
        }
        Ok(asks)
    }

    /// The level means nothing (RFC 8446, section 6).
    fn heed(&mut self, [_level, what]: [u8; 2]) -> Result<(), BadRecord> {
        match what {
            0 => self.end = End::Finished,
            // user_canceled; close_notify follows (RFC 8446, section 6.1).
            90 => self.count_idle()?,
            _ => return Err(BadRecord::Alerted),
        }
        Ok(())
    }

    const fn count_idle(&mut self) -> Result<(), BadRecord> {
        if self.idle >= IDLE_RECORDS {
            return Err(BadRecord::Unexpected);
        }
        self.idle += 1;
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn holds_a_buffer(&self) -> bool {
        self.incoming.holds_a_buffer()
    }

    #[cfg(test)]
    pub(super) const fn idle(&self) -> u32 {
        self.idle
    }
}
