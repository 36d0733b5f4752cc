//! The figures as a table and as JSON, beside what adit is to reach.

use std::fmt;
use std::fs;

use serde::Serialize;

/// One figure.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    /// What was done.
    pub(crate) work: &'static str,
    /// What was measured.
    pub(crate) figure: &'static str,
    /// In what.
    pub(crate) unit: &'static str,
    /// On the direct path, if it has the figure: the median of all rounds.
    pub(crate) direct: Option<f64>,
    /// Through adit: the median of all rounds.
    pub(crate) adit: f64,
    /// The median of the rounds' ratios of adit to direct.
    pub(crate) ratio: Option<f64>,
}

/// The whole report.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) rounds: usize,
    /// How long each round of each path was measured, in seconds.
    pub(crate) seconds: f64,
    /// What disturbed the measurement.
    pub(crate) disturbances: Vec<String>,
    pub(crate) rows: Vec<Row>,
}

/// Where it was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) processor: String,
    pub(crate) processors: usize,
    pub(crate) kernel: String,
}

/// What a figure is to be.
#[derive(Debug, Clone, Copy)]
enum Goal {
    /// Its ratio to direct, at least or at most.
    RatioFrom(f64),
    RatioTo(f64),
    /// The figure itself, at most.
    To(f64),
}

use Goal::{RatioFrom, RatioTo, To};

/// What adit is to reach on two processors that client, agents and server share.
const GOALS: &[(&str, &str, Goal)] = &[
    ("bulk, 1 stream", "throughput", RatioFrom(0.28)),
    ("bulk, 1 stream", "agents' CPU", To(0.75)),
    ("bulk, 8 streams", "throughput", RatioFrom(0.28)),
    ("bulk, 8 streams", "agents' CPU", To(0.75)),
    ("bulk to the client, 1 stream", "throughput", RatioFrom(0.28)),
    ("bulk to the client, 1 stream", "agents' CPU", To(0.75)),
    ("bulk to the client, 8 streams", "throughput", RatioFrom(0.28)),
    ("bulk to the client, 8 streams", "agents' CPU", To(0.75)),
    ("requests, 32 connections", "rate", RatioFrom(0.45)),
    ("requests, 32 connections", "p99", RatioTo(3.0)),
    ("requests, 32 connections", "agents' CPU", To(16.0)),
    ("requests, 1 connection, one processor", "p50", RatioTo(3.2)),
    ("connections, 16 at a time", "rate", RatioFrom(0.38)),
    ("connections, 16 at a time", "agents' CPU", To(110.0)),
    ("100,000 connections", "took", To(60.0)),
    ("requests beside 2 Gbit/s", "p99", RatioTo(2.5)),
    ("memory", "idle, each agent", To(12.0)),
    ("memory", "an idle flow, of 1,000", To(3.0)),
    ("memory", "an idle flow, of 5,000", To(3.0)),
    ("memory", "a flow after 200 kB, of 1,000", To(4.0)),
    ("memory", "a flow after 200 kB, of 5,000", To(4.0)),
];

impl Row {
    /// A figure that only adit has.
    pub(crate) const fn only_adit(
        work: &'static str,
        figure: &'static str,
        unit: &'static str,
        adit: f64,
    ) -> Self {
        Self { work, figure, unit, direct: None, adit, ratio: None }
    }

    fn goal(&self) -> Option<Goal> {
        let of_this =
            |(work, figure, _): &&(&str, &str, Goal)| *work == self.work && *figure == self.figure;
        GOALS.iter().find(of_this).map(|(_, _, goal)| *goal)
    }

    /// Whether it is as it is to be; `None` if nothing is said about it.
    pub(crate) fn reached(&self) -> Option<bool> {
        let ratio = self.ratio.unwrap_or(f64::NAN);
        self.goal().map(|goal| match goal {
            RatioFrom(least) => ratio >= least,
            RatioTo(most) => ratio <= most,
            To(most) => self.adit <= most,
        })
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RatioFrom(least) => write!(f, ">= {least} x"),
            RatioTo(most) => write!(f, "<= {most} x"),
            To(most) => write!(f, "<= {most}"),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { processor, processors, kernel } = &self.machine;
        writeln!(f, "{processors} x {processor}, Linux {kernel}")?;
        writeln!(f, "medians of {} rounds of {} s on each path", self.rounds, self.seconds)?;
        for what in &self.disturbances {
            writeln!(f, "DISTURBED: {what}")?;
        }
        writeln!(
            f,
            "\n{:<38} {:<30} {:>10} {:>10} {:<8} {:>7}  goal",
            "work", "figure", "direct", "adit", "unit", "ratio"
        )?;
        let mut last = "";
        for row in &self.rows {
            let work = if row.work == last { "" } else { row.work };
            last = row.work;
            let direct = row.direct.map_or_else(|| "-".to_owned(), number);
            let ratio = row.ratio.map_or_else(|| "-".to_owned(), |ratio| format!("{ratio:.3}"));
            let adit = number(row.adit);
            write!(
                f,
                "{work:<38} {:<30} {direct:>10} {adit:>10} {:<8} {ratio:>7}",
                row.figure, row.unit
            )?;
            if let (Some(goal), Some(reached)) = (row.goal(), row.reached()) {
                write!(f, "  {goal} {}", if reached { "reached" } else { "MISSED" })?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

/// With three digits that count.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        large if large >= 100.0 => 0,
        middle if middle >= 10.0 => 1,
        small if small >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}

impl Machine {
    pub(crate) fn this() -> Self {
        let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpus.lines().find_map(|line| line.strip_prefix("model name"));
        let model = model.and_then(|rest| rest.split_once(':')).map(|(_, name)| name.trim());
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            processor: model.unwrap_or("unknown processor").to_owned(),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: kernel.trim().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_a_bound_of_the_ratio_or_of_the_figure() {
        let row = |work, figure, adit, ratio| Row {
            ratio: Some(ratio),
            ..Row::only_adit(work, figure, "", adit)
        };
        assert_eq!(row("bulk, 1 stream", "throughput", 9.0, 0.29).reached(), Some(true));
        assert_eq!(row("bulk, 1 stream", "throughput", 9.0, 0.27).reached(), Some(false));
        assert_eq!(row("requests, 32 connections", "p99", 1.0, 3.1).reached(), Some(false));
        assert_eq!(row("bulk, 1 stream", "agents' CPU", 0.76, 0.0).reached(), Some(false));
        assert_eq!(row("bulk, 1 stream", "colour", 0.76, 0.0).reached(), None);
    }
}
