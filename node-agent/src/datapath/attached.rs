//! What is attached in the kernel: whose programs, and whether they are the ones that this agent
//! believes are there.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use adit_shared::names;
use adit_shared::value::Enrolled;
use aya::maps::{HashMap, Map, MapData, MapInfo};
use aya::programs::{ProgramInfo, loaded_programs};

use crate::datapath::maps::failed;
use crate::datapath::{DatapathError, pins};
use crate::sys::bpf::{self, AttachType};
use crate::sys::netns::Netns;

/// Where programs of all kinds are pinned.
const BPFFS: &str = "/sys/fs/bpf";

/// Where a program of the cgroup root is attached.
pub(super) fn attach_type(program: &str) -> Option<AttachType> {
    match program {
        names::CONNECT4 => Some(AttachType::CgroupInet4Connect),
        names::CONNECT6 => Some(AttachType::CgroupInet6Connect),
        names::BIND4 => Some(AttachType::CgroupInet4Bind),
        names::BIND6 => Some(AttachType::CgroupInet6Bind),
        names::ACCEPT => Some(AttachType::CgroupSockOps),
        _ => None,
    }
}

/// Another agent that holds a pod, by the map that shows it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rival {
    what: &'static str,
    map: u32,
    map_name: &'static str,
}

impl Rival {
    /// Who it is and what to do.
    pub(super) fn describe(&self) -> String {
        let what = self.what;
        match self.pins() {
            Some(pins) => {
                let pins = pins.display();
                format!(
                    "{what}, with its pins in {pins}: end it and run `adit cleanup --pins {pins}`, \
                     or give this agent the same datapath.pins"
                )
            }
            None => format!(
                "{what}, with its pins on a bpffs that is not to be seen from here: end it and run \
                 `adit cleanup --pins DIRECTORY` where its directory of pins can be seen"
            ),
        }
    }

    /// The directory of pins that the map is pinned in.
    fn pins(&self) -> Option<PathBuf> {
        let bases = fs::read_dir(BPFFS).ok()?.flatten().map(|entry| entry.path());
        bases.into_iter().find(|base| {
            let versions = pins::versions(base).unwrap_or_default();
            versions
                .iter()
                .any(|version| id_of_pinned(&version.join(self.map_name)) == Some(self.map))
        })
    }
}

fn id_of_pinned(map: &Path) -> Option<u32> {
    MapInfo::from_pin(map).ok().map(|map| map.id())
}

/// The other agents of this kernel. Two agents share one, each with pods of its own, where tests and
/// demos make nodes of network namespaces; none may act on the other's pods, because its programs take
/// this agent's own sockets there for the application's.
pub(super) struct Rivals<'a> {
    own: &'a Path,
    /// The maps of captured namespaces of their connect programs.
    captures: Vec<u32>,
}

impl<'a> Rivals<'a> {
    /// Those whose connect programs are attached to the cgroup beside this agent's (`known`), whose
    /// maps are pinned in `own`.
    pub(super) fn find(
        own: &'a Path,
        cgroup: &impl AsFd,
        known: &[u32],
    ) -> Result<Self, DatapathError> {
        let others = programs_at(cgroup, AttachType::CgroupInet4Connect, known)?;
        let mine = id_of_pinned(&own.join(names::ENROLLED));
        let connects = others.iter().filter(|program| program.name() == names::CONNECT4.as_bytes());
        let maps = connects.filter_map(|program| map_of(program, names::ENROLLED));
        Ok(Self { own, captures: maps.filter(|map| Some(*map) != mine).collect() })
    }

    /// The one that acts on a namespace: by a look-up program on it beside this agent's (`known`) that
    /// reads other listeners, or by an entry in its map of captured namespaces.
    pub(super) fn holding(
        &self,
        netns: &Netns,
        known: &[u32],
    ) -> Result<Option<Rival>, DatapathError> {
        for program in programs_at(netns, AttachType::SkLookup, known)? {
            if program.name() == names::LOOKUP.as_bytes()
                && let Some(map) = map_of(&program, names::LISTENERS)
                && id_of_pinned(&self.own.join(names::LISTENERS)) != Some(map)
            {
                let what = "another adit agent's look-up program is attached to the pod";
                return Ok(Some(Rival { what, map, map_name: names::LISTENERS }));
            }
        }
        let captor = self.captures.iter().find(|map| holds(**map, netns.cookie()));
        let what = "another adit agent captures the pod's connections";
        Ok(captor.map(|map| Rival { what, map: *map, map_name: names::ENROLLED }))
    }
}

/// Whether a program of this id is attached.
pub(super) fn is_attached(target: &impl AsFd, kind: AttachType, id: u32) -> io::Result<bool> {
    Ok(bpf::attached_programs(target, kind)?.contains(&id))
}

/// The programs that are attached beside the known ones. One that is detached meanwhile is none.
fn programs_at(
    target: &impl AsFd,
    kind: AttachType,
    known: &[u32],
) -> Result<Vec<ProgramInfo>, DatapathError> {
    let ids = bpf::attached_programs(target, kind);
    let mut ids = ids.map_err(|source| failed("look for other agents", source))?;
    ids.retain(|id| !known.contains(id));
    if ids.is_empty() {
        return Ok(Vec::new()); // the rule, and the listing of all programs is not free
    }
    let programs = loaded_programs().filter_map(Result::ok);
    Ok(programs.filter(|program| ids.contains(&program.id())).collect())
}

/// The map of this name that a program uses.
fn map_of(program: &ProgramInfo, name: &str) -> Option<u32> {
    let ids = program.map_ids().ok().flatten()?;
    let is_named = |id: &u32| MapInfo::from_id(*id).is_ok_and(|map| map.name() == name.as_bytes());
    ids.into_iter().find(is_named)
}

fn holds(map: u32, cookie: u64) -> bool {
    let Ok(map) = MapData::from_id(map) else {
        return false; // its last program went
    };
    let map = HashMap::<MapData, u64, Enrolled>::try_from(Map::HashMap(map));
    map.is_ok_and(|map| map.get(&cookie, 0).is_ok())
}
