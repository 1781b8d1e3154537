//! The simulator and QEMU, from the same machine files and seeds: nobody misses a deadline, and they agree on when each job ends.
//!
//! The simulator is given what EL2's paths took in the median of all recordings, by kind. In it each visit to EL2 of a kind takes the
//! same. So a job's end may differ by the longest visit, which can be under way when the job is released, and by what visits vary.

mod observed;

use std::fs;
use std::thread;

use anyhow::{Context, Result, anyhow, bail, ensure};
use machines::{Machine, Schedule, Workload};
use qemu::Step;
use sched::{CpuSet, Ns};
use sim::{Costs, Options, Outcome, sets};

use self::observed::{Measured, Observed};
use super::scene::{MS, SHARE, Scene, US, VIRT, Vm};
use crate::Test;
use crate::lab::{Lab, until};

/// How many task sets that are admitted.
const SETS: usize = 50;
/// The simulation's beginning on QEMU: all guests have started by then, and sleep.
const EPOCH: Ns = 4_000 * MS;
const DURATION: Ns = 300 * MS;
/// When guests may print: no job is under way.
const QUIET: Ns = EPOCH + DURATION + 100 * MS;
/// Where two things happen at once, what EL2 takes decides about who is first, and so about much more. A job may then end as if all of
/// EL2's paths took so many tenths of what they take; the first counts for all statistics.
const TENTHS: [Ns; 5] = [10, 8, 9, 11, 12];

pub fn tests() -> Vec<Test> {
    vec![Test::new("sched_as_simulated_icount", as_simulated)]
}

fn as_simulated(lab: &Lab<'_>, name: &str) -> Result<()> {
    let admitted = (0..).map(Set::new).filter(|set| set.as_ref().map_or(true, Set::is_admitted));
    let sets = admitted.take(SETS).collect::<Result<Vec<Set>>>()?;
    let mut scenes = sets.iter().map(|set| set.scene(lab, name)).collect::<Result<Vec<_>>>()?;
    let run = |scenes: Vec<(Scene, Vec<Step>)>| {
        // Each VM with jobs is waited for.
        let run = |(scene, script): (Scene, Vec<Step>)| {
            let tasks = script.len();
            Observed::of(&scene.run(script)?, EPOCH, tasks)
        };
        scenes.into_iter().map(run).collect::<Result<Vec<_>>>()
    };
    let observed = thread::scope(|scope| {
        let later = scenes.split_off(SETS / 2);
        let later = scope.spawn(move || run(later));
        let mut observed = run(scenes)?;
        observed.extend(later.join().map_err(|_| anyhow!("a run panicked"))??);
        Ok::<_, anyhow::Error>(observed)
    })?;

    let all = || observed.iter().flat_map(Observed::jobs);
    let (count, misses) = (all().count(), all().filter(|job| job.missed()).count());
    ensure!(misses == 0, "{misses} of {count} deadlines were missed in admitted sets");

    let measured = Measured::of(&observed)?;
    let mut off = Vec::new();
    for (set, observed) in sets.iter().zip(&observed) {
        off.extend(set.compare(observed, &measured).with_context(|| format!("seed {}", set.seed))?);
    }
    off.sort_unstable();
    let switch = measured.costs.switch + measured.costs.timer;
    for (per_mille, limit) in
        [(500, switch / 20), (950, switch / 8), (990, switch / 2), (999, 3 * switch / 2)]
    {
        let most = off.get(off.len() * per_mille / 1000).copied();
        ensure!(
            most.is_some_and(|most| most <= limit),
            "{per_mille} of 1000 jobs end within {most:?} ns of the simulation, not within {limit}; {measured:?}"
        );
    }
    Ok(())
}

/// A task set.
struct Set {
    seed: u64,
    machine: Machine,
}

impl Set {
    fn new(seed: u64) -> Result<Self> {
        let mut machine = Machine::parse("set.toml".as_ref(), &sets::machine_file(seed, 1))?;
        for vm in &mut machine.vms {
            if matches!(vm.workload, Workload::Bursty { .. }) {
                // QEMU has no device that would do that.
                vm.workload = Workload::Dodger { work_ns: 50 * US, period_ns: 100 * US };
            }
        }
        Ok(Self { seed, machine })
    }

    fn is_admitted(&self) -> bool {
        self.machine.admit(CpuSet::first(1), VIRT).is_ok()
    }

