//! What the other end's session says after the handshake (RFC 8446, section 4.6), put together from
//! records.

use super::record::BadRecord;

/// `NewSessionTicket` (RFC 8446, section 4.6.1).
const TICKET: u8 = 4;

/// `KeyUpdate` (RFC 8446, section 4.6.3).
const UPDATE: u8 = 24;

/// Type and length of a message, in bytes.
const HEADER: usize = 4;

/// The longest message that is waited for, in bytes. Tickets have some hundred.
const LONGEST: usize = 1 << 16;

/// One message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Message {
    /// To resume the session with. This end never does: it did not offer to (RFC 8446, section
    /// 4.2.9), but a server may send one all the same.
    Ticket,
    /// From here on the other end seals with its next key.
    KeyUpdate {
        /// It wants this end to do so too.
        asked: bool,
    },
}

/// The messages that have come.
pub(super) struct Messages {
    /// Whether the other end is the server, which alone may send tickets.
    from_server: bool,
    /// What was not read yet.
    rest: Vec<u8>,
}

impl Messages {
    pub(super) const fn new(from_server: bool) -> Self {
        Self { from_server, rest: Vec::new() }
    }

    /// Takes what stood in a record.
    pub(super) fn add(&mut self, said: &[u8]) {
        self.rest.extend_from_slice(said);
    }

    /// Whether a message has come in part. Nothing else may come before the rest of it.
    pub(super) const fn is_amid_one(&self) -> bool {
        !self.rest.is_empty()
    }

    /// The next whole message.
    pub(super) fn next(&mut self) -> Result<Option<Message>, BadRecord> {
        let &[kind, a, b, c, ref body @ ..] = self.rest.as_slice() else { return Ok(None) };
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        let message = match (kind, body) {
            (TICKET, _) if self.from_server && length <= LONGEST => Message::Ticket,
            // Its key seals what follows: nothing stands behind it in its record (section 5.1).
            (UPDATE, [] | [0 | 1]) if length == 1 => Message::KeyUpdate { asked: body == [1] },
            (UPDATE, [_]) if length == 1 => return Err(BadRecord::Illegal),
            _ => return Err(BadRecord::Unexpected),
        };
        if body.len() < length {
            return Ok(None);
        }
        self.rest.drain(..HEADER + length);
        if self.rest.is_empty() {
            self.rest = Vec::new();
        }
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tickets_are_read_over_however_they_are_cut_into_records() {
        let ticket = [&[TICKET, 0, 1, 0][..], &[7; 256]].concat();
        let all = [&ticket[..], &ticket, &[UPDATE, 0, 0, 1, 1]].concat();
        for at in 1..all.len() {
            let mut messages = Messages::new(true);
            let mut seen = Vec::new();
            for part in [&all[..at], &all[at..]] {
                messages.add(part);
                while let Some(message) = messages.next().unwrap() {
                    seen.push(message);
                }
            }
            let update = Message::KeyUpdate { asked: true };
            assert_eq!(seen, [Message::Ticket, Message::Ticket, update], "cut at {at}");
            assert!(!messages.is_amid_one());
        }
    }

    #[test]
    fn what_may_not_come_is_refused_at_once() {
        let refused = [
            (false, &[TICKET, 0, 0, 1][..], BadRecord::Unexpected), // a client has none to give
            (true, &[TICKET, 1, 0, 1], BadRecord::Unexpected),      // too long to be waited for
            (true, &[UPDATE, 0, 0, 2], BadRecord::Unexpected),
            (true, &[UPDATE, 0, 0, 1, 2], BadRecord::Illegal),
            // Under a key that is gone.
            (true, &[UPDATE, 0, 0, 1, 0, TICKET], BadRecord::Unexpected),
            (true, &[1, 0, 0, 0], BadRecord::Unexpected), // ClientHello
        ];
        for (from_server, said, why) in refused {
            let mut messages = Messages::new(from_server);
            messages.add(said);
            assert_eq!(messages.next(), Err(why), "{said:?}");
        }
    }
}
