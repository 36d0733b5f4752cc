//! The same load on both paths by turns: direct, through adit, direct, …

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::agents::Agents;
use crate::load::{Figure, Load, Outcome, Path, Run};
use crate::report::Row;

/// What there is to compare.
pub(crate) struct Comparison<'a> {
    /// Between pods that are not enrolled.
    pub(crate) direct: Path<'a>,
    /// Between pods that are.
    pub(crate) adit: Path<'a>,
    pub(crate) agents: Agents<'a>,
    /// How often each path is measured, and for how long.
    pub(crate) rounds: usize,
    pub(crate) duration: Duration,
}

/// How the agents' time on the processors is told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    pub(crate) name: &'static str,
    pub(crate) unit: &'static str,
    /// How many of the unit a second has.
    pub(crate) per_second: f64,
}

impl Comparison<'_> {
    /// One row for each figure of the load, and one for what it cost the agents.
    pub(crate) fn compare(
        &self,
        work: &'static str,
        load: &dyn Load,
        cost: Cost,
        cpu: Option<usize>,
    ) -> Result<Vec<Row>> {
        let _pinned = cpu.map(|cpu| self.agents.pin(cpu)).transpose()?;
        let run = |path| {
            let run = Run { path, agents: &self.agents, duration: self.duration, cpu };
            load.run(&run)
        };
        let mut rounds = Vec::new();
        for _ in 0..self.rounds {
            let direct = run(self.direct).with_context(|| format!("{work}, direct"))?;
            let adit = run(self.adit).with_context(|| format!("{work}, through adit"))?;
            rounds.push((direct, adit));
        }
        Ok(rows(work, &rounds, cost))
    }
}

fn rows(work: &'static str, rounds: &[(Outcome, Outcome)], cost: Cost) -> Vec<Row> {
    let Some((_, first)) = rounds.first() else { return Vec::new() };
    let mut rows = Vec::new();
    for Figure { name, unit, .. } in &first.figures {
        let of = |outcome: &Outcome| {
            let figure = outcome.figures.iter().find(|figure| figure.name == *name);
            figure.map_or(f64::NAN, |figure| figure.value)
        };
        let pairs: Vec<_> = rounds.iter().map(|(direct, adit)| (of(direct), of(adit))).collect();
        rows.push(Row {
            work,
            figure: name,
            unit,
            direct: Some(median(pairs.iter().map(|(direct, _)| *direct))),
            adit: median(pairs.iter().map(|(_, adit)| *adit)),
            ratio: Some(median(pairs.iter().map(|(direct, adit)| adit / direct))),
        });
    }
    let spent = rounds.iter().map(|(_, adit)| adit.cpu.0.as_secs_f64() / adit.done);
    rows.push(Row {
        work,
        figure: cost.name,
        unit: cost.unit,
        direct: None,
        adit: median(spent) * cost.per_second,
        ratio: None,
    });
    rows
}

pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    if values.len() % 2 == 1 {
        at(middle)
    } else {
        f64::midpoint(at(middle.wrapping_sub(1)), at(middle))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one_or_between_the_middle_two() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0].into_iter()), 2.5);
        assert!(median(std::iter::empty()).is_nan());
    }
}
