//! `adit cleanup`: removes what agents left, when none is to come back.

use std::path::Path;

use adit_shared::names;

use crate::datapath::DatapathError;
use crate::datapath::Settings;
use crate::datapath::kernel::clear_netns;
use crate::datapath::maps::failed;
use crate::datapath::pins;
use crate::sys::{bpf, mount};

/// Removes every pin below the agent's directory, of every layout version, and the rules and routes
/// in the namespaces that can be reached. Says what it removed, a line each. No agent may run.
///
/// # Errors
/// Names the operation that failed and the kernel's answer; what was done stays done.
pub async fn cleanup(settings: &Settings) -> Result<Vec<String>, DatapathError> {
    let mut removed = Vec::new();
    let versions = pins::versions(&settings.pins);
    for version in versions.map_err(|source| failed("read the directory of pins", source))? {
        remove_version(&version, &mut removed).await?;
    }
    if settings.pins.exists() {
        mount::remove_pin_directory(&settings.pins)
            .map_err(|source| failed(format!("remove {}", settings.pins.display()), source))?;
        removed.push(format!("{}", settings.pins.display()));
    }
    Ok(removed)
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
