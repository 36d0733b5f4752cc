//! Values of the maps, and the look-up program's configuration. All padding is explicit.

use core::net::IpAddr;

use crate::key::MAX_ADDRESSES;

/// An enrolled pod, in [`crate::names::ENROLLED`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Enrolled {
    /// The pod's index, below [`crate::key::MAX_PODS`].
    pub index: u32,
    /// None are defined; zero.
    pub flags: u32,
}

/// The value in [`crate::names::AGENT_TAG`]: its presence is what counts.
pub const TAGGED: u32 = 1;

/// An IPv4 address as the kernel's context holds it: the octets in memory order.
pub type V4 = u32;
/// An IPv6 address as the kernel's context holds it: the octets in memory order.
pub type V6 = [u32; 4];

/// The configuration of one pod's look-up program: its `.rodata`. The program cannot tell which
/// network namespace it runs in, so each pod has an instance of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct PodConfig {
    /// The pod's index.
    pub index: u32,
    /// How many workers have listeners.
    pub workers: u32,
    /// How many elements of `v4` are valid.
    pub v4_count: u32,
    /// How many elements of `v6` are valid.
    pub v6_count: u32,
    /// The pod's IPv4 addresses.
    pub v4: [V4; MAX_ADDRESSES],
    /// The pod's IPv6 addresses.
    pub v6: [V6; MAX_ADDRESSES],
}

impl PodConfig {
    /// A pod without addresses. It is what the object file holds, and never attached as such.
    pub const EMPTY: Self = Self {
        index: u32::MAX,
        workers: 1,
        v4_count: 0,
        v6_count: 0,
        v4: [0; MAX_ADDRESSES],
        v6: [[0; 4]; MAX_ADDRESSES],
    };

    /// Adds an own address. `false` when there is no room for it: a connection to such an address
    /// from outside looks like one that the pod opened, and the agent carries it as such.
    #[must_use]
    pub fn add(&mut self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(v4) => {
                let word = V4::from_ne_bytes(v4.octets());
                push(&mut self.v4, &mut self.v4_count, word)
            }
            IpAddr::V6(v6) => push(&mut self.v6, &mut self.v6_count, words(v6.octets())),
        }
    }
}

fn push<T>(list: &mut [T; MAX_ADDRESSES], count: &mut u32, value: T) -> bool {
    let Some(place) = list.get_mut(*count as usize) else {
        return false;
    };
    *place = value;
    *count += 1;
    true
}

/// An IPv6 address in the kernel's form.
#[must_use]
pub const fn words(octets: [u8; 16]) -> V6 {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = octets;
    [
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
        u32::from_ne_bytes([i, j, k, l]),
        u32::from_ne_bytes([m, n, o, p]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ninth_address_is_refused_and_the_other_family_has_its_own_room() {
        let mut pod = PodConfig::EMPTY;
        for last in 1..=8 {
            assert!(pod.add(IpAddr::from([10, 0, 0, last])));
        }
        assert!(!pod.add(IpAddr::from([10, 0, 0, 9])));
        assert!(pod.add("fd00::1".parse().unwrap()));
        assert_eq!((pod.v4_count, pod.v6_count), (8, 1));
    }

    #[test]
    fn a_mapped_address_counts_as_ipv4() {
        let mut pod = PodConfig::EMPTY;
        assert!(pod.add("::ffff:10.0.0.1".parse().unwrap()));
        assert_eq!(pod.v4[0].to_ne_bytes(), [10, 0, 0, 1]);
    }
}
