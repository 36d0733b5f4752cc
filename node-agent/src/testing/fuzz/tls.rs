//! The records of a tunnel after its handshake: see [`crate::tunnel::walk_records`].

/// Records of any kind, in any order and any pieces.
///
/// # Panics
/// If the receiving end hands out what it must not, takes a bad record or refuses a good one.
pub fn tls(bytes: &[u8]) {
    crate::tunnel::walk_records(bytes);
}
