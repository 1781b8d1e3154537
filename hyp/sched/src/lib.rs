//! Who runs where, and until when: reservations by earliest deadline first, shares in what they leave.
//!
//! A vCPU with a *reservation* ([`Schedule::Reserved`]) belongs to one CPU, where it goes before all shares, and gets its
//! budget in every period and no more (`server`). [`admission`] makes sure that every deadline holds. VMs with a *share*
//! divide what is left of all CPUs together (`fair`). An *exclusive* vCPU has a CPU of its own.
//!
//! The scheduler is a passive object under one lock. Each CPU asks it what to do ([`Scheduler::pick`]); operations
//! that make another CPU's last decision wrong return the CPUs that have to *pick again*, and the caller interrupts
//! those. A CPU that was told so and has not picked yet is not told again.
//!
//! It is tickless: a CPU's timer is armed for the end of a slice only while somebody waits for that CPU; for timed
//! wake-ups; and while a reservation runs only for what can change the decision there. The timed wake-ups that shares have
//! on such a CPU are another one's task in the meantime.
//!
//! # Switching
//! A vCPU is *held* by the CPU that picked it, since its registers are there, until that CPU calls
//! [`Scheduler::released`]; nobody else gets it before. A CPU whose pick says another vCPU than the one loaded must
//! save and release the loaded one before it picks again. One that idles may keep a blocked vCPU loaded, unless it is
//! told to let go ([`Decision::unload`]).
//!
//! # Costs
//! No operation allocates. The work of each is bounded by the numbers of VMs, CPUs and vCPUs of one VM; see
//! `docs/scheduler.md` for instruction counts.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod admission;
mod fair;
mod fill;
mod ids;
mod pick;
mod place;
mod queue;
mod schedule;
mod server;
mod stats;
#[cfg(test)]
mod tests;

pub use ids::{CpuId, CpuSet, MAX_CPUS, MAX_VCPUS, MAX_VMS, Ns, VcpuId, VmId};
pub use schedule::{MAX_AFFINITIES, MAX_WEIGHT, Schedule, ScheduleError, Share};
pub use stats::Stats;

use fair::Fair;
use ids::{bit, bits};
use queue::Queues;
use server::{Server, Supply};

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
    /// The vCPU has a reservation: interrupts for others can wait.
    pub reserved: bool,
    /// A CPU that idles has to save and release what it has loaded: it may be run elsewhere.
    pub unload: bool,
}

/// What is left of a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// CPU time that can be used.
    pub left: Ns,
    /// By when it is guaranteed.
    pub deadline: Ns,
    /// When the first of what has been used comes back.
    pub replenished: Ns,
}

/// The time at which a timer that is not needed fires.
const NEVER: Ns = Ns::MAX;

#[derive(Clone, Copy)]
#[cfg_attr(test, derive(Hash))]
struct Vcpu {
    schedule: Schedule,
    /// Where it ran last, or is to run next.
    last: CpuId,
    /// The CPU that has its registers.
    held: Option<CpuId>,
    /// A wake-up came while it was runnable, so its next block does not block.
    woken: bool,
    /// Since when it wants to run and does not.
    waits_since: Ns,
    /// When its current job was released, as it has said; 0 if it has not.
    job: Ns,
    server: Server,
    stats: Stats,
}

#[derive(Clone, Copy)]
#[cfg_attr(test, derive(Hash))]
struct Cpu {
    running: Option<u8>,
    /// Up to when `running` has been charged.
    since: Ns,
    /// What its timer is armed for.
    until: Ns,
    /// The timer is armed for the end of a slice, if nothing comes earlier.
    sliced: bool,
    /// It runs a reservation or belongs to one vCPU: nothing that a share does can change its decision.
    reserved: bool,
    /// What it runs gives way to others.
    yields: bool,
    /// It was told to pick again and has not yet.
    told: bool,
    /// The vCPUs that it was told to come for.
    claims: u64,
    load: place::Load,
    /// The vCPUs that it holds, and those whose first choice it is: that ran here last.
    holds: u64,
    local: u64,
    /// Whose CPU it is exclusively.
    owner: Option<u8>,
    /// The CPU that has the timers of this one's shares meanwhile; the CPUs whose timers it has.
    helper: Option<CpuId>,
    helps: CpuSet,
}