    /// Simulates it with guests that do, beside each job's work, `besides` ns more.
    fn simulate(&self, costs: Costs, besides: Ns) -> Result<Outcome> {
        let mut machine = self.machine.clone();
        for vm in &mut machine.vms {
            if let Workload::Tasks(tasks) = &mut vm.workload {
                tasks.iter_mut().for_each(|task| task.wcet_ns += besides);
            }
        }
        let online = CpuSet::first(1);
        let options =
            Options { online, overhead: VIRT, costs, seed: self.seed, duration: DURATION, charted: 0 };
        Ok(sim::simulate(&machine, &options)?)
    }

    /// It on QEMU, and what its end is. The releases follow from the seed alone, so the guests have them in a list.
    fn scene(&self, lab: &Lab<'_>, name: &str) -> Result<(Scene, Vec<Step>)> {
        let name = format!("{name}-{}", self.seed);
        let simulated = self.simulate(Costs::of(VIRT), 0)?;
        let (mut vms, mut script) = (Vec::new(), Vec::new());
        // Those with several vCPUs come last, and have no jobs.
        for (vm, jobs) in self.machine.vms.iter().zip(&simulated.jobs) {
            let guest = match &vm.workload {
                Workload::Busy => Vm::new(&vm.name, &format!("burn from={EPOCH}")),
                Workload::Dodger { work_ns, period_ns } => {
                    Vm::new(&vm.name, &format!("dodge from={EPOCH} work={work_ns} period={period_ns}"))
                }
                Workload::Tasks(tasks) if tasks.len() == 1 => {
                    let list = lab.files.join(format!("{name}-{}", vm.name)).with_added_extension("list");
                    let releases = jobs.iter().flat_map(|job| (EPOCH + job.released).to_le_bytes());
                    fs::write(&list, releases.collect::<Vec<u8>>())
                        .with_context(|| list.display().to_string())?;
                    script.push(until(&vm.name, "^done")?);
                    let (work, deadline) = (tasks[0].wcet_ns, tasks[0].deadline_ns);
                    let role = format!("list work={work} deadline={deadline} quiet={QUIET}");
                    Vm::new(&vm.name, &role).initrd(&list)?
                }
                other => bail!("no guest does {other:?}"),
            };
            vms.push(guest.vcpus(vm.vcpus).schedule(schedule(&vm.schedule)));
        }
        Ok((Scene::new(lab, &name, 1, &vms)?, script))
    }

    /// How far each job's end on QEMU is from the simulated one. It is an error if it is farther than it may be.
    fn compare(&self, observed: &Observed, measured: &Measured) -> Result<Vec<Ns>> {
        let Measured { before, after, longest, costs } = *measured;
        let simulate = |tenths| self.simulate(scaled(costs, tenths), before + after);
        let simulated = TENTHS.map(simulate).into_iter().collect::<Result<Vec<Outcome>>>()?;
        let mut off = Vec::new();
        for (vm, jobs) in observed.by_vm.iter().enumerate() {
            for (n, job) in jobs.iter().enumerate() {
                let end = |outcome: &Outcome| Some(EPOCH + outcome.jobs[vm].get(n)?.finished? - after);
                // One that is not done when the simulation ends has no end there.
                let Some(ends) = simulated.iter().map(end).collect::<Option<Vec<Ns>>>() else { continue };
                let [least, most] =
                    [ends.iter().min(), ends.iter().max()].map(|end| end.copied().unwrap_or(0));
                ensure!(
                    (least - longest..=most + longest).contains(&job.end),
                    "VM {vm}: job {n} ends at {}, and should within {longest} ns of {ends:?}; {measured:?}",
                    job.end
                );
                off.extend(ends.first().map(|end| job.end.abs_diff(*end)));
            }
        }
        Ok(off)
    }
}

/// So many tenths of all costs.
fn scaled(costs: Costs, tenths: Ns) -> Costs {
    let Costs { switch, sleep, exit, kick, timer } = costs;
    let [switch, sleep, exit, kick, timer] =
        [switch, sleep, exit, kick, timer].map(|cost| cost * tenths / 10);
    Costs { switch, sleep, exit, kick, timer }
}

/// As the machine file has it.
fn schedule(schedule: &Schedule) -> String {
    match schedule {
        Schedule::Reservation { budget_ns, period_ns, deadline_ns } => format!(
            "{{ budget = \"{budget_ns}ns\", period = \"{period_ns}ns\", deadline = \"{deadline_ns}ns\" }}"
        ),
        _ => SHARE.into(),
    }
}
