//! The module `pki`.
