//! Budgets and deadlines.

use super::machine::*;
use crate::admission::Reservation;
use crate::server::{Server, Supply};
use crate::*;
use proptest::prelude::*;

#[test]
fn no_misses_beside_busy_shares_and_the_shares_get_the_rest() {
    let mut m = Machine::new(1);
    let linux = m.weighted(0, 256, vec![busy(), busy()]);
    let rt = m.reserve(0, 250 * US, MS, MS, periodic(200 * US, MS, 0));
    let shares = m.shares(10 * S, &linux);
    let stats = m.sched.stats(rt);
    assert!(stats.jobs >= 9_999 && stats.misses == 0 && stats.throttles == 0, "{stats:?}");
    assert!(shares.iter().all(|share| (share - 0.4).abs() < 0.004), "{shares:?}");
}

#[test]
fn without_its_reservation_it_misses() {
    let mut m = Machine::new(1);
    m.weighted(0, 512, vec![busy(), busy()]);
    let mut late = 0;
    let mut next = 0;
    let mut working = false;
    let rt = m.weighted(
        1,
        256,
        vec![Box::new(move |now| {
            working = !working;
            if working {
                return Step::Work(400 * US);
            }
            next += MS;
            late += u64::from(now > next);
            if late > 100 { Step::Sleep(NEVER) } else { Step::Sleep(next) }
        })],
    );
    m.run(S);
    assert!(m.ran[usize::from(rt[0].0)] < 300 * 400 * US, "it was late 100 times long before the end");
}

#[test]
fn an_overrun_is_cut_at_the_budget() {
    let mut m = Machine::new(1);
    let linux = m.weighted(0, 256, vec![busy()]);
    let rt = m.reserve(0, 250 * US, MS, MS, busy());
    let shares = m.shares(S, &[rt, linux[0]]);
    assert!((shares[0] - 0.25).abs() < 1e-6 && (shares[1] - 0.75).abs() < 1e-6, "{shares:?}");
    assert_eq!(m.sched.stats(rt).throttles, 1000);
}

/// A budget in pieces, because the vCPU has slept in mid-period, is as much as one in one piece, also when other reservations make the
/// piece before last until after the next one has come back. (It was 5 % less, for ever.)
#[test]
fn pieces_of_a_budget_come_back_in_every_period() {
    const BUDGET: Ns = 768 * US;
    const PERIOD: Ns = 1_829 * US;
    let mut m = Machine::new(1);
    let mut steps =
        [Step::Work(565 * US), Step::Sleep(898 * US), Step::Work(9), Step::Sleep(1_221 * US)].into_iter();
    let v =
        m.reserve(0, BUDGET, PERIOD, 1_595 * US, Box::new(move |_| steps.next().unwrap_or(Step::Work(S))));
    m.reserve(0, 1_119 * US, 3_392 * US, 1_983 * US, busy());
    m.run(20 * MS);
    let ran = m.shares(1000 * PERIOD, &[v])[0] * (1000 * PERIOD) as f64;
    assert!((ran - (1000 * BUDGET) as f64).abs() <= BUDGET as f64, "{ran} ns");
}

/// A CPU always comes `late` to stop a reservation: what that had too much it has less the next time.
fn comes_late(late: Ns) {
    const SWITCH: Ns = US;
    let mut s = Scheduler::new(CpuSet::first(1), SLICE, SWITCH);
    let reservation = Reservation { budget: 100 * US, period: MS, deadline: MS };
    let v = VcpuId(0);
    s.add(v, Schedule::Reserved { reservation, cpu: CpuId(0) }).unwrap();
    s.wake(v, 0);
    let mut now = 0;
    while now < 100 * MS {
        let decision = s.pick(CpuId(0), Leave::Ready, now);
        now = decision.until.unwrap() + if decision.run.is_some() { late } else { 0 };
    }
    let (ran, budgets) = (s.stats(v).ran, 100 * (100 * US + 2 * SWITCH));
    assert!(ran <= budgets + late && ran + late > budgets, "{ran} of {budgets}");
}

