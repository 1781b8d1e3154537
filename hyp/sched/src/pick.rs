//! The decision: what ran is charged, what is due wakes, and somebody is chosen.

use crate::ids::{CpuId, CpuSet, MAX_VCPUS, Ns, VcpuId, bit, bits, mask};
use crate::server::LAST;
use crate::{Cpu, Decision, Leave, NEVER, Schedule, Scheduler};

/// A CPU waits for a reservation that wakes within this part of a switch: what it began before would only make that one late.
const SOON: Ns = 4;
/// A share that has just been chosen is not interrupted because another one wakes within this part of a switch: it would not have
/// come to run yet.
const SETTLED: Ns = 2;

impl Scheduler {
    /// Decides what `cpu` does from `now` on: charges the vCPU that ran, lets it `leave`, wakes those whose time has come,
    /// chooses.
    #[inline]
    pub fn pick(&mut self, cpu: CpuId, leave: Leave, now: Ns) -> Decision {
        let mut decision = Decision::IDLE;
        if self.online.contains(cpu) {
            self.decide(cpu, leave, now, &mut decision);
        }
        decision
    }

    #[inline(never)]
    fn decide(&mut self, cpu: CpuId, leave: Leave, now: Ns, decision: &mut Decision) {
        let (c, me) = (cpu.index(), CpuSet(bit(cpu.index())));
        let now = self.now.max(now);
        self.now = now;
        if cfg!(feature = "plant_pick_next") && self.runnable >> 32 != 0 {
            delay();
        }
        // It needs not be told anything while it decides.
        self.told.insert(me);
        let before = self.running(cpu);
        if let Some(i) = before {
            if let Leave::Sleeps(wake_at) = leave {
                decision.repick = self.sleep(c, i, wake_at);
            }
            self.charge(c, i, now);
            if self.fair.has_caps() {
                self.await_cap(c, i, bit(i));
            }
        } else {
            self.cpus[c].since = now;
            if let Some(until) = self.resume(cpu, decision) {
                decision.until = Some(until).filter(|&at| at != NEVER);
                return;
            }
        }
        while let Some((i, at)) = self.reserved_timers.pop_until(c, now) {
            self.wake_reserved(i, at);
        }
        let mut first = self.ready.first(c);
        if first.is_some_and(|(_, deadline)| deadline == LAST) {
            first = self.begin_reservations(c, now);
        }
        let until = if let Some((first, deadline)) = first {
            decision.reserved = true;
            self.run_reserved(cpu, before, first, deadline, decision)
        } else if let Some(owner) = self.cpus[c].owner.map(usize::from) {
            let until = self.reserved_timers.first_key(c);
            let runs = self.runnable & bit(owner) != 0 && self.holder(owner).is_none_or(|by| by == cpu);
            self.run_apart(cpu, before, Some(owner).filter(|_| runs), until, decision);
            until
        } else if self.reserved_timers.first_key(c) - now < self.vm_switch / SOON {
            let until = self.reserved_timers.first_key(c);
            self.cpus[c].until = until;
            self.fair.stop(c);
            self.idle(cpu, before, decision);
            until
        } else {
            let room = !self.yielding.and(me).is_empty();
            let last = if leave == Leave::Yields || room { self.last(before, room) } else { 0 };
            self.run_share(cpu, before, last, decision)
        };
        decision.until = Some(until).filter(|&at| at != NEVER);
        self.yielding = self.yielding.without(me);
        self.told = self.told.without(me);
    }

    /// `cpu` idles, and the vCPU that it has kept wakes while nobody else wants to run there: that one goes on. Returns until when that
    /// is sure.
    #[inline]
    fn resume(&mut self, cpu: CpuId, decision: &mut Decision) -> Option<Ns> {
        let (c, me, now) = (cpu.index(), CpuSet(bit(cpu.index())), self.now);
        let this = &self.cpus[c];
        let i = usize::from(this.held?);
        let allowed = self.fair.allowed(c);
        let others = (self.runnable & !self.held & allowed | this.claims) & !bit(i);
        let reserved = self.reserved_timers.first_key(c);
        if others != 0
            || allowed & bit(i) == 0
            || !self.fair.is_dozing(i)
            || !self.reserved.and(me).or(this.helps).is_empty()
            || self.ready.first_key(c) != NEVER
            || reserved.saturating_sub(now) <= self.vm_switch / SOON
        {
            return None;
        }
        let at = self.timers.key(i).filter(|&at| at <= now)?;
        self.timers.remove(i);
        let timer = self.timers.first_key(c);
        if timer <= now {
            // Before those others, for whom it would fall asleep.
            self.rouse_timed(i, at);
            self.cpus[c].claims = bit(i);
            return None;
        }
        self.fair.resume(c, i, now);
        self.runnable |= bit(i);
        self.busy.insert(me);
        for set in [&mut self.told, &mut self.yielding, &mut self.sliced] {
            *set = set.without(me);
        }
        let stats = &mut self.vcpus[i].stats;
        stats.waited += now - at;
        stats.switches += 1;
        decision.run = Some(VcpuId(i as u16));
        decision.waited = stats.waited;
        let until = reserved.min(timer.max(now + self.vm_switch / SETTLED));
        let this = &mut self.cpus[c];
        this.load.update(now, false);
        this.claims = 0;
        this.until = until;
        Some(until)
    }