const NO_VCPU: Vcpu = Vcpu {
    schedule: Schedule::Shared(VmId(0)),
    last: CpuId(0),
    held: None,
    woken: false,
    waits_since: 0,
    job: 0,
    server: Server::new(admission::Reservation { budget: 0, period: 0, deadline: 0 }, 0),
    stats: Stats::NONE,
};
const IDLE: Cpu = Cpu {
    running: None,
    since: 0,
    until: 0,
    sliced: false,
    reserved: false,
    yields: false,
    told: false,
    claims: 0,
    load: place::Load::NONE,
    holds: 0,
    local: 0,
    owner: None,
    helper: None,
    helps: CpuSet::EMPTY,
};

/// The scheduler of a machine. A vCPU or CPU that it does not know is never runnable, never told, and runs nothing.
#[cfg_attr(test, derive(Clone, Hash))]
pub struct Scheduler {
    vcpus: [Vcpu; MAX_VCPUS],
    cpus: [Cpu; MAX_CPUS],
    online: CpuSet,
    /// The CPUs that do not belong to one vCPU.
    usable: CpuSet,
    /// CPUs whose `reserved` is set; and those of them whose shares' timers nobody has.
    reserved: CpuSet,
    orphans: CpuSet,
    /// Which of `vcpus` exist.
    present: u64,
    /// The vCPUs that want to run, those that do included.
    runnable: u64,
    /// The vCPUs that some CPU holds.
    held: u64,
    /// The vCPUs that have not run since they were woken, nor waited a little for a CPU.
    just_woken: u64,
    fair: Fair,
    /// Reservations that can run, by deadline.
    ready: Queues,
    /// Reservations: when they wake, or get budget back. Exclusive vCPUs: when they wake.
    reserved_timers: Queues,
    /// Shares: when they wake, or may run again; and when a VM at its cap may run again, as number [`MAX_VCPUS`] + VM.
    timers: Queues,
    /// The latest time that has been seen.
    now: Ns,
    /// What a switch costs: a reservation pays for the one away from it when it stops.
    vm_switch: Ns,
}

impl Scheduler {
    /// A scheduler without vCPUs for the CPUs `online`, with slices of `slice` nanoseconds for shares (a millisecond is
    /// right; less than 50). `vm_switch` is what one switch between vCPUs costs, as [`admission::Overhead`] has it.
    pub const fn new(online: CpuSet, slice: Ns, vm_switch: Ns) -> Self {
        let mut scheduler = Self::empty();
        scheduler.start(online, slice, vm_switch);
        scheduler
    }

    /// A scheduler that has no CPUs before [`Scheduler::start`]. All its bytes are 0, so that a static one needs no place
    /// in an image.
    pub const fn empty() -> Self {
        Self {
            vcpus: [NO_VCPU; MAX_VCPUS],
            cpus: [IDLE; MAX_CPUS],
            online: CpuSet::EMPTY,
            usable: CpuSet::EMPTY,
            reserved: CpuSet::EMPTY,
            orphans: CpuSet::EMPTY,
            present: 0,
            runnable: 0,
            held: 0,
            just_woken: 0,
            fair: Fair::new(),
            ready: Queues::new(),
            reserved_timers: Queues::new(),
            timers: Queues::new(),
            now: 0,
            vm_switch: 0,
        }
    }

    /// Gives an empty scheduler what [`Scheduler::new`] does.
    pub const fn start(&mut self, online: CpuSet, slice: Ns, vm_switch: Ns) {
        self.vm_switch = vm_switch;
        self.online = online.and(CpuSet::ALL);
        self.usable = self.online;
        self.fair.start(self.online, slice);
        let mut c = 0;
        while c < MAX_CPUS {
            self.cpus[c].until = NEVER;
            c += 1;
        }
    }

