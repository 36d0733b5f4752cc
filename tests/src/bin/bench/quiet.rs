//! Whether anything else uses the machine: figures from a busy one say nothing.

use std::fs;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result};

/// How long the machine is watched.
const WATCHED: Duration = Duration::from_secs(2);

/// Shares of all processors' time above which the machine is not quiet.
const BUSY: f64 = 0.05;
const STOLEN: f64 = 0.02;

/// How many busy processes are named.
const NAMED: usize = 3;

/// The processors' time since boot, in clock ticks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    total: u64,
    idle: u64,
    steal: u64,
}

impl Times {
    pub(crate) fn now() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("/proc/stat")?;
        let line = text.lines().next().context("/proc/stat is empty")?;
        // proc_stat(5): user nice system idle iowait irq softirq steal, then parts of user.
        let times: Vec<u64> =
            line.split_whitespace().skip(1).take(8).filter_map(|time| time.parse().ok()).collect();
        let &[_, _, _, idle, iowait, _, _, steal] = times.as_slice() else {
            anyhow::bail!("/proc/stat begins with: {line}");
        };
        Ok(Self { total: times.iter().sum(), idle: idle + iowait, steal })
    }

    /// The share of the time since then that the hypervisor gave to others.
    pub(crate) fn stolen_since(&self, earlier: &Self) -> f64 {
        share(self.steal - earlier.steal, self.total - earlier.total)
    }

    fn busy_since(&self, earlier: &Self) -> f64 {
        1.0 - share(self.idle - earlier.idle, self.total - earlier.total)
    }
}

fn share(part: u64, of: u64) -> f64 {
    part as f64 / of.max(1) as f64
}

/// Why the machine is not quiet, in words; empty if it is.
pub(crate) fn disturbances() -> Result<Vec<String>> {
    let (times, processes) = (Times::now()?, processes());
    thread::sleep(WATCHED);
    let now = Times::now()?;
    let mut found = Vec::new();
    let (busy, stolen) = (now.busy_since(&times), now.stolen_since(&times));
    if stolen > STOLEN {
        found.push(format!("the hypervisor takes {:.0} % of the processors", stolen * 100.0));
    }
    if busy - stolen > BUSY {
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        found.push(format!(
            "the processors are {:.0} % busy{}; load average {}",
            busy * 100.0,
            busiest(&processes),
            load.split_whitespace().take(3).collect::<Vec<_>>().join(" "),
        ));
    }
    Ok(found)
}

/// Every process's pid, name and time on the processors in clock ticks.
fn processes() -> Vec<(u32, String, u64)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok());
    pids.filter_map(|pid: u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (name, fields) = text.rsplit_once(')')?;
        let (_, name) = name.split_once('(')?;
        let times = fields.split_whitespace().skip(11).take(2);
        let times = times.filter_map(|time| time.parse::<u64>().ok()).sum();
        Some((pid, name.to_owned(), times))
    })
    .collect()
}

/// The processes that have used most since then.
fn busiest(before: &[(u32, String, u64)]) -> String {
    let mut used: Vec<(u64, String)> = processes()
        .into_iter()
        .map(|(pid, name, now)| {
            let then =
                before.iter().find(|(other, ..)| *other == pid).map_or(0, |(.., time)| *time);
            (now.saturating_sub(then), format!("{name} (pid {pid})"))
        })
        .filter(|(time, _)| *time > 2)
        .collect();
    used.sort_unstable_by(|one, other| other.cmp(one));
    let names: Vec<String> = used.into_iter().take(NAMED).map(|(_, name)| name).collect();
    if names.is_empty() { String::new() } else { format!(": {}", names.join(", ")) }
}
