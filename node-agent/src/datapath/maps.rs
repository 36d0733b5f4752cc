//! The maps that all programs share, typed.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Mutex;

use adit_shared::key::{COUNTERS, Counter, MAX_PODS, MAX_SLOTS, MAX_WORKERS, Role};
use adit_shared::names;
use adit_shared::steer::slot;
use adit_shared::value::{Enrolled, TAGGED};
use aya::Ebpf;
use aya::maps::{HashMap, Map, MapData, MapError, MapInfo, MapType, PerCpuArray, SockMap};
use aya::programs::SkLookup;

use crate::datapath::DatapathError;
use crate::sys::{bpf, errno};

/// `BPF_F_NO_PREALLOC | BPF_F_CLONE`, as the programs' source says.
const AGENT_TAG_FLAGS: u32 = 0x201;

/// The maps of one node.
pub(super) struct Maps {
    enrolled: Mutex<HashMap<MapData, u64, Enrolled>>,
    listeners: Mutex<SockMap<MapData>>,
    counters: PerCpuArray<MapData, u64>,
    agent_tag: MapData,
}

impl fmt::Debug for Maps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Maps").finish_non_exhaustive()
    }
}

/// What a map must be to be adopted.
struct Shape {
    name: &'static str,
    kind: MapType,
    key: u32,
    value: u32,
    entries: u32,
    flags: u32,
}

const SHAPES: [Shape; 4] = [
    Shape {
        name: names::ENROLLED,
        kind: MapType::Hash,
        key: 8,
        value: 8,
        entries: MAX_PODS,
        flags: 0,
    },
    Shape {
        name: names::AGENT_TAG,
        kind: MapType::SkStorage,
        key: 4,
        value: 4,
        entries: 0,
        flags: AGENT_TAG_FLAGS,
    },
    Shape {
        name: names::LISTENERS,
        kind: MapType::SockMap,
        key: 4,
        value: 4,
        entries: MAX_SLOTS,
        flags: 0,
    },
    Shape {
        name: names::COUNTERS,
        kind: MapType::PerCpuArray,
        key: 4,
        value: 8,
        entries: COUNTERS,
        flags: 0,
    },
];

/// Loads the look-up program of one pod.
pub(super) fn load_lookup(object: &mut Ebpf) -> Result<&mut SkLookup, DatapathError> {
    let what = "load the socket look-up program";
    let program = object.program_mut(names::LOOKUP);
    let program = program.ok_or_else(|| failed(what, missing(names::LOOKUP)))?;
    let program: &mut SkLookup = program.try_into().map_err(|source| failed(what, source))?;
    program.load().map_err(|source| failed(what, source))?;
    Ok(program)
}

impl Maps {
    /// Takes the maps of a loaded object.
    pub(super) fn take(object: &mut Ebpf) -> Result<Self, DatapathError> {
        Ok(Self {
            enrolled: Mutex::new(take(object, names::ENROLLED)?),
            listeners: Mutex::new(take(object, names::LISTENERS)?),
            counters: take(object, names::COUNTERS)?,
            agent_tag: match object.take_map(names::AGENT_TAG) {
                Some(Map::SkStorage(map)) => map,
                _ => return Err(failed("open map AGENT_TAG", missing(names::AGENT_TAG))),
            },
        })
    }

    /// Tags a socket as the agent's. Accepted sockets inherit it from their listener.
    pub(super) fn tag(&self, socket: &impl AsFd) -> io::Result<()> {
        bpf::store_in_socket(&self.agent_tag.fd(), socket, TAGGED)
    }

    /// Captures the connections of a namespace.
    pub(super) fn enrol(&self, cookie: u64, index: u32) -> Result<(), DatapathError> {
        let value = Enrolled { index, flags: 0 };
        let mut enrolled = lock(&self.enrolled);
        enrolled
            .insert(cookie, value, 0)
            .map_err(|source| failed("enter the pod in map ENROLLED", source))
    }

    /// No longer captures the connections of a namespace.
    pub(super) fn withdraw(&self, cookie: u64) -> Result<(), DatapathError> {
        let mut enrolled = lock(&self.enrolled);
        gone_is_fine(enrolled.remove(&cookie))
            .map_err(|source| failed("remove the pod from map ENROLLED", source))
    }

    /// The namespaces whose connections are captured, and their pods' indices.
    pub(super) fn enrolled(&self) -> Result<Vec<(u64, u32)>, DatapathError> {
        let enrolled = lock(&self.enrolled);
        let entries: Result<Vec<_>, MapError> = enrolled.iter().collect();
        let entries = entries.map_err(|source| failed("read map ENROLLED", source))?;
        Ok(entries.into_iter().map(|(cookie, pod)| (cookie, pod.index)).collect())
    }

