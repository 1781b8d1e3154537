//! Who gets how much of what reservations leave.

use super::machine::*;
use crate::*;

#[track_caller]
fn close(shares: &[f64], expected: &[f64], tolerance: f64) {
    let ok = shares.iter().zip(expected).all(|(a, b)| (a - b).abs() <= tolerance);
    assert!(ok && shares.len() == expected.len(), "{shares:?} and not {expected:?}");
}

#[track_caller]
fn small_lag(m: &Machine) {
    assert!(m.behind.max(m.ahead) <= 5e6, "lag {} ms, lead {} ms", m.behind / 1e6, m.ahead / 1e6);
    assert!(m.starved <= 50 * US, "somebody waited {} ns while a CPU slept", m.starved);
}

#[test]
fn five_busy_vcpus_on_four_cpus() {
    let mut m = Machine::new(4);
    let all: Vec<_> = (0..5).flat_map(|vm| m.weighted(vm, 256, vec![busy()])).collect();
    close(&m.shares(S, &all), &[0.8; 5], 0.008);
    small_lag(&m);
    let mut m = Machine::new(4);
    let all = m.weighted(0, 256, (0..5).map(|_| busy()).collect());
    close(&m.shares(S, &all), &[0.8; 5], 0.008);
    small_lag(&m);
}

#[test]
fn in_proportion_to_weights() {
    for cpus in 1..=4 {
        let mut m = Machine::new(cpus);
        let of = |m: &mut Machine, vm, weight| m.weighted(vm, weight, (0..cpus).map(|_| busy()).collect());
        let all = [of(&mut m, 0, 256), of(&mut m, 1, 512), of(&mut m, 2, 1024)].concat();
        let shares = m.shares(2 * S, &all);
        let expected: Vec<f64> = (0..3 * cpus).map(|i| f64::from(1 << (i / cpus)) / 7.0).collect();
        close(&shares, &expected, 0.01 / 7.0);
        small_lag(&m);
    }
}

#[test]
fn with_a_cpu_sixty_percent_reserved() {
    let mut m = Machine::new(4);
    m.reserve(0, 600 * US, MS, MS, busy());
    let all: Vec<_> = (0..5).flat_map(|vm| m.weighted(vm, 256, vec![busy()])).collect();
    close(&m.shares(2 * S, &all), &[0.68; 5], 0.0068);
    small_lag(&m);
}

#[test]
fn a_cap_holds() {
    let mut m = Machine::new(2);
    let share = Share { weight: 256, cap: 50, affinity: CpuSet::ALL };
    let capped = m.vm(0, share, vec![busy()]);
    let wide = m.vm(1, Share { cap: 130, ..share }, vec![busy(), busy()]);
    let all = [capped, wide].concat();
    close(&m.shares(2 * S, &all), &[0.5, 0.65, 0.65], 0.005);
    // And under contention: the rest goes to the others.
    let others = m.weighted(2, 256, vec![busy(), busy()]);
    let all = [all, others].concat();
    close(&m.shares(2 * S, &all), &[0.5, 0.375, 0.375, 0.375, 0.375], 0.005);
    small_lag(&m);
}

#[test]
fn who_cannot_use_its_part_leaves_it() {
    // One vCPU uses one CPU at most, whatever its weight.
    let mut m = Machine::new(3);
    let all = [
        m.weighted(0, 10_000, vec![busy()]),
        m.weighted(1, 100, (0..3).map(|_| busy()).collect()),
        m.weighted(2, 300, (0..3).map(|_| busy()).collect()),
    ];
    let shares = m.shares(2 * S, &all.concat());
    let (low, high) = (0.5 / 3.0, 1.5 / 3.0);
    close(&shares, &[1.0, low, low, low, high, high, high], 0.005);
    small_lag(&m);
}

