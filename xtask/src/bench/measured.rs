//! What was measured for a row, and how that is done.

use anyhow::{Result, ensure};
use qemu::{Code, Steps};
use serde_json::{Value, json};

use super::figure::Figure;
use super::measure::Measure;
use super::rows::{Proposal, Row, State};
use super::scenario::Stage;
use super::spans::Part;

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// A tenth of the usual, to see whether a delay is noticed.
    Few,
    /// What fits into a few minutes.
    Usual,
    /// As many events as are promised.
    Full,
}

impl Extent {
    /// Events in a scenario of the row.
    pub fn events(self, row: &Row) -> u64 {
        let [usual, full] = row.n;
        match self {
            Self::Few => (usual / 10).max(usual.min(10)),
            Self::Usual => usual,
            Self::Full => full,
        }
    }
}

/// What was measured for a row.
pub struct Measured {
    /// The row.
    pub row: &'static Row,
    /// By scenario.
    pub scenarios: Vec<(&'static str, Figure)>,
    /// Over all of them.
    pub total: Figure,
}

impl Measured {
    /// Runs the row's scenarios, each twice, or once to the full extent.
    ///
    /// # Errors
    /// Something could not be measured, or two runs of it differ.
    pub fn take(stage: &Stage, row: &'static Row, extent: Extent) -> Result<Self> {
        let mut code = Code::load(&stage.hypervisor().elf, &stage.hypervisor().image)?;
        let mut measured = Self { row, scenarios: Vec::new(), total: Figure::default() };
        // How long a span is, is counted already; what part of it is whose is not.
        let steps = match row.measure {
            Measure::Spans(_, Part::Scheduler | Part::Rest) => Steps::Marked,
            _ => Steps::None,
        };
        let scenarios = (row.scenarios)(extent.events(row));
        // That two runs are equal is for shorter ones to show.
        let once = if extent == Extent::Full { stage.run_each(&scenarios, steps)? } else { Vec::new() };
        let mut once = once.into_iter();
        for scenario in &scenarios {
            let taken = once.next().map_or_else(|| stage.run_twice(scenario, steps), Ok)?;
            let figure = row.measure.take(&taken, &mut code)?;
            ensure!(figure.n() > 0, "{}: nothing was measured in {}", row.name, scenario.name);
            measured.scenarios.push((scenario.name, figure));
            taken.remove()?;
        }
        measured.total = (row.total)(&measured.scenarios);
        Ok(measured)
    }

    /// What becomes of the promise.
    pub fn state(&self) -> State {
        if self.total.n() > 0 { self.row.state(self.total.max()) } else { State::Broken }
    }

    /// Prints the row's lines of the table; `verdict` ends the first.
    pub fn print(&self, verdict: &str) {
        let Self { row, scenarios, total } = self;
        println!("{:<26} {total} {:>9}{verdict}", row.name, row.promise);
        if let (true, Some(worst)) = (row.names_worst, total.worst()) {
            println!("  the worst is {worst:#x}");
        }
        if scenarios.len() > 1 {
            for (name, figure) in scenarios {
                println!("  {name:<24} {figure}");
            }
        }
    }

    /// For machines.
    pub fn to_json(&self) -> Value {
        let Self { row, scenarios, total } = self;
        let mut value = total.to_json();
        value["name"] = row.name.into();
        value["unit"] = row.unit.name().into();
        value["promise"] = row.promise.into();
        value["path"] = row.path.into();
        if let Some(Proposal { number, reason, .. }) = row.proposal {
            value["proposal"] = json!({ "number": number, "reason": reason });
        }
        value["scenarios"] =
            scenarios.iter().map(|(name, at)| ((*name).to_owned(), at.to_json())).collect::<Value>();
        value
    }
}

/// All scenarios' values are one figure.
pub fn together(scenarios: &[(&'static str, Figure)]) -> Figure {
    let mut total = Figure::default();
    scenarios.iter().for_each(|(_, figure)| total.merge(figure));
    total
}

/// What the second scenario takes more than the first one, in millionths of the first.
pub fn overhead(scenarios: &[(&'static str, Figure)]) -> Figure {
    match scenarios {
        [(_, base), (_, other)] if base.max() > 0 => {
            let more = u128::from(other.max().saturating_sub(base.max())) * 1_000_000;
            let millionths = more.div_ceil(u128::from(base.max()));
            [u64::try_from(millionths).unwrap_or(u64::MAX)].into_iter().collect()
        }
        _ => Figure::default(),
    }
}

impl Figure {
    fn to_json(&self) -> Value {
        json!({
            "n": self.n(),
            "p50": self.quantile(500),
            "p99": self.quantile(990),
            "p99.9": self.quantile(999),
            "max": self.max(),
            "histogram": self.histogram().collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::rows::ROWS;

    #[test]
    fn no_extent_measures_nothing() {
        for row in ROWS {
            let [few, usual, full] =
                [Extent::Few, Extent::Usual, Extent::Full].map(|extent| extent.events(row));
            assert!(0 < few && few <= usual && usual <= full, "{}", row.name);
        }
    }

    #[test]
    fn the_total_is_of_all_scenarios() {
        let scenarios = [("a", [1, 2].into_iter().collect()), ("b", [7].into_iter().collect())];
        let total = together(&scenarios);
        assert_eq!((total.n(), total.max()), (3, 7));
    }

    #[test]
    fn overhead_is_rounded_up_and_never_negative() {
        let of = |base: u64, other: u64| {
            overhead(&[("base", [base].into_iter().collect()), ("other", [other].into_iter().collect())])
                .max()
        };
        assert_eq!((of(1_000, 1_020), of(3, 4), of(5, 4)), (20_000, 333_334, 0));
        assert_eq!(overhead(&[]).n(), 0);
    }
}
