//! The protocol between CPUs, in every order in which they can take their steps: the scheduler under its lock, the
//! interrupts by which CPUs tell each other to pick, and the registers that one saves before another loads them.
//!
//! Each CPU does what `hyp/mobivmm`'s `Cpu` does, in the steps that another CPU can come between: every time it takes the
//! lock, sends an interrupt, or saves registers; and it waits with loading some for the CPU that has not saved them yet.
//! From a machine at rest with a few vCPUs, all states that some order
//! of a limited number of outside events (devices, guests that sleep, time) leads to are visited, once each.

use super::machine::{MS, SLICE, US};
use crate::admission::Reservation;
use crate::*;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};

/// Where a CPU is in its loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum At {
    /// About to take the lock and decide.
    Pick(Leave),
    /// About to interrupt these CPUs, and then to go on.
    Send(CpuSet, Next),
    /// About to save the registers of the vCPU that it ran.
    Save,
    /// About to load those of the one that it runs, as soon as they are nowhere else.
    Load,
    /// In the guest, or asleep: interrupts come.
    Rest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Next {
    Pick,
    Switch,
    Enter,
}

#[derive(Clone, Hash)]
struct Cpu {
    at: At,
    run: Option<VcpuId>,
    unload: bool,
    until: Option<Ns>,
    /// Whose registers are here.
    loaded: Option<VcpuId>,
    /// An interrupt is pending that makes it pick.
    interrupted: bool,
    /// It has told itself.
    again: bool,
}

/// What may still happen outside.
#[derive(Clone, Copy, Debug, Hash)]
struct Events {
    wakes: u8,
    sleeps: u8,
    stops: u8,
    /// How often time may pass, to when the next CPU's timer fires.
    timers: u8,
}

#[derive(Clone, Hash)]
struct State {
    sched: Scheduler,
    now: Ns,
    cpus: Vec<Cpu>,
    /// By vCPU: it wants to run; and it was woken while it did.
    wants: Vec<bool>,
    woken: Vec<bool>,
    left: Events,
}

