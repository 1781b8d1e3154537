//! Who has a share gets it: against others, against reservations, and against who cheats.

use crate::common::*;
use mobivmm_sim::Report;

const LAG: f64 = 5e6;
const IDLE_WAIT: u64 = 50_000;

/// Asserts what holds for all vCPUs with shares in every run.
#[track_caller]
fn fair(report: &Report) {
    for vcpu in report.vcpus.iter().filter(|vcpu| vcpu.ideal.is_some()) {
        let lag = vcpu.behind_ns.max(vcpu.ahead_ns);
        assert!(lag <= LAG, "{}: lag {:.3} ms\n{report}", vcpu.name, lag / 1e6);
        assert!(vcpu.idle_wait_ns <= IDLE_WAIT, "{} waits while a CPU sleeps\n{report}", vcpu.name);
    }
    for vcpu in report.vcpus.iter().filter(|vcpu| vcpu.place.is_some()) {
        assert_eq!(vcpu.misses, 0, "{}\n{report}", vcpu.name);
    }
}

/// The three Linux VMs of machines/overcommit.toml with these weights.
fn overcommit(weights: [u32; 3]) -> Report {
    let mut text = file("overcommit.toml");
    for weight in weights {
        text = text.replacen("{ weight = 256 }", &format!("{{ weight = 1{weight} }}"), 1);
    }
    let text = text.replace("weight = 1", "weight = ");
    run(&parse(&text), 4, 1, 4 * S).report
}

#[test]
fn equal_weights_beside_reservations() {
    let report = overcommit([256, 256, 256]);
    fair(&report);
    let reserved = share(&report, "control") + share(&report, "sensor");
    for vm in ["linux-a", "linux-b", "linux-c"] {
        within(1.0, share(&report, vm), (400.0 - reserved) / 3.0, &report);
    }
}

#[test]
fn weights_of_1_2_4_beside_reservations() {
    let report = overcommit([256, 512, 1024]);
    fair(&report);
    let reserved = share(&report, "control") + share(&report, "sensor");
    for (vm, part) in [("linux-a", 1.0), ("linux-b", 2.0), ("linux-c", 4.0)] {
        within(1.0, share(&report, vm), (400.0 - reserved) * part / 7.0, &report);
    }
}

#[test]
fn a_cap_holds_and_leaves_the_rest_to_others() {
    for cap in [10, 35, 50, 150] {
        let capped = format!("schedule = {{ cap = {cap} }}");
        let report = run(&machine(&[("capped", 2, &capped), ("free", 2, "")]), 2, 1, 4 * S).report;
        within(1.0, share(&report, "capped"), f64::from(cap.min(100)), &report);
        within(1.0, share(&report, "free"), 200.0 - f64::from(cap.min(100)), &report);
    }
}

#[test]
fn a_cap_holds_on_an_idle_machine() {
    let report = run(&machine(&[("capped", 1, "schedule = { cap = 25 }")]), 2, 1, 4 * S).report;
    within(1.0, share(&report, "capped"), 25.0, &report);
}

#[test]
fn five_busy_vcpus_on_four_cpus_get_80_percent_each() {
    let report =
        run(&machine(&[("a", 1, ""), ("b", 1, ""), ("c", 1, ""), ("d", 1, ""), ("e", 1, "")]), 4, 1, 4 * S)
            .report;
    fair(&report);
    for vcpu in &report.vcpus {
        within(1.0, vcpu.share, 80.0, &report);
    }
}

#[test]
fn one_cpu_60_percent_reserved_and_the_rest_as_the_fluid_ideal() {
    let reserved =
        "schedule = { budget = \"600us\", period = \"1ms\", affinity = [0] }\nworkload = { kind = \"busy\" }";
    let report = run(
        &machine(&[
            ("rt", 1, reserved),
            ("a", 1, ""),
            ("b", 1, ""),
            ("c", 1, ""),
            ("d", 1, ""),
            ("e", 1, ""),
        ]),
        4,
        1,
        4 * S,
    )
    .report;
    fair(&report);
    for vm in ["a", "b", "c", "d", "e"] {
        within(1.0, share(&report, vm), (400.0 - share(&report, "rt")) / 5.0, &report);
    }
}

