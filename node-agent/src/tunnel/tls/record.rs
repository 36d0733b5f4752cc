//! TLS 1.3 records (RFC 8446, section 5), sealed and opened where they stand: a tunnel's bytes are
//! copied once on their way into a record and once on their way out.

use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce,
    UnboundKey,
};
use rustls::ConnectionTrafficSecrets;

/// Content type, legacy version and length of a record, in bytes.
pub(super) const HEADER: usize = 5;

/// The most plaintext in one record, in bytes.
pub(super) const PLAINTEXT: usize = 1 << 14;

/// What follows the plaintext: its content type and the tag of all three ciphers, in bytes.
pub(super) const TRAILER: usize = 1 + TAG;

const TAG: usize = 16;

/// The most that may follow a header, in bytes (RFC 8446, section 5.2).
const CIPHERTEXT: usize = PLAINTEXT + 256;

/// Records sealed with one key. AES-GCM is good for 2^24.5 full ones (RFC 8446, section 5.5).
const RECORDS_PER_KEY: u64 = 1 << 23;

/// What a record holds (RFC 8446, appendix B.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    Alert,
    Handshake,
    Data,
}

/// Why a record cannot be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadRecord {
    #[error("a TLS record of this type is not expected now")]
    Unexpected,
    #[error("a TLS message has a value that is none of its kind")]
    Illegal,
    #[error("a TLS record is too long")]
    TooLong,
    #[error("a TLS record was changed on its way")]
    NotAuthentic,
    #[error("the other end ended the TLS session with an alert")]
    Alerted,
}

/// The key of one direction and the number of the next record.
pub(super) struct Key {
    aead: LessSafeKey,
    iv: [u8; NONCE_LEN],
    next: u64,
}

impl Content {
    const fn byte(self) -> u8 {
        match self {
            Self::Alert => 21,
            Self::Handshake => 22,
            Self::Data => 23,
        }
    }

    const fn of(byte: u8) -> Option<Self> {
        match byte {
            21 => Some(Self::Alert),
            22 => Some(Self::Handshake),
            23 => Some(Self::Data),
            _ => None,
        }
    }
}

impl BadRecord {
    /// The alert that says so (RFC 8446, section 6.2).
    pub(super) const fn alert(self) -> Option<u8> {
        match self {
            Self::Unexpected => Some(10),
            Self::NotAuthentic => Some(20),
            Self::TooLong => Some(22),
            Self::Illegal => Some(47),
            Self::Alerted => None,
        }
    }
}

impl Key {
    /// The key that the handshake or an update of it gave.
    pub(super) fn new(
        next: u64,
        secrets: &ConnectionTrafficSecrets,
    ) -> Result<Self, rustls::Error> {
        let (algorithm, key, iv): (&'static Algorithm, _, _) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(unusable()),
        };
        // rustls keeps the key in room for the longest of all.
        let key = key.as_ref().get(..algorithm.key_len()).ok_or_else(unusable)?;
        let key = UnboundKey::new(algorithm, key).map_err(|_length| unusable())?;
        let iv = iv.as_ref().try_into().map_err(|_length| unusable())?;
        Ok(Self { aead: LessSafeKey::new(key), iv, next })
    }

    /// Whether the key has done its share of records.
    pub(super) const fn is_worn(&self) -> bool {
        self.next >= RECORDS_PER_KEY
    }

    /// Seals a record in place: `record` has room for the header, then the plaintext, then room for
    /// the trailer.
    pub(super) fn seal(
        &mut self,
        content: Content,
        record: &mut [u8],
    ) -> Result<(), rustls::Error> {
        let at = record.len().checked_sub(TRAILER).ok_or_else(unusable)?;
        *record.get_mut(at).ok_or_else(unusable)? = content.byte();
        self.seal_inner(record)
    }

    /// Seals a record whose inner plaintext stands there whole: content, type, padding.
    pub(super) fn seal_inner(&mut self, record: &mut [u8]) -> Result<(), rustls::Error> {
        let (header, inner) = record.split_at_mut_checked(HEADER).ok_or_else(unusable)?;
        let length = u16::try_from(inner.len()).map_err(|_too_long| unusable())?;
        // Always the type of data and version 1.2 (RFC 8446, section 5.2).
        let [high, low] = length.to_be_bytes();
        let aad = [Content::Data.byte(), 3, 3, high, low];
        header.copy_from_slice(&aad);
        let at = inner.len().checked_sub(TAG).ok_or_else(unusable)?;
        let (inner, tag) = inner.split_at_mut(at);
        let sealed = self.aead.seal_in_place_separate_tag(self.nonce(), Aad::from(aad), inner);
        tag.copy_from_slice(sealed.map_err(|_refused| unusable())?.as_ref());
        self.next += 1;
        Ok(())
    }

    /// Opens a whole record in place; its plaintext then stands behind the header's place, this
    /// long.
    pub(super) fn open(&mut self, record: &mut [u8]) -> Result<(Content, usize), BadRecord> {
        let (header, inner) = record.split_at_mut_checked(HEADER).ok_or(BadRecord::Unexpected)?;
        let aad: [u8; HEADER] = (&*header).try_into().map_err(|_length| BadRecord::Unexpected)?;
        let opened = self.aead.open_in_place(self.nonce(), Aad::from(aad), inner);
        let opened = opened.map_err(|_refused| BadRecord::NotAuthentic)?;
        self.next += 1;
        // With its type and its padding (RFC 8446, section 5.4).
        if opened.len() > PLAINTEXT + 1 {
            return Err(BadRecord::TooLong);
        }
        // Padding is zeroes behind the type.
        let at = opened.iter().rposition(|byte| *byte != 0).ok_or(BadRecord::Unexpected)?;
        let content = opened.get(at).copied().and_then(Content::of);
        Ok((content.ok_or(BadRecord::Unexpected)?, at))
    }

    /// The number of the record, exclusive-or the IV (RFC 8446, section 5.3).
    fn nonce(&self) -> Nonce {
        let mut nonce = self.iv;
        let number = self.next.to_be_bytes();
        for (byte, other) in nonce.iter_mut().rev().zip(number.iter().rev()) {
            *byte ^= other;
        }
        Nonce::assume_unique_for_key(nonce)
    }
}

/// The length of the record that begins here, its header included, once that has come.
pub(super) fn length(received: &[u8]) -> Result<Option<usize>, BadRecord> {
    let &[content, _, _, high, low, ..] = received else {
        return Ok(None);
    };
    if content != Content::Data.byte() {
        return Err(BadRecord::Unexpected);
    }
    match usize::from(u16::from_be_bytes([high, low])) {
        length if length > CIPHERTEXT => Err(BadRecord::TooLong),
        length => Ok(Some(HEADER + length)),
    }
}

pub(super) fn unusable() -> rustls::Error {
    rustls::Error::General("unusable traffic key".into())
}
