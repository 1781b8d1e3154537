//! What every caller can rely on, after any operations in any order, with CPUs that take their time to pick.

use super::machine::{MS, SLICE, US};
use crate::admission::Reservation;
use crate::*;
use proptest::prelude::*;

/// What the test knows about a vCPU without asking the scheduler.
#[derive(Clone)]
struct Known {
    runnable: bool,
    woken: bool,
    wake_at: Option<Ns>,
    /// For reservations: when it ran.
    runs: Vec<(Ns, Ns)>,
}

struct Machine {
    sched: Scheduler,
    now: Ns,
    vcpus: Vec<Known>,
    decisions: Vec<Decision>,
    /// What each CPU runs, or keeps while it idles.
    kept: Vec<Option<VcpuId>>,
    must_pick: CpuSet,
    /// The longest that a CPU has ignored its timer.
    late: Ns,
}

impl Machine {
    fn new(cpus: usize) -> Self {
        Self {
            sched: Scheduler::new(CpuSet::first(cpus), SLICE, 0),
            now: 0,
            vcpus: Vec::new(),
            decisions: vec![Decision::IDLE; cpus],
            kept: vec![None; cpus],
            must_pick: CpuSet::EMPTY,
            late: 0,
        }
    }

    fn cpus(&self) -> impl Iterator<Item = CpuId> + use<> {
        CpuSet::first(self.kept.len()).iter()
    }

    fn run(&self, cpu: CpuId) -> Option<VcpuId> {
        self.decisions[usize::from(cpu.0)].run
    }

    fn pick(&mut self, cpu: CpuId, leave: Leave) {
        self.must_pick.remove(cpu);
        let c = usize::from(cpu.0);
        if let Some(until) = self.decisions[c].until {
            self.late = self.late.max(self.now.saturating_sub(until));
        }
        let decision = self.sched.pick(cpu, leave, self.now);
        assert!(!decision.repick.contains(cpu), "a CPU that has just picked is told to pick");
        assert!(self.sched.fair.remembers(), "what VMs are due has changed since it was worked out");
        self.must_pick.insert(decision.repick);
        if decision.until.is_some_and(|at| at <= self.now) {
            self.must_pick.insert(CpuSet::only(cpu));
        }
        self.decisions[c] = decision;
        if decision.run.is_some() || decision.unload {
            self.kept[c] = decision.run;
        }
        for (i, known) in self.vcpus.iter_mut().enumerate() {
            // Whichever CPU's task it is.
            if known.wake_at.is_some_and(|at| at <= self.now) && self.sched.runnable & ids::bit(i) != 0 {
                (known.runnable, known.wake_at) = (true, None);
            }
        }
        if let Some(v) = decision.run {
            assert!(may_run(&self.sched, v, cpu), "runs on a forbidden CPU");
            for other in self.cpus().filter(|&other| other != cpu) {
                assert_ne!(self.kept[usize::from(other.0)], Some(v), "runs while another CPU holds it");
            }
        }
    }

    fn wake(&mut self, v: VcpuId) {
        let wake = self.sched.wake(v, self.now);
        self.must_pick.insert(wake.repick);
        for cpu in wake.running.iter() {
            assert_eq!(self.run(cpu), Some(v));
        }
        let known = &mut self.vcpus[usize::from(v.0)];
        known.woken = known.runnable;
        (known.runnable, known.wake_at) = (true, None);
    }

    fn stop(&mut self, v: VcpuId) {
        if let Some(cpu) = self.sched.stop(v) {
            self.must_pick.insert(CpuSet::only(cpu));
        }
        let known = &mut self.vcpus[usize::from(v.0)];
        (known.runnable, known.woken, known.wake_at) = (false, false, None);
    }

    fn block(&mut self, cpu: CpuId, wake_at: Option<Ns>) {
        let Some(v) = self.run(cpu) else { return };
        let known = &mut self.vcpus[usize::from(v.0)];
        if !std::mem::take(&mut known.woken) {
            known.wake_at = wake_at.filter(|_| known.runnable);
            known.runnable = false;
        }
        self.pick(cpu, Leave::Sleeps(wake_at));
        let known = &self.vcpus[usize::from(v.0)];
        assert_eq!(self.sched.is_runnable(v), known.runnable, "lost or invented wake-up");
    }

