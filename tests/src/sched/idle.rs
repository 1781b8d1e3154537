//! Sleep: CPUs wake for what guests have asked for, and for nothing else.

use std::collections::BTreeMap;
use std::ops::Range;

use anyhow::{Result, ensure};
use qemu::{Clock, Kind};

use super::scene::{MS, Scene, Seen, US, Vm};
use crate::Test;
use crate::lab::{Lab, until};

const CPUS: u32 = 4;
/// All guests have started by its begin.
const WINDOW: Range<u64> = 500 * MS..10_500 * MS;

pub fn tests() -> Vec<Test> {
    vec![Test::new("sched_idle_icount", idle), Test::new("sched_low_load_icount", low_load)]
}

/// Guests that sleep, two of them with a timer now and then: each wake-up of EL2 in ten seconds is one of those timers.
fn idle(lab: &Lab<'_>, name: &str) -> Result<()> {
    let periods = [1_000 * MS, 330 * MS];
    let jobs = periods.map(|period| (WINDOW.end - WINDOW.start) / period);
    // The last one ends the run, after the window.
    let sleeper = |n: usize| {
        let at = WINDOW.start - 100 * MS;
        format!("jobs n={} period={} work=1000 at={at}", jobs[n] + 1, periods[n])
    };
    let vms = [
        Vm::new("share", &sleeper(0)),
        Vm::new("reserved", &sleeper(1)).schedule("{ budget = \"1ms\", period = \"10ms\" }"),
        Vm::new("linux-like", "idle").vcpus(4),
        Vm::new("idle", "idle").vcpus(2).schedule("{ budget = \"1ms\", period = \"10ms\" }"),
    ];
    let seen = Scene::new(lab, name, CPUS, &vms)?
        .run(vec![until("reserved", "^done")?, until("share", "^done")?])?;
    let (wake_ups, timers) = (wake_ups(&seen)?.values().sum::<u64>(), jobs.iter().sum::<u64>());
    ensure!(wake_ups == timers, "{wake_ups} wake-ups, and {timers} of guests' timers");
    Ok(())
}

/// Little to do for many, one after the other: one CPU does it all, and the others stay asleep.
fn low_load(lab: &Lab<'_>, name: &str) -> Result<()> {
    const VMS: u64 = 6;
    const PERIOD: u64 = 10 * MS;
    let jobs = (WINDOW.end - WINDOW.start) / PERIOD;
    // They start elsewhere, and gather in the first periods.
    let role = |n| {
        let at = WINDOW.start - 5 * PERIOD + n * PERIOD / VMS;
        format!("jobs n={} period={PERIOD} work={} at={at}", jobs + 5, 200 * US)
    };
    let vms: Vec<Vm> = (0..VMS).map(|n| Vm::new(format!("vm-{n}"), &role(n))).collect();
    let seen = Scene::new(lab, name, CPUS, &vms)?.run(vec![until("vm-5", "^done")?])?;
    let wake_ups = wake_ups(&seen)?;
    let (all, most) = (wake_ups.values().sum::<u64>(), wake_ups.values().max().copied().unwrap_or(0));
    ensure!(most > VMS * jobs * 99 / 100, "there were only {most} wake-ups for {VMS} times {jobs} jobs");
    ensure!(all - most == 0, "more than one CPU was woken: {wake_ups:?}");
    Ok(())
}

/// By CPU, how often it went to sleep again in the window.
fn wake_ups(seen: &Seen) -> Result<BTreeMap<u8, u64>> {
    let (mut waits, mut clock) = (BTreeMap::new(), Clock::default());
    for event in seen.events()? {
        let event = event?;
        clock.observe(&event);
        if matches!(event.kind, Kind::Wait) && WINDOW.contains(&clock.time(&event)) {
            *waits.entry(event.cpu).or_default() += 1;
        }
    }
    Ok(waits)
}