    /// Gives a VM a share, or changes it: weight, cap, affinity. Returns the CPUs that have to pick again.
    ///
    /// # Errors
    /// [`ScheduleError::OutOfRange`], [`ScheduleError::Malformed`], [`ScheduleError::NoCpu`] and
    /// [`ScheduleError::TooManyAffinities`]; nothing has changed then.
    pub fn set_share(&mut self, vm: VmId, share: Share, now: Ns) -> Result<CpuSet, ScheduleError> {
        self.fair.set_share(usize::from(vm.0), share, self.usable, now)?;
        Ok(self.tell(self.usable))
    }

    /// The share of a VM, if it has one.
    pub fn share(&self, vm: VmId) -> Option<Share> {
        self.fair.share(usize::from(vm.0))
    }

    /// Adds a vCPU. It does not run before it is woken.
    ///
    /// # Errors
    /// As [`Scheduler::set_schedule`]; [`ScheduleError::OutOfRange`] and [`ScheduleError::Exists`].
    pub fn add(&mut self, v: VcpuId, schedule: Schedule) -> Result<(), ScheduleError> {
        let i = usize::from(v.0);
        if i >= MAX_VCPUS {
            return Err(ScheduleError::OutOfRange);
        }
        if self.slot(v).is_some() {
            return Err(ScheduleError::Exists);
        }
        self.check(i, schedule)?;
        self.vcpus[i] = NO_VCPU;
        self.present |= bit(i);
        self.assign(i, schedule);
        Ok(())
    }

    /// Changes how a vCPU competes, also while it runs. That reservations fit is [`admission`]'s to say, before. Returns
    /// the CPUs that have to pick again.
    ///
    /// # Errors
    /// [`ScheduleError::Unknown`], [`ScheduleError::NoCpu`], [`ScheduleError::Malformed`], [`ScheduleError::NoShare`];
    /// nothing has changed then.
    pub fn set_schedule(&mut self, v: VcpuId, schedule: Schedule, now: Ns) -> Result<CpuSet, ScheduleError> {
        let i = self.slot(v).ok_or(ScheduleError::Unknown)?;
        self.check(i, schedule)?;
        let mut told = CpuSet::EMPTY;
        if let Some(cpu) = self.running_on(i) {
            self.charge(usize::from(cpu.0), now);
            told.insert(self.tell(CpuSet::only(cpu)));
        }
        let usable = self.usable;
        let wake_at = self.withdraw(i, now);
        self.assign(i, schedule);
        if self.usable != usable {
            told.insert(self.tell(self.usable));
        }
        if self.runnable & bit(i) != 0 {
            self.enter(i, now);
            told.insert(self.offer(i));
        } else if let Some(at) = wake_at {
            let home = self.home(i);
            told.insert(self.arm(i, home, at));
        }
        Ok(told)
    }

    /// How `v` competes.
    pub fn schedule(&self, v: VcpuId) -> Option<Schedule> {
        self.slot(v).map(|i| self.vcpus[i].schedule)
    }

    /// Takes a vCPU out. Returns the CPUs that have to pick again. One whose registers are still on a CPU stays: the error names that CPU, which has to let go
    /// of it first ([`Scheduler::stop`] it, have the CPU pick again and call [`Scheduler::released`]).
    pub fn remove(&mut self, v: VcpuId) -> Result<CpuSet, CpuId> {
        let Some(i) = self.slot(v) else { return Ok(CpuSet::EMPTY) };
        if let Some(cpu) = self.vcpus[i].held {
            return Err(cpu);
        }
        self.stop(v);
        let usable = self.usable;
        self.withdraw(i, self.now);
        self.present &= !bit(i);
        for cpu in &mut self.cpus {
            cpu.local &= !bit(i);
        }
        Ok(if self.usable == usable { CpuSet::EMPTY } else { self.tell(self.usable) })
    }