    /// The vCPU `i`, which has no share, wakes at `at`, or gets budget back.
    #[inline]
    fn wake_reserved(&mut self, i: usize, at: Ns) {
        if self.runnable & bit(i) == 0 {
            self.runnable |= bit(i);
            self.vcpus[i].waits_since = at;
        }
        if matches!(self.vcpus[i].schedule, Schedule::Reserved { .. }) {
            self.supply(i, at);
        }
    }

    /// None of CPU `c`'s reservations wants to run but those that are to begin then: nothing that was used before can make a deadline
    /// fail from now on. Returns the first of them, and its deadline.
    #[inline(never)]
    fn begin_reservations(&mut self, c: usize, now: Ns) -> Option<(usize, Ns)> {
        for i in bits(mask(self.ready.members(c).map(|(i, _)| i))) {
            self.vcpus[i].server.begin();
            self.supply(i, now);
        }
        self.ready.first(c)
    }

    /// `cpu` runs the reservation with the earliest `deadline`: the `first` one, or the one that it ran, if that has the same.
    /// Returns until when that is sure.
    #[inline(never)]
    fn run_reserved(
        &mut self,
        cpu: CpuId,
        before: Option<usize>,
        first: usize,
        deadline: Ns,
        decision: &mut Decision,
    ) -> Ns {
        let c = cpu.index();
        let chosen = match before {
            Some(i) if self.ready.key(i) == Some(deadline) && self.ready.cpu(i) == Some(c) => i,
            _ => first,
        };
        let mut until = self.cpus[c].since.saturating_add(self.vcpus[chosen].server.left());
        if self.reserved_timers.first_key(c) < until {
            for (i, at) in self.reserved_timers.members(c) {
                if at < until && self.vcpus[i].server.deadline_at(at) < deadline {
                    until = at;
                }
            }
        }
        self.run_apart(cpu, before, Some(chosen), until, decision);
        until
    }

    /// `cpu` runs no share until then, but `chosen`, which has a reservation or owns it.
    #[inline(always)]
    fn run_apart(
        &mut self,
        cpu: CpuId,
        before: Option<usize>,
        chosen: Option<usize>,
        until: Ns,
        decision: &mut Decision,
    ) {
        let (c, me) = (cpu.index(), CpuSet(bit(cpu.index())));
        let comes = self.reserved.and(me).is_empty();
        if comes {
            self.reserved.insert(me);
            self.fair.set_free(self.online.without(self.reserved));
        }
        // First: what ran here may now go where it had no turn before.
        self.fair.stop(c);
        self.fair.rebalance(self.now);
        match chosen {
            Some(chosen) => self.run(cpu, before, chosen, decision),
            None => self.idle(cpu, before, decision),
        }
        self.cpus[c].until = until;
        if comes && self.fair.binds() {
            decision.repick.insert(self.tell_in_the_way());
        }
        if self.online != me {
            decision.repick.insert(self.hand_over_timers(c));
        }
    }

    /// `cpu` runs a share, or nothing. The vCPUs `last` come last. Returns until when that is sure.
    #[inline(always)]
    fn run_share(&mut self, cpu: CpuId, before: Option<usize>, last: u64, decision: &mut Decision) -> Ns {
        let c = cpu.index();
        let returns = self.reserved.contains(cpu);
        if returns {
            self.reserved.remove(cpu);
            self.fair.set_free(self.online.without(self.reserved));
            self.take_over_timers(cpu);
        }
        let (chosen, slice_end) = self.choose_share(cpu, last);
        let settled = match chosen {
            Some(chosen) => {
                self.run(cpu, before, chosen, decision);
                self.now + self.vm_switch / SETTLED
            }
            None => {
                self.idle(cpu, before, decision);
                0
            }
        };
        if returns && self.fair.binds() {
            decision.repick.insert(self.tell_in_the_way());
        }
        let until = slice_end.min(self.reserved_timers.first_key(c)).min(self.next_timer(c).max(settled));
        self.cpus[c].until = until;
        until
    }

