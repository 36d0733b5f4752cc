//! The admin socket.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

/// The section `admin` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct AdminSettings {
    /// The path of the socket. Its directory is made with mode 0700 if it is missing.
    pub socket: PathBuf,
}

/// The section `readiness` of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct ReadinessSettings {
    /// Where `/healthz/ready` is served, in the node's network namespace.
    pub address: SocketAddr,
}

/// The socket's path, unless it is configured.
pub const DEFAULT_SOCKET: &str = "/run/adit/adit.sock";

impl Default for AdminSettings {
    fn default() -> Self {
        Self { socket: PathBuf::from(DEFAULT_SOCKET) }
    }
}

impl Default for ReadinessSettings {
    fn default() -> Self {
        Self { address: SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 15021)) }
    }
}
