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
//! A vCPU is *held* by the CPU that picked it, since its registers are there, until that CPU's pick says another one or
//! [`Decision::unload`]; nobody else gets it before. Whoever is to run it next has to wait for the moment until that CPU,
//! which knows by then, has saved its registers: they are the caller's to protect. So a CPU saves what it has loaded before
//! it loads another one. One that idles may keep a blocked vCPU loaded, unless it is told to let go.
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
use ids::{Table, bit, bits};
use queue::Queues;
use server::{Server, Supply};

/// What wake-ups ask the caller to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wake {
    /// CPUs that run one of the vCPUs: interrupt those if the guest has to notice something at once.
    pub running: CpuSet,
    /// CPUs that have to pick again.
    pub repick: CpuSet,
}

/// What becomes of the vCPU that ran on a CPU that picks again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Leave {
    /// It would go on.
    Ready,
    /// It lets others of its kind go first, if there are any.
    Yields,
    /// It sleeps until it is woken, or until then. If a wake-up came in the meantime it goes on.
    Sleeps(Option<Ns>),
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
    /// A CPU that idles has to save what it has loaded: it may be run elsewhere.
    pub unload: bool,
    /// Time for which the vCPU to run has wanted to and did not (its stolen time).
    pub waited: Ns,
}

impl Decision {
    /// To do nothing until something happens.
    pub const IDLE: Self =
        Self { run: None, until: None, repick: CpuSet::EMPTY, reserved: false, unload: false, waited: 0 };
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

/// Aligned so that it is found by a shift.
#[derive(Clone, Copy)]
#[cfg_attr(test, derive(Hash))]
#[repr(align(256))]
struct Vcpu {
    schedule: Schedule,
    /// Where it runs; with a share, ran last or is to run next.
    home: CpuId,
    /// The CPU that has its registers, if one holds it.
    holder: CpuId,
    /// A wake-up came while it was runnable, so its next sleep is none.
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
    /// The vCPU that it holds: runs, or keeps while it idles.
    held: Option<u8>,
    /// Whose CPU it is exclusively.
    owner: Option<u8>,
    /// The CPU that has the timers of this one's shares meanwhile; the CPUs whose timers it has.
    helper: Option<CpuId>,
    helps: CpuSet,
    /// Up to when what runs has been charged.
    since: Ns,
    /// What its timer is armed for.
    until: Ns,
    /// The vCPUs that it was told to come for.
    claims: u64,
    /// The vCPUs whose first choice it is: that ran here last.
    local: u64,
    load: place::Load,
}

const NO_VCPU: Vcpu = Vcpu {
    schedule: Schedule::Shared(VmId(0)),
    home: CpuId(0),
    holder: CpuId(0),
    woken: false,
    waits_since: 0,
    job: 0,
    server: Server::new(admission::Reservation { budget: 0, period: 0, deadline: 0 }, 0),
    stats: Stats::NONE,
};
const NO_CPU: Cpu = Cpu {
    held: None,
    owner: None,
    helper: None,
    helps: CpuSet::EMPTY,
    since: 0,
    until: 0,
    claims: 0,
    local: 0,
    load: place::Load::NONE,
};

/// The scheduler of a machine. A vCPU or CPU that it does not know is never runnable, never told, and runs nothing.
///
/// What every decision looks at comes first, so that offsets are small.
#[cfg_attr(test, derive(Clone, Hash))]
#[repr(C)]
pub struct Scheduler {
    online: CpuSet,
    /// The CPUs that do not belong to one vCPU.
    usable: CpuSet,
    /// Those that run something.
    busy: CpuSet,
    /// Those that run a reservation or belong to one vCPU: nothing that a share does can change their decision.
    reserved: CpuSet,
    /// Reserved ones whose shares' timers nobody has.
    orphans: CpuSet,
    /// Those whose timer is armed for the end of a slice, if nothing comes earlier.
    sliced: CpuSet,
    /// Those whose vCPU gives way to others.
    yielding: CpuSet,
    /// Those that were told to pick again and have not yet.
    told: CpuSet,
    /// Which of `vcpus` exist.
    present: u64,
    /// The vCPUs that want to run, those that do included.
    runnable: u64,
    /// The vCPUs that some CPU holds.
    held: u64,
    /// The vCPUs that have not run since they were woken, nor waited a little for a CPU.
    just_woken: u64,
    /// The latest time that has been seen.
    now: Ns,
    /// What a switch costs: a reservation pays for the one away from it when it stops.
    vm_switch: Ns,
    cpus: Table<Cpu, MAX_CPUS>,
    fair: Fair,
    /// Reservations that can run, by deadline.
    ready: Queues,
    /// Reservations: when they wake, or get budget back. Exclusive vCPUs: when they wake.
    reserved_timers: Queues,
    /// Shares: when they wake, or may run again; and when a VM at its cap may run again, as number [`MAX_VCPUS`] + VM.
    timers: Queues,
    vcpus: Table<Vcpu, MAX_VCPUS>,
}

impl Scheduler {
    /// A scheduler without vCPUs for the CPUs `online`, with slices of `slice` nanoseconds for shares (a millisecond is
    /// right; less than 33). `vm_switch` is what one switch between vCPUs costs, as [`admission::Overhead`] has it.
    pub const fn new(online: CpuSet, slice: Ns, vm_switch: Ns) -> Self {
        let mut scheduler = Self::empty();
        scheduler.start(online, slice, vm_switch);
        scheduler
    }

