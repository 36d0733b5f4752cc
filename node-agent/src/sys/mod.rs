//! The module `sys`.
