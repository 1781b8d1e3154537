//! The scheduler in virtual time, on the host: the very crate that EL2 runs (`hyp/sched`), driven as EL2 drives it, from a
//! machine file and a seed. Equal input gives equal output, to the byte.
//!
//! ```text
//! machine file, seed ── guests (workloads) ─┐
//!                                           engine (one run loop a CPU) ── meter (who had what) ── report, chart
//!            board data ── costs, admission ┘          │
//!                                                  hyp/sched
//! ```
//! The ideal that shares are measured against (`ideal`) and what a reservation is sure to supply ([`supply`]) are worked
//! out apart from the scheduler's own books.
#![forbid(unsafe_code)]

mod chart;
mod engine;
mod guest;
pub mod ideal;
mod meter;
mod report;
pub mod sets;
pub mod supply;

pub use chart::Chart;
pub use engine::Costs;
pub use guest::Job;
pub use meter::Span;
pub use report::{CpuReport, Report, TaskReport, VcpuReport};

use engine::Engine;
use guest::Guest;
use ideal::Claim;
use machines::{Machine, Plan, Schedule, Vm, Workload};
use meter::Meter;
use sched::admission::{Overhead, Reservation};
use sched::{CpuId, CpuSet, Ns, Scheduler, Share, VcpuId, VmId};
use supply::Supply;

/// The slices of shares, as EL2 has them.
const SLICE: Ns = 1_000_000;

/// What is simulated, beside the machine.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The CPUs.
    pub online: CpuSet,
    /// What EL2's paths cost on the board at most: what admission and the scheduler count with.
    pub overhead: Overhead,
    /// What they take here.
    pub costs: Costs,
    /// What the guests' random numbers follow from.
    pub seed: u64,
    /// How long, in nanoseconds.
    pub duration: Ns,
    /// How much of it the chart shows, in nanoseconds.
    pub charted: Ns,
}

/// A simulation that has been run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The figures.
    pub report: Report,
    /// Who ran where, in the part that is charted.
    pub spans: Vec<Span>,
    /// The jobs of each vCPU.
    pub jobs: Vec<Vec<Job>>,
    charted_ns: Ns,
}

/// Runs `machine`.
///
/// # Errors
/// The machine is not admitted.
pub fn simulate(machine: &Machine, options: &Options) -> Result<Outcome, machines::Error> {
    let plan = machine.admit(options.online, options.overhead)?;
    let scheduler = scheduler(machine, &plan, options.online, options.overhead.vm_switch);
    let workloads = machine.vcpus().map(|(vm, _)| &vm.workload).zip(0..);
    let guests = workloads.map(|(workload, n)| Guest::new(workload, seed(options.seed, n))).collect();
    let affinities = machine.vcpus().map(|(vm, _)| CpuSet(vm.affinity));
    let meter = Meter::new(
        options.online,
        plan.book().exclusive(),
        affinities.zip(claims(machine)).collect(),
        options.charted,
    );
    let mut engine = Engine::new(options.costs, scheduler, guests, meter);
    engine.run(options.duration);
    Ok(outcome(machine, &plan, options, engine))
}

/// The scheduler as EL2 has it when its guests start.
///
/// # Panics
/// The scheduler refuses what was admitted.
fn scheduler(machine: &Machine, plan: &Plan, online: CpuSet, vm_switch: Ns) -> Scheduler {
    let mut scheduler = Scheduler::new(online, SLICE, vm_switch);
    for (vm, id) in machine.vms.iter().zip(0..) {
        if let Schedule::Share { weight, cap_percent } = vm.schedule {
            let share = Share { weight, cap: cap_percent, affinity: CpuSet(vm.affinity) };
            scheduler.set_share(VmId(id), share, 0).expect("a share that the machine file may have");
        }
    }
    let ids = machine.vms.iter().zip(0..).flat_map(|(vm, id)| (0..vm.vcpus).map(move |_| (vm, VmId(id))));
    for ((vm, id), v) in ids.zip(0..).map(|(vm, v)| (vm, VcpuId(v))) {
        let place = plan.book().cpu_of(v).unwrap_or(CpuId(0));
        let schedule = match vm.schedule {
            Schedule::Share { .. } => sched::Schedule::Shared(id),
            Schedule::Reservation { .. } => {
                sched::Schedule::Reserved { reservation: reservation(vm).expect("it is one"), cpu: place }
            }
            Schedule::Exclusive => sched::Schedule::Exclusive(place),
        };
        scheduler.add(v, schedule).expect("a vCPU that was admitted");
    }
    scheduler
}