#[test]
fn what_was_overdrawn_is_paid_back() {
    comes_late(10 * US);
    comes_late(90 * US);
}

/// The CPU stands still for 50 ms while a reservation runs: that takes the next budget from it, and no more.
#[test]
fn a_standstill_costs_a_reservation_one_budget() {
    let mut s = Scheduler::new(CpuSet::first(1), SLICE, 0);
    let reservation = Reservation { budget: 100 * US, period: MS, deadline: MS };
    let v = VcpuId(0);
    s.add(v, Schedule::Reserved { reservation, cpu: CpuId(0) }).unwrap();
    s.wake(v, 0);
    assert_eq!(s.pick(CpuId(0), Leave::Ready, 0).until, Some(100 * US));
    let waits = s.pick(CpuId(0), Leave::Ready, 50 * MS);
    assert_eq!((waits.run, waits.until), (None, Some(51 * MS)));
    let runs = s.pick(CpuId(0), Leave::Ready, 51 * MS);
    assert_eq!((runs.run, runs.until), (Some(v), Some(51 * MS + 100 * US)));
}

/// A guest sets its timer as it likes: one that is over again and again, when it goes to sleep, gives no budget twice. (It had 80 %.)
#[test]
fn a_timer_in_the_past_gives_no_budget() {
    for back in [NEVER, 2 * MS, MS, 0] {
        let mut m = Machine::new(1);
        let share = m.weighted(0, 256, vec![busy()]);
        let other = m.reserve(0, 250 * US, MS, MS, busy());
        let mut working = false;
        let sleeps = Box::new(move |now: Ns| {
            working = !working;
            if working { Step::Work(10 * US) } else { Step::Done(now.saturating_sub(back)) }
        });
        let cheat = m.reserve(0, 250 * US, MS, MS, sleeps);
        let shares = m.shares(S, &[cheat, other, share[0]]);
        assert!(shares[0] < 0.251 && shares[1] > 0.249 && shares[2] > 0.498, "{back} ns back: {shares:?}");
    }
}

/// Of three that take 95 %, one's timed wake-up is overdue, as it changes nothing for the one that runs, when an interrupt comes for it. Its
/// budget is due 2 ms after its own wake-up all the same. (It was due 2 ms after the interrupt.)
#[test]
fn an_interrupt_does_not_put_off_an_overdue_wake_up() {
    let mut m = Machine::new(1);
    let woken = m.reserve(0, 20 * US, 2 * MS, 2 * MS, periodic(20 * US, 2 * MS, 10 * US));
    m.reserve(0, 1_050 * US, 2_400 * US, 2_400 * US, periodic(1_050 * US, 2_400 * US, 50 * US));
    m.run(0);
    m.reserve(0, 620 * US, 1_240 * US, 1_240 * US, periodic(620 * US, 1_240 * US, 0));
    m.run(600 * US);
    m.wake(woken);
    m.run(1_410 * US);
    assert_eq!(m.ran[usize::from(woken.0)], 20 * US, "by {} ns", m.now);
}

/// Works for `first` from power-on, and from `phase` on for `work` in every `period`.
fn disturbed(first: Ns, work: Ns, period: Ns, phase: Ns) -> Guest {
    let mut steps = vec![Step::Sleep(phase), Step::Work(first)];
    let mut rest = periodic(work, period, phase);
    Box::new(move |now| steps.pop().unwrap_or_else(|| rest(now)))
}

