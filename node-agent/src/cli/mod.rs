//! The module `cli`.
#[cfg(test)]
pub(crate) mod golden;
