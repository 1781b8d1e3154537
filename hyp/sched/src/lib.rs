//! Who runs where, and until when.
//!
//! The first scheduler: fixed-priority real-time vCPUs above round-robin ones, one queue for all CPUs. It is tickless:
//! a CPU's timer is armed for the end of a time slice only while somebody waits for that CPU, and for the next
//! timed wake-up of a vCPU that went to sleep there.
//!
//! The scheduler is a passive object under one lock. Each CPU asks it what to do ([`Scheduler::pick`]); operations
//! that make another CPU's last decision wrong return the CPUs that have to *pick again*, and the caller interrupts
//! those. A CPU that was told so and has not picked yet is not told again.
//!
//! # Switching
//! A vCPU is *held* by the CPU that picked it, since its registers are there, until that CPU calls
//! [`Scheduler::released`]; nobody else gets it before. A CPU whose pick says another vCPU than the one loaded must
//! save and release the loaded one before it picks again. One that idles may keep a blocked vCPU loaded.
//!
//! # Costs
//! No operation allocates. `pick` visits at most [`MAX_VCPUS`] queued and sleeping vCPUs, `wake` and `released` at
//! most [`MAX_CPUS`] CPUs.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod admission;
mod ids;
#[cfg(test)]
mod tests;

pub use ids::{CpuId, CpuSet, MAX_CPUS, MAX_VCPUS, Ns, VcpuId};
use ids::{bit, bits};

/// How a vCPU competes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Runs whenever it can, before all round-robin vCPUs and all of a lower priority. First come, first served
    /// among equals, without a time slice.
    RealTime {
        /// A larger number goes first.
        priority: u8,
    },
    /// Takes turns with the other round-robin vCPUs.
    RoundRobin,
}

impl Class {
    /// Orders classes and priorities in one number: the larger one runs.
    const fn rank(self) -> u16 {
        match self {
            Self::RealTime { priority } => 1 + priority as u16,
            Self::RoundRobin => ROUND_ROBIN,
        }
    }
}

/// [`Class::rank`] of the round-robin class.
const ROUND_ROBIN: u16 = 0;

/// Why [`Scheduler::add`] refused a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddError {
    /// The number is not below [`MAX_VCPUS`].
    OutOfRange,
    /// There is a vCPU with this number.
    Exists,
    /// None of the CPUs on which it may run is online.
    NoCpu,
}

/// What a wake-up asks the caller to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// The vCPU runs on this CPU: interrupt that if the guest has to notice something at once.
    Running(CpuId),
    /// The vCPU waits for a CPU; these have to pick again.
    Repick(CpuSet),
}

/// What a CPU does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The vCPU to run, or none: idle.
    pub run: Option<VcpuId>,
    /// When this CPU has to pick again unless it is interrupted earlier. None: no timer is needed.
    pub until: Option<Ns>,
    /// Other CPUs that have to pick again.
    pub repick: CpuSet,
}

#[derive(Clone, Copy)]
struct Vcpu {
    rank: u16,
    affinity: CpuSet,
    /// Place in the queue among those of equal rank: the lowest is next.
    ticket: u64,
    /// How much of the time slice is used up.
    used: Ns,
    /// Time on CPUs since it was added.
    ran: Ns,
    /// When to wake it; meaningful while it is in some [`Cpu::sleeping`].
    wake_at: Ns,
    /// Where it ran last.
    last: CpuId,
    /// The CPU that has its registers.
    held: Option<CpuId>,
    /// A wake-up came while it was runnable, so its next block does not block.
    woken: bool,
}

#[derive(Clone, Copy)]
struct Cpu {
    running: Option<VcpuId>,
    /// Up to when `running` has been charged.
    since: Ns,
    /// Its timer is armed for the end of the slice.
    sliced: bool,
    /// It was told to pick again and has not yet.
    told: bool,
    /// The vCPU that it was told to come for.
    claim: Option<VcpuId>,
    /// The vCPUs that blocked here and have a timed wake-up, which is this CPU's task.
    sleeping: u64,
}

