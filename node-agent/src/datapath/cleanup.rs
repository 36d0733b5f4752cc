//! `adit cleanup`: removes what agents left, when none is to come back.

use std::fs;
use std::io;
use std::path::Path;

use adit_shared::names;

use crate::datapath::DatapathError;
use crate::datapath::Settings;
use crate::datapath::kernel::clear_netns;
use crate::datapath::lock::PinsLock;
use crate::datapath::maps::failed;
use crate::datapath::pins;
use crate::sys::{bpf, mount};

/// Removes every pin below the agent's directory, of every layout version, and the rules and routes
/// in the namespaces that can be reached. Says what it removed, a line each. `force`: even though an
/// agent runs with them.
///
/// # Errors
/// An agent runs; or names the operation that failed and the kernel's answer: what was done stays
/// done.
pub async fn cleanup(settings: &Settings, force: bool) -> Result<Vec<String>, DatapathError> {
    let mut removed = Vec::new();
    let base = match settings.pins.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(removed),
        found => found.map_err(|source| failed(nothing_removed(&settings.pins), source))?,
    };
    is_of_pins(&base).map_err(|source| failed(nothing_removed(&base), source))?;
    mount::make_sysctls_writable()
        .map_err(|source| failed("make /proc/sys writable, for the sysctls of pods", source))?;
    let _held = if force { None } else { Some(PinsLock::of(&base)?) };
    let versions = pins::versions(&base);
    for version in versions.map_err(|source| failed("read the directory of pins", source))? {
        remove_version(&version, &mut removed).await?;
    }
    match fs::remove_dir(&base) {
        Ok(()) => removed.push(base.display().to_string()),
        // A bpffs of the agent's own is mounted there.
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
        Err(source) => return Err(failed(format!("remove {}", base.display()), source)),
    }
    Ok(removed)
}

/// Refuses everything but a directory of adit's pins: what is removed there is not made again.
fn is_of_pins(base: &Path) -> io::Result<()> {
    if !mount::is_bpffs(base)? {
        return Err(io::Error::other("it is on no bpffs, so no agent has pinned anything there"));
    }
    pins::check_ours(base)
}

fn nothing_removed(base: &Path) -> String {
    format!("clean up {}: nothing was removed", base.display())
}

async fn remove_version(version: &Path, removed: &mut Vec<String>) -> Result<(), DatapathError> {
    // The capture ends first: from here on no connection is marked.
    for name in names::CGROUP_PROGRAMS {
        let path = version.join(name);
        if path.exists() {
            bpf::detach_pinned(&path)
                .map_err(|source| failed(format!("detach {}", path.display()), source))?;
            removed.push(format!("program {name} at the cgroup root"));
        }
    }
    let pods = pins::read_pods(version).map_err(|source| failed("read the pinned pods", source))?;
    for (uid, pod) in pods {
        pins::detach_pod(version, &uid, pod.index)
            .map_err(|source| failed(format!("detach the program of pod {uid}"), source))?;
        if let Some(inode) = pod.netns {
            clear_netns(inode).await?;
        }
        removed.push(format!("pod {uid}"));
    }
    mount::remove_pin_directory(version)
        .map_err(|source| failed(format!("remove {}", version.display()), source))
}