    /// Goes to `now`; a CPU whose timer fires on the way picks then, unless it is `deaf`.
    fn advance(&mut self, now: Ns, deaf: bool) {
        loop {
            let next = self.cpus().filter_map(|cpu| {
                let until = self.decisions[usize::from(cpu.0)].until?;
                (until > self.now && until <= now).then_some(until)
            });
            let next = next.min().filter(|_| !deaf).unwrap_or(now);
            for cpu in self.cpus() {
                let v = self.run(cpu).filter(|_| self.decisions[usize::from(cpu.0)].reserved);
                if let Some(v) = v {
                    self.vcpus[usize::from(v.0)].runs.push((self.now, next));
                }
            }
            self.now = next;
            for cpu in self.cpus() {
                if self.decisions[usize::from(cpu.0)].until.is_some_and(|at| at <= self.now) {
                    self.must_pick.insert(CpuSet::only(cpu));
                }
            }
            if next == now {
                return;
            }
            self.settle();
        }
    }

    /// Lets everybody do what they have been told, until nobody has anything to do.
    fn settle(&mut self) {
        for _ in 0..1000 {
            let Some(cpu) = self.must_pick.iter().next() else { return };
            self.pick(cpu, Leave::Ready);
        }
        panic!("CPUs tell each other to pick without end");
    }

    /// Whether it makes no difference that `v` has not been woken at `at`.
    fn may_be_late(&self, v: VcpuId, at: Ns) -> bool {
        let decision = |cpu: CpuId| self.decisions[usize::from(cpu.0)];
        match self.sched.schedule(v) {
            Some(Schedule::Reserved { reservation, cpu }) => decision(cpu).run.is_some_and(|occupant| {
                let occupant = self.sched.budget(occupant, self.now).expect("a share runs");
                occupant.deadline <= at + reservation.deadline
            }),
            Some(Schedule::Shared(_)) => {
                self.cpus().all(|cpu| decision(cpu).reserved || !self.sched.usable.contains(cpu))
            }
            _ => false,
        }
    }

    fn check_settled(&self) {
        let waits = |i: usize| {
            let runs = self.cpus().any(|cpu| self.run(cpu) == Some(VcpuId(i as u16)));
            self.vcpus[i].runnable && !runs
        };
        for (i, known) in self.vcpus.iter().enumerate() {
            let v = VcpuId(i as u16);
            if let Some(at) = known.wake_at.filter(|&at| at <= self.now) {
                assert!(self.may_be_late(v, at), "a timed wake-up is late");
            }
            let runs = self.cpus().any(|cpu| self.run(cpu) == Some(v));
            assert!(known.runnable || !runs, "a vCPU that sleeps runs");
            let Some(schedule) = self.sched.schedule(v).filter(|_| waits(i)) else { continue };
            match schedule {
                Schedule::Reserved { cpu, .. } => {
                    let Budget { left, deadline, .. } = self.sched.budget(v, self.now).unwrap();
                    let decision = self.decisions[usize::from(cpu.0)];
                    if left == 0 {
                        continue;
                    }
                    let occupant = decision.run.filter(|_| decision.reserved).expect("no reservation runs");
                    assert!(
                        self.sched.budget(occupant, self.now).unwrap().deadline <= deadline,
                        "not the earliest"
                    );
                }
                Schedule::Exclusive(_) => panic!("an exclusive vCPU waits"),
                Schedule::Shared(vm) if self.sched.share(vm).unwrap().cap == 0 => {
                    if self.sched.vcpus[i].waits_since + 50 * US > self.now {
                        continue;
                    }
                    for cpu in self.cpus().filter(|&cpu| may_run(&self.sched, v, cpu)) {
                        let decision = self.decisions[usize::from(cpu.0)];
                        assert!(decision.run.is_some(), "waits while an allowed CPU idles");
                        let sliced = decision.until.is_some_and(|at| at <= self.now + SLICE);
                        assert!(decision.run.is_none() || decision.reserved || sliced, "no end of slice");
                    }
                }
                Schedule::Shared(_) => {}
            }
        }
    }

    /// From any time on at which a reservation got budget, it runs for its budget at most in a period.
    fn check_budgets(&self) {
        for (i, known) in self.vcpus.iter().enumerate() {
            let Some(Schedule::Reserved { reservation, .. }) = self.sched.schedule(VcpuId(i as u16)) else {
                continue;
            };
            for (n, &(start, _)) in known.runs.iter().enumerate() {
                let end = start + reservation.period;
                let ran = known.runs[n..].iter().map(|&(from, to)| to.min(end).saturating_sub(from.min(end)));
                let ran: Ns = ran.sum();
                // One more piece may be due from before, and a CPU that did not listen to its timer cannot be helped.
                assert!(ran <= 2 * reservation.budget + 2 * self.late, "{ran} ns of {reservation:?}");
            }
        }
    }
}

