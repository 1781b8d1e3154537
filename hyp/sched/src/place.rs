//! Where a vCPU that wants to run goes, and which CPU's timer wakes it: what one CPU's doings mean to the others.

use crate::ids::{CpuId, CpuSet, MAX_VCPUS, Ns, bit, bits, mask};
use crate::{NEVER, Schedule, Scheduler};

/// The time over which a CPU's load is averaged, ns (a power of two).
const LOAD_TIME: Ns = 1 << 24;
/// What a CPU's load is while it never sleeps.
const FULL: u32 = 1 << 16;
/// Two CPUs with less load than this together could be one.
const LOW: u32 = FULL / 4;
/// How long a vCPU waits for the CPU that it was packed onto while others sleep.
const PATIENCE: Ns = 35_000;

/// How busy a CPU has been lately.
#[derive(Clone, Copy)]
#[cfg_attr(test, derive(Hash))]
pub(crate) struct Load {
    load: u32,
    since: Ns,
}

impl Load {
    pub(crate) const NONE: Self = Self { load: 0, since: 0 };

    /// The load at `now`, if the CPU was `busy` since it was updated.
    fn at(self, now: Ns, busy: bool) -> u32 {
        let target = if busy { FULL } else { 0 };
        let time = now.saturating_sub(self.since).min(LOAD_TIME);
        let change = (i64::from(target) - i64::from(self.load)) * time as i64 / LOAD_TIME as i64;
        self.load.wrapping_add_signed(change as i32)
    }

    pub(crate) fn update(&mut self, now: Ns, busy: bool) {
        *self = Self { load: self.at(now, busy), since: now };
    }
}

impl Scheduler {
    /// CPU `c` idles. At low load a vCPU `i` that sleeps there is packed onto the lowest CPU that can take it too, and its
    /// timer with it, so that this one need not wake for it. If there is one, it has to be let go of, and the CPUs that are
    /// returned have to pick again.
    pub(crate) fn pack(&mut self, c: usize, i: usize) -> Option<CpuSet> {
        let lower = CpuSet::first(c).without(self.reserved);
        if lower.is_empty() || self.fair.all() & !self.runnable & bit(i) == 0 {
            return None;
        }
        let mine = self.load(c);
        let fits = |cpu: &CpuId| mine + self.load(cpu.index()) <= LOW;
        let cpu = self.fair.cpus(i).and(lower).iter().find(fits)?;
        self.move_to(i, cpu);
        Some(self.timers.key(i).map_or(CpuSet::EMPTY, |at| self.arm(i, cpu.index(), at)))
    }

    fn load(&self, c: usize) -> u32 {
        self.cpus[c].load.at(self.now, self.busy.contains(CpuId(c as u8)))
    }

    /// The CPU `cpu` is the first choice for the vCPU `i` from now on.
    pub(crate) fn move_to(&mut self, i: usize, cpu: CpuId) {
        let last = core::mem::replace(&mut self.vcpus[i].home, cpu);
        self.cpus[last.index()].local &= !bit(i);
        self.cpus[cpu.index()].local |= bit(i);
    }

    /// At low load the vCPU `i`, which has just been woken and can be run by `reachable`, waits a little for the CPU that it
    /// was packed onto.
    fn wait_a_little(&mut self, i: usize, reachable: CpuSet) -> Option<CpuSet> {
        let home = self.vcpus[i].home;
        let could = reachable.without(self.reserved).contains(home);
        if self.just_woken & bit(i) == 0 || !could || self.load(home.index()) > LOW {
            return None;
        }
        self.just_woken &= !bit(i);
        let at = self.vcpus[i].waits_since + PATIENCE;
        (at > self.now).then(|| self.arm(i, home.index(), at))
    }

    /// Tells CPUs to pick again because each of `vcpus` waits: see [`Scheduler::offer`].
    #[inline(never)]
    pub(crate) fn offer_all(&mut self, vcpus: u64) -> CpuSet {
        let (mut told, mut refused) = (CpuSet::EMPTY, None);
        let none_sleeps = self.usable.without(self.busy).without(self.reserved).is_empty();
        let shares = if none_sleeps { self.fair.all() & !self.held } else { 0 };
        for i in bits(vcpus) {
            // If none sleeps and none is for one of a VM's vCPUs, none is for the next one.
            if refused.is_some_and(|other| shares & bit(i) != 0 && self.fair.are_alike(i, other)) {
                continue;
            }
            let cpus = self.offer(i);
            refused = Some(i).filter(|_| cpus.is_empty() && shares & bit(i) != 0);
            told.insert(cpus);
        }
        told
    }

