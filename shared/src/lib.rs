//! What both sides of the kernel boundary know: adit's eBPF programs and its node agent.
//!
//! Names of programs and maps ([`names`]), the values in those maps ([`key`], [`value`]), and the
//! decisions of the programs ([`steer`]), which are pure so that they are tested on the host.
#![no_std]
#![deny(missing_docs)]

pub mod key;
pub mod layout;
pub mod names;
#[cfg(feature = "user")]
mod pod;
pub mod steer;
pub mod value;
