//! What sleeps costs nothing.

use crate::common::*;

#[test]
fn only_the_guests_own_timers_wake_cpus_while_all_are_idle() {
    let sleeper = "workload = { kind = \"sleeper\" }";
    let rtos = "schedule = { budget = \"250us\", period = \"1ms\" }\nworkload = { kind = \"sleeper\" }";
    let report = run(&machine(&[("a", 4, sleeper), ("b", 2, sleeper), ("rt", 1, rtos)]), 4, 1, 10 * S).report;
    // Everybody was started, and woke up once a second from the second one on.
    let guests: u64 = report.vcpus.iter().map(|vcpu| vcpu.wakeups).sum();
    assert_eq!(guests, 7 * 10, "{report}");
    let timers: u64 = report.cpus.iter().map(|cpu| cpu.timer_wakeups).sum();
    let kicks: u64 = report.cpus.iter().map(|cpu| cpu.kick_wakeups).sum();
    assert!(timers <= 7 * 9, "{report}");
    assert!(kicks <= 7 * 10, "{report}");
}

#[test]
fn a_machine_that_sleeps_for_good_is_not_woken() {
    // The first job of each is beyond the end.
    let never = "workload = { kind = \"periodic\", work = \"1ms\", period = \"10s\", offset = \"100s\" }";
    let report = run(&machine(&[("a", 4, never), ("b", 4, never)]), 4, 1, 10 * S).report;
    for cpu in &report.cpus {
        assert_eq!(cpu.timer_wakeups, 0, "{report}");
        // Only to start the guests.
        assert!(cpu.kick_wakeups <= 2, "{report}");
    }
}

#[test]
fn a_low_load_is_packed_and_whole_cpus_sleep() {
    // Two at once need a second CPU, since nobody waits while one sleeps; three at once are rare.
    let light =
        |period| format!("workload = {{ kind = \"periodic\", work = \"500us\", period = \"{period}ms\" }}");
    let [a, b, c, d] = [10, 11, 13, 17].map(light);
    for seed in 1..=5 {
        let machine = machine(&[("a", 1, &a), ("b", 1, &b), ("c", 1, &c), ("d", 1, &d)]);
        let report = run(&machine, 4, seed, 4 * S).report;
        let asleep = report.cpus.iter().filter(|cpu| cpu.asleep > 99.5).count();
        assert!(asleep >= 2, "seed {seed}: {asleep} of 4 CPUs sleep\n{report}");
        assert!(report.cpus[0].shared > 14.0, "seed {seed}\n{report}");
    }
}