const NO_VCPU: Vcpu = Vcpu {
    rank: ROUND_ROBIN,
    affinity: CpuSet::EMPTY,
    ticket: 0,
    used: 0,
    ran: 0,
    wake_at: 0,
    last: CpuId(0),
    held: None,
    woken: false,
};
const IDLE: Cpu = Cpu { running: None, since: 0, sliced: false, told: false, claim: None, sleeping: 0 };

/// The scheduler of a machine. A vCPU or CPU that it does not know is never runnable, never told, and runs nothing.
pub struct Scheduler {
    vcpus: [Vcpu; MAX_VCPUS],
    cpus: [Cpu; MAX_CPUS],
    online: CpuSet,
    slice: Ns,
    /// Which of `vcpus` exist.
    present: u64,
    /// The vCPUs that want to run, those that do included.
    runnable: u64,
    next_ticket: u64,
}

impl Scheduler {
    /// A scheduler without vCPUs for the CPUs `online`, with a round-robin time slice of `slice` nanoseconds.
    pub const fn new(online: CpuSet, slice: Ns) -> Self {
        Self {
            vcpus: [NO_VCPU; MAX_VCPUS],
            cpus: [IDLE; MAX_CPUS],
            online: online.and(CpuSet::ALL),
            slice,
            present: 0,
            runnable: 0,
            next_ticket: 0,
        }
    }

    /// Adds a vCPU that may run on the CPUs `affinity`. It does not run before it is woken.
    pub fn add(&mut self, v: VcpuId, class: Class, affinity: CpuSet) -> Result<(), AddError> {
        let affinity = affinity.and(self.online);
        let last = affinity.iter().next().ok_or(AddError::NoCpu)?;
        if usize::from(v.0) >= MAX_VCPUS {
            return Err(AddError::OutOfRange);
        }
        if self.slot(v).is_some() {
            return Err(AddError::Exists);
        }
        self.vcpus[usize::from(v.0)] = Vcpu { rank: class.rank(), affinity, last, ..NO_VCPU };
        self.present |= bit(usize::from(v.0));
        Ok(())
    }

    /// Takes a vCPU out. One whose registers are still on a CPU stays: the error names that CPU, which has to let go
    /// of it first ([`Scheduler::stop`] it, have the CPU pick again and call [`Scheduler::released`]).
    pub fn remove(&mut self, v: VcpuId) -> Result<(), CpuId> {
        let Some(i) = self.slot(v) else { return Ok(()) };
        if let Some(cpu) = self.vcpus[i].held {
            return Err(cpu);
        }
        self.stop(v);
        self.present &= !bit(i);
        Ok(())
    }

    /// Makes `v` runnable: it was started, or an interrupt came for it. If it is runnable already, its next
    /// [`Scheduler::block`] does not block, so a wake-up between its decision to sleep and its sleep is not lost.
    pub fn wake(&mut self, v: VcpuId) -> Wake {
        let Some(i) = self.slot(v) else {
            return Wake::Repick(CpuSet::EMPTY);
        };
        let was_runnable = self.runnable & bit(i) != 0;
        if was_runnable {
            self.vcpus[i].woken = true;
        } else {
            self.make_runnable(i);
        }
        match self.running_on(i) {
            Some(cpu) => Wake::Running(cpu),
            None if was_runnable => Wake::Repick(CpuSet::EMPTY),
            None => Wake::Repick(self.offer(i)),
        }
    }

    /// The vCPU that runs on `cpu` wants to sleep until it is woken, or until `wake_at`. False if a wake-up came in
    /// the meantime: it goes on. After true the CPU has to pick again.
    pub fn block(&mut self, cpu: CpuId, wake_at: Option<Ns>) -> bool {
        let Some(i) = self.running(cpu) else { return true };
        if core::mem::take(&mut self.vcpus[i].woken) {
            return false;
        }
        // A vCPU that was stopped a moment ago must not get a timed wake-up.
        let was_runnable = self.runnable & bit(i) != 0;
        self.runnable &= !bit(i);
        if let Some(at) = wake_at.filter(|_| was_runnable) {
            self.vcpus[i].wake_at = at;
            self.cpus[usize::from(cpu.0)].sleeping |= bit(i);
        }
        true
    }

