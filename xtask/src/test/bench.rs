//! The figures of `cargo xtask bench`: none breaks its promise or what is proposed in its place, profiles show what the rows count,
//! and rows notice delays on their own paths.

use std::cell::OnceCell;

use anyhow::{Result, ensure};

use super::{Counts, step};
use crate::bench::{Extent, Measured, Plants, Profile, ROWS, Row, Stage, State};
use crate::build::Builder;

/// The rows that are profiled in every run of the tests: one for each way to count.
const PROFILED: [&str; 4] = ["vipi", "wfi_wake", "pick_next", "rt_latency"];
/// Profiles of all rows that have one; that takes minutes and is done only if it is asked for by this name.
const ALL_PROFILES: &str = "bench_profiles";
/// The rows on whose paths a delay is planted in every run of the tests.
const PLANTED: [&str; 2] = ["timer_tick", "vm_switch"];
/// Delays for all of them; it takes many minutes and runs only if it is asked for by this name.
const ALL_PLANTS: &str = "bench_plants";

/// Measures and plants what `filter` selects. An error means that nothing could be done.
pub fn run(builder: &Builder, filter: &str) -> Result<Counts> {
    let stage = Stage::new(builder.clone())?;
    let mut counts = Counts::default();
    for row in ROWS {
        let name = format!("bench_{}", row.name);
        if name.contains(filter) {
            counts.count(step(&name, || holds(&stage, row)));
        }
    }
    for row in ROWS.iter().filter(|row| row.has_profile()) {
        let name = format!("bench_profile_{}", row.name);
        if filter == ALL_PROFILES || PROFILED.contains(&row.name) && name.contains(filter) {
            counts.count(step(&name, || Profile::take(&stage, row).map(drop)));
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

/// The row is as promised, or as proposed: what `cargo xtask bench --check` looks at.
fn holds(stage: &Stage, row: &'static Row) -> Result<()> {
    let measured = Measured::take(stage, row, Extent::Usual)?;
    let max = measured.total.max();
    ensure!(measured.state() != State::Broken, "{max} {}; {} are allowed", row.unit.name(), row.limit());
    Ok(())
}
