//! What outlives the agent: a directory on a bpffs.
//!
//! ```text
//! <pins>/v1/                         one directory per layout version
//!   ENROLLED AGENT_TAG …             the maps
//!   connect4 connect6 bind4 bind6    the links at the cgroup root
//!   pods/<index>_<uid>/lookup        the link on a pod's namespace
//!   pods/<index>_<uid>/hold_<place>  those on its interfaces, where the kernel has such links
//! ```
//!
//! A new link takes the place of the old one by a rename, so that there is no instant without one.
//! (A bpffs knows no names with a dot: `bpf_lookup`, kernel/bpf/inode.c.)

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use adit_core::workload::PodUid;
use adit_shared::key::MAX_PODS;
use adit_shared::layout::LAYOUT_VERSION;
use adit_shared::names;
use aya::programs::links::FdLink;

use crate::datapath::DatapathError;
use crate::datapath::maps::failed;
use crate::sys::{bpf, mount};

const PODS: &str = "pods";

/// The directory of this layout version.
#[derive(Debug, Clone)]
pub(super) struct Pins {
    directory: PathBuf,
}

/// A pod's directory, as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PinnedPod {
    pub index: u32,
    /// The inode of the namespace that its look-up program is attached to; `None` if that is gone or
    /// there is no such program.
    pub netns: Option<u32>,
}

impl Pins {
    /// Makes the directory, after those of other versions were found empty of living pods. Such pods
    /// stay captured, that is, without connections, rather than half adopted or let go in plaintext.
    pub(super) fn prepare(base: &Path) -> Result<Self, DatapathError> {
        mount::make_pin_directory(base)
            .and_then(|()| check_ours(base))
            .map_err(|source| failed("make the directory of pins", source))?;
        let pins = Self { directory: base.join(format!("v{LAYOUT_VERSION}")) };
        for other in
            versions(base).map_err(|source| failed("read the directory of pins", source))?
        {
            if other != pins.directory {
                replace_other_version(&other)?;
            }
        }
        mount::make_pin_directory(&pins.directory.join(PODS))
            .map_err(|source| failed("make the directory of pinned pods", source))?;
        Ok(pins)
    }

    /// Where the maps and the links at the cgroup root are.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Pins a link, in the place of an older one if there is one.
    pub(super) fn replace(&self, link: FdLink, name: &str) -> Result<(), DatapathError> {
        replace(link, &self.directory.join(name))
    }

    /// Pins a pod's link, in the place of an older one if there is one.
    pub(super) fn replace_pods(
        &self,
        link: FdLink,
        uid: &PodUid,
        index: u32,
        name: &str,
    ) -> Result<(), DatapathError> {
        let directory = self.pod(uid, index);
        mount::make_pin_directory(&directory)
            .map_err(|source| failed(format!("make {}", directory.display()), source))?;
        replace(link, &directory.join(name))
    }

    /// Removes what is pinned of a pod.
    pub(super) fn remove_pods(&self, uid: &PodUid, index: u32) -> Result<(), DatapathError> {
        let directory = self.pod(uid, index);
        detach_pod(&self.directory, uid, index)
            .and_then(|()| mount::remove_pin_directory(&directory))
            .map_err(|source| failed(format!("remove {}", directory.display()), source))
    }

    /// Whether anything is pinned of a pod.
    pub(super) fn has_pod(&self, uid: &PodUid, index: u32) -> bool {
        self.pod(uid, index).exists()
    }

    /// The pods that have something pinned.
    pub(super) fn pods(&self) -> Result<BTreeMap<PodUid, PinnedPod>, DatapathError> {
        read_pods(&self.directory).map_err(|source| failed("read the pinned pods", source))
    }

    fn pod(&self, uid: &PodUid, index: u32) -> PathBuf {
        pod_directory(&self.directory, uid, index)
    }
}

/// Refuses a directory with something in it that adit did not pin: what is there belongs to others,
/// and the directory is to be adit's to remove.
pub(super) fn check_ours(base: &Path) -> io::Result<()> {
    let versions = versions(base)?;
    for entry in entries(base)? {
        if !versions.contains(&entry) || !is_layout(&entry)? {
            let why = format!(
                "{} is not adit's: the directory of pins must hold nothing else",
                entry.display()
            );
            return Err(io::Error::other(why));
        }
    }
    Ok(())
}