    /// Tells CPUs to pick again because the vCPU `i` waits: the best one to run it; or, if it has to take turns, those
    /// that did not know that they have to share. CPUs that were told before are left out: they see this vCPU when they
    /// pick.
    pub(crate) fn offer(&mut self, i: usize) -> CpuSet {
        let holder = self.holder(i);
        if let Some(holder) = holder
            && !self.may_run(i, holder)
        {
            // It has to let go first.
            return self.tell(CpuSet::only(holder));
        }
        match self.vcpus[i].schedule {
            // Only the CPU that holds it can take it.
            Schedule::Shared(_) => self.offer_share(i, holder.map_or(self.fair.cpus(i), CpuSet::only)),
            Schedule::Reserved { cpu, .. } => {
                let Some(deadline) = self.ready.key(i) else {
                    // It waits for budget.
                    let at = self.reserved_timers.key(i).unwrap_or(NEVER);
                    return self.expect(cpu.index(), at);
                };
                let occupant = self.running(cpu).and_then(|o| self.ready.key(o));
                if occupant.is_some_and(|occupant| occupant <= deadline) {
                    return CpuSet::EMPTY;
                }
                self.tell(CpuSet::only(cpu))
            }
            Schedule::Exclusive(cpu) => self.tell(CpuSet::only(cpu)),
        }
    }

    /// The same for a share that one of `reachable` can take.
    fn offer_share(&mut self, i: usize, reachable: CpuSet) -> CpuSet {
        if let Some(at) = self.fair.capped_until(i) {
            let id = MAX_VCPUS + self.fair.vm_of(i);
            let home = self.timers.cpu(id).unwrap_or(self.vcpus[i].home.index());
            return self.arm(id, home, at);
        }
        let cpus = reachable.without(self.reserved);
        let (idle, untold) = (cpus.without(self.busy), cpus.without(self.told));
        let told = if idle.is_empty() {
            if self.held & bit(i) == 0
                && let Some(cpu) = self.make_room(i)
            {
                return self.tell(CpuSet::only(cpu));
            }
            let unsliced = untold.without(self.sliced);
            if unsliced.is_empty() { self.victim(i, untold) } else { unsliced }
        } else {
            // One that was told for another is the second choice: it decides soon whom it takes.
            let (home, free) = (self.vcpus[i].home, idle.and(untold));
            let idle = if free.is_empty() { idle } else { free };
            if !idle.contains(home)
                && let Some(told) = self.wait_a_little(i, reachable)
            {
                return told;
            }
            CpuSet::only(if idle.contains(home) { home } else { idle.iter().next().unwrap_or(home) })
        };
        for cpu in told.iter() {
            self.cpus[cpu.index()].claims |= bit(i);
        }
        self.tell(told)
    }

    /// The one of the busy `cpus` whose slice the vCPU `i` precedes the most, if any.
    fn victim(&self, i: usize, cpus: CpuSet) -> CpuSet {
        let (mut victim, mut most) = (CpuSet::EMPTY, 0);
        for cpu in cpus.iter() {
            if let Some(by) = self.fair.precedes(i, cpu.index())
                && by > most
            {
                (victim, most) = (CpuSet::only(cpu), by);
            }
        }
        victim
    }

    /// If some CPU sleeps where `i` may not run: finds one where it may, whose vCPU may run on the one that sleeps, or where another one makes
    /// room for it in the same way. That one goes there when the CPU picks again.
    pub(crate) fn make_room(&mut self, i: usize) -> Option<CpuId> {
        let untold = self.usable.without(self.reserved).without(self.told);
        let asleep = untold.without(self.busy);
        let cpus = self.fair.cpus(i);
        if asleep.is_empty() || !asleep.and(cpus).is_empty() {
            return None;
        }
        let cpu = cpus.and(CpuSet(self.fair.way(cpus.0, untold.0, asleep.0)?)).iter().next()?;
        self.yielding.insert(CpuSet::only(cpu));
        self.cpus[cpu.index()].claims |= bit(i);
        Some(cpu)
    }