/// What it used before its first job makes that one late, but not those after it for long.
#[test]
fn late_once_is_not_late_for_ever() {
    for first in [30 * US, 60 * US, 100 * US, 190 * US, 240 * US] {
        for phase in [50 * US, 300 * US, 500 * US, 900 * US] {
            let mut m = Machine::new(1);
            let linux = m.weighted(0, 256, vec![busy()]);
            let rt = m.reserve(0, 250 * US, MS, 400 * US, disturbed(first, 220 * US, MS, phase));
            m.run(20 * MS);
            let before = m.sched.stats(rt);
            m.run(100 * MS);
            let stats = m.sched.stats(rt);
            assert!(before.misses <= 10, "{before:?}");
            assert_eq!((stats.jobs - before.jobs, stats.misses), (100, before.misses), "{first} {phase}");
            assert!(m.ran[usize::from(linux[0].0)] > 90 * MS);
        }
    }
}

#[test]
fn earliest_deadline_first() {
    let mut m = Machine::new(1);
    // 30 % + 30 % + 30 %: by fixed priorities, or first come first served, the shortest would miss.
    let all = [
        m.reserve(0, 300 * US, MS, MS, periodic(290 * US, MS, 0)),
        m.reserve(0, 3 * MS, 10 * MS, 10 * MS, periodic(2900 * US, 10 * MS, 0)),
        m.reserve(0, 15 * MS, 50 * MS, 50 * MS, periodic(14_500 * US, 50 * MS, 0)),
    ];
    m.run(5 * S);
    for v in all {
        let stats = m.sched.stats(v);
        assert!(stats.jobs >= 99 && stats.misses == 0, "{v:?} {stats:?}");
    }
}

/// Half of the CPU in 1 ms, twice, the second with a deadline of half a period: admission says yes, since in no interval
/// more is released and due than there is time. A server that lets its vCPU use, with the old deadline, what it left
/// before a sleep would take half of the second one's time.
#[test]
fn sleeping_in_mid_period_harms_nobody() {
    let mut m = Machine::new(1);
    let mut step = 0;
    let sleeper = Box::new(move |now: Ns| {
        step += 1;
        // Works for a moment, and again in the middle of the period.
        match step % 4 {
            1 => Step::Work(10 * US),
            2 => Step::Sleep(now - now % MS + 500 * US),
            3 => Step::Work(250 * US),
            _ => Step::Sleep(now - now % MS + MS),
        }
    });
    m.reserve(0, 500 * US, MS, MS, sleeper);
    let other = m.reserve(0, 500 * US, 10 * MS, 500 * US, periodic(490 * US, 10 * MS, 500 * US));
    m.run(S);
    let stats = m.sched.stats(other);
    assert!(stats.jobs >= 99 && stats.misses == 0, "{stats:?}");
}

#[test]
fn a_short_deadline_goes_first_and_waits_for_its_period() {
    let mut m = Machine::new(1);
    let short = m.reserve(0, 500 * US, 5 * MS, 2 * MS, busy());
    let long = m.reserve(0, 2 * MS, 4 * MS, 4 * MS, busy());
    m.run(100 * MS);
    let ran = [m.ran[usize::from(short.0)], m.ran[usize::from(long.0)]];
    assert_eq!(ran, [20 * 500 * US, 25 * 2 * MS]);
}

#[test]
fn while_it_runs_only_what_can_pre_empt_it_arms_the_timer() {
    let mut m = Machine::new(2);
    m.weighted(0, 256, vec![busy(), busy(), busy()]);
    // Sleeps on some CPU all the time.
    m.weighted(1, 256, vec![Box::new(|now| Step::Sleep(now + 50 * US))]);
    let rt = m.reserve(0, 900 * US, MS, MS, busy());
    m.run(10 * MS + 100 * US);
    assert_eq!(m.running(0), Some(rt));
    assert_eq!(m.until(0), Some(10 * MS + 900 * US));
    let before = m.timers[0];
    m.run(10 * MS);
    assert!(m.timers[0] - before <= 40, "{}", m.timers[0] - before);
    assert!(m.starved <= 50 * US);
}

