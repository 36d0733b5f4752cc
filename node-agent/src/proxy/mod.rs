//! The module `proxy`.
