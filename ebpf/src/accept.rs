//! `sockops`: binds to the loopback interface what an application accepts from the agent.
//!
//! The agent connects to the application from the client's address. When it also has a plaintext
//! connection of that client's to the same port of the application, and the kernel gives the agent's
//! socket the very port that the client has, then two accepted sockets of the namespace have the same
//! four values: the agent's, for packets from outside, and the application's, for packets of the
//! agent's on lo. A socket bound to an interface gets that interface's packets only (`inet_match`,
//! include/net/inet_hashtables.h). The agent's are bound by its listener, the application's here.

use adit_shared::key::Counter;
use adit_shared::steer;
use aya_ebpf::bindings::BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB;
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;

use crate::maps::count;
use crate::read;
use crate::verdict::SOCK_OPS_DONE;

const SO_BINDTOIFINDEX: i32 = 62;
const LOOPBACK_IFINDEX: i32 = 1;

#[sock_ops]
pub(crate) fn accept(ctx: SockOpsContext) -> u32 {
    if ctx.op() != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB {
        return SOCK_OPS_DONE;
    }
    // The mark first: hardly a socket of the node has one.
    let Some(mark) = read::mark(&ctx) else {
        return SOCK_OPS_DONE;
    };
    if !steer::accepted_from_agent(mark, true) || !read::enrolled(ctx.ops.cast()) {
        return SOCK_OPS_DONE;
    }
    if read::set_option(ctx.ops.cast(), SO_BINDTOIFINDEX, LOOPBACK_IFINDEX) {
        count(Counter::Bound);
    } else {
        count(Counter::BindFailed);
    }
    SOCK_OPS_DONE
}
