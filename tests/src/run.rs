//! One run: the names it uses, its directory, and the removal of everything that bears its name.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::netns::Netns;
use crate::requirements;
use crate::wait::wait_until;

const DIRECTORY: &str = "/run/adit-e2e";
/// Holds the pid and start time of the process that owns the run.
const OWNER: &str = "owner";
/// Exists where a run is meant to outlive its process.
const KEPT: &str = "kept";

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A run that has begun. Dropping it removes everything of it, unless it is kept.
#[derive(Debug)]
pub struct Run {
    id: String,
    directory: PathBuf,
}

impl Run {
    /// Begins a run, after removing what crashed ones left.
    ///
    /// # Errors
    /// What is missing on this machine, or the file system's.
    pub fn begin() -> Result<Self> {
        let missing = requirements::missing();
        if !missing.is_empty() {
            bail!("cannot run here: {}", missing.join("; "));
        }
        requirements::ensure_bpffs()?;
        sweep_dead()?;
        let pid = process::id();
        let id = format!("{pid:x}-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let directory = Path::new(DIRECTORY).join(&id);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(&directory)
            .with_context(|| format!("cannot make {directory:?}"))?;
        // An earlier run may have made it for root alone; servers that refuse to run as root need
        // to reach their files.
        fs::set_permissions(DIRECTORY, fs::Permissions::from_mode(0o711))
            .with_context(|| format!("cannot open {DIRECTORY} to others"))?;
        let owner = format!("{pid} {}", start_time(pid).unwrap_or_default());
        fs::write(directory.join(OWNER), owner).context("cannot record the run's owner")?;
        Ok(Self { id, directory })
    }

    /// Its id: part of every name it uses.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// A directory for its files. Others than root may pass through, not look.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The network namespace for a part of it.
    #[must_use]
    pub fn netns_name(&self, part: &str) -> String {
        format!("adit-{}-{part}", self.id)
    }

    /// Where the agent of a node pins its links and maps.
    #[must_use]
    pub fn pins(&self, node: &str) -> PathBuf {
        Path::new(requirements::BPFFS).join(self.netns_name(node))
    }

    /// Lets the run live on when its process ends; [`sweep_kept`] ends it.
    ///
    /// # Errors
    /// The file system's.
    pub fn keep(&self) -> Result<()> {
        fs::write(self.directory.join(KEPT), "").context("cannot mark the run as kept")
    }
}

impl Drop for Run {
    #[expect(clippy::print_stderr, reason = "a drop has no other way to tell")]
    fn drop(&mut self) {
        if self.directory.join(KEPT).exists() {
            return;
        }
        if let Err(error) = sweep(&self.id) {
            eprintln!("run {}: {error:#}", self.id);
        }
    }
}

/// Removes the runs whose process is gone and that were not kept. Returns their ids.
///
/// # Errors
/// The first one that could not be removed.
pub fn sweep_dead() -> Result<Vec<String>> {
    sweep_if(|directory| !directory.join(KEPT).exists() && !owner_lives(directory))
}

/// Removes the runs of this process, whatever it is doing with them.
///
/// # Errors
/// The first one that could not be removed.
pub fn sweep_mine() -> Result<Vec<String>> {
    let prefix = format!("{:x}-", process::id());
    sweep_if(|directory| {
        let name = directory.file_name().unwrap_or_default();
        name.to_string_lossy().starts_with(&prefix) && !directory.join(KEPT).exists()
    })
}

/// The runs that were kept, whoever keeps them: their ids, and for how long.
#[must_use]
pub fn kept() -> Vec<(String, Duration)> {
    let kept = names_in(Path::new(DIRECTORY)).into_iter().filter_map(|id| {
        let mark = fs::metadata(Path::new(DIRECTORY).join(&id).join(KEPT)).ok()?;
        Some((id, mark.modified().ok()?.elapsed().unwrap_or_default()))
    });
    kept.collect()
}

/// Removes the runs that were kept. Returns their ids.
///
/// # Errors
/// The first one that could not be removed.
pub fn sweep_kept() -> Result<Vec<String>> {
    sweep_if(|directory| directory.join(KEPT).exists())
}

fn sweep_if(condition: impl Fn(&Path) -> bool) -> Result<Vec<String>> {
    let mut swept = Vec::new();
    for id in names_in(Path::new(DIRECTORY)) {
        if condition(&Path::new(DIRECTORY).join(&id)) {
            sweep(&id).with_context(|| format!("cannot remove what run {id} left"))?;
            swept.push(id);
        }
    }
    Ok(swept)
}

/// Removes everything that bears the id of a run: processes, namespaces, pins, files. What is gone
/// already is no error, so that two sweeps of one run may meet.
///
/// # Errors
/// Something could not be removed; the rest is gone.
pub fn sweep(id: &str) -> Result<()> {
    let prefix = format!("adit-{id}-");
    let namespaces: Vec<Netns> = names_in(Path::new("/run/netns"))
        .iter()
        .filter(|name| name.starts_with(&prefix))
        .map(|name| Netns::existing(name))
        .collect();
    let mut result = end_processes(&namespaces);
    for netns in namespaces {
        if let Err(error) = netns.delete()
            && netns.path().exists()
        {
            result = Err(error);
        }
    }
    let pins = Path::new(requirements::BPFFS);
    for name in names_in(pins) {
        if name.starts_with(&prefix) {
            let removed = remove(&pins.join(name));
            result = result.and(removed);
        }
    }
    let removed = remove(&Path::new(DIRECTORY).join(id));
    result.and(removed)
}

/// Ends the processes in these namespaces, found by the namespace and not by a recorded pid that
/// may have another owner by now. A namespace that cannot be listed has no processes.
fn end_processes(namespaces: &[Netns]) -> Result<()> {
    let running = || -> Vec<i32> {
        let pids = namespaces.iter().flat_map(|netns| netns.pids());
        pids.flatten().filter(|pid| !is_zombie(*pid)).collect()
    };
    for pid in running() {
        // It may end by itself in this moment: then there is nothing to do.
        let _gone: nix::Result<()> = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    wait_until("killed processes to end", Duration::from_secs(10), || running().is_empty())
}

fn remove(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {directory:?}"))
        }
        _ => Ok(()),
    }
}

fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn owner_lives(directory: &Path) -> bool {
    let Ok(owner) = fs::read_to_string(directory.join(OWNER)) else {
        // Made an instant ago, or half removed: leave the former alone, it gets its file at once.
        let made = fs::metadata(directory).and_then(|data| data.modified());
        return made.is_ok_and(|at| at.elapsed().is_ok_and(|age| age < Duration::from_secs(5)));
    };
    let Some((pid, started)) = owner.split_once(' ') else {
        return false;
    };
    let found = pid.parse().ok().and_then(start_time);
    found.is_some_and(|found| found == started)
}

/// The start time of a process in clock ticks (proc_pid_stat(5), field 22), which tells it from a
/// later one with the same pid.
fn start_time(pid: u32) -> Option<String> {
    // Field 2 is the command in parentheses and may contain anything.
    let stat = stat(pid)?;
    stat.split(' ').nth(19).map(str::to_owned)
}

fn is_zombie(pid: i32) -> bool {
    let stat = u32::try_from(pid).ok().and_then(stat);
    stat.is_none_or(|stat| stat.starts_with('Z'))
}

/// The fields of /proc/PID/stat from the third on.
fn stat(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(") ")?.1.to_owned())
}
