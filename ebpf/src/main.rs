//! adit's eBPF programs. They are thin: the decisions are `adit_shared::steer`, tested on the host;
//! here are the reads of the kernel's contexts and the verdicts.
//!
//! A guard on the host's side of each pod's veth, and what it learns from, will be modules beside
//! these.
#![cfg_attr(target_arch = "bpf", no_std, no_main)]
#![cfg_attr(
    target_arch = "bpf",
    expect(
        unsafe_code,
        reason = "contexts, helpers and map definitions are raw pointers of the kernel's"
    )
)]

#[cfg(target_arch = "bpf")]
mod accept;
#[cfg(target_arch = "bpf")]
mod bind;
#[cfg(target_arch = "bpf")]
mod connect;
#[cfg(target_arch = "bpf")]
mod hold;
#[cfg(target_arch = "bpf")]
mod lookup;
#[cfg(target_arch = "bpf")]
mod maps;
#[cfg(target_arch = "bpf")]
mod read;
#[cfg(target_arch = "bpf")]
mod verdict;

/// On the host this is an empty program, so that the workspace builds and is checked as one.
#[cfg(not(target_arch = "bpf"))]
fn main() {}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Never reached: the verifier accepts no loop without end, so a program that could panic would
    // not load.
    loop {}
}

/// The licence that the kernel asks for before it lends its helpers.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
