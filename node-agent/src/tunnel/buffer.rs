//! Buffers that a thread lends to whoever moves bytes at the moment, so that an idle tunnel or flow
//! holds none.

use std::cell::RefCell;

/// What one buffer holds, in bytes: four full TLS records and a few short ones.
pub(super) const SIZE: usize = 4 * (16 * 1024 + 64);

/// How many unused buffers a thread keeps.
const KEPT: usize = 2;

thread_local! {
    static UNUSED: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// Lends a buffer of [`SIZE`] bytes of no particular content.
pub(super) fn lend() -> Vec<u8> {
    UNUSED.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; SIZE])
}

/// Takes a buffer back. One that is of another size is let go instead.
pub(super) fn take_back(buffer: Vec<u8>) {
    UNUSED.with_borrow_mut(|unused| {
        if buffer.len() == SIZE && unused.len() < KEPT {
            unused.push(buffer);
        }
    });
}