    /// Makes `v` runnable: it was started, or an interrupt came for it. If it is runnable already, its next
    /// [`Scheduler::block`] does not block, so a wake-up between its decision to sleep and its sleep is not lost.
    pub fn wake(&mut self, v: VcpuId, now: Ns) -> Wake {
        let Some(i) = self.slot(v) else {
            return Wake::Repick(CpuSet::EMPTY);
        };
        self.now = self.now.max(now);
        let was_runnable = self.runnable & bit(i) != 0;
        if was_runnable {
            self.vcpus[i].woken = true;
        } else {
            self.rouse(i, now);
            self.fair.rebalance(now);
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
        self.ready.remove(i);
        if let Some(at) = wake_at.filter(|_| was_runnable) {
            match self.vcpus[i].schedule {
                Schedule::Shared(_) => self.timers.insert(usize::from(cpu.0), i, at),
                Schedule::Reserved { cpu, .. } | Schedule::Exclusive(cpu) => {
                    self.reserved_timers.insert(usize::from(cpu.0), i, at);
                }
            }
        }
        true
    }

    /// The vCPU that runs on `cpu` has done its job, and its next one is released at `next_release`. A job that is done
    /// after its deadline counts as a miss. Nothing else changes: its budget comes back when it would anyway, and its
    /// deadline is never moved to an earlier time.
    pub fn job_done(&mut self, cpu: CpuId, next_release: Ns, now: Ns) {
        if let Some(i) = self.running(cpu)
            && let Schedule::Reserved { reservation, .. } = self.vcpus[i].schedule
        {
            let vcpu = &mut self.vcpus[i];
            let release = if vcpu.job == 0 { vcpu.server.release() } else { vcpu.job };
            vcpu.stats.jobs += 1;
            vcpu.stats.misses += u64::from(now > release.saturating_add(reservation.deadline));
            vcpu.job = next_release;
        }
    }

    /// Keeps `v` from running until it is woken. Returns the CPU that runs it and has to pick again.
    pub fn stop(&mut self, v: VcpuId) -> Option<CpuId> {
        let i = self.slot(v)?;
        self.runnable &= !bit(i);
        self.vcpus[i].woken = false;
        self.vcpus[i].job = 0;
        self.ready.remove(i);
        self.reserved_timers.remove(i);
        self.timers.remove(i);
        let running = self.running_on(i);
        if running.is_none() {
            self.fair_sleep(i, self.now);
        }
        running
    }

    /// The vCPU that runs on `cpu` lets others of its kind go first, if there are any. The CPU has to pick again.
    pub fn yield_now(&mut self, cpu: CpuId) {
        if self.running(cpu).is_some() {
            self.cpus[usize::from(cpu.0)].yields = true;
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
        self.held &= !bit(i);
        self.cpus[usize::from(cpu.0)].holds &= !bit(i);
        if self.runnable & bit(i) != 0 {
            if let Schedule::Reserved { cpu, .. } = self.vcpus[i].schedule
                && self.ready.key(i).is_none()
                && self.reserved_timers.key(i).is_none()
            {
                // It was re-admitted to another CPU while it was held here.
                self.ready.insert(usize::from(cpu.0), i, self.vcpus[i].server.deadline());
            }
            // No other CPU can take it: this one knew of it when it picked.
            return if self.affinity(i) == CpuSet::only(cpu) { CpuSet::EMPTY } else { self.offer(i) };
        }
        CpuSet::EMPTY
    }

    /// What has been counted for `v`, up to its CPU's last decision.
    pub fn stats(&self, v: VcpuId) -> Stats {
        self.slot(v).map_or(Stats::NONE, |i| self.vcpus[i].stats)
    }

    /// Whether `v` runs, or waits for a CPU or for budget.
    pub fn wants_to_run(&self, v: VcpuId) -> bool {
        self.slot(v).is_some_and(|i| self.runnable & bit(i) != 0)
    }

    /// What is left at `now` of the reservation of `v`, if it has one.
    pub fn budget(&self, v: VcpuId, now: Ns) -> Option<Budget> {
        let i = self.slot(v)?;
        let Vcpu { schedule: Schedule::Reserved { .. }, server, .. } = &self.vcpus[i] else { return None };
        let ran = self.running_on(i).map_or(0, |cpu| now.saturating_sub(self.cpus[usize::from(cpu.0)].since));
        Some(Budget {
            left: server.left().saturating_sub(ran).min(server.reservation.budget),
            deadline: server.deadline(),
            replenished: server.replenished(),
        })
    }

    /// Of the time since the last pick of `cpu`, EL2 has spent `time` ns for `cause` and not for what runs there.
    pub fn charge_to(&mut self, cpu: CpuId, cause: VcpuId, time: Ns) {
        let (Some(i), Some(running)) = (self.slot(cause), self.running(cpu)) else { return };
        if i == running {
            return;
        }
        self.cpus[usize::from(cpu.0)].since += time;
        self.fair.shift(usize::from(cpu.0), time);
        self.vcpus[i].stats.ran += time;
        match self.vcpus[i].schedule {
            // If that was all its budget, its CPU finds out when it picks.
            Schedule::Reserved { .. } => _ = self.vcpus[i].server.charge(time),
            Schedule::Shared(_) => self.fair.charge(i, time, self.now),
            Schedule::Exclusive(_) => {}
        }
    }

    /// The vCPU `i`, which slept, wants to run as of `at`.
    fn rouse(&mut self, i: usize, at: Ns) {
        self.timers.remove(i);
        self.reserved_timers.remove(i);
        self.runnable |= bit(i);
        self.just_woken |= bit(i);
        self.vcpus[i].waits_since = at;
        self.enter(i, at);
    }

    /// The vCPU `i` wants to run as of `at`: lets it compete.
    fn enter(&mut self, i: usize, at: Ns) {
        match self.vcpus[i].schedule {
            Schedule::Reserved { .. } => self.supply(i, at),
            Schedule::Shared(_) => self.fair.wake(i, at),
            Schedule::Exclusive(_) => {}
        }
    }

    /// Queues the reservation `i`, which wants to run as of `at`: as ready if it has budget, else until it gets some.
    fn supply(&mut self, i: usize, at: Ns) {
        let Vcpu { schedule: Schedule::Reserved { cpu, .. }, held, server, .. } = &mut self.vcpus[i] else {
            return;
        };
        let c = usize::from(cpu.0);
        match server.wake(at) {
            // Else when it is released: it was re-admitted to another CPU.
            Supply::Until(deadline) if held.is_none_or(|by| by == *cpu) => self.ready.insert(c, i, deadline),
            Supply::Until(_) => self.ready.remove(i),
            Supply::From(at) => {
                self.ready.remove(i);
                self.reserved_timers.insert(c, i, at);
            }
        }
    }

    fn fair_sleep(&mut self, i: usize, now: Ns) {
        if self.fair_vcpus() & bit(i) != 0 {
            self.fair.sleep(i, now);
        }
    }

    /// The CPU whose timer wakes the vCPU `i`.
    fn home(&self, i: usize) -> usize {
        match self.vcpus[i].schedule {
            Schedule::Reserved { cpu, .. } | Schedule::Exclusive(cpu) => usize::from(cpu.0),
            Schedule::Shared(_) => usize::from(self.vcpus[i].last.0),
        }
    }

    /// Whether the vCPU `i` can have this schedule.
    fn check(&self, i: usize, schedule: Schedule) -> Result<(), ScheduleError> {
        match schedule {
            Schedule::Shared(vm) => self.share(vm).map(|_| ()).ok_or(ScheduleError::NoShare),
            Schedule::Reserved { reservation, cpu } => {
                let free = self.usable.contains(cpu) || self.owns(i, cpu);
                if !free {
                    return Err(ScheduleError::NoCpu);
                }
                reservation.is_valid().then_some(()).ok_or(ScheduleError::Malformed)
            }
            Schedule::Exclusive(cpu) => {
                let others = bits(self.present & !bit(i)).any(|other| match self.vcpus[other].schedule {
                    Schedule::Reserved { cpu: theirs, .. } => theirs == cpu,
                    Schedule::Shared(vm) => {
                        let share = self.share(vm).map_or(CpuSet::EMPTY, |share| share.affinity);
                        share.and(self.usable).without(CpuSet::only(cpu)).is_empty()
                    }
                    Schedule::Exclusive(_) => false,
                });
                let free = self.usable.contains(cpu) || self.owns(i, cpu);
                (free && !others).then_some(()).ok_or(ScheduleError::NoCpu)
            }
        }
    }

    fn owns(&self, i: usize, cpu: CpuId) -> bool {
        self.cpus.get(usize::from(cpu.0)).is_some_and(|cpu| cpu.owner == Some(i as u8))
    }

    /// Gives the vCPU `i`, which is in no queue, a schedule.
    fn assign(&mut self, i: usize, schedule: Schedule) {
        let before = core::mem::replace(&mut self.vcpus[i].schedule, schedule);
        match schedule {
            Schedule::Shared(vm) => {
                self.fair.add(i, usize::from(vm.0), self.usable);
                let affinity = self.share(vm).map_or(CpuSet::EMPTY, |share| share.affinity.and(self.usable));
                if !affinity.contains(self.vcpus[i].last) {
                    self.vcpus[i].last = affinity.iter().next().unwrap_or(CpuId(0));
                }
            }
            Schedule::Reserved { reservation, cpu } => {
                self.vcpus[i].last = cpu;
                match before {
                    Schedule::Reserved { .. } => self.vcpus[i].server.change(reservation),
                    _ => self.vcpus[i].server = Server::new(reservation, self.vm_switch),
                }
            }
            Schedule::Exclusive(cpu) => {
                self.vcpus[i].last = cpu;
                self.cpus[usize::from(cpu.0)].owner = Some(i as u8);
                self.usable.remove(cpu);
                self.fair.set_usable(self.usable);
            }
        }
    }

    /// Takes the vCPU `i` out of all queues. Returns when it was to be woken.
    fn withdraw(&mut self, i: usize, now: Ns) -> Option<Ns> {
        let wake_at = self.timers.key(i).or(self.reserved_timers.key(i));
        self.ready.remove(i);
        self.timers.remove(i);
        self.reserved_timers.remove(i);
        match self.vcpus[i].schedule {
            Schedule::Shared(_) => self.fair.remove(i, now),
            Schedule::Reserved { .. } => {}
            Schedule::Exclusive(cpu) => {
                self.cpus[usize::from(cpu.0)].owner = None;
                self.usable.insert(CpuSet::only(cpu));
                self.fair.set_usable(self.usable);
            }
        }
        wake_at
    }

    /// The vCPUs with a share.
    fn fair_vcpus(&self) -> u64 {
        self.fair.all()
    }

    /// The index of `v`, if there is such a vCPU.
    fn slot(&self, v: VcpuId) -> Option<usize> {
        let i = usize::from(v.0);
        (i < MAX_VCPUS && self.present & bit(i) != 0).then_some(i)
    }

    /// The index of the vCPU that runs on `cpu`.
    fn running(&self, cpu: CpuId) -> Option<usize> {
        self.cpus.get(usize::from(cpu.0))?.running.map(usize::from)
    }

    /// The CPU on which the vCPU `i` runs.
    fn running_on(&self, i: usize) -> Option<CpuId> {
        self.vcpus[i].held.filter(|&cpu| self.running(cpu) == Some(i))
    }

    fn is_held_elsewhere(&self, i: usize, c: usize) -> bool {
        self.vcpus[i].held.is_some_and(|cpu| usize::from(cpu.0) != c)
    }
}
