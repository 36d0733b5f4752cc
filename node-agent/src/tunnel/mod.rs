//! The module `tunnel`.
