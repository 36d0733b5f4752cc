//! The cases. Each says in a few words what it saw.

pub(crate) mod crowd;
pub(crate) mod enrol;
pub(crate) mod ephemeral;
mod held;
pub(crate) mod install;
pub(crate) mod lifecycle;
pub(crate) mod marks;
pub(crate) mod objects;
mod opening;
pub(crate) mod outside;
pub(crate) mod plugin;
pub(crate) mod policy;
pub(crate) mod ports;
pub(crate) mod probes;
pub(crate) mod reboot;
pub(crate) mod relics;
pub(crate) mod rotate;
pub(crate) mod speed;
pub(crate) mod told;
pub(crate) mod traffic;
pub(crate) mod upheaval;

/// The namespace that is opted in and out.
const SHOP: &str = "shop";

/// The namespace that is not.
const STREET: &str = "street";

/// Servers and clients of [`SHOP`].
const PODS: usize = 4;
