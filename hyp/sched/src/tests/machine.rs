//! A machine in virtual time. Decisions take no time; who is told picks at once.

use super::fluid::Fluid;
use crate::admission::Reservation;
use crate::*;

/// The length of slices.
pub const SLICE: Ns = MS;
/// Units of time.
pub const US: Ns = 1_000;
pub const MS: Ns = 1_000_000;
pub const S: Ns = 1_000_000_000;

/// What a guest does next.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// Works for so long.
    Work(Ns),
    /// Waits for an interrupt until then, or for ever.
    Sleep(Ns),
    /// Has done its job; the next one is released then.
    Done(Ns),
}

/// What runs on a vCPU: asked for its next step whenever the last one is over.
pub type Guest = Box<dyn FnMut(Ns) -> Step>;

/// Works for ever.
pub fn busy() -> Guest {
    Box::new(|_| Step::Work(S))
}

/// Works for `work` in every `period` from `phase` on, and says when it is done.
pub fn periodic(work: Ns, period: Ns, phase: Ns) -> Guest {
    let mut next = phase;
    let mut working = true;
    Box::new(move |_| {
        working = !working;
        if working {
            Step::Work(work)
        } else {
            next += period;
            Step::Done(next - period)
        }
    })
}

struct Vcpu {
    guest: Guest,
    share: Option<(usize, Share)>,
    /// Work left of the current step.
    left: Ns,
    /// It wants to run: by what it did itself.
    wants: bool,
    /// It was woken while it did.
    woken: bool,
    /// When it wakes by itself.
    alarm: Ns,
    /// Since when it has been waiting while an allowed CPU slept, and the longest time.
    starved_since: Option<Ns>,
}

pub struct Machine {
    pub sched: Scheduler,
    pub now: Ns,
    cpus: Vec<Option<VcpuId>>,
    /// What becomes of what a CPU runs when it picks.
    leaves: Vec<Leave>,
    loaded: Vec<Option<VcpuId>>,
    until: Vec<Option<Ns>>,
    reserved: CpuSet,
    vcpus: Vec<Vcpu>,
    must_pick: CpuSet,
    fluid: Fluid,
    /// By vCPU: CPU time, how often it came onto a CPU, the longest starvation, and how far those
    /// that never slept were behind and ahead of the ideal.
    pub ran: Vec<Ns>,
    pub starved: Ns,
    pub behind: f64,
    pub ahead: f64,
    /// The VMs that have slept.
    slept: u64,
    /// The ideal is that of a machine on which nobody sleeps.
    pub strict: bool,
    /// By CPU: how often it woke from idling, and how often its timer fired.
    pub wakeups: Vec<u64>,
    pub timers: Vec<u64>,
}

impl Machine {
    pub fn new(cpus: usize) -> Self {
        Self {
            sched: Scheduler::new(CpuSet::first(cpus), SLICE, 0),
            now: 0,
            cpus: vec![None; cpus],
            leaves: vec![Leave::Ready; cpus],
            loaded: vec![None; cpus],
            until: vec![None; cpus],
            reserved: CpuSet::EMPTY,
            vcpus: Vec::new(),
            must_pick: CpuSet::first(cpus),
            fluid: Fluid::default(),
            ran: Vec::new(),
            starved: 0,
            behind: 0.0,
            ahead: 0.0,
            slept: 0,
            strict: false,
            wakeups: vec![0; cpus],
            timers: vec![0; cpus],
        }
    }

    /// Adds a vCPU that starts now.
    fn start(&mut self, schedule: Schedule, share: Option<(usize, Share)>, guest: Guest) -> VcpuId {
        let v = VcpuId(self.vcpus.len() as u16);
        self.sched.add(v, schedule).unwrap();
        self.vcpus.push(Vcpu {
            guest,
            share,
            left: 0,
            wants: false,
            woken: false,
            alarm: NEVER,
            starved_since: None,
        });
        self.ran.push(0);
        self.wake(v);
        v
    }