    /// Gives a pod's slots to its listeners, `listeners[worker]`. Every slot is filled, also those
    /// beyond the number of workers, so that an older look-up program, which may count more workers,
    /// finds none empty until it is replaced.
    pub(super) fn fill<S: AsFd>(
        &self,
        index: u32,
        role: Role,
        listeners: &[S],
    ) -> Result<(), DatapathError> {
        let mut map = lock(&self.listeners);
        for (worker, listener) in (0..MAX_WORKERS).zip(listeners.iter().cycle()) {
            let slot = slot(index, role, worker);
            map.set(slot, &listener.as_fd(), 0)
                .map_err(|source| failed("enter a listener in map LISTENERS", source))?;
        }
        Ok(())
    }

    /// Whether the first slot of a role holds a listener. The map cannot be read (`sock_map_sys_lookup`
    /// wants values of eight bytes); so it is filled if it is empty, and refuses if it is not.
    pub(super) fn is_filled(
        &self,
        index: u32,
        role: Role,
        listener: &impl AsFd,
    ) -> Result<bool, DatapathError> {
        /// linux/bpf.h
        const BPF_NOEXIST: u64 = 1;
        let filled =
            lock(&self.listeners).set(slot(index, role, 0), &listener.as_fd(), BPF_NOEXIST);
        match filled {
            Ok(()) => Ok(false),
            Err(MapError::SyscallError(error))
                if error.io_error.kind() == io::ErrorKind::AlreadyExists =>
            {
                Ok(true)
            }
            Err(source) => Err(failed("look into map LISTENERS", source)),
        }
    }

    /// Empties a pod's slots of these roles.
    pub(super) fn empty(&self, index: u32, roles: &[Role]) -> Result<(), DatapathError> {
        let mut map = lock(&self.listeners);
        for role in roles.iter().copied() {
            for worker in 0..MAX_WORKERS {
                gone_is_fine(map.clear_index(&slot(index, role, worker)))
                    .map_err(|source| failed("remove a listener from map LISTENERS", source))?;
            }
        }
        Ok(())
    }

    /// What the programs have counted since the maps were made, over all CPUs.
    pub(super) fn counters(&self) -> Result<Vec<(Counter, u64)>, DatapathError> {
        let read = |counter: Counter| {
            let values = self.counters.get(&(counter as u32), 0)?;
            Ok((counter, values.iter().sum()))
        };
        let counts: Result<Vec<_>, MapError> = Counter::ALL.into_iter().map(read).collect();
        counts.map_err(|source| failed("read map COUNTERS", source))
    }
}

/// Refuses pinned maps that are not what this agent would make.
pub(super) fn check_pinned(pins: &Path) -> Result<(), DatapathError> {
    for Shape { name, kind, key, value, entries, flags } in SHAPES {
        let path = pins.join(name);
        if !path.exists() {
            continue;
        }
        let what = || format!("adopt map {}", path.display());
        let info = MapInfo::from_pin(&path).map_err(|source| failed(what(), source))?;
        let fits = info.map_type().is_ok_and(|found| found == kind)
            && (info.key_size(), info.value_size()) == (key, value)
            && (info.max_entries(), info.map_flags()) == (entries, flags);
        if !fits {
            let why = io::Error::other("it is not the map that its name and directory say");
            return Err(failed(what(), why));
        }
    }
    Ok(())
}

/// An error of a BPF operation.
pub(super) fn failed(
    what: impl Into<String>,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> DatapathError {
    DatapathError::Bpf { what: what.into(), source: source.into() }
}

fn take<T>(object: &mut Ebpf, name: &'static str) -> Result<T, DatapathError>
where
    T: TryFrom<Map, Error = MapError>,
{
    let what = || format!("open map {name}");
    let map = object.take_map(name).ok_or_else(|| failed(what(), missing(name)))?;
    T::try_from(map).map_err(|source| failed(what(), source))
}

pub(super) fn missing(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("the eBPF object has no {name}"))
}

fn gone_is_fine(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(()),
        Err(MapError::SyscallError(error))
            if matches!(error.io_error.raw_os_error(), Some(errno::ENOENT | errno::EINVAL)) =>
        {
            Ok(())
        }
        other => other,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What it guards is a descriptor: a panic elsewhere cannot have left it half changed.
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
