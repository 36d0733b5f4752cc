//! adit's node agent: the drivers around [`adit_core`]. The layers are listed in ARCHITECTURE.md
//! and checked by `cargo xtask arch`.

pub mod admin;
pub mod announce;
pub mod app;
pub mod ca;
pub mod cli;
pub mod cni;
pub mod config;
pub mod datapath;
pub mod discovery;
pub mod enrol;
pub mod identity;
pub mod observer;
pub mod pki;
pub mod proto;
pub mod proxy;
pub mod shutdown;
pub mod sys;
pub mod telemetry;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod tunnel;
pub mod worker;