    /// Shares have one CPU more or less now. Where some may not run everywhere, others go first on the rest of them too: those that have to
    /// make way are told.
    #[inline(never)]
    fn tell_in_the_way(&mut self) -> CpuSet {
        let waiting = self.runnable & !self.held;
        let others = bits(self.busy.without(self.reserved).without(self.told).0);
        let in_the_way = mask(others.filter(|&other| self.fair.would_make_way(other, waiting)));
        self.tell(CpuSet(in_the_way))
    }

    /// `cpu`, which ran `before`, runs `chosen`.
    #[inline(always)]
    fn run(&mut self, cpu: CpuId, before: Option<usize>, chosen: usize, decision: &mut Decision) {
        let left_over = if before == Some(chosen) { 0 } else { self.switch(cpu, before, chosen) };
        decision.run = Some(VcpuId(chosen as u16));
        decision.waited = self.vcpus[chosen].stats.waited;
        self.offer_left_over(cpu, left_over, decision);
    }

    /// Those that counted on `cpu`, woke up there, or ran there (`left_over`), and were not chosen may have to go elsewhere.
    #[inline]
    fn offer_left_over(&mut self, cpu: CpuId, left_over: u64, decision: &mut Decision) {
        let claims = core::mem::take(&mut self.cpus[cpu.index()].claims);
        let left_over = (left_over | claims) & self.runnable;
        if left_over != 0 && self.online != CpuSet(bit(cpu.index())) {
            self.offer_elsewhere(left_over, decision);
        }
    }

    #[inline(never)]
    fn offer_elsewhere(&mut self, left_over: u64, decision: &mut Decision) {
        let chosen = decision.run.map_or(0, |v| bit(v.0.into()));
        let running = bits(left_over & self.held).filter(|&i| self.running_on(i).is_some());
        let running = running.fold(chosen, |set, i| set | bit(i));
        decision.repick.insert(self.offer_all(left_over & !running));
    }