    /// Keeps `v` from running until it is woken. Returns the CPU that runs it and has to pick again.
    pub fn stop(&mut self, v: VcpuId) -> Option<CpuId> {
        let i = self.slot(v)?;
        self.runnable &= !bit(i);
        self.vcpus[i].woken = false;
        self.cancel_wake_up(i);
        self.running_on(i)
    }

    /// Moves the vCPU that runs on `cpu` behind its equals, with a new time slice. The CPU has to pick again.
    pub fn yield_now(&mut self, cpu: CpuId) {
        if let Some(i) = self.running(cpu) {
            self.requeue(i);
        }
    }

    /// Says that `cpu` has saved the registers of `v` and forgotten them. Returns the CPUs that have to pick again.
    pub fn released(&mut self, cpu: CpuId, v: VcpuId) -> CpuSet {
        let Some(i) = self.slot(v) else {
            return CpuSet::EMPTY;
        };
        if self.vcpus[i].held != Some(cpu) || self.running(cpu) == Some(i) {
            return CpuSet::EMPTY;
        }
        self.vcpus[i].held = None;
        if self.runnable & bit(i) != 0 { self.offer(i) } else { CpuSet::EMPTY }
    }

    /// How long `v` has been running since it was added, up to the last pick of its CPU.
    pub fn run_time(&self, v: VcpuId) -> Ns {
        self.slot(v).map_or(0, |i| self.vcpus[i].ran)
    }

    /// Decides what `cpu` does from `now` on: charges the vCPU that ran, wakes those whose time has come, chooses.
    pub fn pick(&mut self, cpu: CpuId, now: Ns) -> Decision {
        let idle = Decision { run: None, until: None, repick: CpuSet::EMPTY };
        if !self.online.contains(cpu) {
            return idle;
        }
        let c = usize::from(cpu.0);
        self.charge(cpu, now);
        let (woken, next_wake_up) = self.expire(c, now);
        let claim = self.cpus[c].claim.and_then(|v| self.slot(v)).map_or(0, bit);

        let candidates = self.candidates(cpu);
        let best =
            bits(candidates).min_by_key(|&i| (core::cmp::Reverse(self.vcpus[i].rank), self.vcpus[i].ticket));
        if let Some(i) = best {
            self.vcpus[i].held = Some(cpu);
            self.vcpus[i].last = cpu;
        }
        let slice_end = best
            .filter(|&i| self.vcpus[i].rank == ROUND_ROBIN && candidates != bit(i))
            .map(|i| now.saturating_add(self.slice.saturating_sub(self.vcpus[i].used)));
        let this = &mut self.cpus[c];
        this.running = best.map(|i| VcpuId(i as u16));
        this.since = now;
        this.sliced = slice_end.is_some();
        (this.told, this.claim) = (false, None);

        // Those that counted on this CPU, or woke up here, and were not chosen may have to go elsewhere.
        let mut repick = CpuSet::EMPTY;
        for i in bits((woken | claim) & self.runnable) {
            if self.running_on(i).is_none() {
                repick.insert(self.offer(i));
            }
        }
        let until = [slice_end, next_wake_up].into_iter().flatten().min();
        Decision { run: self.cpus[c].running, until, repick }
    }