    /// A VM with a share, with these vCPUs.
    pub fn vm(&mut self, vm: u8, share: Share, guests: Vec<Guest>) -> Vec<VcpuId> {
        let told = self.sched.set_share(VmId(vm), share, self.now).unwrap();
        self.must_pick.insert(told);
        let vm = (usize::from(vm), share);
        guests
            .into_iter()
            .map(|guest| self.start(Schedule::Shared(VmId(vm.0 as u8)), Some(vm), guest))
            .collect()
    }

    /// A VM with a weight, that may run everywhere.
    pub fn weighted(&mut self, vm: u8, weight: u32, guests: Vec<Guest>) -> Vec<VcpuId> {
        self.vm(vm, Share { weight, cap: 0, affinity: CpuSet::ALL }, guests)
    }

    /// A vCPU with a reservation.
    pub fn reserve(&mut self, cpu: u8, budget: Ns, period: Ns, deadline: Ns, guest: Guest) -> VcpuId {
        let reservation = Reservation { budget, period, deadline };
        self.start(Schedule::Reserved { reservation, cpu: CpuId(cpu) }, None, guest)
    }

    pub fn exclusive(&mut self, cpu: u8, guest: Guest) -> VcpuId {
        self.start(Schedule::Exclusive(CpuId(cpu)), None, guest)
    }

    pub fn running(&self, cpu: u8) -> Option<VcpuId> {
        self.cpus[usize::from(cpu)]
    }

    pub fn until(&self, cpu: u8) -> Option<Ns> {
        self.until[usize::from(cpu)]
    }

    pub fn tell(&mut self, cpus: CpuSet) {
        self.must_pick.insert(cpus);
    }

    /// An interrupt for `v`.
    pub fn wake(&mut self, v: VcpuId) {
        self.must_pick.insert(self.sched.wake(v, self.now).repick);
        let vcpu = &mut self.vcpus[usize::from(v.0)];
        vcpu.woken = vcpu.wants;
        (vcpu.wants, vcpu.alarm) = (true, NEVER);
    }

    /// Runs for `time`.
    pub fn run(&mut self, time: Ns) {
        let end = self.now + time;
        loop {
            self.settle();
            self.check_waiting();
            self.follow_fluid();
            let work = self.cpus.iter().flatten().map(|v| self.now + self.vcpus[usize::from(v.0)].left);
            let timers = self.until.iter().flatten().copied();
            let next = work.chain(timers).min().unwrap_or(NEVER).max(self.now);
            if next > end {
                break;
            }
            self.advance(next);
        }
        self.advance(end);
        self.settle();
        self.follow_fluid();
    }

    /// Runs for `time`, and says what part of it each of `who` ran.
    pub fn shares(&mut self, time: Ns, who: &[VcpuId]) -> Vec<f64> {
        let before: Vec<Ns> = who.iter().map(|v| self.ran[usize::from(v.0)]).collect();
        self.run(time);
        let ran = who.iter().zip(before).map(|(v, before)| self.ran[usize::from(v.0)] - before);
        ran.map(|ran| ran as f64 / time as f64).collect()
    }

    fn advance(&mut self, now: Ns) {
        for v in self.cpus.iter().flatten() {
            let v = usize::from(v.0);
            self.ran[v] += now - self.now;
            self.vcpus[v].left -= now - self.now;
        }
        self.now = now;
        for vcpu in &mut self.vcpus {
            if vcpu.alarm <= now {
                (vcpu.wants, vcpu.alarm) = (true, NEVER);
            }
        }
        for cpu in 0..self.cpus.len() {
            if self.until[cpu].is_some_and(|at| at <= now) {
                self.timers[cpu] += 1;
                self.must_pick.insert(CpuSet::only(CpuId(cpu as u8)));
            }
        }
    }

    /// Lets everybody do what they have to do now.
    fn settle(&mut self) {
        let mut last = 0;
        for _ in 0..10_000 {
            // One after the other, so that nobody is kept from picking.
            let next = self.must_pick.iter().min_by_key(|cpu| (cpu.0 <= last, cpu.0));
            if let Some(cpu) = next {
                last = cpu.0;
                self.pick(cpu);
                continue;
            }
            let done = |cpu: &usize| self.cpus[*cpu].is_some_and(|v| self.vcpus[usize::from(v.0)].left == 0);
            let Some(cpu) = (0..self.cpus.len()).find(done) else { return };
            self.step(cpu);
        }
        panic!("no end of work at {}", self.now);
    }

