//! What the programs may answer, in the kernel's numbers.

/// The connect or bind goes on.
pub(crate) const ALLOW: i32 = 1;
/// The connect fails with EPERM.
pub(crate) const DENY: i32 = 0;

/// The packet goes to the assigned socket, or to the one the kernel finds if none is assigned.
pub(crate) const SK_PASS: u32 = 1;
/// The packet is dropped.
pub(crate) const SK_DROP: u32 = 0;

/// The kernel asks nothing of this answer.
pub(crate) const SOCK_OPS_DONE: u32 = 1;

/// The packet goes on, to the next program if there is one.
pub(crate) const TC_NEXT: i32 = -1;
/// The packet is dropped.
pub(crate) const TC_SHOT: i32 = 2;
