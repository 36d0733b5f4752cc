//! What is to be sent: a lent buffer with sealed records, then one that is being filled.

use super::record::{Content, HEADER, Key, PLAINTEXT, TRAILER, unusable};
use crate::tunnel::buffer;

/// A buffer that is lent while anything stands in it.
#[derive(Default)]
pub(super) struct Outgoing {
    buffer: Vec<u8>,
    /// Sealed and not sent: `buffer[sent..sealed]`.
    sent: usize,
    sealed: usize,
    /// Plaintext in the record that begins at `sealed`.
    staged: usize,
    closed: bool,
}

impl Outgoing {
    /// Whether nothing can be staged before something is sent.
    pub(super) fn is_full(&self) -> bool {
        !self.buffer.is_empty() && self.room() == 0
    }

    /// How much plaintext the record that is being filled can still take.
    fn room(&self) -> usize {
        let behind = self.buffer.len().saturating_sub(self.sealed + HEADER + TRAILER);
        // A full record is sealed at once; a last, short one is not worth its trailer.
        let whole = if behind < PLAINTEXT { 0 } else { PLAINTEXT };
        whole.saturating_sub(self.staged)
    }

    /// Stages as much as fits, and seals the records that are full.
    pub(super) fn stage(&mut self, key: &mut Key, data: &[u8]) -> Result<usize, rustls::Error> {
        if self.buffer.is_empty() {
            self.buffer = buffer::lend();
        }
        let mut rest = data;
        while !rest.is_empty() {
            let fits = self.room().min(rest.len());
            if fits == 0 {
                break;
            }
            let (part, left) = rest.split_at(fits);
            let at = self.sealed + HEADER + self.staged;
            self.buffer.get_mut(at..at + fits).ok_or_else(unusable)?.copy_from_slice(part);
            self.staged += fits;
            rest = left;
            if self.staged == PLAINTEXT {
                self.seal(key)?;
            }
        }
        Ok(data.len() - rest.len())
    }

    /// Seals what is staged.
    pub(super) fn seal(&mut self, key: &mut Key) -> Result<(), rustls::Error> {
        if self.staged > 0 {
            self.seal_as(key, Content::Data, self.staged)?;
        }
        Ok(())
    }

    /// Seals a short message of another kind. Called with nothing staged or unsent.
    pub(super) fn say(
        &mut self,
        key: &mut Key,
        content: Content,
        message: &[u8],
    ) -> Result<(), rustls::Error> {
        if self.buffer.is_empty() {
            self.buffer = buffer::lend();
        }
        let at = self.sealed + HEADER;
        let room = self.buffer.get_mut(at..at + message.len()).ok_or_else(unusable)?;
        room.copy_from_slice(message);
        self.seal_as(key, content, message.len())
    }

    /// Says the last thing.
    pub(super) fn close(&mut self, key: &mut Key, message: &[u8]) -> Result<(), rustls::Error> {
        self.closed = true;
        self.say(key, Content::Alert, message)
    }

    pub(super) const fn is_closed(&self) -> bool {
        self.closed
    }

    fn seal_as(
        &mut self,
        key: &mut Key,
        content: Content,
        length: usize,
    ) -> Result<(), rustls::Error> {
        let end = self.sealed + HEADER + length + TRAILER;
        let record = self.buffer.get_mut(self.sealed..end).unwrap_or_default();
        key.seal(content, record)?;
        (self.sealed, self.staged) = (end, 0);
        Ok(())
    }

    /// What is sealed and not sent.
    pub(super) fn unsent(&self) -> &[u8] {
        self.buffer.get(self.sent..self.sealed).unwrap_or_default()
    }

    /// So much was sent. The buffer goes back when nothing is left in it.
    pub(super) fn sent(&mut self, n: usize) {
        self.sent += n;
        if self.sent == self.sealed && self.staged == 0 {
            (self.sent, self.sealed) = (0, 0);
            buffer::take_back(std::mem::take(&mut self.buffer));
        }
    }

    #[cfg(test)]
    pub(super) const fn staged(&self) -> usize {
        self.staged
    }

    #[cfg(test)]
    pub(super) fn holds_a_buffer(&self) -> bool {
        self.buffer.capacity() > 0
    }
}
