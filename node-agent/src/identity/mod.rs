//! The module `identity`.