    /// The guest on `cpu` has come to the end of a step.
    fn step(&mut self, cpu: usize) {
        let Some(v) = self.cpus[cpu] else { return };
        let id = CpuId(cpu as u8);
        let vcpu = &mut self.vcpus[usize::from(v.0)];
        let until = match (vcpu.guest)(self.now) {
            Step::Work(time) => {
                vcpu.left = time;
                return;
            }
            Step::Sleep(until) if until <= self.now => return,
            Step::Sleep(until) => until,
            Step::Done(next) => {
                self.sched.job_done(id, next, self.now);
                next
            }
        };
        self.leaves[cpu] = Leave::Sleeps(Some(until).filter(|&at| at != NEVER));
        if !std::mem::take(&mut vcpu.woken) && until > self.now {
            (vcpu.wants, vcpu.alarm) = (false, until);
        }
        self.must_pick.insert(CpuSet::only(id));
    }

    fn pick(&mut self, cpu: CpuId) {
        let c = usize::from(cpu.0);
        self.must_pick.remove(cpu);
        let leave = std::mem::replace(&mut self.leaves[c], Leave::Ready);
        let decision = self.sched.pick(cpu, leave, self.now);
        assert!(!decision.repick.contains(cpu), "a CPU that has just picked is told to pick");
        assert!(self.sched.fair.remembers(), "what VMs are due has changed since it was worked out");
        self.must_pick.insert(decision.repick);
        if decision.reserved {
            self.reserved.insert(CpuSet::only(cpu))
        } else {
            self.reserved.remove(cpu)
        }
        if self.cpus[c].is_none() && decision.run.is_some() {
            self.wakeups[c] += 1;
        }
        self.cpus[c] = decision.run;
        self.until[c] = decision.until;
        let unload = decision.run.is_some() || decision.unload;
        if unload {
            self.loaded[c] = None;
        }
        if let Some(v) = decision.run {
            self.loaded[c] = Some(v);
            assert!(self.vcpus[usize::from(v.0)].wants, "a vCPU that sleeps runs");
            for other in (0..self.cpus.len()).filter(|&other| other != c) {
                assert_ne!(self.loaded[other], Some(v), "runs while its registers are elsewhere");
            }
        }
    }

    /// Nobody with a share waits for long while a CPU that it may use sleeps.
    fn check_waiting(&mut self) {
        for (i, vcpu) in self.vcpus.iter_mut().enumerate() {
            let Some((_, share)) = vcpu.share.filter(|(_, share)| share.cap == 0) else { continue };
            let v = Some(VcpuId(i as u16));
            let idle = share.affinity.iter().any(|cpu| self.cpus.get(usize::from(cpu.0)) == Some(&None));
            if vcpu.wants && !self.cpus.contains(&v) && idle {
                let since = *vcpu.starved_since.get_or_insert(self.now);
                self.starved = self.starved.max(self.now - since);
            } else if let Some(since) = vcpu.starved_since.take() {
                self.starved = self.starved.max(self.now - since);
            }
        }
    }

    fn follow_fluid(&mut self) {
        let shares: Vec<_> = self.vcpus.iter().map(|vcpu| vcpu.share).collect();
        let wants = self.vcpus.iter().enumerate().filter(|(_, vcpu)| vcpu.wants || self.strict);
        let runnable = wants.fold(0, |set, (i, _)| set | bit(i));
        let free = CpuSet::first(self.cpus.len()).without(self.reserved);
        self.fluid.advance(self.now, runnable, free, &shares);
        for vcpu in self.vcpus.iter().filter(|vcpu| !vcpu.wants) {
            self.slept |= vcpu.share.map_or(0, |(vm, _)| bit(vm));
        }
        for (i, vcpu) in self.vcpus.iter().enumerate() {
            if vcpu.share.is_some_and(|(vm, _)| self.slept & bit(vm) == 0) {
                let lag = self.fluid.service[i] - self.ran[i] as f64;
                self.behind = self.behind.max(lag);
                self.ahead = self.ahead.max(-lag);
            }
        }
    }
}
