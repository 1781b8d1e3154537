//! Where a vCPU that wants to run goes, and which CPU's timer wakes it: what one CPU's doings mean to the others.

use crate::ids::{CpuId, CpuSet, MAX_VCPUS, Ns, bit, bits};
use crate::{NEVER, Schedule, Scheduler};

/// The time over which a CPU's load is averaged, ns (a power of two).
const LOAD_TIME: Ns = 1 << 24;
/// What a CPU's load is while it never sleeps.
const FULL: u32 = 1 << 16;
/// Two CPUs with less load than this together could be one.
const LOW: u32 = FULL / 4;
/// How long a vCPU waits for the CPU that it was packed onto while others sleep.
const PATIENCE: Ns = 40_000;

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
    /// CPU `c` idles. At low load the vCPU that sleeps there is packed onto the lowest CPU that can take it too, and its
    /// timer with it, so that this one need not wake for it. If there is one, it has to be let go of, and the CPUs that are
    /// returned have to pick again.
    pub(crate) fn pack(&mut self, c: usize) -> Option<CpuSet> {
        let holds = self.cpus[c].holds & self.fair.all() & !self.runnable;
        let mine = self.load(c);
        let mut packed = None;
        for i in bits(holds) {
            let fits = |cpu: &CpuId| {
                let n = usize::from(cpu.0);
                n < c && !self.cpus[n].reserved && mine + self.load(n) <= LOW
            };
            if let Some(cpu) = self.affinity(i).iter().find(fits) {
                self.move_to(i, cpu);
                let told = packed.get_or_insert(CpuSet::EMPTY);
                if let Some(at) = self.timers.key(i) {
                    told.insert(self.arm(i, usize::from(cpu.0), at));
                }
            }
        }
        packed
    }

    fn load(&self, c: usize) -> u32 {
        self.cpus[c].load.at(self.now, self.cpus[c].running.is_some())
    }

    /// The CPU `cpu` is the first choice for the vCPU `i` from now on.
    pub(crate) fn move_to(&mut self, i: usize, cpu: CpuId) {
        let last = core::mem::replace(&mut self.vcpus[i].last, cpu);
        self.cpus[usize::from(last.0)].local &= !bit(i);
        self.cpus[usize::from(cpu.0)].local |= bit(i);
    }

    /// At low load the vCPU `i`, which has just been woken, waits a little for the CPU that it was packed onto.
    fn wait_a_little(&mut self, i: usize) -> Option<CpuSet> {
        let last = usize::from(self.vcpus[i].last.0);
        let low = !self.cpus[last].reserved && self.load(last) <= LOW;
        if !low || self.just_woken & bit(i) == 0 || !self.reachable(i).contains(CpuId(last as u8)) {
            return None;
        }
        self.just_woken &= !bit(i);
        let at = self.vcpus[i].waits_since + PATIENCE;
        (at > self.now).then(|| self.arm(i, last, at))
    }

    /// Tells CPUs to pick again because the vCPU `i` waits: the best one to run it; or, if it has to take turns, those
    /// that did not know that they have to share. CPUs that were told before are left out: they see this vCPU when they
    /// pick.
    pub(crate) fn offer(&mut self, i: usize) -> CpuSet {
        if let Some(holder) = self.vcpus[i].held
            && !self.may_run(i, holder)
        {
            // It has to let go first.
            return self.tell(CpuSet::only(holder));
        }
        match self.vcpus[i].schedule {
            Schedule::Reserved { cpu, .. } => {
                let c = usize::from(cpu.0);
                let Some(deadline) = self.ready.key(i) else {
                    // It waits for budget.
                    let at = self.reserved_timers.key(i).unwrap_or(NEVER);
                    return self.expect(c, at);
                };
                let occupant = self.running(cpu).and_then(|o| self.ready.key(o));
                if occupant.is_some_and(|occupant| occupant <= deadline) {
                    return CpuSet::EMPTY;
                }
                self.tell(CpuSet::only(cpu))
            }
            Schedule::Exclusive(cpu) => self.tell(CpuSet::only(cpu)),
            Schedule::Shared(_) => self.offer_share(i),
        }
    }

    fn offer_share(&mut self, i: usize) -> CpuSet {
        if let Some(at) = self.fair.capped_until(i) {
            let id = MAX_VCPUS + self.fair.vm_of(i);
            let home = self.timers.cpu(id).unwrap_or(usize::from(self.vcpus[i].last.0));
            return self.arm(id, home, at);
        }
        let last = self.vcpus[i].last;
        let (mut idle, mut unsliced) = (None, CpuSet::EMPTY);
        let mut victim: Option<(i64, CpuId)> = None;
        for cpu in self.reachable(i).iter() {
            let this = &self.cpus[usize::from(cpu.0)];
            if this.reserved {
                continue;
            }
            if this.running.is_none() {
                // One that was told for another is the second choice: it decides soon whom it takes.
                let rank = (this.told, cpu != last);
                if idle.is_none_or(|(best, _)| rank < best) {
                    idle = Some((rank, cpu));
                }
            } else if this.told {
                continue;
            } else if !this.sliced {
                unsliced.insert(CpuSet::only(cpu));
            } else if let Some(by) = self.fair.precedes(i, usize::from(cpu.0))
                && victim.is_none_or(|(most, _)| by > most)
            {
                victim = Some((by, cpu));
            }
        }
        if idle.is_none()
            && self.vcpus[i].held.is_none()
            && let Some(cpu) = self.make_room(i)
        {
            return self.tell(CpuSet::only(cpu));
        }
        if let Some(((_, true), _)) = idle
            && let Some(told) = self.wait_a_little(i)
        {
            return told;
        }
        let told = match (idle, victim) {
            (Some((_, cpu)), _) => CpuSet::only(cpu),
            (None, Some((_, cpu))) if unsliced.is_empty() => CpuSet::only(cpu),
            _ => unsliced,
        };
        for cpu in told.iter() {
            self.cpus[usize::from(cpu.0)].claims |= bit(i);
        }
        self.tell(told)
    }

    /// If some CPU sleeps where `i` may not run: finds one where it may, whose vCPU may run on the one that sleeps. That one
    /// goes there when the CPU picks again.
    pub(crate) fn make_room(&mut self, i: usize) -> Option<CpuId> {
        let idle = |cpu: &CpuId| {
            let this = &self.cpus[usize::from(cpu.0)];
            this.running.is_none() && !this.reserved && !this.told
        };
        let idle = self.usable.iter().filter(idle).fold(0, |set, cpu| set | bit(usize::from(cpu.0)));
        if idle == 0 || bits(idle).any(|cpu| self.may_run(i, CpuId(cpu as u8))) {
            return None;
        }
        let movable = |cpu: &CpuId| {
            let this = &self.cpus[usize::from(cpu.0)];
            let goes = |v: u8| bits(idle).any(|to| self.fair.allowed(to) & bit(v.into()) != 0);
            !this.reserved && !this.told && this.running.is_some_and(goes)
        };
        let cpu = self.reachable(i).iter().find(movable)?;
        let this = &mut self.cpus[usize::from(cpu.0)];
        this.yields = true;
        this.claims |= bit(i);
        Some(cpu)
    }

    /// Those of `cpus` that have not been told to pick again already are told now.
    pub(crate) fn tell(&mut self, cpus: CpuSet) -> CpuSet {
        let mut told = CpuSet::EMPTY;
        for cpu in cpus.and(self.online).iter() {
            if !core::mem::replace(&mut self.cpus[usize::from(cpu.0)].told, true) {
                told.insert(CpuSet::only(cpu));
            }
        }
        told
    }

    /// CPU `c` has to pick at `at`. Returns it if it has to be told.
    fn expect(&mut self, c: usize, at: Ns) -> CpuSet {
        if at < self.cpus[c].until { self.tell(CpuSet::only(CpuId(c as u8))) } else { CpuSet::EMPTY }
    }

    /// Sets a timer of a vCPU or VM on CPU `c`, or whoever has its timers. Returns the CPU that has to be told.
    pub(crate) fn arm(&mut self, id: usize, c: usize, at: Ns) -> CpuSet {
        let shared = id >= MAX_VCPUS || matches!(self.vcpus[id].schedule, Schedule::Shared(_));
        if !shared {
            self.reserved_timers.insert(c, id, at);
            return self.expect(c, at);
        }
        self.timers.insert(c, id, at);
        match self.cpus[c].helper {
            Some(helper) => self.expect(usize::from(helper.0), at),
            None if self.cpus[c].reserved => self.find_helper(CpuSet::only(CpuId(c as u8))),
            None => self.expect(c, at),
        }
    }

    /// Whether the vCPU `i` may run on `cpu`.
    fn may_run(&self, i: usize, cpu: CpuId) -> bool {
        match self.vcpus[i].schedule {
            Schedule::Reserved { cpu: own, .. } | Schedule::Exclusive(own) => own == cpu,
            Schedule::Shared(_) => self.affinity(i).contains(cpu),
        }
    }

    /// Where the vCPU `i` with a share may run.
    pub(crate) fn affinity(&self, i: usize) -> CpuSet {
        match self.vcpus[i].schedule {
            Schedule::Shared(vm) => {
                self.share(vm).map_or(CpuSet::EMPTY, |share| share.affinity.and(self.usable))
            }
            _ => CpuSet::EMPTY,
        }
    }

    /// The CPUs that can take the vCPU `i` with a share: only the one that holds it, else those it may run on.
    fn reachable(&self, i: usize) -> CpuSet {
        self.vcpus[i].held.map_or(self.affinity(i), CpuSet::only)
    }

    /// Whether CPU `c`, which idles, holds something that may not run there, or that waits because its VM is at its cap:
    /// when that is over, any CPU may take it.
    pub(crate) fn has_to_unload(&self, c: usize) -> bool {
        let holds = self.cpus[c].holds;
        holds & self.runnable & self.fair.all() != 0 || bits(holds).any(|i| !self.may_run(i, CpuId(c as u8)))
    }

    /// The CPUs whose shares' timers CPU `c` has.
    pub(crate) fn timed_by(&self, c: usize) -> CpuSet {
        let mut cpus = self.cpus[c].helps;
        cpus.insert(CpuSet::only(CpuId(c as u8)));
        cpus
    }

    /// When the first of them fires.
    pub(crate) fn next_timer(&self, c: usize) -> Ns {
        let firsts = self.timed_by(c).iter().map(|cpu| self.timers.first_key(usize::from(cpu.0)));
        firsts.min().unwrap_or(NEVER)
    }

    /// CPU `c` runs nothing with a share until its timer fires: the timers of shares that may fire before, its own and
    /// those that it has for others, are another CPU's task. Returns that one if it has to be told.
    pub(crate) fn hand_over_timers(&mut self, c: usize) -> CpuSet {
        let mut cpus = core::mem::take(&mut self.cpus[c].helps);
        for cpu in cpus.iter() {
            self.cpus[usize::from(cpu.0)].helper = None;
        }
        if self.cpus[c].helper.is_none() {
            cpus.insert(CpuSet::only(CpuId(c as u8)));
        }
        let due = |cpu: &CpuId| {
            let n = usize::from(cpu.0);
            self.timers.first_key(n) < self.cpus[n].until
        };
        let due = cpus.iter().filter(due).fold(0, |set, cpu| set | CpuSet::only(cpu).0);
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
            self.cpus[usize::from(cpu.0)].helper = Some(helper);
        }
        self.cpus[usize::from(helper.0)].helps.insert(cpus);
        self.orphans = self.orphans.without(cpus);
    }

    /// CPU `c` has its own timers again, and those that nobody has.
    pub(crate) fn take_over_timers(&mut self, c: usize) {
        let me = CpuId(c as u8);
        if let Some(helper) = self.cpus[c].helper.take() {
            self.cpus[usize::from(helper.0)].helps.remove(me);
        }
        self.orphans.remove(me);
        let orphans = self.orphans;
        if !orphans.is_empty() {
            self.assign_helper(me, orphans);
        }
    }
}
