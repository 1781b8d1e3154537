//! What the VMs can use, and so at which rates their virtual times advance.

use super::{Dues, Fair, MAX_TIME, MIN_RATE, Regime, Turn};
use crate::fill::{Claim, ONE_CPU, fill};
use crate::ids::{CpuSet, MAX_CPUS, MAX_VMS, Ns, Table, bits, mask};

impl Fair {
    /// Finds the regime, if it can have changed.
    #[inline]
    pub(crate) fn rebalance(&mut self, now: Ns) {
        if core::mem::take(&mut self.stale) && !self.free.is_empty() {
            let mut regime = self.find_regime();
            if regime != Regime::Slack && self.dozing != 0 {
                self.end_dozing();
                self.stale = false;
                regime = self.find_regime();
            }
            if regime != self.regime || regime == Regime::Filled {
                self.change_regime(regime, now);
            }
            self.moved = 0;
        }
    }

    #[inline(never)]
    fn change_regime(&mut self, regime: Regime, now: Ns) {
        let (came, went) = (self.moved & self.active, self.moved & !self.active);
        let stay = self.active & !came;
        // As it was before those went: what everybody is ahead or behind is known once all is counted.
        bits(went).for_each(|vm| self.join(vm));
        let grants = self.settle(now);
        self.regime = regime;
        let before = self.dues_before(stay | went);
        let (after, pace) = self.fill();
        let changes = core::array::from_fn(|vm| u32::abs_diff(before[vm], after[vm]));
        let sum = |dues: &[u32; MAX_VMS]| bits(stay).map(|vm| u64::from(dues[vm])).sum::<u64>();
        let rate = |this: &Self, vm: usize| match regime {
            Regime::Filled => after[vm].min(1) * pace(after[vm].into()),
            _ => this.vms[vm].share.rate(),
        };
        self.divide(came, -1, stay & self.counted, &changes);
        bits(stay).for_each(|vm| self.change_rate(vm, rate(self, vm)));
        // So that the clock comes to where they are when the others have had what these are ahead.
        let left = pace(sum(&changes) * sum(&after) / sum(&before).max(1 << 20));
        bits(went).for_each(|vm| self.change_rate(vm, left));
        self.divide(went, 1, stay & self.counted, &changes);
        bits(went).for_each(|vm| self.leave(vm));
        self.settled |= went;
        self.correct();
        for vm in bits(self.active) {
            match rate(self, vm) {
                // None of its CPUs is free: it is owed nothing for this time.
                0 => self.freeze(vm),
                rate => {
                    self.thaw(vm);
                    self.change_rate(vm, rate);
                }
            }
        }
        self.regrant(grants, now);
    }

    fn find_regime(&self) -> Regime {
        if self.active & self.picky != 0 {
            return Regime::Filled;
        }
        // On one CPU all can use their parts; and who is alone there loses nothing by being counted.
        if !self.has_caps && self.free.0 & (self.free.0 - 1) == 0 {
            return Regime::Plain;
        }
        let free = self.free.len() as u32;
        if self.awake_count <= free {
            return Regime::Slack;
        }
        let cpus = u64::from(free) * u64::from(ONE_CPU);
        let can_use = |vm: usize| {
            let this = &self.vms[vm];
            u64::from(this.share.weight) * cpus <= u64::from(this.limit()) * u64::from(self.weights)
        };
        if bits(self.active).all(can_use) { Regime::Plain } else { Regime::Filled }
    }

    /// The clock divides what the VMs `moved` are ahead among the others by their rates. It is the VMs' `stay` by how much what each of them is
    /// due `changes`: adds the difference.
    fn divide(&mut self, moved: u64, sign: i64, stay: u64, changes: &[u32; MAX_VMS]) {
        if moved == 0 {
            return;
        }
        self.correct();
        let ns = |vm: usize| self.ahead(vm).wrapping_mul(self.vms[vm].rate.into()) >> 32;
        let lead = sign * bits(moved).map(ns).sum::<i64>().clamp(-(MAX_TIME as i64), MAX_TIME as i64);
        let all: i64 = bits(stay).map(|vm| i64::from(changes[vm])).sum();
        let rates: i64 = bits(stay).map(|vm| i64::from(self.vms[vm].rate)).sum();
        for vm in bits(stay).filter(|_| all != 0) {
            let by_rate = lead * i64::from(self.vms[vm].rate) / rates;
            self.advance(vm, lead * i64::from(changes[vm]) / all - by_rate);
        }
    }

