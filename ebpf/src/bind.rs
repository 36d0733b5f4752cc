//! `cgroup/bind4` and `bind6`: sets SO_REUSEADDR on the stream sockets of enrolled pods. The agent's
//! accepted sockets occupy the bind bucket of the port that was dialled (`__inet_inherit_port`,
//! net/ipv4/inet_hashtables.c), and an application that binds that port must not be refused for it.

use adit_shared::key::Counter;
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;

use crate::maps::count;
use crate::read;
use crate::verdict::ALLOW;

const SO_REUSEADDR: i32 = 2;

#[cgroup_sock_addr(bind4)]
pub(crate) fn bind4(ctx: SockAddrContext) -> i32 {
    bind(&ctx)
}

#[cgroup_sock_addr(bind6)]
pub(crate) fn bind6(ctx: SockAddrContext) -> i32 {
    bind(&ctx)
}

#[inline(always)]
fn bind(ctx: &SockAddrContext) -> i32 {
    let ours = read::enrolled(ctx.sock_addr.cast()) && read::stream(ctx);
    if ours && !read::set_option(ctx.sock_addr.cast(), SO_REUSEADDR, 1) {
        count(Counter::ReuseFailed);
    }
    ALLOW
}
