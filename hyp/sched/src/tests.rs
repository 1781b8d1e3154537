//! The scheduler against a small model of a machine: CPUs that pick when told, or when their timer fires, and that
//! take their time to save a vCPU's registers.

use super::*;
use proptest::prelude::*;

const SLICE: Ns = 1000;

/// What the tests know about a vCPU without asking the scheduler.
#[derive(Clone, Copy)]
struct Known {
    class: Class,
    affinity: CpuSet,
    runnable: bool,
    woken: bool,
    /// The timed wake-up, and the CPU that has it as its task.
    deadline: Option<(CpuId, Ns)>,
}

struct Machine {
    sched: Scheduler,
    now: Ns,
    vcpus: Vec<Known>,
    decision: Vec<Decision>,
    loaded: Vec<Option<VcpuId>>,
    must_pick: CpuSet,
}

impl Machine {
    fn new(cpus: usize, vcpus: &[(Class, CpuSet)]) -> Self {
        let mut sched = Scheduler::new(CpuSet::first(cpus), SLICE);
        let mut known = Vec::new();
        for &(class, affinity) in vcpus {
            sched.add(VcpuId(known.len() as u16), class, affinity).unwrap();
            known.push(Known { class, affinity, runnable: false, woken: false, deadline: None });
        }
        let idle = Decision { run: None, until: None, repick: CpuSet::EMPTY };
        Self {
            sched,
            now: 0,
            vcpus: known,
            decision: vec![idle; cpus],
            loaded: vec![None; cpus],
            must_pick: CpuSet::EMPTY,
        }
    }

    fn cpus(&self) -> impl Iterator<Item = CpuId> + use<> {
        (0..self.loaded.len()).map(|n| CpuId(n as u8))
    }

    fn run(&self, cpu: CpuId) -> Option<VcpuId> {
        self.decision[cpu.0 as usize].run
    }

    /// Whether `cpu` has still to save the vCPU that it ran.
    fn switching(&self, cpu: CpuId) -> bool {
        self.run(cpu).is_some() && self.loaded[cpu.0 as usize] != self.run(cpu)
    }

    fn finish_switch(&mut self, cpu: CpuId) {
        if self.switching(cpu) {
            let new = self.run(cpu);
            if let Some(old) = core::mem::replace(&mut self.loaded[cpu.0 as usize], new) {
                let told = self.sched.released(cpu, old);
                self.must_pick.insert(told);
            }
        }
    }

    fn pick(&mut self, cpu: CpuId) {
        self.finish_switch(cpu);
        self.must_pick.remove(cpu);
        for v in &mut self.vcpus {
            if v.deadline.is_some_and(|(home, at)| home == cpu && at <= self.now) {
                (v.runnable, v.deadline) = (true, None);
            }
        }
        let decision = self.sched.pick(cpu, self.now);
        assert!(!decision.repick.contains(cpu), "a CPU that has just picked is told to pick");
        self.must_pick.insert(decision.repick);
        self.decision[cpu.0 as usize] = decision;
        if let Some(v) = decision.run {
            assert!(self.vcpus[v.0 as usize].affinity.contains(cpu), "runs on a forbidden CPU");
            for other in self.cpus().filter(|&other| other != cpu) {
                assert_ne!(self.loaded[other.0 as usize], Some(v), "runs while its registers are elsewhere");
                assert_ne!(self.run(other), Some(v), "runs twice");
            }
        }
    }

    fn wake(&mut self, v: VcpuId) {
        match self.sched.wake(v) {
            Wake::Running(cpu) => assert_eq!(self.run(cpu), Some(v)),
            Wake::Repick(told) => self.must_pick.insert(told),
        }
        let known = &mut self.vcpus[v.0 as usize];
        known.woken = known.runnable;
        known.runnable = true;
        known.deadline = None;
    }

    fn stop(&mut self, v: VcpuId) {
        if let Some(cpu) = self.sched.stop(v) {
            self.must_pick.insert(CpuSet::only(cpu));
        }
        let known = &mut self.vcpus[v.0 as usize];
        (known.runnable, known.woken, known.deadline) = (false, false, None);
    }

    fn block(&mut self, cpu: CpuId, wake_at: Option<Ns>) {
        self.finish_switch(cpu);
        let Some(v) = self.run(cpu) else { return };
        let known = &mut self.vcpus[v.0 as usize];
        let blocked = self.sched.block(cpu, wake_at);
        assert_eq!(blocked, !known.woken, "lost or invented wake-up");
        if blocked {
            known.deadline = wake_at.filter(|_| known.runnable).map(|at| (cpu, at));
            known.runnable = false;
            self.must_pick.insert(CpuSet::only(cpu));
        }
        known.woken = false;
    }

    /// Goes to `now`; timers that fire on the way make their CPUs pick once, then.
    fn advance(&mut self, now: Ns) {
        self.now = now;
        for cpu in self.cpus() {
            if self.decision[cpu.0 as usize].until.is_some_and(|at| at <= now) {
                self.must_pick.insert(CpuSet::only(cpu));
            }
        }
    }