#[test]
fn an_exclusive_cpu_is_left_alone() {
    let mut m = Machine::new(2);
    let owner = m.exclusive(1, busy());
    let others = m.weighted(0, 256, vec![busy(), busy(), busy()]);
    let before = m.timers[1];
    let shares = m.shares(S, &others);
    assert_eq!((m.running(1), m.until(1), m.timers[1]), (Some(owner), None, before));
    assert!(shares.iter().all(|share| (share - 1.0 / 3.0).abs() < 0.003), "{shares:?}");
    let taken = Schedule::Exclusive(CpuId(1));
    assert_eq!(m.sched.add(VcpuId(9), taken), Err(ScheduleError::NoCpu));
    let reservation = Reservation { budget: MS, period: 2 * MS, deadline: 2 * MS };
    let there = Schedule::Reserved { reservation, cpu: CpuId(1) };
    assert_eq!(m.sched.add(VcpuId(9), there), Err(ScheduleError::NoCpu));
}

#[test]
fn schedules_change_while_they_run() {
    let mut m = Machine::new(2);
    let a = m.weighted(0, 256, vec![busy()])[0];
    let b = m.weighted(1, 256, vec![busy(), busy()])[0];
    m.run(10 * MS);
    let reservation = Reservation { budget: 100 * US, period: MS, deadline: MS };
    let bad = Schedule::Reserved { reservation: Reservation { budget: 0, ..reservation }, cpu: CpuId(0) };
    assert_eq!(m.sched.set_schedule(a, bad, m.now), Err(ScheduleError::Malformed));
    let there = Schedule::Reserved { reservation, cpu: CpuId(2) };
    assert_eq!(m.sched.set_schedule(a, there, m.now), Err(ScheduleError::NoCpu));
    assert_eq!(m.sched.schedule(a), Some(Schedule::Shared(VmId(0))));
    for cpu in [0, 1, 0] {
        let there = Schedule::Reserved { reservation, cpu: CpuId(cpu) };
        let told = m.sched.set_schedule(a, there, m.now).unwrap();
        m.tell(told);
        let shares = m.shares(100 * MS, &[a]);
        assert!((shares[0] - 0.1).abs() < 0.002, "{shares:?}");
    }
    let told = m.sched.set_schedule(a, Schedule::Shared(VmId(1)), m.now).unwrap();
    m.tell(told);
    let shares = m.shares(S, &[a, b]);
    assert!(shares.iter().all(|share| (share - 2.0 / 3.0).abs() < 0.01), "{shares:?}");
    let light = Share { weight: 256, cap: 30, affinity: CpuSet::only(CpuId(1)) };
    let told = m.sched.set_share(VmId(1), light, m.now).unwrap();
    m.tell(told);
    let shares = m.shares(2 * S, &[a, b]);
    assert!(shares.iter().all(|share| (share - 0.1).abs() < 0.001), "{shares:?}");
}

/// Jobs of `work` in every `period`, from when it first runs on.
fn from_now_on(work: Ns, period: Ns) -> Guest {
    let mut jobs = None;
    Box::new(move |now| jobs.get_or_insert_with(|| periodic(work, period, now))(now))
}

/// Of 1 ms one has 500 us and another 450. The first one has used its part when it gives up 400 us, which are promised to a third one at
/// once, with a deadline before that of the second one.
#[test]
fn what_is_given_up_is_another_s_when_nobody_counts_on_it() {
    for leaves in [false, true] {
        let mut m = Machine::new(1);
        m.weighted(0, 256, vec![busy()]);
        let first = m.reserve(0, 500 * US, MS, MS, busy());
        let second = m.reserve(0, 450 * US, MS, MS, periodic(440 * US, MS, 0));
        m.run(500 * US);
        assert_eq!(m.ran[usize::from(first.0)], 500 * US);
        let reservation = Reservation { budget: 100 * US, period: MS, deadline: MS };
        let less = Schedule::Reserved { reservation, cpu: CpuId(0) };
        let schedule = if leaves { Schedule::Shared(VmId(0)) } else { less };
        let told = m.sched.set_schedule(first, schedule, m.now).unwrap();
        m.tell(told);
        let third = m.reserve(0, 400 * US, MS, 400 * US, from_now_on(390 * US, MS));
        m.run(100 * MS);
        for v in [second, third] {
            let stats = m.sched.stats(v);
            assert!(stats.jobs >= 98 && stats.misses == 0, "{v:?} {stats:?}");
        }
    }
}