    /// `cpu`, which ran `before`, idles. It has to unload what it holds if that can go elsewhere.
    #[inline(never)]
    fn idle(&mut self, cpu: CpuId, before: Option<usize>, decision: &mut Decision) {
        let c = cpu.index();
        if let Some(i) = before {
            self.vcpus[i].waits_since = self.now;
            self.cpus[c].load.update(self.now, true);
            self.busy.remove(cpu);
        }
        let mut left_over = 0;
        if let Some(i) = self.cpus[c].held.map(usize::from) {
            decision.unload = self.has_to_unload(cpu, i);
            if let Some(told) = self.pack(c, i) {
                decision.unload = true;
                decision.repick.insert(told);
            }
            if decision.unload {
                self.cpus[c].held = None;
                left_over = self.let_go(cpu, i);
            }
        }
        if !self.reserved.contains(cpu) {
            // Somebody may wait for another CPU that could be free if what runs there came here, as it can: nobody has told this one.
            self.told.remove(cpu);
            let waiting = self.runnable & self.fair.waiting() & !self.held & !self.fair.allowed(c);
            let behind = if waiting != 0 { self.fair.behind(waiting, |_| true) } else { 0 };
            let mut first = bits(behind).chain(bits(waiting & !behind));
            if let Some(cpu) = first.find_map(|i| self.make_room(i)) {
                decision.repick.insert(self.tell(CpuSet::only(cpu)));
            }
            self.told.insert(CpuSet::only(cpu));
        }
        self.offer_left_over(cpu, left_over, decision);
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
            // It may have run out of budget by a change of its reservation.
            self.reserved_timers.remove(i);
        }
        match wake_at {
            // Only from now on does it wait, if that is over.
            Some(at) if shared => self.timers.insert(c, i, at.max(self.now)),
            Some(at) => return self.arm(i, home, at),
            None => {}
        }
        CpuSet::EMPTY
    }

    /// Wakes the shares that are due on `cpu`, and finds out whose turn it is. Returns that one, and the end of its slice if
    /// somebody waits.
    #[inline]
    fn choose_share(&mut self, cpu: CpuId, last: u64) -> (Option<usize>, Ns) {
        let (c, me, now) = (cpu.index(), CpuSet(bit(cpu.index())), self.now);
        for of in self.cpus[c].helps.or(me).iter() {
            self.expire_timers(c, of.index());
        }
        self.fair.rebalance(now);
        let Cpu { local, since, held, .. } = self.cpus[c];
        let own = held.map_or(0, |i| bit(i.into()));
        let candidates = self.runnable & (own | !self.held) & self.fair.allowed(c);
        let Some(i) = self.fair.choose(c, candidates, local, last, now) else {
            self.fair.stop(c);
            return (None, NEVER);
        };
        let slice_end = self.fair.begin(c, i, since, now);
        let mut sliced = candidates != bit(i);
        if self.fair.has_caps() {
            self.await_cap(c, i, candidates & !bit(i));
            sliced |= self.fair.has_cap(i);
        }
        self.sliced = if sliced { self.sliced.or(me) } else { self.sliced.without(me) };
        (Some(i), if sliced { slice_end } else { NEVER })
    }

    /// The vCPUs that come last where `before` ran and yields: if that is to make `room`, its siblings could go as well where it goes.
    #[inline(never)]
    fn last(&self, before: Option<usize>, room: bool) -> u64 {
        before.map_or(0, |i| if room { self.fair.members(self.fair.vm_of(i)) } else { bit(i) })
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

    /// The timers of the shares of CPU `of` fire that are due. CPU `c`, which decides, runs or offers the vCPUs that may run now.
    #[inline]
    fn expire_timers(&mut self, c: usize, of: usize) {
        while let Some((id, at)) = self.timers.pop_until(of, self.now) {
            self.cpus[c].claims |= match id.checked_sub(MAX_VCPUS) {
                Some(vm) => {
                    self.fair.check_cap(vm, self.now);
                    self.fair.members(vm)
                }
                None => {
                    if self.runnable & bit(id) == 0 {
                        self.rouse_timed(id, at);
                        if self.fair.has_caps() {
                            self.await_cap(c, id, bit(id));
                        }
                    }
                    bit(id)
                }
            };
        }
    }

    /// `cpu` goes from one vCPU, or none, to another. Returns the vCPU that it lets go of, if somebody else can take that.
    #[inline(always)]
    fn switch(&mut self, cpu: CpuId, before: Option<usize>, i: usize) -> u64 {
        let now = self.now;
        let this = &mut self.cpus[cpu.index()];
        match before {
            Some(before) => self.vcpus[before].waits_since = now,
            None => this.load.update(now, false),
        }
        let old = this.held.replace(i as u8).map(usize::from).filter(|&old| old != i);
        self.busy.insert(CpuSet(bit(cpu.index())));
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
    #[inline]
    fn let_go(&mut self, cpu: CpuId, i: usize) -> u64 {
        self.held &= !bit(i);
        let stays = self.runnable & bit(i) == 0 || self.online == CpuSet(bit(cpu.index()));
        if stays || !self.could_go(cpu, i) { 0 } else { bit(i) }
    }

    #[inline(never)]
    fn could_go(&mut self, cpu: CpuId, i: usize) -> bool {
        match self.vcpus[i].schedule {
            Schedule::Shared(_) => self.fair.cpus(i) != CpuSet::only(cpu),
            // It was re-admitted to another CPU while it was held here.
            Schedule::Reserved { .. } if self.vcpus[i].home != cpu => {
                if self.ready.key(i).is_none() && self.reserved_timers.key(i).is_none() {
                    self.ready.insert(self.vcpus[i].home.index(), i, self.vcpus[i].server.deadline());
                }
                true
            }
            _ => self.vcpus[i].home != cpu,
        }
    }

    /// The vCPU `i`, which has a share and slept, wants to run as of `at`: its timer has fired.
    #[inline]
    fn rouse_timed(&mut self, i: usize, at: Ns) {
        self.runnable |= bit(i);
        self.just_woken |= bit(i);
        self.vcpus[i].waits_since = at;
        self.fair.wake(self.fair.vm_of(i), bit(i), at);
    }

    /// Charges the vCPU `i`, which CPU `c` runs, up to `now`. What comes next pays from `since` on: not for the switch away from a
    /// reservation that sleeps or is out of budget, as admission has it (two switches a job).
    #[inline(always)]
    pub(crate) fn charge(&mut self, c: usize, i: usize, now: Ns) {
        let this = &mut self.cpus[c];
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
                    // What has come back since is its timer's to give, unless the CPU stood still.
                    let at = if now <= vcpu.server.deadline() { vcpu.server.release() } else { now };
                    self.supply(i, at);
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

/// Takes more than a thousand instructions where there are more than 32 vCPUs: `cargo xtask bench --plant`.
#[cold]
#[inline(never)]
fn delay() {
    (0..300).for_each(|n| _ = core::hint::black_box(n));
}