#[test]
fn affinity_binds() {
    // Two VMs on CPU 0 with weights 1:3; the others have the rest for themselves.
    let mut m = Machine::new(3);
    let on = |weight, cpus| Share { weight, cap: 0, affinity: CpuSet(cpus) };
    let all = [
        m.vm(0, on(100, 1), vec![busy()]),
        m.vm(1, on(300, 1), vec![busy()]),
        m.vm(2, on(100, 7), vec![busy(), busy(), busy()]),
        m.vm(3, on(100, 6), vec![busy()]),
    ];
    let shares = m.shares(2 * S, &all.concat());
    close(&shares, &[0.25, 0.75, 1.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0, 1.0], 0.005);
    small_lag(&m);
}

/// A CPU that a reservation leaves has nobody who waits for it, and is used by who runs where others have to wait.
#[test]
fn who_can_leave_makes_room_when_a_reservation_ends() {
    let mut m = Machine::new(2);
    m.reserve(1, 500 * US, 2 * MS, 2 * MS, busy());
    let on = |cpus| Share { weight: 256, cap: 0, affinity: CpuSet(cpus) };
    let all = [m.vm(0, on(3), vec![busy()]), m.vm(1, on(1), vec![busy()])];
    let shares = m.shares(2 * S, &all.concat());
    assert!((shares.iter().sum::<f64>() - 1.75).abs() < 1e-3, "{shares:?}");
}

#[test]
fn many_light_vms_do_not_delay_a_heavy_one() {
    let mut m = Machine::new(1);
    let mut all: Vec<_> = (0..15).flat_map(|vm| m.weighted(vm, 10, vec![busy()])).collect();
    all.extend(m.weighted(15, 150, vec![busy()]));
    let mut expected = vec![0.5 / 15.0; 15];
    expected.push(0.5);
    close(&m.shares(2 * S, &all), &expected, 0.003);
    small_lag(&m);
}

/// Sleeps for `sleep` after each `work`.
fn dozes(work: Ns, sleep: Ns) -> Guest {
    let mut working = false;
    Box::new(move |now| {
        working = !working;
        if working { Step::Work(work) } else { Step::Sleep(now + sleep) }
    })
}

#[test]
fn sleeping_at_the_right_time_gains_nothing() {
    for cpus in [1, 2, 4] {
        for (work, sleep) in [
            (SLICE - US, US),
            (SLICE - 10 * US, 10 * US),
            (SLICE / 4 - US, US),
            (990 * US, 1),
            (9_990 * US, 10 * US),
            (29 * MS, 500 * US),
            (100 * US, US),
            (249 * US, 251 * US),
        ] {
            let mut m = Machine::new(cpus);
            let honest: Vec<_> =
                (0..2 * cpus as u8 - 1).flat_map(|vm| m.weighted(vm, 256, vec![busy()])).collect();
            let dodger = m.weighted(15, 256, vec![dozes(work, sleep)]);
            let shares = m.shares(5 * S, &dodger);
            assert!(shares[0] < 0.5 * 1.005, "{cpus} CPUs, {work} of work, {sleep} of sleep: {shares:?}");
            assert!(honest.iter().all(|v| m.ran[usize::from(v.0)] > 5 * S / 2 / 1005 * 1000));
        }
    }
}

/// Also beside somebody who cannot use all of its part. (It had 80 % of a CPU: what it was ahead shrank when it woke, as it was taken for
/// virtual time of another rate.)
#[test]
fn sleeping_for_a_moment_gains_nothing_beside_one_that_is_bound() {
    let mut m = Machine::new(4);
    m.weighted(0, 512, vec![busy(), busy()]);
    let bound = m.weighted(1, 760, vec![busy()]);
    let honest = m.weighted(2, 256, vec![busy()]);
    let dodger = m.weighted(3, 256, vec![dozes(1_114_773, 1)]);
    let shares = m.shares(5 * S, &[dodger[0], bound[0], honest[0]]);
    assert!(shares[0] < 0.75 * 1.005 && shares[1] > 0.995 && shares[2] > 0.75 * 0.995, "{shares:?}");
}

