//! What a machine needs for the end-to-end tests and the demo, checked before anything is made.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};
use nix::unistd::geteuid;

/// Where BPF links and maps are pinned.
pub const BPFFS: &str = "/sys/fs/bpf";

/// The oldest kernel adit supports.
const FLOOR: (u32, u32) = (6, 1);

/// Everything that is missing here, as sentences that say what to do about it.
#[must_use]
pub fn missing() -> Vec<String> {
    let mut missing = Vec::new();
    if !geteuid().is_root() {
        missing.push("not root: network namespaces and eBPF need it (use sudo)".to_owned());
    }
    for (tool, package) in [("ip", "iproute2"), ("nsenter", "util-linux")] {
        if !in_path(tool) {
            missing.push(format!("`{tool}` is not in PATH: install the package {package}"));
        }
    }
    match kernel() {
        Some(found) if found < FLOOR => missing.push(format!(
            "kernel {}.{} is too old: adit needs {}.{} or later",
            found.0, found.1, FLOOR.0, FLOOR.1
        )),
        Some(_) => {}
        None => missing.push("cannot read the kernel's version from /proc".to_owned()),
    }
    if !has_cgroup2() {
        missing.push("no cgroup2 file system is mounted (`mount -t cgroup2`)".to_owned());
    }
    missing
}

/// The `adit` binary under test, from `ADIT_BIN`.
///
/// # Errors
/// The variable is not set or names no file.
pub fn adit_binary() -> Result<PathBuf> {
    let Some(path) = env::var_os("ADIT_BIN") else {
        bail!(
            "ADIT_BIN is not set: it must name the adit binary. `cargo xtask test` and `cargo \
             xtask demo` build adit and set it; by hand: cargo build -p adit && \
             ADIT_BIN=$PWD/target/debug/adit …"
        );
    };
    let path = PathBuf::from(path);
    if !path.is_file() {
        bail!("ADIT_BIN={} is not a file", path.display());
    }
    fs::canonicalize(&path).with_context(|| format!("cannot resolve ADIT_BIN={path:?}"))
}

/// Mounts bpffs at its usual place where nothing has done so.
///
/// # Errors
/// The kernel's.
pub fn ensure_bpffs() -> Result<()> {
    let found = statfs(BPFFS).with_context(|| format!("{BPFFS}: is sysfs mounted?"))?;
    if found.filesystem_type() == BPF_FS_MAGIC {
        return Ok(());
    }
    mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), None::<&str>)
        .with_context(|| format!("cannot mount bpffs at {BPFFS}"))
}

/// The programs among these that are not here, as sentences that say so.
#[must_use]
pub fn missing_tools(tools: &[&str]) -> Vec<String> {
    let missing = tools.iter().filter(|tool| find_tool(tool).is_none());
    missing.map(|tool| format!("`{tool}` is not installed (`.ci/run` installs it)")).collect()
}

/// Where a program is: in PATH, or where Debian keeps servers outside of it.
#[must_use]
pub fn find_tool(tool: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = env::split_paths(&path).collect();
    places.extend(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    places.extend(versions.map(|version| version.path().join("bin")));
    places.into_iter().map(|place| place.join(tool)).find(|file| file.is_file())
}

fn in_path(tool: &str) -> bool {
    env::var_os("PATH")
        .is_some_and(|path| env::split_paths(&path).any(|dir| dir.join(tool).is_file()))
}

fn kernel() -> Option<(u32, u32)> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn has_cgroup2() -> bool {
    let mounts = fs::read_to_string(Path::new("/proc/self/mounts")).unwrap_or_default();
    mounts.lines().any(|line| line.split(' ').nth(2) == Some("cgroup2"))
}
