//! Work conservation, seen from outside: who wants to run does not wait while a CPU sleeps that it may use.

use std::collections::BTreeMap;
use std::ops::Range;

use anyhow::{Context, Result, ensure};
use qemu::Sections;

use super::occupancy::Span;
use super::scene::{MS, Scene, US, Vm};
use crate::Test;
use crate::lab::{Lab, until};

const CPUS: u32 = 4;
/// The longest that a vCPU may wait while a CPU sleeps, ns.
const WAIT: u64 = 50 * US;
/// The longest section with interrupts masked: who is due how much is found in one, where affinities differ. That is more than
/// admission believes of this board; it must not become worse.
const MASKED: u64 = 8_500;
/// When the jobs begin, and for how long there are some. In the last of it guests begin to print, during which CPUs give up no turn.
const AT: u64 = 500 * MS;
const DURATION: u64 = 2_000 * MS;
const END: u64 = AT + DURATION - 10 * MS;

pub fn tests() -> Vec<Test> {
    vec![Test::new("sched_nobody_waits_while_a_cpu_sleeps_icount", nobody_waits)]
}

/// Nine VMs that often want the same CPU, and leave CPUs asleep and wake them all the time; two may not use all CPUs, and one of those has one
/// alone. A tenth has a reservation. The CPUs run in turns, so a job takes as many times its work as there are busy ones; the turns are
/// short, since a CPU is only woken in its own.
fn nobody_waits(lab: &Lab<'_>, name: &str) -> Result<()> {
    const ALL: &[u8] = &[0, 1, 2, 3];
    let loads: [(u64, u64, &[u8]); 9] = [
        (1_000, 60, ALL),
        (1_130, 35, ALL),
        (1_370, 150, ALL),
        (1_510, 20, ALL),
        (1_730, 180, ALL),
        (1_990, 90, ALL),
        (2_210, 250, ALL),
        (830, 40, &[1, 2]),
        (1_270, 80, &[3]),
    ];
    let jobs = |period: u64, work: u64| {
        let (period, work) = (period * US, work * US);
        format!("jobs n={} period={period} work={work} at={AT} turn=1000", DURATION / period)
    };
    let share = |(n, (period, work, cpus)): (usize, &(u64, u64, &[u8]))| {
        let schedule = format!("{{ weight = 256, affinity = {cpus:?} }}");
        Vm::new(format!("vm-{n}"), &jobs(*period, *work)).schedule(schedule)
    };
    let mut vms: Vec<Vm> = loads.iter().enumerate().map(share).collect();
    vms.push(Vm::new("rtos", &jobs(1_000, 50)).schedule("{ budget = \"400us\", period = \"1ms\" }"));
    let script = (0..loads.len()).map(|n| until(&format!("vm-{n}"), "^done")).collect::<Result<_>>()?;
    let seen = Scene::new(lab, name, CPUS, &vms)?.run(script)?;

    let (mut masked, mut sections) = (0, Sections::default());
    for event in seen.events()? {
        masked = sections.observe(&event?).map_or(masked, |section| masked.max(section.length));
    }
    ensure!(masked <= MASKED, "interrupts are masked for up to {masked} instructions: more than {MASKED}");
    let (spans, jobs) = (seen.spans()?, seen.jobs()?);
    let sleeps = sleeps(&spans);
    ensure!(sleeps.len() == CPUS as usize, "only {} CPUs have slept", sleeps.len());
    let (mut longest, mut waits) = (0, 0);
    for (vm, (.., cpus)) in loads.iter().enumerate() {
        let mut own: Vec<&Span> = spans.iter().filter(|span| span.vm == vm).collect();
        own.sort_by_key(|span| span.time.start);
        let (mut own, mut ended) = (own.into_iter().peekable(), 0);
        for job in jobs.iter().filter(|job| usize::from(job.vmid) == vm + 1 && job.end < END) {
            // Its timer is due at its release, unless the one before is not done.
            let since = job.release.max(std::mem::replace(&mut ended, job.end));
            while own.next_if(|span| span.time.end <= since).is_some() {}
            let span = own.peek().context("a job without CPU time")?;
            let wait = since..span.time.start.max(since);
            waits += u64::from(!wait.is_empty());
            for cpu in *cpus {
                let overlap =
                    |sleep: &Range<u64>| sleep.end.min(wait.end).saturating_sub(sleep.start.max(since));
                let slept = sleeps[usize::from(*cpu)].iter().map(overlap).max().unwrap_or(0);
                longest = longest.max(slept);
            }
        }
    }
    ensure!(waits > 5_000, "only {waits} jobs had to wait");
    ensure!(longest <= WAIT, "somebody waited for {longest} ns while a CPU slept");
    Ok(())
}

/// By CPU, in their order, when it was nobody's after it had been somebody's.
fn sleeps(spans: &[Span]) -> Vec<Vec<Range<u64>>> {
    let mut ends: BTreeMap<u8, u64> = BTreeMap::new();
    let mut sleeps: BTreeMap<u8, Vec<Range<u64>>> = BTreeMap::new();
    for Span { cpu, time, .. } in spans {
        let end = ends.insert(*cpu, time.end).unwrap_or(time.start);
        sleeps.entry(*cpu).or_default().extend((end < time.start).then_some(end..time.start));
    }
    sleeps.into_values().collect()
}