/// The largest weight beside the smallest ones on a CPU that one more of the smallest need not share. (It had 94.6 %.)
#[test]
fn small_weights_count_as_little_as_they_are() {
    let share = |weight, affinity| Share { weight, cap: 0, affinity };
    for weight in [4096, MAX_WEIGHT] {
        let mut m = Machine::new(2);
        let large = m.vm(0, share(weight, CpuSet::first(1)), vec![busy()]);
        for vm in 1..15 {
            m.vm(vm, share(1, CpuSet::first(1)), vec![busy()]);
        }
        m.vm(15, share(1, CpuSet::ALL), vec![busy()]);
        let ideal = f64::from(weight) / f64::from(weight + 14);
        close(&m.shares(20 * S, &large), &[ideal], 0.005);
    }
}

#[test]
fn a_flood_of_wake_ups_gains_nothing() {
    for cpus in [1, 2] {
        for interval in [3 * US, 7 * US, 50 * US, 333 * US] {
            let mut m = Machine::new(cpus);
            let honest: Vec<_> =
                (0..2 * cpus as u8 - 1).flat_map(|vm| m.weighted(vm, 256, vec![busy()])).collect();
            // Sleeps all the time, and is woken by a device at once.
            let flooder = m.weighted(15, 256, vec![dozes(interval, NEVER - (1 << 62))]);
            for _ in 0..S / interval {
                m.run(interval);
                m.wake(flooder[0]);
            }
            let ran = m.ran[usize::from(flooder[0].0)] as f64 / m.now as f64;
            assert!(ran < 0.5 * 1.005, "{cpus} CPUs, every {interval} ns: {ran}");
            assert!(honest.iter().all(|v| m.ran[usize::from(v.0)] > m.now / 2 / 1005 * 1000));
        }
    }
}

#[test]
fn a_waking_vcpu_gets_a_cpu_soon() {
    let mut m = Machine::new(1);
    m.weighted(0, 256, vec![busy()]);
    m.weighted(1, 256, vec![busy()]);
    let io = m.weighted(2, 256, vec![dozes(20 * US, 3 * MS)]);
    m.run(S);
    let waited = m.sched.stats(io[0]).waited / (m.sched.stats(io[0]).switches);
    assert!(waited < 150 * US, "{waited}");
    assert!(m.ran[2] > 19 * US * S / (3 * MS + 170 * US));
}

#[test]
fn low_load_leaves_cpus_asleep() {
    let mut m = Machine::new(4);
    for vm in 0..6 {
        // 30 to 80 us of work every 7 to 12 ms.
        let times = (Ns::from(vm) * 10 + 30, Ns::from(vm) + 7);
        m.weighted(vm, 256, vec![dozes(times.0 * US, times.1 * MS)]);
    }
    m.run(S);
    let before = m.wakeups.clone();
    m.run(5 * S);
    let woken: Vec<u64> = m.wakeups.iter().zip(before).map(|(now, before)| now - before).collect();
    assert!(woken[0] > 2000 && woken[2..] == [0, 0] && woken[1] < 200, "{woken:?}");
    assert!(m.starved <= 50 * US, "somebody waited {} ns while a CPU slept", m.starved);
}

#[test]
fn nothing_wakes_an_idle_machine_but_its_own_timers() {
    let mut m = Machine::new(4);
    m.weighted(0, 256, vec![dozes(20 * US, 100 * MS), dozes(20 * US, NEVER - (1 << 62))]);
    m.weighted(1, 256, vec![busy_until(MS), busy_until(2 * MS)]);
    m.reserve(3, 100 * US, MS, MS, dozes(10 * US, 50 * MS));
    m.run(S);
    let before = (m.timers.clone(), m.wakeups.clone());
    m.run(10 * S);
    let sum = |a: &[u64], b: &[u64]| a.iter().sum::<u64>() - b.iter().sum::<u64>();
    // 100 and 200 sleeps end.
    let (timers, wakeups) = (sum(&m.timers, &before.0), sum(&m.wakeups, &before.1));
    assert!(timers <= 302 && wakeups <= 302 && wakeups > 290, "{timers} timers, {wakeups} wake-ups");
}

/// Works so long, once.
fn busy_until(time: Ns) -> Guest {
    let mut done = false;
    Box::new(move |_| if core::mem::replace(&mut done, true) { Step::Sleep(NEVER) } else { Step::Work(time) })
}