/// A seed of its own for each vCPU: neighbours differ in many bits.
fn seed(seed: u64, vcpu: u64) -> u64 {
    seed ^ (vcpu + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// What each vCPU of `machine` claims of what the reservations leave.
pub fn claims(machine: &Machine) -> Vec<Option<Claim>> {
    let claim = |(index, vm): (usize, &Vm)| {
        let Schedule::Share { weight, cap_percent } = vm.schedule else { return None };
        let cap = (cap_percent > 0).then(|| f64::from(cap_percent) / 100.0);
        Some(Claim { vm: index, weight, cap, affinity: CpuSet(vm.affinity) })
    };
    let vms = machine.vms.iter().enumerate();
    vms.flat_map(|vm| std::iter::repeat_n(claim(vm), vm.1.vcpus as usize)).collect()
}

fn outcome(machine: &Machine, plan: &Plan, options: &Options, engine: Engine) -> Outcome {
    let duration = options.duration as f64;
    let percent = |ns: f64| 100.0 * ns / duration;
    let meter = &engine.meter;
    let cpus = meter.cpus.iter().map(|cpu| CpuReport {
        reserved: percent(cpu.reserved as f64),
        shared: percent(cpu.shared as f64),
        asleep: percent((options.duration - cpu.reserved - cpu.shared) as f64),
        timer_wakeups: cpu.timer_wakeups,
        kick_wakeups: cpu.kick_wakeups,
        device_wakeups: cpu.device_wakeups,
    });
    let vcpus = machine.vcpus().enumerate().map(|(n, (vm, _))| {
        let counts = meter.counts[n];
        let (misses, jobs) = engine.guests()[n].misses(options.duration);
        let share = matches!(vm.schedule, Schedule::Share { .. });
        VcpuReport {
            name: plan.names()[n].clone(),
            place: plan.book().cpu_of(VcpuId(n as u16)).map(|cpu| cpu.0),
            share: percent(counts.service as f64),
            ideal: share.then(|| percent(meter.ideal.service[n])),
            behind_ns: counts.behind,
            ahead_ns: counts.ahead,
            wait_ns: counts.wait,
            idle_wait_ns: counts.idle_wait,
            switches: counts.switches,
            wakeups: counts.wakeups,
            jobs,
            misses,
        }
    });
    let tasks = machine
        .vcpus()
        .enumerate()
        .flat_map(|(n, (vm, _))| tasks(vm, &plan.names()[n], &engine.guests()[n].jobs, options.duration));
    let report = Report {
        machine: machine.name.clone(),
        seed: options.seed,
        duration_ns: options.duration,
        cpus: cpus.collect(),
        vcpus: vcpus.collect(),
        tasks: tasks.collect(),
    };
    let jobs = engine.guests().iter().map(|guest| guest.jobs.clone()).collect();
    let spans = engine.meter.spans;
    Outcome { report, spans, jobs, charted_ns: options.charted.min(options.duration) }
}

/// What can be promised of the tasks of a vCPU with a reservation, beside what was seen.
fn tasks(vm: &Vm, name: &str, jobs: &[Job], end: Ns) -> Vec<TaskReport> {
    let (Workload::Tasks(tasks), Some(reservation)) = (&vm.workload, reservation(vm)) else {
        return Vec::new();
    };
    let responses = Supply::new(reservation).responses(tasks);
    let report = |(index, (task, response)): (usize, (&machines::Task, supply::Response))| {
        let own = jobs.iter().filter(|job| job.task == index);
        TaskReport {
            vcpu: name.to_owned(),
            task: index,
            wcet_ns: task.wcet_ns,
            period_ns: task.period_ns,
            deadline_ns: task.deadline_ns,
            bound_ns: response.bound,
            linear_ns: response.linear,
            // A job can be released in the last moment, while EL2 works.
            seen_ns: own
                .map(|job| job.finished.unwrap_or(end).saturating_sub(job.released))
                .max()
                .unwrap_or(0),
        }
    };
    tasks.iter().zip(responses).enumerate().map(report).collect()
}

fn reservation(vm: &Vm) -> Option<Reservation> {
    let Schedule::Reservation { budget_ns, period_ns, deadline_ns } = vm.schedule else { return None };
    Some(Reservation { budget: budget_ns, period: period_ns, deadline: deadline_ns })
}
