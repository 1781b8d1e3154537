//! The decision: what ran is charged, what is due wakes, and somebody is chosen.

use crate::ids::{CpuId, CpuSet, MAX_VCPUS, Ns, VcpuId, bit, bits};
use crate::server::LAST;
use crate::{Cpu, Decision, Leave, NEVER, Schedule, Scheduler};

impl Scheduler {
    /// Decides what `cpu` does from `now` on: charges the vCPU that ran, lets it `leave`, wakes those whose time has come,
    /// chooses.
    #[inline(never)]
    pub fn pick(&mut self, cpu: CpuId, leave: Leave, now: Ns) -> Decision {
        if !self.online.contains(cpu) {
            return Decision::IDLE;
        }
        let (c, me) = (cpu.index(), CpuSet(bit(cpu.index())));
        self.now = self.now.max(now);
        if cfg!(feature = "plant_pick_next") && self.runnable.count_ones() > 32 {
            // More than a thousand instructions: `cargo xtask bench --plant`.
            (0..300).for_each(|n| _ = core::hint::black_box(n));
        }
        // It needs not be told anything while it decides.
        self.told.insert(me);
        let mut repick = CpuSet::EMPTY;
        let before = self.cpus[c].held.filter(|_| !self.busy.and(me).is_empty()).map(usize::from);
        if let Some(i) = before {
            if let Leave::Sleeps(wake_at) = leave {
                repick = self.sleep(c, i, wake_at);
            }
            self.charge(c, now);
            if self.fair.has_caps() {
                self.await_cap(c, i, bit(i));
            }
        } else {
            self.cpus[c].since = now;
        }
        let mut left_over = core::mem::take(&mut self.cpus[c].claims);
        let reserved = self.pick_reserved(c, before, now);
        let owner = self.cpus[c].owner.map(usize::from);
        let is_reserved = reserved.is_some() || owner.is_some();
        if self.reserved.and(me).is_empty() == is_reserved {
            self.reserved = CpuSet(self.reserved.0 ^ me.0);
            self.fair.set_free(self.online.without(self.reserved));
            if !is_reserved {
                self.take_over_timers(cpu);
            }
        }
        let (chosen, mut until) = match (reserved, owner) {
            (Some((i, until)), _) => (Some(i), until),
            (None, Some(i)) => {
                let runs = self.runnable & bit(i) != 0 && self.holder(i).is_none_or(|by| by == cpu);
                (Some(i).filter(|_| runs), NEVER)
            }
            (None, None) => {
                let yields = leave == Leave::Yields || !self.yielding.and(me).is_empty();
                let (chosen, until, expired) = self.pick_shared(cpu, yields, now);
                left_over |= expired;
                (chosen, until)
            }
        };
        self.yielding = self.yielding.without(me);
        if before != chosen {
            left_over |= self.switch(cpu, before, chosen, now);
        }
        let mut unload = false;
        if chosen.is_none() {
            let others;
            (unload, left_over, others) = self.idle(cpu, left_over);
            repick.insert(others);
        }
        // Those that counted on this CPU, woke up here, or ran here, and were not chosen may have to go elsewhere.
        left_over &= self.runnable & !chosen.map_or(0, bit);
        let alone = self.online == me;
        if left_over != 0 && !alone {
            let elsewhere = bits(left_over & self.held).filter(|&i| self.running_on(i).is_some());
            left_over &= !elsewhere.fold(0, |set, i| set | bit(i));
            repick.insert(self.offer_all(left_over));
        }
        if is_reserved {
            if reserved.is_none() {
                until = until.min(self.reserved_timers.first_key(c));
            }
            self.cpus[c].until = until;
            self.fair.stop(c);
            self.fair.rebalance(now);
            if !alone {
                repick.insert(self.hand_over_timers(c));
            }
        } else {
            until = until.min(self.reserved_timers.first_key(c)).min(self.next_timer(c));
            self.cpus[c].until = until;
        }
        self.told = self.told.without(me);
        Decision {
            run: chosen.map(|i| VcpuId(i as u16)),
            until: Some(until).filter(|&at| at != NEVER),
            repick,
            reserved: reserved.is_some(),
            unload,
            waited: chosen.map_or(0, |i| self.vcpus[i].stats.waited),
        }
    }

    /// `cpu` idles, and `left_over` may have to go elsewhere. Returns whether it has to unload what it holds, that too if it
    /// can go elsewhere, and the CPUs that have to pick again.
    #[inline(never)]
    fn idle(&mut self, cpu: CpuId, mut left_over: u64) -> (bool, u64, CpuSet) {
        let c = cpu.index();
        let (mut unload, mut repick) = (false, CpuSet::EMPTY);
        if let Some(i) = self.cpus[c].held.map(usize::from) {
            unload = self.has_to_unload(cpu, i);
            if let Some(told) = self.pack(c, i) {
                unload = true;
                repick = told;
            }
            if unload {
                self.cpus[c].held = None;
                left_over |= self.let_go(cpu, i);
            }
        }
        if !self.reserved.contains(cpu) {
            // Somebody may wait for another CPU that could be free if what runs there came here.
            for i in bits(self.runnable & self.fair.waiting() & !self.held) {
                if let Some(cpu) = self.make_room(i) {
                    repick.insert(self.tell(CpuSet::only(cpu)));
                }
            }
        }
        (unload, left_over, repick)
    }