    /// Tells CPUs to pick again because the vCPU `i` waits: the best one to run it, that is the one with the lowest
    /// occupant; or, if all are as good as itself, those that did not know that they have to share. CPUs that were
    /// told before are left out: they see this vCPU when they pick.
    fn offer(&mut self, i: usize) -> CpuSet {
        let Vcpu { rank, last, .. } = self.vcpus[i];
        let mut told = self.reachable(i);
        for cpu in told.iter().filter(|cpu| self.cpus[usize::from(cpu.0)].told) {
            told.remove(cpu);
        }
        let occupant = |cpu: CpuId| self.running(cpu).map(|o| self.vcpus[o].rank);
        let best = told.iter().min_by_key(|&cpu| (occupant(cpu), cpu != last));
        match best {
            Some(cpu) if occupant(cpu) < Some(rank) => {
                told = CpuSet::only(cpu);
                self.cpus[usize::from(cpu.0)].claim = Some(VcpuId(i as u16));
            }
            _ => {
                for cpu in told.iter() {
                    let shares = rank == ROUND_ROBIN && occupant(cpu) == Some(ROUND_ROBIN);
                    if !shares || self.cpus[usize::from(cpu.0)].sliced {
                        told.remove(cpu);
                    }
                }
            }
        }
        for cpu in told.iter() {
            self.cpus[usize::from(cpu.0)].told = true;
        }
        told
    }

    /// The CPUs that can take the vCPU `i`: only the one that holds it, else those it may run on.
    fn reachable(&self, i: usize) -> CpuSet {
        let allowed = self.vcpus[i].affinity;
        self.vcpus[i].held.map_or(allowed, |cpu| allowed.and(CpuSet::only(cpu)))
    }

    /// The runnable vCPUs that `cpu` can take.
    fn candidates(&self, cpu: CpuId) -> u64 {
        bits(self.runnable).filter(|&i| self.reachable(i).contains(cpu)).fold(0, |set, i| set | bit(i))
    }

    /// Charges the vCPU that runs on `cpu` up to `now`. At the end of its slice it goes behind its equals.
    fn charge(&mut self, cpu: CpuId, now: Ns) {
        let Some(i) = self.running(cpu) else { return };
        let ran = now.saturating_sub(self.cpus[usize::from(cpu.0)].since);
        let vcpu = &mut self.vcpus[i];
        vcpu.ran += ran;
        vcpu.used += ran;
        if vcpu.rank == ROUND_ROBIN && vcpu.used >= self.slice {
            self.requeue(i);
        }
    }

    /// Wakes the vCPUs that sleep on CPU `c` and are due. Returns them, and when the next one is.
    fn expire(&mut self, c: usize, now: Ns) -> (u64, Option<Ns>) {
        let (mut due, mut next) = (0, None);
        for i in bits(self.cpus[c].sleeping) {
            let at = self.vcpus[i].wake_at;
            if at <= now {
                due |= bit(i);
                self.make_runnable(i);
            } else {
                next = Some(next.map_or(at, |n: Ns| n.min(at)));
            }
        }
        (due, next)
    }

    fn make_runnable(&mut self, i: usize) {
        self.cancel_wake_up(i);
        self.runnable |= bit(i);
        self.requeue(i);
    }

    fn cancel_wake_up(&mut self, i: usize) {
        // A vCPU sleeps where it ran last.
        self.cpus[usize::from(self.vcpus[i].last.0)].sleeping &= !bit(i);
    }

    /// Puts the vCPU `i` behind its equals, with a new slice.
    fn requeue(&mut self, i: usize) {
        self.vcpus[i].ticket = self.next_ticket;
        self.vcpus[i].used = 0;
        self.next_ticket += 1;
    }

    /// The index of `v`, if there is such a vCPU.
    fn slot(&self, v: VcpuId) -> Option<usize> {
        let i = usize::from(v.0);
        (self.present & bit(i) != 0).then_some(i)
    }

    /// The index of the vCPU that runs on `cpu`.
    fn running(&self, cpu: CpuId) -> Option<usize> {
        self.cpus.get(usize::from(cpu.0))?.running.map(|v| usize::from(v.0))
    }

    /// The CPU on which the vCPU `i` runs.
    fn running_on(&self, i: usize) -> Option<CpuId> {
        self.vcpus[i].held.filter(|&cpu| self.running(cpu) == Some(i))
    }
}
