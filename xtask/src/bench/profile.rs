//! `--profile`: where the instructions of a path go.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result, bail, ensure};
use qemu::{Class, Code, Event, Kind, Steps};

use super::figure::Figure;
use super::measure::{Measure, OFF};
use super::rows::{Row, Unit};
use super::scenario::Stage;
use super::spans;

/// Functions that are shown.
const SHOWN: usize = 60;
/// How often the guest does what is measured, at most.
const TIMES: u64 = 100;

/// What the events of a row's first scenario are made of.
pub struct Profile {
    row: &'static Row,
    scenario: &'static str,
    /// The row's figure of the same events.
    figure: Figure,
    functions: qemu::Profile,
}

impl Profile {
    /// Runs the scenario and finds the events that the row counts, and their instructions.
    ///
    /// # Errors
    /// The row does not count instructions, there is no event, or its instructions are not those that the row counts.
    pub fn take(stage: &Stage, row: &'static Row) -> Result<Self> {
        let Measure::Spans(observer, part) = row.measure else {
            bail!("{} has no profile: what it counts, {}, is no path through EL2", row.name, row.unit.name());
        };
        let mut scenario = (row.scenarios)(row.n[0].min(TIMES)).into_iter().next().context("no scenario")?;
        // Where the image is, is seen at its vectors.
        scenario.marks_only = false;
        let taken = stage.run(&scenario, Steps::All)?;
        let events = || Ok(taken.events()?.take_while(has_steps));
        let mut code = Code::load(&stage.hypervisor().elf, &stage.hypervisor().image)?;
        let spans = spans::find(events()?, observer(taken.only), &mut code)?;
        let figure = spans::figure(&spans, part, events, &mut code)?;
        let mut counts = HashMap::<u64, u64>::new();
        spans::each_step(events()?, &spans, |_, pc| *counts.entry(pc).or_default() += 1)?;
        taken.remove()?;
        let mut functions = qemu::Profile::default();
        for (pc, times) in counts {
            if part.has(&mut code, pc) {
                functions.add(&mut code, pc, times);
            }
        }
        let profile = Self { row, scenario: scenario.name, figure, functions };
        profile.check()?;
        Ok(profile)
    }

    /// That it shows what the row counts.
    fn check(&self) -> Result<()> {
        let (row, scenario) = (self.row.name, self.scenario);
        ensure!(self.figure.n() > 0, "{row}: there is no event of it in {scenario}");
        let (counted, shown) = (self.figure.sum(), sum(&self.mix()));
        // Time passes for guests, and while all sleep.
        let agree =
            if self.row.unit == Unit::El2 { shown == counted } else { (1..=counted).contains(&shown) };
        ensure!(
            agree,
            "{row}: {shown} instructions were recorded in {scenario}, {counted} are in the figure"
        );
        Ok(())
    }

    /// Instructions of all functions.
    fn mix(&self) -> BTreeMap<Class, u64> {
        let mut mix = BTreeMap::new();
        for (_, function) in self.functions.functions() {
            function.iter().for_each(|(class, count)| *mix.entry(*class).or_default() += count);
        }
        mix
    }

    /// Prints what one event costs at EL2 on average, by function and kind of instruction.
    pub fn print(&self) {
        let Self { row, scenario, figure, functions } = self;
        let [p50, p99] = [500, 990].map(|q| figure.quantile(q));
        println!(
            "{}: {} events of {scenario}, p50 {p50}, p99 {p99}, max {} {}; of each, on average at EL2:",
            row.name,
            figure.n(),
            figure.max(),
            row.unit.name()
        );
        print!("{:>9}", "all");
        Class::ALL.iter().for_each(|class| print!(" {:>8}", class.name()));
        println!();
        let all = self.mix();
        self.print_mix(&all, "in all");
        let below = figure.sum() - sum(&all);
        if below > 0 {
            println!("{:9.1} {:63}  guests, or asleep", self.each(below), "");
        }
        for (name, mix) in functions.functions().into_iter().take(SHOWN) {
            self.print_mix(mix, name);
        }
    }

    /// How many of these instructions an event has on average.
    fn each(&self, count: u64) -> f64 {
        count as f64 / self.figure.n() as f64
    }

    fn print_mix(&self, mix: &BTreeMap<Class, u64>, name: &str) {
        print!("{:9.1}", self.each(sum(mix)));
        for class in Class::ALL {
            match mix.get(&class) {
                Some(count) => print!(" {:8.1}", self.each(*count)),
                None => print!(" {:>8}", ""),
            }
        }
        println!("  {name}");
    }
}

fn sum(mix: &BTreeMap<Class, u64>) -> u64 {
    mix.values().sum()
}

/// Whether the plugin still records steps, which it does up to this mark.
fn has_steps(event: &Result<Event>) -> bool {
    !matches!(event, Ok(Event { kind: Kind::Mark { id: OFF, .. }, .. }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::rows::ROWS;

    fn error(name: &str, values: &[u64]) -> String {
        let row = ROWS.iter().find(|row| row.name == name).unwrap();
        let figure = values.iter().copied().collect();
        let profile = Profile { row, scenario: "test", figure, functions: qemu::Profile::default() };
        profile.check().unwrap_err().to_string()
    }

    #[test]
    fn a_profile_without_events_is_an_error() {
        assert_eq!(error("pick_next", &[]), "pick_next: there is no event of it in test");
    }

    #[test]
    fn a_profile_of_other_instructions_than_the_row_counts_is_an_error() {
        for name in ["pick_next", "rt_latency"] {
            let text = error(name, &[5, 6]);
            assert_eq!(text, format!("{name}: 0 instructions were recorded in test, 11 are in the figure"));
        }
    }

    #[test]
    fn paths_through_el2_have_profiles() {
        for row in ROWS {
            let path = matches!(row.unit, Unit::El2 | Unit::Elapsed);
            assert_eq!(row.has_profile(), path, "{}", row.name);
        }
    }
}
