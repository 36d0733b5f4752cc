//! Which types may cross the kernel boundary as bytes.
#![expect(
    unsafe_code,
    reason = "aya::Pod is an unsafe trait; layout.rs proves what it asks for"
)]

use crate::value::{Enrolled, PodConfig};

// SAFETY: repr(C), only u32 fields, no padding (layout.rs asserts the size).
unsafe impl aya::Pod for Enrolled {}
// SAFETY: repr(C), only u32 fields and arrays of them, no padding (layout.rs asserts the size).
unsafe impl aya::Pod for PodConfig {}
