//! The module `admin`.