    /// The vCPU `i`, which runs on CPU `c`, sleeps until it is woken, or until `wake_at`, unless it has been woken already.
    /// Returns the CPUs that have to pick again.
    fn sleep(&mut self, c: usize, i: usize, wake_at: Option<Ns>) -> CpuSet {
        let this = &mut self.vcpus[i];
        // One that was stopped a moment ago must not get a timed wake-up.
        if core::mem::take(&mut this.woken) || self.runnable & bit(i) == 0 {
            return CpuSet::EMPTY;
        }
        self.runnable &= !bit(i);
        let (home, shared) = (this.home.index(), matches!(this.schedule, Schedule::Shared(_)));
        if !shared {
            self.ready.remove(i);
        }
        match wake_at {
            Some(at) if shared => self.timers.insert(c, i, at),
            Some(at) => return self.arm(i, home, at),
            None => {}
        }
        CpuSet::EMPTY
    }

    /// Wakes the reservations of CPU `c` that are due, and finds the one with the earliest deadline. Returns it, and until
    /// when that is sure.
    #[inline]
    fn pick_reserved(&mut self, c: usize, before: Option<usize>, now: Ns) -> Option<(usize, Ns)> {
        if self.ready.is_empty(c) && self.reserved_timers.first_key(c) > now {
            return None;
        }
        self.earliest(c, before, now)
    }

    #[inline]
    fn earliest(&mut self, c: usize, before: Option<usize>, now: Ns) -> Option<(usize, Ns)> {
        while let Some((i, at)) = self.reserved_timers.pop_until(c, now) {
            if self.runnable & bit(i) == 0 {
                self.rouse(bit(i), at);
            } else {
                self.supply(i, at);
            }
        }
        let (mut first, mut deadline) = self.ready.first(c)?;
        if deadline == LAST {
            (first, deadline) = self.begin_reservations(c, now)?;
        }
        let chosen = before.filter(|&i| self.ready.key(i) == Some(deadline) && self.ready.cpu(i) == Some(c));
        let chosen = chosen.unwrap_or(first);
        let mut until = self.cpus[c].since.saturating_add(self.vcpus[chosen].server.left());
        if self.reserved_timers.first_key(c) < until {
            for (i, at) in self.reserved_timers.members(c) {
                if at < until && self.vcpus[i].server.deadline_at(at) < deadline {
                    until = at;
                }
            }
        }
        Some((chosen, until))
    }

    /// None of CPU `c`'s reservations wants to run but those that are to begin then: nothing that was used before can make a deadline
    /// fail from now on.
    #[inline(never)]
    fn begin_reservations(&mut self, c: usize, now: Ns) -> Option<(usize, Ns)> {
        for i in bits(self.ready.members(c).fold(0, |set, (i, _)| set | bit(i))) {
            self.vcpus[i].server.begin();
            self.supply(i, now);
        }
        self.ready.first(c)
    }

    /// Wakes the shares that are due on `cpu`, and finds out whose turn it is. Returns that one, the end of its slice if
    /// somebody waits, and those that were woken.
    #[inline]
    fn pick_shared(&mut self, cpu: CpuId, yields: bool, now: Ns) -> (Option<usize>, Ns, u64) {
        let (c, me) = (cpu.index(), CpuSet(bit(cpu.index())));
        let mut expired = self.expire_timers(c, now);
        for cpu in self.cpus[c].helps.iter() {
            expired |= self.expire_timers(cpu.index(), now);
        }
        let own = self.cpus[c].held.map_or(0, |i| bit(i.into()));
        self.fair.rebalance(now);
        let candidates = self.runnable & (own | !self.held) & self.fair.allowed(c);
        let Cpu { local, since, .. } = self.cpus[c];
        let next = self.fair.choose(c, candidates, local, yields, now);
        let Some((i, slice_end)) = next.map(|i| (i, self.fair.begin(c, i, since, now))) else {
            self.fair.stop(c);
            return (None, NEVER, expired);
        };
        let mut sliced = candidates != bit(i);
        if self.fair.has_caps() {
            self.await_cap(c, i, candidates & !bit(i));
            sliced |= self.fair.has_cap(i);
        }
        self.sliced = if sliced { self.sliced.or(me) } else { self.sliced.without(me) };
        (Some(i), if sliced { slice_end } else { NEVER }, expired)
    }

