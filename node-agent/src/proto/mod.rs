//! The module `proto`.
