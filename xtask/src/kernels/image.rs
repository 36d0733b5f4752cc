//! The initial RAM disk: BusyBox, `ip`, adit, the test programs, the libraries of all, a few modules, and
//! the script that is the guest's first process.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::console::{CASES, DOCTOR, TESTS};
use super::package::Kernel;
use super::{Programs, run_for_output};

/// What the tests need and Debian's cloud kernels have as modules. Outside of a guest the kernel loads
/// all but the first by itself, when they are asked for.
const MODULES: [&str; 5] = ["veth", "bridge", "sch_ingress", "cls_bpf", "tcp_diag"];

/// Makes the disk, and returns its file.
pub(super) fn build(
    kernel: &Kernel,
    programs: &Programs,
    (skipped, cases): (&[&str], &[&str]),
    work: &Path,
) -> Result<PathBuf> {
    let root = work.join("root");
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| format!("cannot empty {}", root.display()))?;
    }
    for directory in ["bin", "dev", "etc", "modules", "proc", "run", "sys", "tests", "tmp"] {
        fs::create_dir_all(root.join(directory))?;
    }
    // What the tests know that every machine has.
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n")?;
    let busybox = find("busybox", "busybox-static")?;
    fs::copy(&busybox, root.join("bin/busybox")).context("cannot copy BusyBox")?;
    let ip = find("ip", "iproute2")?;
    fs::copy(&ip, root.join("bin/ip")).context("cannot copy ip")?;
    let Programs { adit, tests, cases: e2e } = programs;
    for (name, program) in [("adit", adit), ("datapath", tests), ("e2e", e2e)] {
        // Without its symbols it is a third, and the disk lives in the guest's memory.
        let to = root.join("tests").join(name);
        run_for_output(Command::new("strip").arg("-o").arg(&to).arg(program))?;
    }
    for library in libraries(&[&ip, tests, e2e])? {
        copy_library(&library, &root)?;
    }
    modules(kernel, &busybox, &root.join("modules"))?;
    let init = root.join("init");
    fs::write(&init, script(skipped, cases))?;
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755))?;
    pack(&root, &work.join("initramfs.gz"))
}

fn script(skipped: &[&str], cases: &[&str]) -> String {
    let cases = cases.join(" ");
    let skip: String = skipped.iter().map(|test| format!(" --skip {test}")).collect();
    format!(
        "#!/bin/busybox sh
/bin/busybox --install -s /bin 2>/dev/null # ip is there already
export PATH=/bin E2E_REQUIRE=1 ADIT_BIN=/tests/adit
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for module in /modules/*; do insmod $module || echo \"cannot load $module\"; done
ip link set lo up
uname -r
/tests/adit doctor
echo {DOCTOR} $?
/tests/datapath{skip}
echo {TESTS} $?
/tests/e2e --test-threads 1 --exact {cases}
echo {CASES} $?
poweroff -f
"
    )
}

fn find(program: &str, package: &str) -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = std::env::split_paths(&path).chain(["/sbin", "/usr/sbin"].map(PathBuf::from));
    let found = all.map(|directory| directory.join(program)).find(|path| path.is_file());
    found.with_context(|| format!("`{program}` is not here: apt-get install {package}"))
}

/// The shared libraries that programs ask for, by ldd(1).
fn libraries(programs: &[&Path]) -> Result<BTreeSet<PathBuf>> {
    let mut all = BTreeSet::new();
    for program in programs {
        let shown = run_for_output(Command::new("ldd").arg(program))?;
        if let Some(line) = shown.lines().find(|line| line.contains("not found")) {
            bail!("{} asks for a library that is not here: {}", program.display(), line.trim());
        }
        let words = shown.split_whitespace().filter(|word| word.starts_with('/'));
        all.extend(words.map(PathBuf::from));
    }
    Ok(all)
}

fn copy_library(library: &Path, root: &Path) -> Result<()> {
    let inside = library.strip_prefix("/").context("a library's path")?;
    let to = root.join(inside);
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::copy(library, &to).with_context(|| format!("cannot copy {}", library.display()))?;
    Ok(())
}

/// Copies the modules and those they need, numbered in the order to load them.
fn modules(kernel: &Kernel, busybox: &Path, into: &Path) -> Result<()> {
    let release = &kernel.release;
    run_for_output(Command::new(find("depmod", "kmod")?).arg("-b").arg(&kernel.tree).arg(release))?;
    let modprobe = find("modprobe", "kmod")?;
    let mut files = Vec::new();
    for module in MODULES {
        let mut ask = Command::new(&modprobe);
        ask.arg("-d").arg(&kernel.tree).args(["-S", release, "--show-depends", module]);
        // `insmod FILE` for each that is to be loaded, `builtin NAME` for what is there.
        for line in run_for_output(&mut ask)?.lines() {
            let file = line.strip_prefix("insmod ").map(|file| PathBuf::from(file.trim()));
            files.extend(file.filter(|file| !files.contains(file)));
        }
    }
    for (number, file) in files.iter().enumerate() {
        let to = File::create(into.join(format!("{number:02}.ko")))?;
        let read = if file.extension().is_some_and(|end| end == "xz") { "unxz" } else { "cat" };
        let status = Command::new(busybox)
            .args([read, "-"])
            .stdin(File::open(file).with_context(|| format!("cannot read {}", file.display()))?)
            .stdout(to)
            .status()
            .context("cannot start BusyBox")?;
        if !status.success() {
            bail!("cannot unpack {}", file.display());
        }
    }
    Ok(())
}

fn pack(root: &Path, image: &Path) -> Result<PathBuf> {
    let script = "cd \"$0\" && find . | cpio --quiet -o -H newc | gzip -1";
    let status = Command::new("bash")
        .args(["-o", "pipefail", "-c", script])
        .arg(root)
        .stdin(Stdio::null())
        .stdout(File::create(image)?)
        .status()
        .context("cannot start bash")?;
    if !status.success() {
        bail!("cannot pack {} (apt-get install cpio)", image.display());
    }
    Ok(image.to_owned())
}