    /// If the VM of the vCPU `i` is at its cap and some of its vCPUs `waiting` want to run, CPU `c` lets them when they may.
    fn await_cap(&mut self, c: usize, i: usize, waiting: u64) {
        if let Some(at) = self.fair.capped_until(i) {
            let vm = self.fair.vm_of(i);
            if self.fair.members(vm) & waiting & self.runnable != 0 {
                self.timers.insert(c, MAX_VCPUS + vm, at);
            }
        }
    }

    /// The timers of CPU `c`'s shares fire that are due. Returns the vCPUs that may run now.
    #[inline]
    fn expire_timers(&mut self, c: usize, now: Ns) -> u64 {
        let mut expired = 0;
        while let Some((id, at)) = self.timers.pop_until(c, now) {
            expired |= self.expire(id, at, now);
        }
        expired
    }

    /// A timer of the shares has fired. Returns the vCPUs that may run now.
    fn expire(&mut self, id: usize, at: Ns, now: Ns) -> u64 {
        if let Some(vm) = id.checked_sub(MAX_VCPUS) {
            self.fair.check_cap(vm, now);
            return self.fair.members(vm);
        }
        if self.runnable & bit(id) == 0 {
            self.rouse(bit(id), at);
        }
        bit(id)
    }

    /// `cpu` goes from one vCPU, or none, to another. Returns the vCPU that it lets go of, if somebody else can take that.
    #[inline]
    fn switch(&mut self, cpu: CpuId, before: Option<usize>, chosen: Option<usize>, now: Ns) -> u64 {
        let me = CpuSet(bit(cpu.index()));
        let this = &mut self.cpus[cpu.index()];
        if before.is_none() || chosen.is_none() {
            this.load.update(now, before.is_some());
        }
        if let Some(i) = before {
            self.vcpus[i].waits_since = now;
        }
        let Some(i) = chosen else {
            self.busy = self.busy.without(me);
            return 0;
        };
        let old = this.held.replace(i as u8).map(usize::from).filter(|&old| old != i);
        self.busy.insert(me);
        self.held |= bit(i);
        self.just_woken &= !bit(i);
        let vcpu = &mut self.vcpus[i];
        vcpu.holder = cpu;
        vcpu.stats.waited += now.saturating_sub(vcpu.waits_since);
        vcpu.stats.switches += 1;
        if vcpu.home != cpu {
            vcpu.stats.migrations += 1;
            self.move_to(i, cpu);
        }
        // It may have been waiting for a certain CPU.
        self.timers.remove(i);
        old.map_or(0, |old| self.let_go(cpu, old))
    }

    /// `cpu` no longer holds the vCPU `i`. Returns it if another CPU can take it.
    fn let_go(&mut self, cpu: CpuId, i: usize) -> u64 {
        self.held &= !bit(i);
        if self.runnable & bit(i) == 0 || self.online == CpuSet(bit(cpu.index())) {
            return 0;
        }
        let elsewhere = match self.vcpus[i].schedule {
            Schedule::Shared(_) => self.fair.cpus(i) != CpuSet::only(cpu),
            // It was re-admitted to another CPU while it was held here.
            Schedule::Reserved { .. } if self.vcpus[i].home != cpu => {
                if self.ready.key(i).is_none() && self.reserved_timers.key(i).is_none() {
                    self.ready.insert(self.vcpus[i].home.index(), i, self.vcpus[i].server.deadline());
                }
                true
            }
            _ => self.vcpus[i].home != cpu,
        };
        if elsewhere { bit(i) } else { 0 }
    }

    /// Charges the vCPU that CPU `c` runs up to `now`. What comes next pays from `since` on: not for the switch away from a
    /// reservation that sleeps or is out of budget, as admission has it (two switches a job).
    #[inline]
    pub(crate) fn charge(&mut self, c: usize, now: Ns) {
        let this = &mut self.cpus[c];
        let Some(i) = this.held.map(usize::from) else { return };
        let ran = now.saturating_sub(this.since);
        this.since = this.since.max(now);
        let vcpu = &mut self.vcpus[i];
        vcpu.stats.ran += ran;
        match vcpu.schedule {
            Schedule::Reserved { .. } => {
                let exhausted = vcpu.server.charge(ran);
                if exhausted || self.runnable & bit(i) == 0 {
                    vcpu.stats.ran += self.vm_switch;
                    vcpu.server.charge(self.vm_switch);
                    this.since += self.vm_switch;
                }
                if exhausted && self.ready.key(i).is_some() {
                    vcpu.stats.throttles += 1;
                    self.supply(i, now);
                }
            }
            Schedule::Shared(_) => {
                self.fair.count(c, now);
                if self.runnable & bit(i) == 0 {
                    self.fair.sleep(i, now);
                }
            }
            Schedule::Exclusive(_) => {}
        }
    }
}
