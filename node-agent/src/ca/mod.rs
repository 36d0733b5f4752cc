//! The module `ca`.
