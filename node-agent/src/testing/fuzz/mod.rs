//! What fuzzing drives: functions of arbitrary bytes that panic when something is not as it must be.
//! `cargo xtask fuzz TARGET` lets libFuzzer look for such bytes; `cargo test` replays the committed
//! ones, so that what was found once stays mended.
//!
//! # Adding a target
//!
//! 1. Write `pub fn NAME(bytes: &[u8])` in a file of its own beside this one, or in `adit-core`
//!    behind its feature `testing`, and add it to [`TARGETS`].
//! 2. Copy `tests/fuzz/fuzz_targets/pool.rs` to `NAME.rs`, and its `[[bin]]` in
//!    `tests/fuzz/Cargo.toml`.
//! 3. Put seeds that cover the grammar into `tests/fuzz/corpus/NAME/`, run
//!    `cargo xtask fuzz NAME --seconds 60`, then `cargo xtask fuzz NAME --merge`, and commit what
//!    that adds.
//! 4. A finding lands in `tests/fuzz/artifacts/NAME/`: commit it to the corpus, named after what it
//!    is about, with what mends it.
//!
//! The test `fuzz_corpus` says which of these is missing.
#![expect(clippy::panic, reason = "a finding must end the run")]

mod choices;
mod connect;
mod http2;
mod manifests;
mod pool;
mod spiffe_id;
mod tls;

pub use connect::connect;
pub use http2::{framing, http2};
pub use manifests::manifests;
pub use pool::pool;
pub use spiffe_id::spiffe_id;
pub use tls::tls;

/// A function of arbitrary bytes.
pub type Target = fn(&[u8]);

/// All targets by name.
pub const TARGETS: &[(&str, Target)] = &[
    ("connect", connect),
    ("enrolment", adit_core::enrolment::walk),
    ("framing", framing),
    ("http2", http2),
    ("manifests", manifests),
    ("policy", adit_core::policy::check),
    ("pool", pool),
    ("spiffe_id", spiffe_id),
    ("tls", tls),
];

/// Runs a target.
///
/// # Panics
/// If there is no target of this name, or it has found something.
pub fn run(name: &str, bytes: &[u8]) {
    let Some((_, target)) = TARGETS.iter().find(|(known, _)| *known == name) else {
        panic!("there is no fuzz target {name:?}");
    };
    target(bytes);
}
