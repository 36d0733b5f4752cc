//! `classifier`: holds connections back while the agent has no listener for them.
//!
//! Without a listener the look-up program drops the packet that opens a connection, and the kernel
//! answers it with a reset, unless it refuses to send one from an address that is not the namespace's,
//! which it does for IPv4 only. Dropped before that, the packet is sent again by its sender until an
//! agent listens. This is for comfort: where this program is missing, such a connection is refused.

use adit_shared::key::Counter;
use adit_shared::steer::{self, Steer};
use aya_ebpf::programs::TcContext;

use crate::maps::{count, is_filled, pod};
use crate::read;
use crate::verdict::{TC_NEXT, TC_SHOT};

/// The entry point, which `#[classifier]` would make of [`run`] with `*mut __sk_buff` as the
/// argument's type. The object's BTF would then hold a second type that is declared only
/// (`bpf_flow_keys` beside `bpf_sock`), and LLVM orders those by their addresses in its memory
/// (`BTFDebug::endModule`): every other build would give other bytes.
#[unsafe(no_mangle)]
#[unsafe(link_section = "classifier")]
pub(crate) fn hold(ctx: *mut u8) -> i32 {
    run(&TcContext::new(ctx.cast()))
}

#[inline(always)]
fn run(ctx: &TcContext) -> i32 {
    let Some(packet) = read::opening(ctx) else {
        return TC_NEXT;
    };
    let pod = pod();
    let Steer::To(role) = steer::steer(pod, &packet) else {
        return TC_NEXT;
    };
    if is_filled(steer::slot(pod.index, role, steer::worker(pod, &packet))) {
        return TC_NEXT;
    }
    count(Counter::NoListener);
    TC_SHOT
}
