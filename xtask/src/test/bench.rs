//! The figures of `cargo xtask bench`: none is worse than it was, and rows notice delays on their own paths.

use std::cell::OnceCell;

use anyhow::{Result, ensure};

use super::{Counts, step};
use crate::bench::{Extent, Limits, Measured, Plants, ROWS, Row, Stage};
use crate::build::Builder;

/// The rows on whose paths a delay is planted in every run of the tests.
const PLANTED: [&str; 2] = ["timer_tick", "vm_switch"];
/// Delays for all of them; it takes many minutes and runs only if it is asked for by this name.
const ALL_PLANTS: &str = "bench_plants";

/// Measures and plants what `filter` selects. An error means that nothing could be done.
pub fn run(builder: &Builder, filter: &str) -> Result<Counts> {
    let stage = Stage::new(builder.clone())?;
    let limits = Limits::recorded()?;
    let mut counts = Counts::default();
    for row in ROWS {
        let name = format!("bench_{}", row.name);
        if name.contains(filter) {
            counts.count(step(&name, || no_worse(&stage, &limits, row)));
        }
    }
    let base = OnceCell::new();
    for row in ROWS {
        let name = format!("bench_plant_{}", row.name);
        if filter == ALL_PLANTS || PLANTED.contains(&row.name) && name.contains(filter) {
            counts.count(step(&name, || {
                if base.get().is_none() {
                    _ = base.set(Plants::new(&stage)?);
                }
                base.get().map_or(Ok(()), |plants| plants.check(row).map(drop))
            }));
        }
    }
    Ok(counts)
}

/// What was recorded is of as many events.
fn no_worse(stage: &Stage, limits: &Limits, row: &'static Row) -> Result<()> {
    let measured = Measured::take(stage, row, Extent::Usual)?;
    let max = measured.total.max();
    ensure!(
        !limits.exceeded(&measured),
        "{max} {}; docs/bench.json and the promise allow {}. If that has to be: `cargo xtask bench --report`",
        row.unit.name(),
        limits.limit(row).unwrap_or_default()
    );
    Ok(())
}
