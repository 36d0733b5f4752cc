//! `cgroup/connect4` and `connect6`: marks the connections of enrolled pods, so that the rule in
//! their namespace routes them to the agent. Addresses are never touched.

use adit_shared::key::{Counter, MARK};
use adit_shared::steer::{self, Connect};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;

use crate::maps::count;
use crate::read;
use crate::verdict::{ALLOW, DENY};

const SO_MARK: i32 = 36;

#[cgroup_sock_addr(connect4)]
pub(crate) fn connect4(ctx: SockAddrContext) -> i32 {
    connect(&ctx)
}

#[cgroup_sock_addr(connect6)]
pub(crate) fn connect6(ctx: SockAddrContext) -> i32 {
    connect(&ctx)
}

#[inline(always)]
fn connect(ctx: &SockAddrContext) -> i32 {
    // Most sockets of a node are not an enrolled pod's: nothing else is asked of them.
    if !read::enrolled(ctx.sock_addr.cast()) {
        return ALLOW;
    }
    match steer::connect(read::stream(ctx), true, read::tagged(ctx)) {
        Connect::Pass => ALLOW,
        Connect::Agent => {
            count(Counter::Agent);
            ALLOW
        }
        Connect::Mark if read::set_option(ctx.sock_addr.cast(), SO_MARK, MARK as i32) => {
            count(Counter::Marked);
            ALLOW
        }
        // Without its mark it would leave the pod in plaintext.
        Connect::Mark => {
            count(Counter::MarkFailed);
            DENY
        }
    }
}
