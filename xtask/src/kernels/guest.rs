//! A virtual machine that runs to its end.

use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

const GLANCE: Duration = Duration::from_millis(100);

/// Boots a kernel with an initial RAM disk, and returns what came out of its serial port when it has
/// switched itself off, or when its time was over.
pub(super) fn boot(kernel: &Path, image: &Path, limit: Duration) -> Result<String> {
    let mut command = Command::new("qemu-system-x86_64");
    // One processor: with several, emulation loses the guest now and then, when its kernel changes its own
    // code. On a busy host the guest's check of its timer would fail.
    command
        .args(["-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", "1536"])
        .args(["-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"])
        .args(["-append", "console=ttyS0 quiet panic=-1 no_timer_check"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(image)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    let mut guest =
        Guest(command.spawn().context("cannot start qemu-system-x86_64 (apt: qemu-system-x86)")?);
    let mut serial = guest.0.stdout.take().context("no serial port")?;
    let reader = thread::spawn(move || {
        let mut said = Vec::new();
        // What was read before an error is what there is to judge.
        let _ended: std::io::Result<usize> = serial.read_to_end(&mut said);
        said
    });
    let deadline = Instant::now() + limit;
    while guest.0.try_wait().context("qemu")?.is_none() && Instant::now() < deadline {
        thread::sleep(GLANCE);
    }
    drop(guest);
    let said = reader.join().unwrap_or_default();
    Ok(String::from_utf8_lossy(&said).into_owned())
}

/// Ends with the task.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        // It has ended by itself, if all is well.
        let _ended: std::io::Result<()> = self.0.kill();
        let _reaped: std::io::Result<std::process::ExitStatus> = self.0.wait();
    }
}