    /// Lets everybody do what they have been told, until nobody has anything to do.
    fn settle(&mut self) {
        for _ in 0..1000 {
            for cpu in self.cpus() {
                self.finish_switch(cpu);
            }
            let Some(cpu) = self.must_pick.iter().next() else {
                return;
            };
            self.pick(cpu);
        }
        panic!("CPUs tell each other to pick without end");
    }

    fn check_settled(&self) {
        for (i, v) in self.vcpus.iter().enumerate() {
            let id = VcpuId(i as u16);
            assert!(v.deadline.is_none_or(|(_, at)| at > self.now), "a timed wake-up is late");
            let runs = self.cpus().any(|cpu| self.run(cpu) == Some(id));
            assert!(v.runnable || !runs, "a vCPU that sleeps runs");
            if runs || !v.runnable {
                continue;
            }
            for cpu in v.affinity.iter().filter(|cpu| usize::from(cpu.0) < self.loaded.len()) {
                let occupant = self.run(cpu).expect("a runnable vCPU waits while an allowed CPU idles");
                let occupant = self.vcpus[usize::from(occupant.0)].class;
                assert!(occupant.rank() >= v.class.rank(), "a lower class runs");
                if occupant == Class::RoundRobin && v.class == Class::RoundRobin {
                    let until = self.decision[cpu.0 as usize].until;
                    assert!(until.is_some_and(|at| at <= self.now + SLICE), "waits without end of slice");
                }
            }
        }
    }

    /// After all CPUs have picked, a timer is armed only for a sleeper or for somebody who waits.
    fn check_tickless(&mut self) {
        self.must_pick = CpuSet::first(self.loaded.len());
        self.settle();
        self.must_pick = CpuSet::first(self.loaded.len());
        self.settle();
        for cpu in self.cpus() {
            let Some(until) = self.decision[cpu.0 as usize].until else {
                continue;
            };
            let for_sleeper = self.vcpus.iter().any(|v| v.deadline == Some((cpu, until)));
            let for_waiting = self.vcpus.iter().enumerate().any(|(i, v)| {
                let id = Some(VcpuId(i as u16));
                v.runnable && v.affinity.contains(cpu) && self.cpus().all(|other| self.run(other) != id)
            });
            assert!(for_sleeper || self.run(cpu).is_some() && for_waiting, "timer for nothing");
        }
    }
}

#[derive(Clone, Debug)]
enum Op {
    Wake(usize),
    Stop(usize),
    Block(u8, Option<Ns>),
    Yield(u8),
    Advance(Ns),
    FinishSwitch(u8),
    Pick(u8),
    Settle,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0usize..12).prop_map(Op::Wake),
        1 => (0usize..12).prop_map(Op::Stop),
        5 => (0u8..8, prop::option::of(0..3 * SLICE)).prop_map(|(cpu, after)| Op::Block(cpu, after)),
        1 => (0u8..8).prop_map(Op::Yield),
        4 => (0..2 * SLICE).prop_map(Op::Advance),
        4 => (0u8..8).prop_map(Op::FinishSwitch),
        6 => (0u8..8).prop_map(Op::Pick),
        2 => Just(Op::Settle),
    ]
}

fn class() -> impl Strategy<Value = Class> {
    prop_oneof![
        2 => Just(Class::RoundRobin),
        1 => (0u8..4).prop_map(|priority| Class::RealTime { priority }),
    ]
}

