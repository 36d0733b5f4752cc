//! The interfaces and addresses of a network namespace.

use std::io;
use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

/// The interfaces of the namespace the calling thread is in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interfaces {
    /// All addresses but those of 127.0.0.0/8 and `::1`.
    pub addresses: Vec<IpAddr>,
    /// The interfaces that are up, but the loopback one.
    pub devices: Vec<Device>,
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// Its number.
    pub index: u32,
}

impl Interfaces {
    /// Reads them.
    ///
    /// # Errors
    /// The kernel's.
    pub fn read() -> io::Result<Self> {
        let mut found = Self::default();
        for entry in getifaddrs()? {
            let Some(address) = entry.address else {
                continue;
            };
            let ip = address
                .as_sockaddr_in()
                .map(|v4| IpAddr::V4(v4.ip()))
                .or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())));
            if let Some(ip) = ip.filter(|ip| !ip.is_loopback()) {
                found.addresses.push(ip);
            }
            let up = entry.flags.contains(InterfaceFlags::IFF_UP)
                && !entry.flags.contains(InterfaceFlags::IFF_LOOPBACK);
            if let Some(link) = address.as_link_addr().filter(|_| up) {
                found.devices.push(Device {
                    name: entry.interface_name,
                    index: u32::try_from(link.ifindex()).map_err(io::Error::other)?,
                });
            }
        }
        Ok(found)
    }

    /// The only interface, if there is exactly one. What comes from outside comes through it.
    #[must_use]
    pub fn only_device(&self) -> Option<&Device> {
        match self.devices.as_slice() {
            [only] => Some(only),
            _ => None,
        }
    }
}
