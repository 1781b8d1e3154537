//! The decision: what ran is charged, what is due wakes, and somebody is chosen.

use crate::ids::{CpuId, CpuSet, MAX_VCPUS, Ns, VcpuId, bit, bits};
use crate::{Decision, NEVER, Schedule, Scheduler};

impl Scheduler {
    /// Decides what `cpu` does from `now` on: charges the vCPU that ran, wakes those whose time has come, chooses.
    #[inline(never)]
    pub fn pick(&mut self, cpu: CpuId, now: Ns) -> Decision {
        let c = usize::from(cpu.0);
        if !self.online.contains(cpu) {
            return Decision {
                run: None,
                until: None,
                repick: CpuSet::EMPTY,
                reserved: false,
                unload: false,
            };
        }
        self.now = self.now.max(now);
        if cfg!(feature = "plant_pick_next") && self.runnable.count_ones() > 32 {
            // More than a thousand instructions: `cargo xtask bench --plant`.
            (0..300).for_each(|n| _ = core::hint::black_box(n));
        }
        let before = self.charge(c, now);
        // It needs not be told anything while it decides.
        self.cpus[c].told = true;
        let yields = core::mem::take(&mut self.cpus[c].yields);
        let mut left_over = core::mem::take(&mut self.cpus[c].claims);
        if let Some(i) = before {
            self.await_cap(c, i, bit(i));
        }
        let reserved = self.pick_reserved(c, before, now);
        let owned = self.cpus[c].owner.is_some();
        if self.cpus[c].reserved != (reserved.is_some() || owned) {
            self.cpus[c].reserved = !self.cpus[c].reserved;
            self.reserved = CpuSet(self.reserved.0 ^ CpuSet::only(cpu).0);
            self.fair.set_free(self.online.without(self.reserved));
        }
        let (chosen, mut until) = match reserved {
            Some((i, until)) => (Some(i), until),
            None if owned => {
                let owner = self.cpus[c].owner.map(usize::from);
                let run = |&i: &usize| self.runnable & bit(i) != 0 && !self.is_held_elsewhere(i, c);
                (owner.filter(run), NEVER)
            }
            None => {
                let (chosen, until, expired) = self.pick_shared(c, yields, now);
                left_over |= expired;
                (chosen, until)
            }
        };
        self.switch(c, before, chosen, now);
        // Those that counted on this CPU, or woke up here, and were not chosen may have to go elsewhere.
        let mut repick = CpuSet::EMPTY;
        for i in bits(left_over & self.runnable & !chosen.map_or(0, bit)) {
            if self.running_on(i).is_none() {
                repick.insert(self.offer(i));
            }
        }
        let mut unload = false;
        if chosen.is_none() {
            unload = self.has_to_unload(c);
            if !owned {
                // Somebody may wait for another CPU that could be free if what runs there came here.
                for i in bits(self.runnable & self.fair.waiting() & !self.held) {
                    if let Some(cpu) = self.make_room(i) {
                        repick.insert(self.tell(CpuSet::only(cpu)));
                    }
                }
                if let Some(told) = self.pack(c) {
                    unload = true;
                    repick.insert(told);
                }
            }
        }
        if reserved.is_none() {
            until = until.min(self.reserved_timers.first_key(c));
        }
        if self.cpus[c].reserved {
            self.cpus[c].until = until;
            self.fair.stop(c);
            self.fair.rebalance(now);
            repick.insert(self.hand_over_timers(c));
        } else {
            until = until.min(self.next_timer(c));
            self.cpus[c].until = until;
        }
        self.cpus[c].told = false;
        Decision {
            run: chosen.map(|i| VcpuId(i as u16)),
            until: Some(until).filter(|&at| at != NEVER),
            repick,
            reserved: reserved.is_some(),
            unload,
        }
    }

