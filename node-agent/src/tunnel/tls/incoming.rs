//! What has been received: a lent buffer with data that was opened and not taken yet, then records
//! that were not opened yet.

use tokio::io::ReadBuf;

use super::record::{self, BadRecord, Content, HEADER, Key};
use crate::tunnel::buffer;

/// A buffer that is lent while anything stands in it.
pub(super) struct Incoming {
    buffer: Vec<u8>,
    /// Data, opened and not taken: `buffer[data..data_end]`.
    data: usize,
    data_end: usize,
    /// Records, received and not opened: `buffer[records..end]`.
    records: usize,
    end: usize,
}

/// What an opened record was.
pub(super) enum Opened {
    /// So many bytes of data; they stand there to be taken.
    Data(usize),
    /// An alert: its level and what it says.
    Alert([u8; 2]),
    /// Of the handshake's protocol: messages or parts of some.
    Handshake(Vec<u8>),
}

impl Incoming {
    /// Begins with what came during the handshake.
    pub(super) fn new(data: &[u8], records: &[u8]) -> Self {
        let mut buffer = [data, records].concat();
        let (records, end) = (data.len(), buffer.len());
        if end > 0 {
            buffer.resize(end.max(buffer::SIZE), 0);
        }
        Self { buffer, data: 0, data_end: records, records, end }
    }

    /// Data that was opened and not taken.
    pub(super) fn data(&self) -> &[u8] {
        self.buffer.get(self.data..self.data_end).unwrap_or_default()
    }

    /// So much of the data was dealt with where it stands.
    pub(super) fn taken(&mut self, n: usize) {
        self.data = self.data_end.min(self.data + n);
        self.release_if_empty();
    }

    /// Gives data to the reader, as much as it has room for.
    pub(super) fn take(&mut self, buf: &mut ReadBuf<'_>) {
        let n = (self.data_end - self.data).min(buf.remaining());
        if n > 0 {
            buf.put_slice(self.buffer.get(self.data..self.data + n).unwrap_or_default());
            self.data += n;
        }
        self.release_if_empty();
    }

    /// Opens the next record, if it has come whole. Called when all data has been taken.
    pub(super) fn open(&mut self, key: &mut Key) -> Result<Option<Opened>, BadRecord> {
        let received = self.buffer.get_mut(self.records..self.end).unwrap_or_default();
        let Some(length) = record::length(received)? else { return Ok(None) };
        let Some(record) = received.get_mut(..length) else { return Ok(None) };
        let (content, plain) = key.open(record)?;
        let at = self.records + HEADER;
        self.records += length;
        if content == Content::Data {
            (self.data, self.data_end) = (at, at + plain);
            return Ok(Some(Opened::Data(plain)));
        }
        match (content, record.get(HEADER..HEADER + plain).unwrap_or_default()) {
            // One alert a record, and no empty record but of data (RFC 8446, section 5.1).
            (Content::Alert, &[level, what]) => Ok(Some(Opened::Alert([level, what]))),
            (Content::Handshake, said @ [_, ..]) => Ok(Some(Opened::Handshake(said.to_vec()))),
            _ => Err(BadRecord::Unexpected),
        }
    }

    /// Room for more. Called when all data has been taken.
    pub(super) fn room(&mut self) -> &mut [u8] {
        if self.buffer.is_empty() {
            self.buffer = buffer::lend();
        }
        // At most a part of one record.
        self.buffer.copy_within(self.records..self.end, 0);
        self.end -= self.records;
        (self.data, self.data_end, self.records) = (0, 0, 0);
        self.buffer.get_mut(self.end..).unwrap_or_default()
    }

    /// So many bytes were received into the room.
    pub(super) fn received(&mut self, n: usize) {
        self.end += n;
        self.release_if_empty();
    }

    fn release_if_empty(&mut self) {
        if self.data == self.data_end && self.records == self.end {
            buffer::take_back(std::mem::take(&mut self.buffer));
            (self.data, self.data_end, self.records, self.end) = (0, 0, 0, 0);
        }
    }

    #[cfg(test)]
    pub(super) fn holds_a_buffer(&self) -> bool {
        self.buffer.capacity() > 0
    }
}
