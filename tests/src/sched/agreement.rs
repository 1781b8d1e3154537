//! The simulator and QEMU, from the same machine files and seeds: nobody misses a deadline, and they agree on when each job ends.

use std::fs;
use std::thread;

use anyhow::{Context, Result, anyhow, bail, ensure};
use machines::{Machine, Schedule, Workload};
use qemu::{Job, Step};
use sched::admission::Overhead;
use sched::{CpuSet, Ns};
use sim::{Options, Outcome, sets};

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
/// How far a job's end may be outside of what the simulator says with switches that cost nothing or twice as much as measured: guests
/// have handlers, and answer interrupts, which take two exits a job.
const SLACK: i64 = 10 * US as i64;

pub fn tests() -> Vec<Test> {
    vec![Test::new("sched_as_simulated_icount", as_simulated)]
}

/// A task set.
struct Set {
    seed: u64,
    machine: Machine,
}

fn as_simulated(lab: &Lab<'_>, name: &str) -> Result<()> {
    let admitted = (0..).map(Set::new).filter(|set| set.as_ref().map_or(true, Set::is_admitted));
    let sets = admitted.take(SETS).collect::<Result<Vec<Set>>>()?;
    let scenes = sets.iter().map(|set| set.scene(lab, name)).collect::<Result<Vec<_>>>()?;
    let jobs: Vec<Vec<Vec<Job>>> = thread::scope(|scope| {
        let run = |scenes: Vec<(Scene, Vec<Step>)>| scenes.into_iter().map(run).collect::<Result<Vec<_>>>();
        let mut scenes = scenes;
        let later = scenes.split_off(SETS / 2);
        let later = scope.spawn(move || run(later));
        let mut jobs = run(scenes)?;
        jobs.extend(later.join().map_err(|_| anyhow!("a run panicked"))??);
        Ok::<_, anyhow::Error>(jobs)
    })?;

    let all = || jobs.iter().flatten().flatten();
    let (count, misses) = (all().count(), all().filter(|job| job.missed()).count());
    ensure!(misses == 0, "{misses} of {count} deadlines were missed in admitted sets");

    // Most jobs begin when nothing else has to be done: what they wait for is the switch.
    let switch = median(all().map(Job::lateness).collect());
    let mut off = Vec::new();
    for (set, jobs) in sets.iter().zip(&jobs) {
        off.extend(set.compare(jobs, switch).with_context(|| format!("seed {}", set.seed))?);
    }
    off.sort_unstable();
    let [typical, nearly_all] = [50, 95].map(|percent| off.get(off.len() * percent / 100).copied());
    let (typical, nearly_all) = (typical.context("no jobs")?, nearly_all.context("no jobs")?);
    ensure!(
        typical <= switch / 4 && nearly_all <= switch,
        "half of the jobs end within {typical} ns of the simulation and 95 % within {nearly_all} ns; a switch takes {switch} ns"
    );
    Ok(())
}

fn median(mut values: Vec<Ns>) -> Ns {
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
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

    fn simulate(&self, vm_switch: Ns) -> Result<Outcome> {
        let overhead = Overhead { vm_switch, ..VIRT };
        let options =
            Options { online: CpuSet::first(1), overhead, seed: self.seed, duration: DURATION, charted: 0 };
        Ok(sim::simulate(&self.machine, &options)?)
    }

    /// It on QEMU, and what its end is. The releases follow from the seed alone, so the guests have them in a list.
    fn scene(&self, lab: &Lab<'_>, name: &str) -> Result<(Scene, Vec<Step>)> {
        let name = format!("{name}-{}", self.seed);
        let simulated = self.simulate(VIRT.vm_switch)?;
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
        Ok((Scene::new(lab, &name, 1, &vms)?.marks_only(), script))
    }

    /// How far each job's end on QEMU is from the simulated one, if a switch costs `switch`. Where two things happen nearly at once
    /// it may decide about much more who is first: then it is first as with another cost.
    fn compare(&self, jobs: &[Vec<Job>], switch: Ns) -> Result<Vec<Ns>> {
        let costs = [switch, 0, switch / 2, switch * 3 / 2, switch * 2];
        let simulated: Vec<Outcome> = costs.iter().filter_map(|cost| self.simulate(*cost).ok()).collect();
        let mut off = Vec::new();
        if self.simulate(switch).is_err() {
            // With such costs nothing is promised.
            return Ok(off);
        }
        for (vm, jobs) in jobs.iter().enumerate() {
            for (n, job) in jobs.iter().enumerate() {
                let ends = simulated.iter().map(|outcome| Some(EPOCH + outcome.jobs[vm].get(n)?.finished?));
                // One that is not done when the simulation ends has no end there.
                let Some(ends) = ends.collect::<Option<Vec<Ns>>>() else { continue };
                let away = ends.iter().map(|end| job.end.cast_signed() - end.cast_signed());
                let (least, most) =
                    away.fold((i64::MAX, i64::MIN), |(a, b), away| (a.min(away), b.max(away)));
                ensure!(
                    least <= SLACK && most >= -SLACK,
                    "VM {vm}: job {n} ends at {}, where it should end at {ends:?}",
                    job.end
                );
                off.extend(ends.first().map(|end| job.end.abs_diff(*end)));
            }
        }
        Ok(off)
    }
}

/// Runs a set; returns each VM's jobs.
fn run((scene, script): (Scene, Vec<Step>)) -> Result<Vec<Vec<Job>>> {
    let mut jobs = Vec::new();
    for job in scene.run(script)?.jobs()? {
        let vm = usize::from(job.vmid) - 1;
        jobs.resize(jobs.len().max(vm + 1), Vec::new());
        jobs[vm].push(job);
    }
    Ok(jobs)
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