    /// A scheduler that has no CPUs before [`Scheduler::start`]. All its bytes are 0, so that a static one needs no place
    /// in an image.
    pub const fn empty() -> Self {
        Self {
            vcpus: Table([NO_VCPU; MAX_VCPUS]),
            cpus: Table([NO_CPU; MAX_CPUS]),
            online: CpuSet::EMPTY,
            usable: CpuSet::EMPTY,
            busy: CpuSet::EMPTY,
            reserved: CpuSet::EMPTY,
            orphans: CpuSet::EMPTY,
            sliced: CpuSet::EMPTY,
            yielding: CpuSet::EMPTY,
            told: CpuSet::EMPTY,
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
            self.cpus.0[c].until = NEVER;
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

    /// Adds a vCPU, before anything has run. It does not run before it is woken.
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
        self.move_to(i, CpuId(0));
        self.present |= bit(i);
        self.assign(i, schedule);
        Ok(())
    }

    /// Changes how a vCPU competes, also while it runs. That reservations fit is [`admission`]'s to say, before. One that is
    /// new on a CPU, or more than it was, begins as soon as none there wants to run. Returns the CPUs that have to pick again.
    ///
    /// # Errors
    /// [`ScheduleError::Unknown`], [`ScheduleError::NoCpu`], [`ScheduleError::Malformed`], [`ScheduleError::NoShare`];
    /// nothing has changed then.
    pub fn set_schedule(&mut self, v: VcpuId, schedule: Schedule, now: Ns) -> Result<CpuSet, ScheduleError> {
        let i = self.slot(v).ok_or(ScheduleError::Unknown)?;
        self.check(i, schedule)?;
        self.now = self.now.max(now);
        let mut told = CpuSet::EMPTY;
        if let Some(cpu) = self.running_on(i) {
            self.charge(cpu.index(), i, now);
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
            // A share's may be overdue; what others were promised counts from now on.
            told.insert(self.arm(i, self.vcpus[i].home.index(), at.max(now)));
        }
        Ok(told)
    }

    /// How `v` competes.
    pub fn schedule(&self, v: VcpuId) -> Option<Schedule> {
        self.slot(v).map(|i| self.vcpus[i].schedule)
    }

    /// Takes a vCPU out. Returns the CPUs that have to pick again. One that runs stays: the error names its CPU, which has to
    /// pick again first.
    pub fn remove(&mut self, v: VcpuId) -> Result<CpuSet, CpuId> {
        let Some(i) = self.slot(v) else { return Ok(CpuSet::EMPTY) };
        if let Some(cpu) = self.stop(v) {
            return Err(cpu);
        }
        if let Some(cpu) = self.holder(i) {
            self.cpus[cpu.index()].held = None;
            self.held &= !bit(i);
        }
        let usable = self.usable;
        self.withdraw(i, self.now);
        self.present &= !bit(i);
        for cpu in &mut self.cpus.0 {
            cpu.local &= !bit(i);
        }
        Ok(if self.usable == usable { CpuSet::EMPTY } else { self.tell(self.usable) })
    }

    /// Makes `v` runnable: it was started, or an interrupt came for it. If it is runnable already, its next sleep
    /// ([`Leave::Sleeps`]) is none, so a wake-up between its decision to sleep and its sleep is not lost.
    pub fn wake(&mut self, v: VcpuId, now: Ns) -> Wake {
        self.wake_all(self.slot(v).map_or(0, bit), now)
    }

    /// The same for several vCPUs: bit n is number n.
    pub fn wake_all(&mut self, vcpus: u64, now: Ns) -> Wake {
        let vcpus = vcpus & self.present;
        self.now = self.now.max(now);
        for i in bits(vcpus & self.runnable) {
            self.vcpus[i].woken = true;
        }
        let woken = vcpus & !self.runnable;
        if woken != 0 {
            self.rouse(woken, now);
            self.fair.rebalance(now);
        }
        let mut wake = Wake { running: CpuSet::EMPTY, repick: CpuSet::EMPTY };
        let mut running = 0;
        for i in bits(vcpus & self.held) {
            if let Some(cpu) = self.running_on(i) {
                running |= bit(i);
                wake.running.insert(CpuSet::only(cpu));
            }
        }
        if woken & !running != 0 {
            wake.repick = self.offer_all(woken & !running);
        }
        wake
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

    /// Whether `v` wants to run, as far as the scheduler has seen.
    pub fn is_runnable(&self, v: VcpuId) -> bool {
        self.slot(v).is_some_and(|i| self.runnable & bit(i) != 0)
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

    /// What has been counted for `v`, up to its CPU's last decision.
    pub fn stats(&self, v: VcpuId) -> Stats {
        self.slot(v).map_or(Stats::NONE, |i| self.vcpus[i].stats)
    }

    /// What is left at `now` of the reservation of `v`, if it has one.
    pub fn budget(&self, v: VcpuId, now: Ns) -> Option<Budget> {
        let i = self.slot(v)?;
        let Vcpu { schedule: Schedule::Reserved { .. }, server, .. } = &self.vcpus[i] else { return None };
        let ran = self.running_on(i).map_or(0, |cpu| now.saturating_sub(self.cpus[cpu.index()].since));
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
        self.cpus[cpu.index()].since += time;
        self.fair.shift(cpu.index(), time);
        self.vcpus[i].stats.ran += time;
        match self.vcpus[i].schedule {
            // If that was all its budget, its CPU finds out when it picks.
            Schedule::Reserved { .. } => _ = self.vcpus[i].server.charge(time),
            Schedule::Shared(_) => self.fair.charge(i, time, self.now),
            Schedule::Exclusive(_) => {}
        }
    }

    /// The vCPUs `vcpus`, which slept, want to run as of `at`.
    #[inline(never)]
    fn rouse(&mut self, vcpus: u64, at: Ns) {
        self.runnable |= vcpus;
        self.just_woken |= vcpus;
        let shares = vcpus & self.fair.all();
        for i in bits(vcpus & !shares) {
            // Its own wake-up may be overdue, as nobody had to look at it: its deadline counts from that on.
            let at = self.reserved_timers.key(i).map_or(at, |timer| timer.min(at));
            self.reserved_timers.remove(i);
            self.vcpus[i].waits_since = at;
            self.enter(i, at);
        }
        for i in bits(shares) {
            self.timers.remove(i);
            self.vcpus[i].waits_since = at;
        }
        let mut left = shares;
        while left != 0 {
            let vm = self.fair.vm_of(left.trailing_zeros() as usize);
            let group = left & self.fair.members(vm);
            self.fair.wake(vm, group, at);
            left &= !group;
        }
    }

    /// The vCPU `i` wants to run as of `at`: lets it compete.
    fn enter(&mut self, i: usize, at: Ns) {
        match self.vcpus[i].schedule {
            Schedule::Reserved { .. } => self.supply(i, at),
            Schedule::Shared(vm) => self.fair.wake(usize::from(vm.0), bit(i), at),
            Schedule::Exclusive(_) => {}
        }
    }

    /// Queues the reservation `i`, which wants to run as of `at`: as ready if it has budget, else until it gets some.
    fn supply(&mut self, i: usize, at: Ns) {
        let Vcpu { home, holder, server, .. } = &mut self.vcpus[i];
        let c = usize::from(home.0);
        match server.wake(at) {
            // Else when it is let go of: it was re-admitted to another CPU.
            Supply::Until(deadline) if self.held & bit(i) == 0 || holder == home => {
                self.ready.insert(c, i, deadline);
            }
            Supply::Until(_) => self.ready.remove(i),
            Supply::From(at) => {
                self.ready.remove(i);
                self.reserved_timers.insert(c, i, at);
            }
        }
    }

    fn fair_sleep(&mut self, i: usize, now: Ns) {
        if self.fair.all() & bit(i) != 0 {
            self.fair.sleep(i, now);
        }
    }

    /// Whether the vCPU `i` can have this schedule.
    fn check(&self, i: usize, schedule: Schedule) -> Result<(), ScheduleError> {
        let is_free = |cpu| self.usable.contains(cpu) || self.owns(i, cpu);
        match schedule {
            Schedule::Shared(vm) => self.share(vm).map(|_| ()).ok_or(ScheduleError::NoShare),
            Schedule::Reserved { cpu, .. } | Schedule::Exclusive(cpu) if !is_free(cpu) => {
                Err(ScheduleError::NoCpu)
            }
            Schedule::Reserved { reservation, .. } => {
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
                (!others).then_some(()).ok_or(ScheduleError::NoCpu)
            }
        }
    }

    fn owns(&self, i: usize, cpu: CpuId) -> bool {
        self.online.contains(cpu) && self.cpus[cpu.index()].owner == Some(i as u8)
    }

    /// Gives the vCPU `i`, which is in no queue, a schedule.
    fn assign(&mut self, i: usize, schedule: Schedule) {
        let before = core::mem::replace(&mut self.vcpus[i].schedule, schedule);
        match schedule {
            Schedule::Shared(vm) => {
                self.fair.add(i, usize::from(vm.0), self.usable);
                if !self.fair.cpus(i).contains(self.vcpus[i].home) {
                    self.move_to(i, self.fair.cpus(i).iter().next().unwrap_or(CpuId(0)));
                }
            }
            Schedule::Reserved { reservation, cpu } => {
                self.move_to(i, cpu);
                let server = &mut self.vcpus[i].server;
                let is_less = match before {
                    Schedule::Reserved { reservation: old, cpu: from } => {
                        server.change(reservation);
                        from == cpu && reservation.is_within(&old)
                    }
                    _ => {
                        *server = Server::new(reservation, self.vm_switch);
                        false
                    }
                };
                // What made room for it may have used more of the time that others count on than it will leave now. One whose wake-up is
                // overdue counts on it too.
                let first = self.ready.first_key(cpu.index()) != NEVER;
                if !is_less && (first || self.reserved_timers.first_key(cpu.index()) <= self.now) {
                    server.defer();
                }
            }
            Schedule::Exclusive(cpu) => {
                self.move_to(i, cpu);
                self.cpus[cpu.index()].owner = Some(i as u8);
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
                self.cpus[cpu.index()].owner = None;
                self.usable.insert(CpuSet::only(cpu));
                self.fair.set_usable(self.usable);
            }
        }
        wake_at
    }

    /// The index of `v`, if there is such a vCPU.
    fn slot(&self, v: VcpuId) -> Option<usize> {
        let i = usize::from(v.0);
        (i < MAX_VCPUS && self.present & bit(i) != 0).then_some(i)
    }

    /// The index of the vCPU that runs on `cpu`.
    fn running(&self, cpu: CpuId) -> Option<usize> {
        if self.busy.contains(cpu) { self.cpus[cpu.index()].held.map(usize::from) } else { None }
    }

    /// The CPU on which the vCPU `i` runs.
    fn running_on(&self, i: usize) -> Option<CpuId> {
        self.holder(i).filter(|&cpu| self.busy.contains(cpu))
    }

    /// The CPU that holds the vCPU `i`.
    fn holder(&self, i: usize) -> Option<CpuId> {
        (self.held & bit(i) != 0).then(|| self.vcpus[i].holder)
    }
}
