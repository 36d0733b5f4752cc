//! Composition of `adit run`.