#[test]
fn time_spent_for_another_is_charged_to_that_one() {
    let mut s = Scheduler::new(CpuSet::first(1), SLICE, 0);
    let reservation = Reservation { budget: 100 * US, period: MS, deadline: MS };
    s.set_share(VmId(0), Share { weight: 1, cap: 0, affinity: CpuSet::ALL }, 0).unwrap();
    s.add(VcpuId(0), Schedule::Reserved { reservation, cpu: CpuId(0) }).unwrap();
    s.add(VcpuId(1), Schedule::Shared(VmId(0))).unwrap();
    s.wake(VcpuId(0), 0);
    s.wake(VcpuId(1), 0);
    assert!(s.pick(CpuId(0), Leave::Ready, 0).reserved);
    s.charge_to(CpuId(0), VcpuId(1), 30 * US);
    assert_eq!(s.pick(CpuId(0), Leave::Ready, 50 * US).until, Some(130 * US));
    assert_eq!((s.stats(VcpuId(0)).ran, s.stats(VcpuId(1)).ran), (20 * US, 30 * US));
    assert_eq!(s.budget(VcpuId(0), 50 * US), Some(Budget { left: 80 * US, deadline: MS, replenished: MS }));
}

/// A reservation is cut to less than has been used while it runs, and its vCPU sleeps before its CPU picks again.
#[test]
fn who_sleeps_without_budget_is_not_woken_by_more_of_it() {
    let cpu = CpuId(0);
    let mut s = Scheduler::new(CpuSet::first(1), SLICE, 0);
    let v = VcpuId(0);
    let of =
        |budget| Schedule::Reserved { reservation: Reservation { budget, period: MS, deadline: MS }, cpu };
    s.add(v, of(200 * US)).unwrap();
    s.wake(v, 0);
    assert_eq!(s.pick(cpu, Leave::Ready, 0).run, Some(v));
    assert_eq!(s.set_schedule(v, of(100 * US), 150 * US), Ok(CpuSet::only(cpu)));
    assert_eq!(s.pick(cpu, Leave::Sleeps(None), 150 * US), Decision::IDLE);
    assert_eq!(s.pick(cpu, Leave::Ready, 10 * MS), Decision::IDLE);
}

/// A reservation that wakes in less than a quarter of a switch finds the CPU waiting for it, and what ran there unloaded.
#[test]
fn nothing_is_begun_shortly_before_a_reservation_wakes() {
    const SWITCH: Ns = 4 * US;
    let cpu = CpuId(0);
    let mut s = Scheduler::new(CpuSet::first(1), SLICE, SWITCH);
    let reservation = Reservation { budget: 100 * US, period: MS, deadline: MS };
    s.set_share(VmId(0), Share { weight: 1, cap: 0, affinity: CpuSet::ALL }, 0).unwrap();
    let (reserved, share) = (VcpuId(0), VcpuId(1));
    s.add(reserved, Schedule::Reserved { reservation, cpu }).unwrap();
    s.add(share, Schedule::Shared(VmId(0))).unwrap();
    s.wake_all(3, 0);
    assert_eq!(s.pick(cpu, Leave::Ready, 0).run, Some(reserved));
    assert_eq!(s.pick(cpu, Leave::Sleeps(Some(MS)), 10 * US).run, Some(share));
    assert_eq!(s.pick(cpu, Leave::Ready, MS - SWITCH / 4).run, Some(share));
    let waits = s.pick(cpu, Leave::Ready, MS - SWITCH / 4 + 1);
    assert_eq!((waits.run, waits.until, waits.unload), (None, Some(MS), true));
    assert_eq!(s.pick(cpu, Leave::Ready, MS).run, Some(reserved));
    assert_eq!(s.pick(cpu, Leave::Sleeps(None), MS + 10 * US).run, Some(share));
}