fn may_run(sched: &Scheduler, v: VcpuId, cpu: CpuId) -> bool {
    match sched.schedule(v) {
        Some(Schedule::Reserved { cpu: own, .. } | Schedule::Exclusive(own)) => own == cpu,
        Some(Schedule::Shared(vm)) => sched.share(vm).unwrap().affinity.and(sched.usable).contains(cpu),
        None => false,
    }
}

#[derive(Clone, Debug)]
enum Op {
    Wake(usize),
    Stop(usize),
    Block(u8, Option<Ns>),
    Yield(u8),
    Advance(Ns, bool),
    Pick(u8),
    SetShare(u8, u32, u32, u64),
    SetSchedule(usize, Kind),
    ChargeTo(u8, usize, Ns),
    Settle,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Shared(u8),
    Reserved(u8, u64),
    Exclusive(u8),
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        4 => (0_u8..4).prop_map(Kind::Shared),
        3 => (0_u8..8, 1_u64..40).prop_map(|(cpu, percent)| Kind::Reserved(cpu, percent)),
        1 => (0_u8..8).prop_map(Kind::Exclusive),
    ]
}

fn schedule(kind: Kind, cpus: usize) -> Schedule {
    let cpu = |cpu: u8| CpuId(cpu % cpus as u8);
    match kind {
        Kind::Shared(vm) => Schedule::Shared(VmId(vm)),
        Kind::Reserved(c, percent) => {
            let reservation = Reservation { budget: percent * 20 * US, period: 2 * MS, deadline: MS };
            Schedule::Reserved { reservation, cpu: cpu(c) }
        }
        Kind::Exclusive(c) => Schedule::Exclusive(cpu(c)),
    }
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0_usize..12).prop_map(Op::Wake),
        1 => (0_usize..12).prop_map(Op::Stop),
        6 => (0_u8..8, prop::option::of(0..3 * MS)).prop_map(|(cpu, after)| Op::Block(cpu, after)),
        1 => (0_u8..8).prop_map(Op::Yield),
        5 => (0..2 * MS).prop_map(|time| Op::Advance(time, false)),
        1 => (0..2 * MS).prop_map(|time| Op::Advance(time, true)),
        6 => (0_u8..8).prop_map(Op::Pick),
        1 => (0_u8..4, 1_u32..1000, prop_oneof![Just(0_u32), 10_u32..200], 1_u64..256)
            .prop_map(|(vm, weight, cap, mask)| Op::SetShare(vm, weight, cap, mask)),
        1 => (0_usize..12, kind()).prop_map(|(v, kind)| Op::SetSchedule(v, kind)),
        1 => (0_u8..8, 0_usize..12, 0..50 * US).prop_map(|(cpu, v, time)| Op::ChargeTo(cpu, v, time)),
        3 => Just(Op::Settle),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(super::cases(500)))]

    #[test]
    fn invariants_hold_after_any_operations(
        cpus in 1_usize..=8,
        kinds in prop::collection::vec(kind(), 1..12),
        ops in prop::collection::vec(op(), 1..200),
    ) {
        let mut m = Machine::new(cpus);
        for vm in 0..4 {
            m.sched.set_share(VmId(vm), Share { weight: 256, cap: 0, affinity: CpuSet::ALL }, 0).unwrap();
        }
        m.must_pick = CpuSet::EMPTY;
        for kind in kinds {
            let v = VcpuId(m.vcpus.len() as u16);
            let added = m.sched.add(v, schedule(kind, cpus));
            if added.is_err() {
                m.sched.add(v, Schedule::Shared(VmId(0))).unwrap();
            }
            m.vcpus.push(Known { runnable: false, woken: false, wake_at: None, runs: Vec::new() });
        }
        for cpu in m.cpus() {
            m.pick(cpu, Leave::Ready);
        }
        let count = m.vcpus.len();
        let vcpu = |i: usize| VcpuId((i % count) as u16);
        let cpu = |c: u8| CpuId(c % cpus as u8);
        let mut changed = false;
        for op in ops {
            match op {
                Op::Wake(i) => m.wake(vcpu(i)),
                Op::Stop(i) => m.stop(vcpu(i)),
                Op::Block(c, after) => m.block(cpu(c), after.map(|t| (m.now + t).saturating_sub(MS))),
                Op::Yield(c) => m.pick(cpu(c), Leave::Yields),
                Op::Advance(by, deaf) => m.advance(m.now + by, deaf),
                Op::Pick(c) => m.pick(cpu(c), Leave::Ready),
                Op::SetShare(vm, weight, cap, mask) => {
                    let share = Share { weight, cap, affinity: CpuSet(mask) };
                    if let Ok(told) = m.sched.set_share(VmId(vm), share, m.now) {
                        m.must_pick.insert(told);
                    }
                }
                Op::SetSchedule(i, kind) => {
                    let before = m.sched.schedule(vcpu(i));
                    match m.sched.set_schedule(vcpu(i), schedule(kind, cpus), m.now) {
                        Ok(told) => m.must_pick.insert(told),
                        Err(_) => assert_eq!(m.sched.schedule(vcpu(i)), before),
                    }
                    changed = true;
                }
                Op::ChargeTo(c, i, time) => {
                    let elapsed = m.now.saturating_sub(m.sched.cpus[usize::from(cpu(c).0)].since);
                    m.sched.charge_to(cpu(c), vcpu(i), time.min(elapsed));
                    changed = true;
                }
                Op::Settle => { m.settle(); m.check_settled(); }
            }
        }
        m.settle();
        m.check_settled();
        if !changed {
            m.check_budgets();
        }
    }
}

