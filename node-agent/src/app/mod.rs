//! x
mod adapt;
pub(crate) use adapt::{FirstCertificates, Served};