#[test]
fn siblings_have_equal_parts_whoever_slept() {
    let late =
        |first: Ns| -> Guest {
            let mut slept = false;
            Box::new(move |_| {
                if core::mem::replace(&mut slept, true) { Step::Work(10 * S) } else { Step::Sleep(first) }
            })
        };
    for cpus in 1..=2 {
        let mut m = Machine::new(cpus);
        let vms = [0, 1].map(|vm| m.weighted(vm, 256, vec![busy(), late(300 * MS), late(600 * MS)]));
        for (expected, sleeping) in [([1.0, 0.0, 0.0], 2), ([0.5, 0.5, 0.0], 1), ([1.0 / 3.0; 3], 0)] {
            let shares = m.shares(295 * MS, &vms.concat());
            let part = if cpus == 2 && sleeping == 2 { 1.0 } else { cpus as f64 / 2.0 };
            let expected: Vec<f64> = [expected, expected].concat().iter().map(|share| share * part).collect();
            close(&shares, &expected, 0.012);
            m.run(5 * MS);
        }
    }
}

#[test]
fn what_could_run_and_did_not_has_waited() {
    let (cpu, first, second) = (CpuId(0), VcpuId(0), VcpuId(1));
    let mut s = Scheduler::new(CpuSet::only(cpu), MS, 0);
    let share = Share { weight: 256, cap: 0, affinity: CpuSet::ALL };
    for (vm, v) in [(VmId(0), first), (VmId(1), second)] {
        s.set_share(vm, share, 0).unwrap();
        s.add(v, Schedule::Shared(vm)).unwrap();
    }
    s.wake(first, 100);
    s.wake(first, 120); // Woken is woken.
    assert_eq!(s.pick(cpu, Leave::Ready, 130).run, Some(first));
    assert_eq!(s.stats(first).waited, 30);
    s.wake(second, MS);
    while s.pick(cpu, Leave::Ready, 3 * MS).run != Some(second) {}
    assert_eq!(s.stats(second).waited, 2 * MS);
    // It sleeps for a time, which the CPU notices late.
    assert_eq!(s.pick(cpu, Leave::Sleeps(Some(5 * MS)), 4 * MS).run, Some(first));
    assert_eq!(s.stats(first).waited, 30 + MS, "pre-empted");
    assert_eq!(s.pick(cpu, Leave::Sleeps(None), 5 * MS + 7).run, Some(second));
    assert_eq!(s.stats(second).waited, 2 * MS + 7, "late after a timed sleep");
    assert_eq!(s.stats(first).waited, 30 + MS, "sleep is not stolen");
}

/// One that is at its cap when it goes to sleep runs again when its timer fires, or when the cap lets it. Beside another on one CPU it has
/// 30 % while it wants to run, and what it does not want is that one's.
#[test]
fn who_sleeps_at_the_cap_wakes() {
    let share = |cap| Share { weight: 256, cap, affinity: CpuSet::ALL };
    for cpus in 1..=2 {
        for work in [200 * US, 3 * MS] {
            for beside in [false, true] {
                let mut m = Machine::new(cpus);
                let capped = m.vm(0, share(30), vec![dozes(work, 100 * US)]);
                if beside {
                    m.vm(1, share(0), vec![busy()]);
                }
                let awake = if beside && cpus == 1 { work as f64 / (work as f64 + 0.3 * 100e3) } else { 1.0 };
                close(&m.shares(S, &capped), &[0.3 * awake], if awake < 1.0 { 0.015 } else { 0.003 });
            }
        }
    }
}

/// Works in short steps, and when it has run for `steps` of them without being interrupted it sleeps for `nap`: before it is made to wait.
fn sly(steps: u32, nap: Ns) -> Guest {
    let (mut last, mut run, mut napped) = (0, 0, true);
    Box::new(move |now| {
        run = if napped || now - last > 25 * US + 1 { u32::from(!napped) } else { run + 1 };
        (last, napped) = (now, run >= steps);
        if napped { Step::Sleep(now + nap) } else { Step::Work(25 * US) }
    })
}