    /// Wakes the reservations of CPU `c` that are due, and finds the one with the earliest deadline. Returns it, and until
    /// when that is sure.
    fn pick_reserved(&mut self, c: usize, before: Option<usize>, now: Ns) -> Option<(usize, Ns)> {
        while let Some((i, at)) = self.reserved_timers.pop_until(c, now) {
            if self.runnable & bit(i) == 0 {
                self.rouse(i, at);
            } else {
                self.supply(i, at);
            }
        }
        let (first, deadline) = self.ready.first(c)?;
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

    /// Wakes the shares that are due on CPU `c`, and finds out whose turn it is. Returns that one, the end of its slice if
    /// somebody waits, and those that were woken.
    fn pick_shared(&mut self, c: usize, yields: bool, now: Ns) -> (Option<usize>, Ns, u64) {
        self.take_over_timers(c);
        let mut expired = self.expire_timers(c, now);
        for cpu in self.cpus[c].helps.iter() {
            expired |= self.expire_timers(usize::from(cpu.0), now);
        }
        let elsewhere = self.held & !self.cpus[c].holds;
        self.fair.rebalance(now);
        let candidates = self.runnable & !elsewhere & self.fair.allowed(c);
        let Some(i) = self.fair.choose(c, candidates, self.cpus[c].local, yields, now) else {
            self.fair.stop(c);
            self.cpus[c].sliced = false;
            return (None, NEVER, expired);
        };
        let slice_end = self.fair.begin(c, i, self.cpus[c].since, now);
        self.await_cap(c, i, candidates & !bit(i));
        let sliced = candidates != bit(i) || self.fair.has_cap(i);
        self.cpus[c].sliced = sliced;
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
            self.rouse(id, at);
        }
        bit(id)
    }

    /// CPU `c` goes from one vCPU, or none, to another.
    #[inline]
    fn switch(&mut self, c: usize, before: Option<usize>, chosen: Option<usize>, now: Ns) {
        if before == chosen {
            return;
        }
        if before.is_none() || chosen.is_none() {
            self.cpus[c].load.update(now, before.is_some());
        }
        self.cpus[c].running = chosen.map(|i| i as u8);
        if let Some(i) = before {
            self.vcpus[i].waits_since = now;
        }
        if let Some(i) = chosen {
            let vcpu = &mut self.vcpus[i];
            vcpu.stats.waited += now.saturating_sub(vcpu.waits_since);
            vcpu.stats.switches += 1;
            vcpu.held = Some(CpuId(c as u8));
            self.held |= bit(i);
            self.cpus[c].holds |= bit(i);
            if usize::from(vcpu.last.0) != c || self.cpus[c].local & bit(i) == 0 {
                vcpu.stats.migrations += u64::from(usize::from(vcpu.last.0) != c);
                self.move_to(i, CpuId(c as u8));
            }
            self.just_woken &= !bit(i);
            // It may have been waiting for a certain CPU.
            self.timers.remove(i);
        }
    }

    /// Charges the vCPU that runs on CPU `c` up to `now`. Returns it. What comes next pays from `since` on: not for the
    /// switch away from a reservation that sleeps or is out of budget, as admission has it (two switches a job).
    pub(crate) fn charge(&mut self, c: usize, now: Ns) -> Option<usize> {
        let since = core::mem::replace(&mut self.cpus[c].since, now);
        let i = self.cpus[c].running.map(usize::from)?;
        let ran = now.saturating_sub(since);
        self.cpus[c].since = since.max(now);
        self.vcpus[i].stats.ran += ran;
        match self.vcpus[i].schedule {
            Schedule::Reserved { .. } => {
                let exhausted = self.vcpus[i].server.charge(ran);
                if exhausted || self.runnable & bit(i) == 0 {
                    self.vcpus[i].stats.ran += self.vm_switch;
                    self.vcpus[i].server.charge(self.vm_switch);
                    self.cpus[c].since += self.vm_switch;
                }
                if exhausted && self.ready.key(i).is_some() {
                    self.vcpus[i].stats.throttles += 1;
                    self.supply(i, now);
                }
            }
            Schedule::Shared(_) => {
                self.fair.count(c, now);
                if self.runnable & bit(i) == 0 {
                    self.fair_sleep(i, now);
                }
            }
            Schedule::Exclusive(_) => {}
        }
        Some(i)
    }
}
