//! That a row notices a delay on its path, and no other row does: the EL2 program is built with a delay planted on one row's path
//! (`hyp/mobivmm/src/plant.rs`), and all rows are measured.

use anyhow::{Result, ensure};

use super::measured::{Extent, Measured};
use super::rows::{ROWS, Row, State, Unit};
use super::scenario::Stage;

/// What it may cost others to look whether this is the place for a delay, which is ten times as long, in instructions.
const LOOK: u64 = 50;

/// The quick rows as they are without a delay.
pub struct Plants<'a> {
    stage: &'a Stage,
    base: Vec<Measured>,
}

impl<'a> Plants<'a> {
    /// Measures them.
    ///
    /// # Errors
    /// One cannot be measured.
    pub fn new(stage: &'a Stage) -> Result<Self> {
        Ok(Self { stage, base: measure(stage, quick())? })
    }

    /// Plants a delay on the row's path. Says what becomes of the row.
    ///
    /// # Errors
    /// The row does not notice, or another one does; or something cannot be measured.
    pub fn check(&self, row: &Row) -> Result<String> {
        let planted = self.stage.planted(&format!("plant_{}", row.name))?;
        let own = || ROWS.iter().filter(|at| at.name == row.name && !is_quick(at));
        let base = measure(self.stage, own())?;
        let planted = measure(&planted, quick().chain(own()))?;
        let mut changes = Vec::new();
        for (before, after) in self.base.iter().chain(&base).zip(&planted) {
            let name = after.row.name;
            let [from, to] = [before, after].map(|at| at.total.max());
            ensure!(
                before.state() != State::Broken,
                "{name} has {from} without a delay: more than is allowed"
            );
            let notices = after.state() == State::Broken;
            if name == row.name {
                ensure!(notices, "{name} does not notice the delay on its path: {from} -> {to}");
                changes.insert(0, format!("{name} {from} -> {to}"));
            } else if notices && to - from > LOOK {
                ensure!(
                    row.part_of.contains(&name),
                    "{name} notices the delay of {}: {from} -> {to}",
                    row.name
                );
                changes.push(format!("{name}, which contains it, {from} -> {to}"));
            }
        }
        Ok(changes.join("; "))
    }
}

/// Whether the row is measured with each delay. Linux takes as long to boot as all other rows together, and a delay elsewhere is no
/// thousandth of that.
fn is_quick(row: &Row) -> bool {
    row.unit != Unit::Overhead
}

fn quick() -> impl Iterator<Item = &'static Row> {
    ROWS.iter().filter(|row| is_quick(row))
}

/// A few events of each row.
fn measure(stage: &Stage, rows: impl Iterator<Item = &'static Row>) -> Result<Vec<Measured>> {
    rows.map(|row| Measured::take(stage, row, Extent::Few)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_has_a_delay_of_its_own() {
        let manifest = include_str!("../../../hyp/mobivmm/Cargo.toml");
        let features = manifest.lines().filter_map(|line| line.strip_prefix("plant_")?.split_once(" = ["));
        let mut planted: Vec<&str> = features.map(|(row, _)| row).collect();
        let mut rows: Vec<&str> = ROWS.iter().map(|row| row.name).collect();
        planted.sort_unstable();
        rows.sort_unstable();
        assert_eq!(planted, rows);
    }

    #[test]
    fn a_row_is_part_of_rows() {
        let names: Vec<&str> = ROWS.iter().map(|row| row.name).collect();
        for row in ROWS {
            assert!(row.part_of.iter().all(|name| names.contains(name) && *name != row.name), "{}", row.name);
        }
    }
}