/// A number of CPUs, and vCPUs each with at least one CPU.
fn machine() -> impl Strategy<Value = (usize, Vec<(Class, CpuSet)>)> {
    (1usize..=8).prop_flat_map(|cpus| {
        let affinity = prop_oneof![Just(CpuSet::ALL), (1u64..1 << cpus).prop_map(CpuSet)];
        (Just(cpus), prop::collection::vec((class(), affinity), 1..12))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn invariants_hold_after_any_operations(
        (cpus, vcpus) in machine(),
        ops in prop::collection::vec(op(), 1..200),
    ) {
        let mut m = Machine::new(cpus, &vcpus);
        let vcpu = |i: usize| VcpuId((i % vcpus.len()) as u16);
        let cpu = |c: u8| CpuId(c % cpus as u8);
        for op in ops {
            match op {
                Op::Wake(i) => m.wake(vcpu(i)),
                Op::Stop(i) => m.stop(vcpu(i)),
                // A CPU that has blocked or yielded picks before it does anything else.
                Op::Block(c, after) if !m.must_pick.contains(cpu(c)) => m.block(cpu(c), after.map(|t| m.now + t)),
                Op::Yield(c) if !m.must_pick.contains(cpu(c)) => {
                    m.sched.yield_now(cpu(c));
                    m.must_pick.insert(CpuSet::only(cpu(c)));
                }
                Op::Block(..) | Op::Yield(_) => {}
                Op::Advance(by) => m.advance(m.now + by),
                Op::FinishSwitch(c) => m.finish_switch(cpu(c)),
                Op::Pick(c) => m.pick(cpu(c)),
                Op::Settle => { m.settle(); m.check_settled(); }
            }
        }
        m.settle();
        m.check_settled();
        m.check_tickless();
    }

    #[test]
    fn busy_vcpus_share_alike(cpus in 1usize..=8, vcpus in 1usize..=24) {
        let mut m = Machine::new(cpus, &vec![(Class::RoundRobin, CpuSet::ALL); vcpus]);
        for i in 0..vcpus {
            m.wake(VcpuId(i as u16));
            m.settle();
            m.advance(m.now + 70);
        }
        let end = 200 * SLICE;
        while let Some(next) = m.decision.iter().filter_map(|d| d.until).min().filter(|&at| at < end) {
            m.advance(next);
            m.settle();
        }
        m.advance(end);
        m.must_pick = CpuSet::first(cpus);
        m.settle();
        let times: Vec<Ns> = (0..vcpus).map(|i| m.sched.run_time(VcpuId(i as u16))).collect();
        let (min, max) = (times.iter().min().unwrap(), times.iter().max().unwrap());
        // They were woken up to 24 * 70 ns apart.
        prop_assert!(max - min <= 2 * SLICE + 24 * 70, "{times:?}");
        if vcpus <= cpus {
            prop_assert!(m.decision.iter().all(|d| d.until.is_none()), "a timer although nobody shares");
        } else {
            let idle = cpus as u64 * end - times.iter().sum::<Ns>();
            prop_assert!(idle <= cpus as u64 * vcpus as u64 * 70, "{idle} ns idle");
        }
    }
}

fn one_cpu(classes: &[Class]) -> Machine {
    let vcpus: Vec<_> = classes.iter().map(|&class| (class, CpuSet::ALL)).collect();
    Machine::new(1, &vcpus)
}

#[test]
fn real_time_pre_empts_at_once_and_gives_the_slice_back() {
    let mut m = one_cpu(&[Class::RoundRobin, Class::RoundRobin, Class::RealTime { priority: 1 }]);
    m.wake(VcpuId(0));
    m.wake(VcpuId(1));
    m.settle();
    assert_eq!((m.run(CpuId(0)), m.decision[0].until), (Some(VcpuId(0)), Some(SLICE)));
    m.advance(400);
    assert_eq!(m.sched.wake(VcpuId(2)), Wake::Repick(CpuSet::only(CpuId(0))));
    m.vcpus[2].runnable = true;
    m.pick(CpuId(0));
    assert_eq!((m.run(CpuId(0)), m.decision[0].until), (Some(VcpuId(2)), None));
    m.advance(500);
    m.block(CpuId(0), Some(5000));
    m.settle();
    assert_eq!((m.run(CpuId(0)), m.decision[0].until), (Some(VcpuId(0)), Some(1100)));
    m.advance(1100);
    m.settle();
    assert_eq!((m.run(CpuId(0)), m.decision[0].until), (Some(VcpuId(1)), Some(2100)));
}

#[test]
fn a_wake_up_finds_the_loaded_vcpu_and_the_idle_cpu() {
    let mut m = Machine::new(2, &[(Class::RoundRobin, CpuSet::ALL); 2]);
    m.wake(VcpuId(0));
    m.settle();
    assert_eq!(m.run(CpuId(0)), Some(VcpuId(0)));
    m.block(CpuId(0), None);
    m.settle();
    assert_eq!((m.run(CpuId(0)), m.decision[0].until), (None, None));
    // Its registers are still on CPU 0.
    assert_eq!(m.sched.remove(VcpuId(0)), Err(CpuId(0)));
    assert_eq!(m.sched.wake(VcpuId(0)), Wake::Repick(CpuSet::only(CpuId(0))));
    assert_eq!(m.sched.wake(VcpuId(1)), Wake::Repick(CpuSet::only(CpuId(1))));
}

#[test]
fn a_stopped_vcpu_has_no_timer_and_can_be_removed() {
    let mut m = one_cpu(&[Class::RoundRobin]);
    m.wake(VcpuId(0));
    m.settle();
    assert_eq!(m.sched.stop(VcpuId(0)), Some(CpuId(0)));
    assert!(m.sched.block(CpuId(0), Some(10)));
    assert_eq!(m.sched.pick(CpuId(0), 20).run, None);
    assert_eq!(m.sched.released(CpuId(0), VcpuId(0)), CpuSet::EMPTY);
    assert_eq!(m.sched.remove(VcpuId(0)), Ok(()));
    assert_eq!(m.sched.wake(VcpuId(0)), Wake::Repick(CpuSet::EMPTY));
}

#[test]
fn add_refuses_what_cannot_run() {
    let mut s = Scheduler::new(CpuSet::first(2), SLICE);
    assert_eq!(s.add(VcpuId(64), Class::RoundRobin, CpuSet::ALL), Err(AddError::OutOfRange));
    assert_eq!(s.add(VcpuId(0), Class::RoundRobin, CpuSet::only(CpuId(2))), Err(AddError::NoCpu));
    assert_eq!(s.add(VcpuId(0), Class::RoundRobin, CpuSet::ALL), Ok(()));
    assert_eq!(s.add(VcpuId(0), Class::RoundRobin, CpuSet::ALL), Err(AddError::Exists));
    assert_eq!(s.pick(CpuId(2), 0), Decision { run: None, until: None, repick: CpuSet::EMPTY });
}
