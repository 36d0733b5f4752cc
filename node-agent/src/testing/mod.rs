//! The module `testing`.