    /// What the VMs `who`, who want to run but for those that came, and those that went, were due: as was worked out last, if nothing else has
    /// changed, since that takes long and other CPUs wait. If nobody has moved nobody asks.
    fn dues_before(&self, who: u64) -> [u32; MAX_VMS] {
        let last = &self.last;
        let moved = bits(self.moved).fold(0, |set, vm| set | self.vms[vm].members);
        let is_known = last.who == who && last.free == self.free && (last.awake ^ self.awake) & !moved == 0;
        if self.moved == 0 || is_known { last.rates } else { self.dues(who).0 }
    }

    /// What each of the VMs `who` is due if those want to run, 0 if none of the CPUs where it may run is free; and what is left to it.
    fn dues(&self, who: u64) -> ([u32; MAX_VMS], [Claim; MAX_VMS]) {
        let mut claims = [Claim { weight: 0, limit: 0, cpus: CpuSet::EMPTY }; MAX_VMS];
        for vm in bits(who) {
            let (share, limit) = (&self.vms[vm].share, self.vms[vm].limit());
            let cpus = share.affinity.and(self.free);
            let limit = limit.min(cpus.len() as u32 * ONE_CPU);
            claims[vm] = Claim { weight: share.weight, limit, cpus };
        }
        let can_run = mask(bits(who).filter(|&vm| !claims[vm].cpus.is_empty()));
        (fill(can_run, &mut claims), claims)
    }

    /// What the VMs that want to run are due, and how that is made an effective weight.
    fn fill(&mut self) -> ([u32; MAX_VMS], impl Fn(u64) -> u32 + use<>) {
        let (dues, claims) = self.dues(self.active);
        self.last = Dues { rates: dues, who: self.active, awake: self.awake, free: self.free };
        self.preferred = Table([0; MAX_CPUS]);
        for vm in bits(self.active) {
            for cpu in claims[vm].cpus.iter() {
                self.preferred[cpu.index()] |= self.vms[vm].members;
            }
        }
        // Whoever can use all of its part keeps its weight, so that the clock keeps its pace; but rates have 20 bits a CPU at least.
        let level = |a: usize, b: usize| u64::from(dues[a]) * u64::from(claims[b].weight);
        let unbound = bits(self.active).max_by(|&a, &b| level(a, b).cmp(&level(b, a))).unwrap_or(0);
        let full = u64::from(dues[unbound].max(1));
        let rate = u64::from(self.vms[unbound].share.rate()).max(full >> 4);
        (dues, move |due| (due * rate / full).clamp(MIN_RATE.into(), 1 << 28) as u32)
    }

    /// Counts what has run on all CPUs, and no more. Returns what was left of the slices that were counted in advance.
    pub(super) fn settle(&mut self, now: Ns) -> Table<u32, MAX_CPUS> {
        let mut grants = Table([0; MAX_CPUS]);
        for cpu in bits(self.taken) {
            let Turn { granted, rest, .. } = self.turns[cpu];
            if granted != 0 || rest == 0 {
                self.count(cpu, now);
                grants[cpu] = core::mem::take(&mut self.turns[cpu].rest);
            }
        }
        self.correct();
        grants
    }

    /// Counts the rest of slices in advance again.
    pub(super) fn regrant(&mut self, grants: Table<u32, MAX_CPUS>, now: Ns) {
        for cpu in bits(self.taken) {
            if grants[cpu] != 0 {
                self.grant(cpu, self.vm_of(self.turns[cpu].vcpu.into()), grants[cpu], now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Fair {
        /// What is remembered as worked out last is what would be worked out, wherever it would be taken for that.
        pub(crate) fn remembers(&self) -> bool {
            let Dues { rates, who, awake, free } = self.last;
            (who, awake, free) != (self.active, self.awake, self.free) || rates == self.dues(who).0
        }
    }
}