#[test]
fn what_cannot_run_is_refused() {
    let mut s = Scheduler::new(CpuSet::first(2), SLICE, 0);
    let shared = Schedule::Shared(VmId(0));
    assert_eq!(s.add(VcpuId(0), shared), Err(ScheduleError::NoShare));
    let share = Share { weight: 1, cap: 0, affinity: CpuSet::ALL };
    for (share, error) in [
        (Share { weight: 0, ..share }, ScheduleError::Malformed),
        (Share { weight: MAX_WEIGHT + 1, ..share }, ScheduleError::Malformed),
        (Share { cap: 6401, ..share }, ScheduleError::Malformed),
        (Share { affinity: CpuSet(4), ..share }, ScheduleError::NoCpu),
    ] {
        assert_eq!(s.set_share(VmId(0), share, 0), Err(error));
    }
    assert_eq!(s.set_share(VmId(16), share, 0), Err(ScheduleError::OutOfRange));
    s.set_share(VmId(0), share, 0).unwrap();
    assert_eq!(s.add(VcpuId(64), shared), Err(ScheduleError::OutOfRange));
    assert_eq!(s.add(VcpuId(0), shared), Ok(()));
    assert_eq!(s.add(VcpuId(0), shared), Err(ScheduleError::Exists));
    assert_eq!(s.pick(CpuId(2), Leave::Ready, 0).run, None);
    assert_eq!(s.wake(VcpuId(1), 0).repick, CpuSet::EMPTY);

    let mut s = Scheduler::new(CpuSet::first(8), SLICE, 0);
    for vm in 0..4 {
        s.set_share(VmId(vm), Share { affinity: CpuSet(1 << vm), ..share }, 0).unwrap();
    }
    let fifth = Share { affinity: CpuSet(3), ..share };
    assert_eq!(s.set_share(VmId(4), fifth, 0), Err(ScheduleError::TooManyAffinities));
    assert_eq!(s.share(VmId(4)), None);
}

#[test]
fn a_stopped_vcpu_has_no_timer_and_can_be_removed() {
    let mut s = Scheduler::new(CpuSet::first(1), SLICE, 0);
    s.set_share(VmId(0), Share { weight: 1, cap: 0, affinity: CpuSet::ALL }, 0).unwrap();
    let v = VcpuId(0);
    s.add(v, Schedule::Shared(VmId(0))).unwrap();
    s.wake(v, 0);
    assert_eq!(s.pick(CpuId(0), Leave::Ready, 0).run, Some(v));
    assert_eq!(s.remove(v), Err(CpuId(0)));
    assert!(!s.is_runnable(v));
    let decision = s.pick(CpuId(0), Leave::Sleeps(Some(10)), 20);
    assert_eq!(decision.run, None);
    assert_eq!(s.remove(v), Ok(CpuSet::EMPTY));
    assert_eq!(s.wake(v, 30).repick, CpuSet::EMPTY);
}
