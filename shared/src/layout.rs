//! The version of everything that outlives the agent in pins, and proof of its layout.

use core::mem::{align_of, offset_of, size_of};

use crate::value::{Enrolled, PodConfig};

/// Changes whenever a map's key, value or size, the numbering of slots, or the meaning of a pin
/// changes. Pins lie in a directory of this version; those of another version are never adopted.
pub const LAYOUT_VERSION: u32 = 1;

const _: () = {
    assert!(size_of::<Enrolled>() == 8 && align_of::<Enrolled>() == 4);
    assert!(size_of::<PodConfig>() == 176 && align_of::<PodConfig>() == 4);
    assert!(offset_of!(PodConfig, v4) == 16);
    assert!(offset_of!(PodConfig, v6) == 48);
};