#[test]
fn weights_that_cannot_be_used_are_left_to_others() {
    let heavy = "schedule = { weight = 10000 }";
    let report =
        run(&machine(&[("heavy", 1, heavy), ("a", 1, ""), ("b", 1, ""), ("c", 1, "")]), 2, 1, 4 * S).report;
    fair(&report);
    within(1.0, share(&report, "heavy"), 100.0, &report);
    for vm in ["a", "b", "c"] {
        within(1.0, share(&report, vm), 100.0 / 3.0, &report);
    }
}

#[test]
fn affinity_binds() {
    let only = |cpus: &str| format!("schedule = {{ affinity = {cpus} }}");
    let (zero, both) = (only("[0]"), only("[0, 1]"));
    let report = run(&machine(&[("a", 1, &zero), ("b", 1, &zero), ("c", 1, &both)]), 2, 1, 4 * S).report;
    fair(&report);
    within(1.0, share(&report, "a"), 50.0, &report);
    within(1.0, share(&report, "b"), 50.0, &report);
    within(1.0, share(&report, "c"), 100.0, &report);
}

#[test]
fn busy_on_any_number_of_cpus_is_never_far_from_the_ideal() {
    for cpus in 1..=8 {
        for busy in [1, 2, 3, 5, 7, 9] {
            let names: Vec<_> = (0..busy).map(|n| format!("vm{n}")).collect();
            let weights: Vec<_> =
                (0..busy).map(|n| format!("schedule = {{ weight = {} }}", 100 + 150 * n)).collect();
            let vms: Vec<_> = names.iter().zip(&weights).map(|(n, w)| (n.as_str(), 1, w.as_str())).collect();
            fair(&run(&machine(&vms), cpus, 1, S).report);
        }
    }
}

#[test]
fn who_sleeps_across_ticks_gains_nothing() {
    for (work, period) in
        [("900us", "1ms"), ("4900us", "5ms"), ("9900us", "10ms"), ("29us", "30us"), ("9ms", "30ms")]
    {
        let dodger = format!("workload = {{ kind = \"dodger\", work = \"{work}\", period = \"{period}\" }}");
        let one = run(&machine(&[("dodger", 1, &dodger), ("busy", 1, "")]), 1, 1, 4 * S).report;
        assert!(share(&one, "dodger") < 50.5, "{work} of {period}\n{one}");
        let many = run(&machine(&[("dodger", 4, &dodger), ("busy", 4, "")]), 4, 1, 4 * S).report;
        assert!(share(&many, "dodger") < 4.0 * 50.5, "{work} of {period}\n{many}");
    }
}

#[test]
fn who_floods_wake_ups_gains_nothing() {
    for (work, period) in [("5us", "10us"), ("50us", "100us"), ("500us", "1ms"), ("90us", "100us")] {
        let flooder =
            format!("workload = {{ kind = \"flooder\", work = \"{work}\", period = \"{period}\" }}");
        let report =
            run(&machine(&[("flooder", 1, &flooder), ("a", 1, ""), ("b", 1, "")]), 1, 1, 4 * S).report;
        assert!(share(&report, "flooder") < 100.0 / 3.0 + 0.5, "{work} of {period}\n{report}");
    }
}

#[test]
fn waking_io_is_served_soon_beside_busy_vcpus() {
    let bursty = "workload = { kind = \"bursty\", work = \"50us\", period = \"5ms\" }";
    for seed in 1..=5 {
        let report = run(&machine(&[("io", 1, bursty), ("busy", 4, "")]), 4, seed, 2 * S).report;
        let wait = vcpus(&report, "io").map(|vcpu| vcpu.wait_ns).max();
        assert!(wait.unwrap() < 2 * MS, "{report}");
    }
}

#[test]
fn nobody_waits_while_a_cpu_sleeps() {
    let mixed = [
        ("a", 2, "workload = { kind = \"periodic\", work = \"300us\", period = \"1ms\" }"),
        ("b", 4, "workload = { kind = \"sporadic\", work = \"2ms\", period = \"5ms\" }"),
        ("c", 2, "workload = { kind = \"bursty\" }"),
        (
            "d",
            1,
            "schedule = { affinity = [1, 2] }\nworkload = { kind = \"sporadic\", work = \"1ms\", period = \"3ms\" }",
        ),
        ("rt", 1, "schedule = { budget = \"300us\", period = \"1ms\" }"),
    ];
    for seed in 1..=20 {
        let report = run(&machine(&mixed), 4, seed, S).report;
        let wait = report.vcpus.iter().map(|vcpu| vcpu.idle_wait_ns).max().unwrap();
        assert!(wait <= IDLE_WAIT, "seed {seed}: {wait} ns\n{report}");
    }
}