/// 100 us of budget, and 2 us for two switches: what runs next pays for no switch away, and who sleeps all the time pays
/// for all of its own.
#[test]
fn who_stops_pays_for_the_switch_away() {
    const SWITCH: Ns = US;
    let cpu = CpuId(0);
    let mut s = Scheduler::new(CpuSet::first(1), SLICE, SWITCH);
    let schedule = |deadline| {
        let reservation = Reservation { budget: 100 * US, period: MS, deadline };
        Schedule::Reserved { reservation, cpu }
    };
    let (urgent, other) = (VcpuId(0), VcpuId(1));
    s.add(urgent, schedule(500 * US)).unwrap();
    s.add(other, schedule(MS)).unwrap();
    s.wake(other, 0);
    let mut now = 0;
    let mut ran = 0;
    // It sleeps after 9 us, the switch to it included, and is woken 10 us later.
    for _ in 0..10 {
        s.wake(urgent, now);
        assert_eq!(s.pick(cpu, Leave::Ready, now).run, Some(urgent));
        now += 9 * US;
        assert_eq!(s.pick(cpu, Leave::Sleeps(None), now).run, Some(other));
        now += 5 * US;
        ran += 4 * US;
    }
    assert_eq!(s.stats(urgent).ran, 10 * (9 * US + SWITCH));
    // Ten times 10 us of 101 are used; the last one is the switch away.
    s.wake(urgent, now);
    let decision = s.pick(cpu, Leave::Ready, now);
    assert_eq!((decision.run, decision.until), (Some(urgent), Some(now + US)));
    now += US;
    let decision = s.pick(cpu, Leave::Ready, now);
    assert_eq!(s.stats(other).ran, ran);
    // The rest of its budget, and the switch to it, which took no time.
    assert_eq!((decision.run, decision.until), (Some(other), Some(now + SWITCH + 101 * US - ran)));
    assert_eq!(s.budget(other, now).map(|budget| budget.left), Some(101 * US - ran));
    // What it used after its first wake-up comes back a period after that.
    let decision = s.pick(cpu, Leave::Ready, MS);
    assert_eq!((decision.run, decision.until), (Some(urgent), Some(MS + 10 * US)));
}

proptest! {
    /// However a vCPU sleeps and works: what it uses of releases within any period is no more than its budget. That is what admission
    /// counts.
    #[test]
    fn a_budget_is_released_once_a_period(
        budget in 1_u64..=100,
        steps in prop::collection::vec((1_u64..150, 1_u64..60), 1..200),
    ) {
        const PERIOD: Ns = 100;
        let mut server = Server::new(Reservation { budget, period: PERIOD, deadline: PERIOD }, 0);
        let (mut now, mut used) = (0, Vec::new());
        for (sleep, mut work) in steps {
            now += sleep;
            while work > 0 {
                match server.wake(now) {
                    Supply::From(at) => {
                        prop_assert!(now < at && at <= now + PERIOD, "{at} at {now}");
                        now = at;
                    }
                    Supply::Until(_) => {
                        let ran = work.min(server.left());
                        used.push((server.release(), ran));
                        server.charge(ran);
                        (now, work) = (now + ran, work - ran);
                    }
                }
            }
        }
        for &(from, _) in &used {
            let within = used.iter().filter(|(release, _)| (from..from + PERIOD).contains(release));
            let sum: Ns = within.map(|(_, ran)| ran).sum();
            prop_assert!(sum <= budget, "{sum} of releases from {from} on");
        }
    }
}
