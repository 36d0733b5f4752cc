//! What the plugin decides by while no agent answers: a small file that the agent keeps.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use adit_core::admission::{Remembered, StartingPod};
use adit_core::enrolment::{NotEnrolled, select};
use adit_core::workload::{MeshMode, NodeName, ObjectName, PodUid, Workload};
use adit_core::world::World;
use serde::{Deserialize, Serialize};

/// The largest file that is read, in bytes.
const LARGEST: u64 = 16 << 20;

/// The version of the file's layout.
const VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct File {
    version: u32,
    namespaces: BTreeSet<String>,
    pods: BTreeMap<String, bool>,
}

/// Why the file cannot be believed.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// It cannot be read.
    #[error("read {0}")]
    Read(PathBuf, #[source] io::Error),
    /// It holds something else.
    #[error("{0} is not what an agent of this version writes")]
    NotUnderstood(PathBuf),
}

/// What a world says of the pods that may start on this node.
#[must_use]
pub fn of_world(world: &World, node: &NodeName) -> Remembered {
    let ambient = world.namespaces().filter(|namespace| namespace.mode == MeshMode::Ambient);
    let namespaces: BTreeSet<String> =
        ambient.map(|namespace| namespace.name.to_string()).collect();
    let mut pods = BTreeMap::new();
    for pod in world.workloads_on(node) {
        let wanted = select(world, pod).map_or_else(NotEnrolled::is_refusal, |()| true);
        if wanted != namespaces.contains(&*pod.name.namespace) {
            pods.extend(key(pod).map(|key| (key, wanted)));
        }
    }
    Remembered { namespaces, pods }
}

/// What the plugin knows the pod by; `None` for a static pod without a UID.
fn key(pod: &Workload) -> Option<String> {
    let Some(uid) = &pod.mirror_of else {
        return Some(pod.uid.to_string());
    };
    let ObjectName { namespace, name } = &pod.name;
    let uid = Some(PodUid::parse(uid)?);
    StartingPod { namespace: namespace.to_string(), name: name.to_string(), uid }.static_key()
}

/// Reads the file; `None` if there is none, so that nothing was ever enrolled on this node.
///
/// # Errors
/// Why it cannot be believed.
pub fn read(path: &Path) -> Result<Option<Remembered>, CacheError> {
    let fail = |error| CacheError::Read(path.to_owned(), error);
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error)),
    };
    let mut text = String::new();
    file.take(LARGEST).read_to_string(&mut text).map_err(fail)?;
    let not_understood = || CacheError::NotUnderstood(path.to_owned());
    match serde_json::from_str::<File>(&text) {
        Ok(File { version: VERSION, namespaces, pods }) => {
            Ok(Some(Remembered { namespaces, pods }))
        }
        Ok(_) | Err(_) => Err(not_understood()),
    }
}

/// Replaces the file.
///
/// # Errors
/// The kernel's.
pub fn write(path: &Path, remembered: &Remembered) -> io::Result<()> {
    let Remembered { namespaces, pods } = remembered.clone();
    let text = serde_json::to_vec(&File { version: VERSION, namespaces, pods })?;
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    replace(path, &text, 0o600)
}

/// Replaces a file in one step, so that whoever reads it finds it whole.
pub(super) fn replace(path: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the path of a file"));
    };
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name);
    hidden.push(".new");
    let hidden = directory.join(hidden);
    // What a killed agent left has another mode perhaps.
    let _left_over = fs::remove_file(&hidden);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&hidden)?;
    let written = file.write_all(contents).and_then(|()| file.sync_all());
    let written = written.and_then(|()| fs::rename(&hidden, path));
    if written.is_err() {
        let _gone = fs::remove_file(&hidden);
    }
    written
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use adit_core::world::Delta;

    use super::*;
    use crate::testing::cluster::{namespace, pod};

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("adit-cni-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn what_is_written_is_read_again() {
        let path = directory("cache").join("deep/cni.json");
        assert_eq!(read(&path).unwrap(), None);
        let remembered = Remembered {
            namespaces: BTreeSet::from(["shop".to_owned()]),
            pods: BTreeMap::from([("u".to_owned(), false)]),
        };
        write(&path, &remembered).unwrap();
        assert_eq!(read(&path).unwrap(), Some(remembered));
        for bad in ["", "{}", "[1]", r#"{"version":2,"namespaces":[],"pods":{}}"#] {
            fs::write(&path, bad).unwrap();
            assert!(matches!(read(&path), Err(CacheError::NotUnderstood(_))), "{bad}");
        }
        fs::remove_dir_all(path.parent().unwrap().parent().unwrap()).unwrap();
    }

    #[test]
    fn namespaces_that_are_opted_in_and_pods_that_differ_are_remembered() {
        let here = |name: &str, space: &str, mode| {
            let mut one = pod(space, name, "node-a", "10.1.0.1".parse().unwrap());
            one.mode = mode;
            one
        };
        let of_a_file = |name: &str, mode| {
            let mut one = here(name, "shop", mode);
            one.mirror_of = Some(Arc::from("h-1"));
            one
        };
        let pods = [
            here("follows", "shop", MeshMode::Unset),
            here("out", "shop", MeshMode::None),
            here("in", "bank", MeshMode::Ambient),
            here("plain", "bank", MeshMode::Unset),
            of_a_file("static", MeshMode::Unset),
            of_a_file("static-out", MeshMode::None),
        ];
        let uid = |i: usize| pods[i].uid.to_string();
        let expected = BTreeMap::from([
            (uid(1), false),
            (uid(2), true),
            ("shop/static-out/h-1".to_owned(), false),
        ]);
        let deltas = pods.clone().map(Delta::Workload);
        let spaces = [
            Delta::Namespace(namespace("shop", MeshMode::Ambient)),
            Delta::Namespace(namespace("bank", MeshMode::Unset)),
        ];
        let (world, _) = World::default().apply(spaces.into_iter().chain(deltas));
        let remembered = of_world(&world, &NodeName::new("node-a"));
        assert_eq!(remembered.namespaces, BTreeSet::from(["shop".to_owned()]));
        assert_eq!(remembered.pods, expected);
    }
}
