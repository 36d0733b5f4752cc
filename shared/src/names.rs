//! Names of programs and maps, as the object file, the pins and the loader spell them.

/// Hash: network namespace cookie → [`crate::value::Enrolled`].
pub const ENROLLED: &str = "ENROLLED";
/// Socket storage: present on the agent's own sockets.
pub const AGENT_TAG: &str = "AGENT_TAG";
/// Socket map: slot ([`crate::steer::slot`]) → listener.
pub const LISTENERS: &str = "LISTENERS";
/// Per-CPU array: [`crate::key::Counter`] → count.
pub const COUNTERS: &str = "COUNTERS";
/// All maps.
pub const MAPS: [&str; 4] = [ENROLLED, AGENT_TAG, LISTENERS, COUNTERS];

/// The read-only global of the look-up program: [`crate::value::PodConfig`].
pub const POD: &str = "POD";

/// `cgroup/connect4`: marks the connections of enrolled pods.
pub const CONNECT4: &str = "connect4";
/// `cgroup/connect6`: the same for IPv6.
pub const CONNECT6: &str = "connect6";
/// `cgroup/bind4`: lets applications bind ports that the agent's accepted sockets occupy.
pub const BIND4: &str = "bind4";
/// `cgroup/bind6`: the same for IPv6.
pub const BIND6: &str = "bind6";
/// `sockops`: keeps what applications accept from the agent apart from what the agent accepts.
pub const ACCEPT: &str = "accept";
/// The programs at the root of the cgroup2 hierarchy.
pub const CGROUP_PROGRAMS: [&str; 5] = [CONNECT4, CONNECT6, BIND4, BIND6, ACCEPT];
/// `sk_lookup`: steers a pod's new connections to the agent's listeners.
pub const LOOKUP: &str = "lookup";
/// `classifier`: holds connections back while the agent has no listener for them.
pub const HOLD: &str = "hold";