/// Whether a directory has the shape of a layout version, of any: pins, and one directory, of pods.
/// An agent that died while it made one left it empty.
fn is_layout(version: &Path) -> io::Result<bool> {
    let (mut empty, mut pods) = (true, false);
    for entry in entries(version)? {
        empty = false;
        let is_directory = fs::symlink_metadata(&entry)?.is_dir();
        match entry.file_name() {
            Some(name) if name == PODS => pods = is_directory,
            _ if is_directory => return Ok(false),
            _ => {}
        }
    }
    Ok(empty || pods)
}

/// The directories of all layout versions.
pub(super) fn versions(base: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in entries(base)? {
        let name = entry.file_name().map(|name| name.to_string_lossy().into_owned());
        let number = name.as_deref().and_then(|name| name.strip_prefix('v'));
        if number.is_some_and(|number| number.parse::<u32>().is_ok()) {
            found.push(entry);
        }
    }
    found.sort();
    Ok(found)
}

/// The pods in the directory of a version, of any version: how they are named never changes.
pub(super) fn read_pods(version: &Path) -> io::Result<BTreeMap<PodUid, PinnedPod>> {
    let mut pods = BTreeMap::new();
    for directory in entries(&version.join(PODS))? {
        let Some((index, uid)) = directory.file_name().and_then(|name| parse_pod(name.to_str()?))
        else {
            tracing::warn!(path = %directory.display(), "not a pod's directory: left alone");
            continue;
        };
        let netns = match bpf::open_pin(&directory.join(names::LOOKUP)) {
            Ok(link) => bpf::link_netns(&link)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        pods.insert(uid, PinnedPod { index, netns });
    }
    Ok(pods)
}

/// Detaches a pod's programs, of any layout version.
pub(super) fn detach_pod(version: &Path, uid: &PodUid, index: u32) -> io::Result<()> {
    let mut links = entries(&pod_directory(version, uid, index))?;
    links.retain(|path| !path.is_dir());
    links.sort(); // "hold" before "lookup", whose refusals it holds back
    links.iter().try_for_each(|link| bpf::detach_pinned(link))
}

fn pod_directory(version: &Path, uid: &PodUid, index: u32) -> PathBuf {
    version.join(PODS).join(format!("{index}_{uid}"))
}

fn parse_pod(name: &str) -> Option<(u32, PodUid)> {
    let (index, uid) = name.split_once('_')?;
    let index = index.parse().ok().filter(|index| *index < MAX_PODS)?;
    Some((index, PodUid::parse(uid)?))
}

fn replace_other_version(directory: &Path) -> Result<(), DatapathError> {
    let what = || format!("replace pins of another layout version at {}", directory.display());
    let pods = read_pods(directory).map_err(|source| failed(what(), source))?;
    let captured: Vec<_> =
        pods.iter().filter(|(_, pod)| pod.netns.is_some()).map(|(uid, _)| uid.as_str()).collect();
    if !captured.is_empty() {
        let why = format!(
            "pods are captured by another version of adit ({}): run that version again, or \
             `adit cleanup` to let their connections go uncaptured until they are enrolled anew",
            captured.join(", ")
        );
        return Err(failed(what(), io::Error::other(why)));
    }
    tracing::info!(path = %directory.display(), "removing pins of another layout version");
    mount::remove_pin_directory(directory).map_err(|source| failed(what(), source))
}

fn replace(link: FdLink, path: &Path) -> Result<(), DatapathError> {
    let what = || format!("pin {}", path.display());
    let mut fresh = path.as_os_str().to_owned();
    fresh.push("_new");
    let fresh = PathBuf::from(fresh);
    // An agent that died between the two steps left it.
    remove_file(&fresh).map_err(|source| failed(what(), source))?;
    link.pin(&fresh).map_err(|source| failed(what(), source))?;
    fs::rename(&fresh, path).map_err(|source| failed(what(), source))
}

/// Removes a pin; one that is not there is removed already.
fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn entries(directory: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_directory_names_its_index_and_uid() {
        let uid = PodUid::parse("6f-1").unwrap();
        assert_eq!(parse_pod("7_6f-1"), Some((7, uid)));
    }

    #[test]
    fn other_names_are_not_taken_for_pods() {
        for name in ["7", "_a", "x_a", "1024_a", "7_", "7_a/b", "7_a_b"] {
            assert_eq!(parse_pod(name), None, "{name}");
        }
    }
}
