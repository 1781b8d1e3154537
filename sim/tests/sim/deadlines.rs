//! What was admitted is had, whatever else runs.

use crate::common::*;
use mobivmm_sim::{Costs, sets};
use sched::CpuSet;

const CPUS: usize = 4;
/// What the switch to a vCPU and that from it, which may be its own time too, are of a period of 1 ms, in percent.
const SWITCHES: f64 = 200.0 * VIRT.vm_switch as f64 / MS as f64;

/// Simulates the task sets of these seeds; returns how many were admitted.
fn no_admitted_set_misses(seeds: std::ops::Range<u64>) -> usize {
    let sets = seeds.map(|seed| (seed, parse(&sets::machine_file(seed, CPUS))));
    let admitted = sets.filter(|(_, set)| set.admit(CpuSet::first(CPUS), VIRT).is_ok());
    let check = |(seed, set)| {
        let report = run(&set, CPUS, seed, 500 * MS).report;
        let reserved = report.vcpus.iter().filter(|vcpu| vcpu.place.is_some());
        let (jobs, misses) = reserved.fold((0, 0), |(j, m), vcpu| (j + vcpu.jobs, m + vcpu.misses));
        assert!(jobs > 0 && misses == 0, "seed {seed}: {misses} of {jobs}\n{report}");
    };
    admitted.map(check).count()
}

#[test]
fn no_admitted_set_of_1000_misses_a_deadline() {
    // The others ask for more than there is: `admission` has a test of how much it refuses.
    assert!(no_admitted_set_misses(0..1000) >= 700);
}

#[test]
fn who_overruns_is_cut_at_its_budget() {
    let rt = "schedule = { budget = \"250us\", period = \"1ms\" }\nworkload = { kind = \"busy\" }";
    let report = run(&machine(&[("rt", 1, rt), ("linux", 1, "")]), 1, 1, 4 * S).report;
    assert!((25.0..=25.0 + SWITCHES).contains(&share(&report, "rt")), "{report}");
    within(1.0, share(&report, "linux"), 75.0, &report);
}

#[test]
fn an_overrunning_neighbour_costs_nobody_a_deadline() {
    let rt = |budget: &str, more: &str| {
        format!("schedule = {{ budget = \"{budget}\", period = \"1ms\", affinity = [0] }}\n{more}")
    };
    let (bad, good) = (rt("500us", "workload = { kind = \"busy\" }"), rt("300us", ""));
    let report = run(&machine(&[("bad", 1, &bad), ("good", 1, &good), ("linux", 4, "")]), 1, 1, 2 * S).report;
    assert_eq!(vcpus(&report, "good").map(|vcpu| vcpu.misses).sum::<usize>(), 0, "{report}");
    assert!(share(&report, "bad") <= 50.0 + SWITCHES, "{report}");
}

#[test]
fn a_reservation_that_wakes_all_the_time_pays_for_its_switches_itself() {
    // By admission's account both just fit.
    let deadline = 800_000 + VIRT.irq_off_max + 4 * VIRT.vm_switch;
    let good = format!(
        "schedule = {{ budget = \"600us\", period = \"1ms\", deadline = \"{deadline}ns\", affinity = [0] }}\n\
         workload = {{ kind = \"periodic\", work = \"590us\", period = \"1ms\" }}"
    );
    let bad = "schedule = { budget = \"200us\", period = \"1ms\", deadline = \"250us\", affinity = [0] }\n\
               workload = { kind = \"flooder\", work = \"5us\", period = \"10us\" }";
    for seed in 1..=10 {
        let report =
            run(&machine(&[("good", 1, &good), ("bad", 1, bad), ("linux", 2, "")]), 1, seed, S).report;
        assert_eq!(vcpus(&report, "good").map(|vcpu| vcpu.misses).sum::<usize>(), 0, "{report}");
    }
}

/// What it uses when it is started leaves too little for its first job, but not for those after it.
#[test]
fn a_small_budget_is_enough_for_a_small_job() {
    let rt = "schedule = { budget = \"20us\", period = \"1ms\", deadline = \"200us\" }\n\
              workload = { kind = \"periodic\", work = \"10us\", period = \"1ms\" }";
    for seed in 1..=20 {
        let report = run(&machine(&[("rt", 1, rt), ("linux", 1, "")]), 1, seed, S).report;
        let rt = &report.vcpus[0];
        assert!(rt.jobs > 990 && rt.misses <= 1, "seed {seed}\n{report}");
    }
}

#[test]
fn a_storm_of_interrupts_for_a_share_takes_nothing_from_a_reservation() {
    let rt = "schedule = { budget = \"250us\", period = \"1ms\", affinity = [0] }\n\
              workload = { kind = \"periodic\", work = \"200us\", period = \"1ms\" }";
    let storm = "workload = { kind = \"bursty\", work = \"1us\", period = \"20us\" }";
    let costs = Costs::of(VIRT);
    for cpus in [1, 4] {
        let report =
            run(&machine(&[("rt", 1, rt), ("storm", 1, storm), ("linux", 4, "")]), cpus, 1, 2 * S).report;
        let [task] = &report.tasks[..] else { panic!("{report}") };
        // The switch to it, its timer's interrupt, and the switch to another vCPU that an interrupt woke just before.
        let begin = costs.switch + costs.timer;
        assert!(task.seen_ns <= 200_000 + costs.switch + begin, "{report}");
        within(0.5, share(&report, "rt"), 20.0 + 100.0 * begin as f64 / MS as f64, &report);
    }
}

#[test]
fn without_a_reservation_the_same_work_misses() {
    let work = "workload = { kind = \"periodic\", work = \"200us\", period = \"1ms\" }";
    let with = format!("schedule = {{ budget = \"250us\", period = \"1ms\" }}\n{work}");
    let misses = |rt: &str| {
        // A fair share of a CPU among six is less than the work.
        let linux = ["a", "b", "c", "d", "e"].map(|name| (name, 2, ""));
        let report = run(&machine(&[&[("rt", 1, rt)], &linux[..]].concat()), 1, 1, 10 * S).report;
        let vcpu = vcpus(&report, "rt").next().unwrap();
        (vcpu.jobs, vcpu.misses)
    };
    assert_eq!(misses(&with).1, 0);
    let (jobs, missed) = misses(work);
    assert!(jobs > 9_000 && missed > jobs / 100, "{missed} of {jobs}");
}

#[test]
fn no_task_responds_later_than_its_bound() {
    let mut nearest = 0.0_f64;
    for seed in 0..200 {
        let machine = parse(&sets::rtos_file(seed));
        let report = run(&machine, 1, seed, 2 * S).report;
        for task in &report.tasks {
            let Some(bound) = task.bound_ns else { continue };
            nearest = nearest.max(task.seen_ns as f64 / bound as f64);
            assert!(task.seen_ns <= bound, "seed {seed}\n{report}");
        }
    }
    // The bound is not so far away that it would prove nothing.
    assert!(nearest > 0.5, "{nearest}");
}

#[test]
fn an_exclusive_vcpu_has_its_cpu() {
    let report =
        run(&machine(&[("own", 1, "schedule = { exclusive = true }"), ("linux", 4, "")]), 2, 1, S).report;
    within(0.1, share(&report, "own"), 100.0, &report);
    within(0.1, share(&report, "linux"), 100.0, &report);
    assert_eq!(report.vcpus[0].switches, 1, "{report}");
}
