//! What the two agents cost, as the kernel tells it.

use std::fs;
use std::ops::Sub;
use std::time::Duration;

use adit_e2e::Cluster;
use anyhow::{Context as _, Result};
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::{Pid, SysconfVar, sysconf};

/// Both agents.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Agents<'a>(&'a Cluster);

/// Time on the processors, of both agents together: all their threads, in user and kernel mode
/// (`utime` and `stime`, proc_pid_stat(5)). The kernel's work for them that it does outside of them,
/// in a softirq on another's time, is not in it; what a softirq does on their time is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Cpu(pub(crate) Duration);

/// Memory of both agents together, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    /// Resident, shared pages counted once an agent.
    pub(crate) rss: u64,
    /// Resident, a shared page divided among those that share it.
    pub(crate) pss: u64,
}

/// The agents on one processor, until this is dropped.
#[derive(Debug)]
pub(crate) struct Pinned {
    agents: Vec<i32>,
    before: CpuSet,
}

impl<'a> Agents<'a> {
    pub(crate) const fn new(cluster: &'a Cluster) -> Self {
        Self(cluster)
    }

    /// What they have used since they started.
    pub(crate) fn cpu(&self) -> Result<Cpu> {
        let each = self.pids()?.into_iter().map(cpu_of);
        Ok(Cpu(each.sum::<Result<Duration>>()?))
    }

    pub(crate) fn memory(&self) -> Result<Memory> {
        let mut all = Memory { rss: 0, pss: 0 };
        for pid in self.pids()? {
            let path = format!("/proc/{pid}/smaps_rollup");
            let text = fs::read_to_string(&path).with_context(|| path.clone())?;
            let value = |name: &str| -> Result<u64> {
                let line = text.lines().find_map(|line| line.strip_prefix(name));
                let number = line.and_then(|line| line.split_whitespace().next());
                let number = number.with_context(|| format!("no {name} in {path}"))?;
                Ok(number.parse::<u64>()? * 1024)
            };
            all.rss += value("Rss:")?;
            all.pss += value("Pss:")?;
        }
        Ok(all)
    }

    /// Keeps all threads of both on one processor.
    pub(crate) fn pin(&self, cpu: usize) -> Result<Pinned> {
        let before = sched_getaffinity(Pid::from_raw(0))?;
        let pinned = Pinned { agents: self.pids()?, before };
        let mut set = CpuSet::new();
        set.set(cpu)?;
        pinned.set(&set)?;
        Ok(pinned)
    }

    fn pids(&self) -> Result<Vec<i32>> {
        let pids = self.0.agents().iter().map(|agent| Ok(i32::try_from(agent.pid()?)?));
        pids.collect()
    }
}

impl Pinned {
    fn set(&self, set: &CpuSet) -> Result<()> {
        for pid in &self.agents {
            let tasks = fs::read_dir(format!("/proc/{pid}/task")).context("an agent's threads")?;
            for task in tasks {
                let name = task?.file_name();
                let thread = name.to_string_lossy().parse().context("a thread's id")?;
                sched_setaffinity(Pid::from_raw(thread), set).context("pin an agent's thread")?;
            }
        }
        Ok(())
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // An agent that has ended has no threads any more.
        let _ended: Result<()> = self.set(&self.before);
    }
}

impl Sub for Cpu {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }
}

fn cpu_of(pid: i32) -> Result<Duration> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| path.clone())?;
    // The command's name stands in parentheses and may hold anything.
    let (_, fields) = text.rsplit_once(')').context("no command in the process's state")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
    let ticks = ticks.sum::<Result<u64, _>>().context("no times in the process's state")?;
    let per_second = sysconf(SysconfVar::CLK_TCK)?.context("no clock tick")?;
    Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
}
