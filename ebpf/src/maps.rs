//! The maps and the look-up program's configuration. Their exported names are those of
//! `adit_shared::names`, their sizes come from `adit_shared::key`.

use adit_shared::key::{self, Counter, MAX_PODS, MAX_SLOTS};
use adit_shared::value::{Enrolled, PodConfig};
use aya_ebpf::bindings::bpf_map_type::BPF_MAP_TYPE_SK_STORAGE;
use aya_ebpf::bindings::{BPF_F_CLONE, BPF_F_NO_PREALLOC};
use aya_ebpf::btf_maps::{HashMap, PerCpuArray, SockMap};
use aya_ebpf::helpers::generated::{bpf_map_lookup_elem, bpf_sk_release};
use aya_ebpf::macros::btf_map;

#[btf_map]
pub(crate) static ENROLLED: HashMap<u64, Enrolled, { MAX_PODS as usize }> = HashMap::new();

#[btf_map]
pub(crate) static LISTENERS: SockMap<{ MAX_SLOTS as usize }> = SockMap::new();

#[btf_map]
pub(crate) static COUNTERS: PerCpuArray<u64, { key::COUNTERS as usize }> = PerCpuArray::new();

#[btf_map]
pub(crate) static AGENT_TAG: AgentTag = AgentTag::new();

/// A socket storage that accepted sockets inherit (`BPF_F_CLONE`, `bpf_sk_storage_clone` in
/// net/core/bpf_sk_storage.c), which aya-ebpf's own type does not ask for.
#[repr(C)]
pub(crate) struct AgentTag {
    r#type: *const [i32; BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const u32,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize],
}

// SAFETY: the pointers only carry types into the object's BTF; nothing reads them.
unsafe impl Sync for AgentTag {}

impl AgentTag {
    const fn new() -> Self {
        Self {
            r#type: core::ptr::null(),
            key: core::ptr::null(),
            value: core::ptr::null(),
            max_entries: core::ptr::null(),
            map_flags: core::ptr::null(),
        }
    }
}

/// The pod that this instance of the look-up program serves. The loader writes it before the
/// program is loaded.
#[unsafe(no_mangle)]
static POD: PodConfig = PodConfig::EMPTY;

/// What the loader wrote. The way to it is read as volatile, so that the compiler does not take the
/// value for that of the static; a copy would be a third of the stack there is.
#[inline(always)]
pub(crate) fn pod() -> &'static PodConfig {
    let way = &raw const POD;
    // SAFETY: a valid pointer on this program's stack.
    let pod = unsafe { core::ptr::read_volatile(&raw const way) };
    // SAFETY: a valid, initialised static, which nothing writes once the program is loaded.
    unsafe { &*pod }
}

/// Whether a slot has a listener. The kernel empties it when the listener is closed.
#[inline(always)]
pub(crate) fn is_filled(slot: u32) -> bool {
    let map = (&raw const LISTENERS).cast_mut().cast();
    // SAFETY: the map is a map, and `slot` is a key of it that lives on this program's stack.
    let listener = unsafe { bpf_map_lookup_elem(map, (&raw const slot).cast()) };
    if listener.is_null() {
        return false;
    }
    // SAFETY: the look-up took a reference to this very socket.
    unsafe { bpf_sk_release(listener) };
    true
}

/// Adds one to a counter of this CPU's.
#[inline(always)]
pub(crate) fn count(counter: Counter) {
    if let Some(slot) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: a valid element of this CPU's; BPF programs of one CPU may interrupt one another,
        // in which case a count is lost and nothing else.
        unsafe { *slot += 1 }
    }
}
