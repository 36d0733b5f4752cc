//! `sk_lookup`: steers a pod's new connections to the agent's listeners.

use adit_shared::key::{Counter, Role};
use adit_shared::steer::{self, Steer};
use aya_ebpf::bindings::{BPF_SK_LOOKUP_F_NO_REUSEPORT, BPF_SK_LOOKUP_F_REPLACE};
use aya_ebpf::macros::sk_lookup;
use aya_ebpf::programs::SkLookupContext;

use crate::maps::{LISTENERS, count, pod};
use crate::read;
use crate::verdict::{SK_DROP, SK_PASS};

/// Replaces what a program before this one chose, and lets no SO_REUSEPORT group choose again.
const FLAGS: u64 = (BPF_SK_LOOKUP_F_REPLACE | BPF_SK_LOOKUP_F_NO_REUSEPORT) as u64;
const ENOENT: i32 = 2;

#[sk_lookup]
pub(crate) fn lookup(ctx: SkLookupContext) -> u32 {
    let pod = pod();
    let packet = read::packet(&ctx);
    let role = match steer::steer(pod, &packet) {
        Steer::Pass => return SK_PASS,
        Steer::To(role) => role,
    };
    let slot = steer::slot(pod.index, role, steer::worker(pod, &packet));
    match LISTENERS.redirect_sk_lookup(&ctx, slot, FLAGS) {
        Ok(()) => {
            count(steered(role));
            SK_PASS
        }
        // The agent is away: nothing may reach the application, or leave, around it.
        Err(error) if error == -ENOENT => {
            count(Counter::NoListener);
            SK_DROP
        }
        Err(_refused) => {
            count(Counter::AssignFailed);
            SK_DROP
        }
    }
}

#[inline(always)]
const fn steered(role: Role) -> Counter {
    match role {
        Role::Outbound => Counter::Outbound,
        Role::Hbone => Counter::Hbone,
        Role::Plaintext => Counter::Plaintext,
    }
}