/// Counts differ with the way to a state, and decide nothing.
impl Hash for Stats {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

/// Fast rather than safe from attack.
#[derive(Default)]
struct Mix(u64);

impl Hasher for Mix {
    fn write(&mut self, bytes: &[u8]) {
        for word in bytes.chunks(8) {
            let mut padded = [0; 8];
            padded[..word.len()].copy_from_slice(word);
            self.0 =
                (self.0 ^ u64::from_le_bytes(padded)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl State {
    fn new(cpus: usize, shares: &[Share], vcpus: &[Schedule], left: Events) -> Self {
        let mut sched = Scheduler::new(CpuSet::first(cpus), SLICE, US);
        for (vm, share) in shares.iter().enumerate() {
            sched.set_share(VmId(vm as u8), *share, 0).unwrap();
        }
        for (v, schedule) in vcpus.iter().enumerate() {
            sched.add(VcpuId(v as u16), *schedule).unwrap();
        }
        let cpu = Cpu {
            at: At::Pick(Leave::Ready),
            run: None,
            unload: false,
            until: None,
            loaded: None,
            interrupted: false,
            again: false,
        };
        let (wants, woken) = (vec![false; vcpus.len()], vec![false; vcpus.len()]);
        Self { sched, now: 0, cpus: vec![cpu; cpus], wants, woken, left }
    }

    /// The states that can come next.
    fn successors(&self, mut found: impl FnMut(Self)) {
        let mut waits = 0;
        for c in 0..self.cpus.len() {
            if self.cpus[c].at == At::Load && self.is_elsewhere(c) {
                waits += 1;
                continue;
            }
            if self.cpus[c].at != At::Rest {
                let mut next = self.clone();
                next.step(c);
                found(next);
                continue;
            }
            let mut event = |happens: bool, event: &dyn Fn(&mut Self)| {
                if happens {
                    let mut next = self.clone();
                    event(&mut next);
                    found(next);
                }
            };
            event(self.cpus[c].interrupted, &|next| {
                (next.cpus[c].interrupted, next.cpus[c].at) = (false, At::Pick(Leave::Ready));
            });
            event(self.left.sleeps > 0 && self.cpus[c].run.is_some(), &|next| next.sleep(c));
            for v in 0..self.wants.len() {
                event(self.left.wakes > 0, &|next| next.wake(c, v));
                event(self.left.stops > 0, &|next| next.stop(c, v));
            }
        }
        let at_work = self.cpus.iter().filter(|cpu| cpu.at != At::Rest).count();
        assert!(waits == 0 || waits < at_work, "CPUs wait for registers that nobody saves");
        if self.is_settled() {
            self.check();
            if let Some(at) =
                self.cpus.iter().filter_map(|cpu| cpu.until).min().filter(|_| self.left.timers > 0)
            {
                let mut next = self.clone();
                next.left.timers -= 1;
                next.now = at.max(self.now);
                for cpu in next.cpus.iter_mut().filter(|cpu| cpu.until == Some(at)) {
                    cpu.interrupted = true;
                }
                found(next);
            }
        }
    }

    /// What CPU `c` does next.
    fn step(&mut self, c: usize) {
        let id = CpuId(c as u8);
        match self.cpus[c].at {
            At::Pick(leave) => {
                let before = self.cpus[c].run.filter(|_| leave != Leave::Ready);
                let decision = self.sched.pick(id, leave, self.now);
                if let Some(v) = before {
                    let wants = &mut self.wants[usize::from(v.0)];
                    *wants &= std::mem::take(&mut self.woken[usize::from(v.0)]);
                    assert_eq!(self.sched.is_runnable(v), *wants, "lost or invented wake-up");
                }
                assert!(!decision.repick.contains(id), "a CPU that has just picked is told to pick");
                let cpu = &mut self.cpus[c];
                (cpu.run, cpu.unload, cpu.until) = (decision.run, decision.unload, decision.until);
                cpu.again = false;
                self.send(c, decision.repick, Next::Switch);
            }
            At::Save => {
                self.cpus[c].loaded = None;
                self.cpus[c].at = At::Load;
            }
            At::Load => self.load(c),
            At::Send(mut cpus, next) => {
                if let Some(other) = cpus.iter().next() {
                    self.cpus[usize::from(other.0)].interrupted = true;
                    cpus.remove(other);
                }
                self.send(c, cpus, next);
            }
            At::Rest => {}
        }
    }

    /// CPU `c` tells `cpus`, and goes on.
    fn send(&mut self, c: usize, mut cpus: CpuSet, next: Next) {
        let id = CpuId(c as u8);
        self.cpus[c].again |= cpus.contains(id);
        cpus.remove(id);
        let cpu = &mut self.cpus[c];
        let old = cpu.loaded != cpu.run && (cpu.run.is_some() || cpu.unload);
        cpu.at = match next {
            _ if !cpus.is_empty() => At::Send(cpus, next),
            Next::Pick => At::Pick(Leave::Ready),
            Next::Switch if old && cpu.loaded.is_some() => At::Save,
            Next::Switch => At::Load,
            Next::Enter if cpu.again => At::Pick(Leave::Ready),
            Next::Enter => At::Rest,
        };
    }

    /// Whether CPU `c` runs a vCPU whose registers are on another one.
    fn is_elsewhere(&self, c: usize) -> bool {
        let run = self.cpus[c].run;
        run.is_some() && (0..self.cpus.len()).any(|other| other != c && self.cpus[other].loaded == run)
    }

    /// CPU `c` loads what it runs, and goes there.
    fn load(&mut self, c: usize) {
        let cpu = &mut self.cpus[c];
        if cpu.run.is_some() {
            cpu.loaded = cpu.run;
        }
        cpu.at = if cpu.again { At::Pick(Leave::Ready) } else { At::Rest };
    }

    /// After an interrupt the guest goes on; a CPU that sleeps picks.
    fn after_interrupt(&self, c: usize) -> Next {
        if self.cpus[c].run.is_some() { Next::Enter } else { Next::Pick }
    }

    /// A device interrupts CPU `c` for `v`.
    fn wake(&mut self, c: usize, v: usize) {
        self.left.wakes -= 1;
        self.woken[v] = self.wants[v];
        self.wants[v] = true;
        let wake = self.sched.wake(VcpuId(v as u16), self.now);
        for cpu in wake.running.iter() {
            assert_eq!(self.cpus[usize::from(cpu.0)].run, Some(VcpuId(v as u16)));
        }
        self.send(c, wake.repick, self.after_interrupt(c));
    }

    /// CPU `c` stops `v`.
    fn stop(&mut self, c: usize, v: usize) {
        self.left.stops -= 1;
        (self.wants[v], self.woken[v]) = (false, false);
        let told = self.sched.stop(VcpuId(v as u16)).map_or(CpuSet::EMPTY, CpuSet::only);
        self.send(c, told, self.after_interrupt(c));
    }

    /// What runs on CPU `c` waits for an interrupt.
    fn sleep(&mut self, c: usize) {
        self.left.sleeps -= 1;
        self.cpus[c].at = At::Pick(Leave::Sleeps(None));
    }

    /// Whether nothing more happens unless something comes from outside.
    fn is_settled(&self) -> bool {
        self.cpus.iter().all(|cpu| cpu.at == At::Rest && !cpu.interrupted)
    }

    fn check(&self) {
        for (c, cpu) in self.cpus.iter().enumerate() {
            assert!(!self.sched.told.contains(CpuId(c as u8)), "CPU {c} was told and not interrupted");
            let sleeps = cpu.run.is_some_and(|v| !self.wants[usize::from(v.0)]);
            assert!(!sleeps, "a vCPU that sleeps runs on CPU {c}");
        }
        for v in (0..self.wants.len()).filter(|&v| self.wants[v]) {
            let id = VcpuId(v as u16);
            if self.cpus.iter().any(|cpu| cpu.run == Some(id)) {
                continue;
            }
            // Packed: it goes elsewhere in a moment.
            let soon = self.cpus.iter().filter_map(|cpu| cpu.until).any(|at| at <= self.now + 50 * US);
            match self.sched.schedule(id).unwrap() {
                Schedule::Shared(vm) => {
                    let share = self.sched.share(vm).unwrap();
                    for cpu in share.affinity.iter().filter_map(|cpu| self.cpus.get(usize::from(cpu.0))) {
                        assert!(cpu.run.is_some() || soon, "{id:?} waits while a CPU sleeps");
                        assert!(cpu.until.is_some() || soon, "{id:?} waits for a CPU that goes on for ever");
                    }
                }
                Schedule::Reserved { cpu, .. } => {
                    let budget = self.sched.budget(id, self.now).unwrap();
                    let occupant =
                        self.cpus[usize::from(cpu.0)].run.and_then(|v| self.sched.budget(v, self.now));
                    let later = occupant.is_none_or(|occupant| occupant.deadline > budget.deadline);
                    assert!(budget.left == 0 || !later, "{id:?} has the earliest deadline and does not run");
                }
                Schedule::Exclusive(_) => panic!("{id:?} waits for its own CPU"),
            }
        }
    }
}

/// Visits all states. Returns how many there are.
fn explore(start: State) -> usize {
    let mut seen = HashSet::new();
    let mut open = vec![start];
    while let Some(state) = open.pop() {
        state.successors(|next| {
            let mut hash = Mix::default();
            next.hash(&mut hash);
            if seen.insert(hash.finish()) {
                open.push(next);
            }
        });
    }
    seen.len()
}

fn share(cpus: u64) -> Share {
    Share { weight: 256, cap: 0, affinity: CpuSet(cpus) }
}

fn shared(vm: u8) -> Schedule {
    Schedule::Shared(VmId(vm))
}

fn reserved(cpu: u8, deadline: Ns) -> Schedule {
    let reservation = Reservation { budget: 100 * US, period: MS, deadline };
    Schedule::Reserved { reservation, cpu: CpuId(cpu) }
}

const FEW: Events = Events { wakes: 3, sleeps: 2, stops: 0, timers: 1 };

#[test]
fn two_cpus_and_shares() {
    let states = explore(State::new(2, &[share(3), share(3)], &[shared(0), shared(0), shared(1)], FEW));
    println!("{states} states");
    assert!(states > 10_000);
}

#[test]
fn two_cpus_and_a_share_that_may_run_on_one() {
    let states = explore(State::new(2, &[share(3), share(1)], &[shared(0), shared(0), shared(1)], FEW));
    println!("{states} states");
    assert!(states > 10_000);
}

#[test]
fn two_cpus_and_reservations_beside_a_share() {
    let vcpus = [reserved(0, MS), reserved(0, 500 * US), shared(0)];
    let states = explore(State::new(2, &[share(3)], &vcpus, FEW));
    println!("{states} states");
    assert!(states > 10_000);
}

#[test]
fn two_cpus_and_vcpus_that_are_stopped() {
    let events = Events { wakes: 3, sleeps: 1, stops: 1, timers: 1 };
    let states = explore(State::new(2, &[share(3)], &[shared(0), reserved(1, MS)], events));
    println!("{states} states");
    assert!(states > 10_000);
}

#[test]
fn three_cpus() {
    let events = Events { wakes: 3, sleeps: 1, stops: 0, timers: 0 };
    let states =
        explore(State::new(3, &[share(7), share(7)], &[shared(0), shared(1), reserved(0, MS)], events));
    println!("{states} states");
    assert!(states > 10_000);
}
