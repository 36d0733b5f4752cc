//! pool/mod