/// Who sleeps before it is made to wait gains nothing where some may not run everywhere. (It had 99 % of a CPU of 67 %, and others were 163 ms
/// behind: when all others had what they could use nobody bore what it was ahead, and that was forgotten.)
#[test]
fn a_sly_nap_gains_nothing() {
    let share = |weight, affinity| Share { weight, cap: 0, affinity };
    for (weights, fair) in [([256, 256, 256], 0.667), ([256, 512, 128], 0.334)] {
        for (steps, nap) in [(5, US), (40, US), (38, 10 * US)] {
            let mut m = Machine::new(2);
            m.strict = true;
            m.vm(0, share(weights[0], CpuSet(1)), vec![busy()]);
            m.vm(1, share(weights[1], CpuSet::ALL), vec![busy()]);
            let x = m.vm(2, share(weights[2], CpuSet::ALL), vec![sly(steps, nap)]);
            let had = m.shares(S, &x)[0];
            assert!(had <= fair * 1.005, "{had} of {fair}, naps of {nap} after {steps} steps");
            assert!(m.behind <= 2e6, "{} ms behind", m.behind / 1e6);
        }
    }
}

/// The same where it has what it can use: nobody else pays. (What is counted in advance was in the clock when it woke, and not when it had left:
/// others seemed to be behind, and one of them got all, 320 ms in a second.)
#[test]
fn a_sly_nap_of_one_that_is_bound_harms_nobody() {
    let mut m = Machine::new(2);
    m.strict = true;
    m.weighted(0, 256, vec![busy(), busy()]);
    m.weighted(1, 128, vec![busy()]);
    m.vm(2, Share { weight: 1000, cap: 0, affinity: CpuSet(1) }, vec![sly(5, US)]);
    m.run(S);
    assert!(m.behind <= 2e6, "{} ms behind", m.behind / 1e6);
}

/// The same where what others are due changes when it sleeps, but not in proportion to their rates: of one that then has all it can use, or not
/// at all, as others are bound to CPUs that it does not use. (In their order, 18.6, 14.8 and 7.3 ms behind: those bore nothing of what it was
/// ahead, or as much as others, each time.)
#[test]
fn a_sly_nap_is_for_those_whom_it_serves() {
    /// Weight, how many vCPUs, affinity.
    type Vm = (u32, usize, u64);
    let all: [(usize, &[Vm], Vm, Guest); 3] = [
        (6, &[(30, 1, 15), (256, 2, 15), (512, 1, 63), (128, 2, 47)], (30, 1, 63), sly(5, 500 * US)),
        (
            4,
            &[(256, 2, 3), (256, 2, 1), (256, 4, 1), (256, 1, 1), (256, 3, 1), (256, 1, 3), (700, 3, 1)],
            (512, 1, 3),
            sly(5, 10 * US),
        ),
        (3, &[(128, 3, 7)], (30, 1, 5), sly(20, 10 * US)),
    ];
    for (cpus, vms, sleeper, guest) in all {
        let mut m = Machine::new(cpus);
        m.strict = true;
        let share = |(weight, _, cpus)| Share { weight, cap: 0, affinity: CpuSet(cpus) };
        for (n, &vm) in vms.iter().enumerate() {
            m.vm(n as u8, share(vm), (0..vm.1).map(|_| busy()).collect());
        }
        m.vm(vms.len() as u8, share(sleeper), vec![guest]);
        m.run(S);
        assert!(m.behind <= 2e6, "{vms:?}: {} ms behind", m.behind / 1e6);
    }
}

/// The vCPUs of a VM at its cap take turns, though CPUs are free. (One had all: while nobody else waits, turns were not counted.)
#[test]
fn siblings_take_turns_at_their_cap() {
    for (cpus, cap, others) in [(2, 100, 0), (4, 100, 1), (4, 50, 2), (4, 150, 2)] {
        let mut m = Machine::new(cpus);
        let share = Share { weight: 256, cap, affinity: CpuSet::ALL };
        let both = m.vm(0, share, vec![busy(), busy()]);
        m.weighted(1, 256, (0..others).map(|_| busy()).collect());
        close(&m.shares(S, &both), &[f64::from(cap) / 200.0; 2], 0.01);
    }
}