    /// Those of `cpus` that have not been told to pick again already are told now.
    pub(crate) fn tell(&mut self, cpus: CpuSet) -> CpuSet {
        let told = cpus.and(self.online).without(self.told);
        self.told.insert(told);
        told
    }

    /// CPU `c` has to pick at `at`. Returns it if it has to be told.
    fn expect(&mut self, c: usize, at: Ns) -> CpuSet {
        if at < self.cpus[c].until { self.tell(CpuSet::only(CpuId(c as u8))) } else { CpuSet::EMPTY }
    }

    /// Sets a timer of a vCPU or VM on CPU `c`, or whoever has its timers. Returns the CPU that has to be told.
    pub(crate) fn arm(&mut self, id: usize, c: usize, at: Ns) -> CpuSet {
        if id < MAX_VCPUS && self.fair.all() & bit(id) == 0 {
            self.reserved_timers.insert(c, id, at);
            return self.expect(c, at);
        }
        self.timers.insert(c, id, at);
        let cpu = CpuId(c as u8);
        match self.cpus[c].helper {
            Some(helper) => self.expect(helper.index(), at),
            None if self.reserved.contains(cpu) => self.find_helper(CpuSet::only(cpu)),
            None => self.expect(c, at),
        }
    }

    /// Whether the vCPU `i` may run on `cpu`.
    fn may_run(&self, i: usize, cpu: CpuId) -> bool {
        match self.vcpus[i].schedule {
            Schedule::Shared(_) => self.fair.cpus(i).contains(cpu),
            _ => self.vcpus[i].home == cpu,
        }
    }

    /// Whether `cpu`, which idles, holds something that may not run there, or that waits because its VM is at its cap: when
    /// that is over, any CPU may take it.
    pub(crate) fn has_to_unload(&self, cpu: CpuId, i: usize) -> bool {
        self.fair.all() & self.runnable & bit(i) != 0 || !self.may_run(i, cpu)
    }

    /// When the first of the shares' timers fires that CPU `c` has.
    pub(crate) fn next_timer(&self, c: usize) -> Ns {
        let others = self.cpus[c].helps.iter().map(|cpu| self.timers.first_key(cpu.index()));
        others.fold(self.timers.first_key(c), Ns::min)
    }

    /// CPU `c` runs nothing with a share until its timer fires: the timers of shares that may fire before, its own and
    /// those that it has for others, are another CPU's task. Returns that one if it has to be told.
    pub(crate) fn hand_over_timers(&mut self, c: usize) -> CpuSet {
        let mut cpus = core::mem::take(&mut self.cpus[c].helps);
        for cpu in cpus.iter() {
            self.cpus[cpu.index()].helper = None;
        }
        if self.cpus[c].helper.is_none() {
            cpus.insert(CpuSet::only(CpuId(c as u8)));
        }
        let due = |cpu: &CpuId| {
            let n = cpu.index();
            self.timers.first_key(n) < self.cpus[n].until
        };
        let due = mask(cpus.iter().filter(due).map(CpuId::index));
        self.orphans.insert(cpus);
        if due == 0 { CpuSet::EMPTY } else { self.find_helper(CpuSet(due)) }
    }

    /// Finds a CPU that takes over the timers of `cpus`, and tells it.
    fn find_helper(&mut self, cpus: CpuSet) -> CpuSet {
        let mut free = self.usable.without(self.reserved).without(cpus).iter();
        let Some(helper) = free.next() else {
            self.orphans.insert(cpus);
            return CpuSet::EMPTY;
        };
        self.assign_helper(helper, cpus);
        self.tell(CpuSet::only(helper))
    }

    fn assign_helper(&mut self, helper: CpuId, cpus: CpuSet) {
        for cpu in cpus.iter() {
            self.cpus[cpu.index()].helper = Some(helper);
        }
        self.cpus[helper.index()].helps.insert(cpus);
        self.orphans = self.orphans.without(cpus);
    }

    /// CPU `me` has its own timers again, and those that nobody has.
    #[inline]
    pub(crate) fn take_over_timers(&mut self, me: CpuId) {
        let c = me.index();
        if let Some(helper) = self.cpus[c].helper.take() {
            self.cpus[helper.index()].helps.remove(me);
        }
        if !self.orphans.is_empty() {
            self.orphans.remove(me);
            self.assign_helper(me, self.orphans);
        }
    }
}
