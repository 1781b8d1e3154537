//! What the VMs can use, and so at which rates their virtual times advance.

use super::{Fair, MIN_RATE, Regime, Turn};
use crate::fill::{Claim, ONE_CPU, fill};
use crate::ids::{CpuSet, MAX_CPUS, MAX_VMS, Ns, Table, bits};

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
        // As it was before those came and went: what everybody is ahead or behind is known once all is counted.
        bits(came).for_each(|vm| self.leave(vm));
        bits(went).for_each(|vm| self.join(vm));
        let grants = self.settle(now);
        self.regime = regime;
        let before = core::mem::take(&mut self.full);
        let rates = (regime == Regime::Filled).then(|| self.fill());
        let rate = |this: &Self, vm: usize| rates.map_or(this.vms[vm].share.rate(), |rates| rates[vm]);
        // What they take or bring is not for those that have all they can use, unless all have, and is divided by the rates with them.
        let full = self.full | before;
        if self.active & !came & !full != 0 {
            bits(full & self.counted).for_each(|vm| self.freeze(vm));
        }
        bits(went).for_each(|vm| self.leave(vm));
        self.settled |= went;
        bits(self.active & !came).for_each(|vm| self.change_rate(vm, rate(self, vm)));
        bits(came).for_each(|vm| self.join(vm));
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

    /// The effective weights of all VMs that want to run: 0 if none of the CPUs where one may run is free.
    fn fill(&mut self) -> [u32; MAX_VMS] {
        let (mut claims, mut can_run) = ([Claim { weight: 0, limit: 0, cpus: CpuSet::EMPTY }; MAX_VMS], 0);
        for vm in bits(self.active) {
            let this = &self.vms[vm];
            let cpus = this.share.affinity.and(self.free);
            let limit = this.limit().min(cpus.len() as u32 * ONE_CPU);
            claims[vm] = Claim { weight: this.share.weight, limit, cpus };
            can_run |= u64::from(!cpus.is_empty()) << vm;
        }
        let mut rates = fill(can_run, &mut claims);
        self.preferred = Table([0; MAX_CPUS]);
        // Whoever can use all of its part keeps its weight, so that the clock keeps its pace; but rates have 20 bits a CPU at least.
        let Some(unbound) = bits(can_run).max_by(|&a, &b| {
            let level = |a: usize, b: usize| u64::from(rates[a]) * u64::from(claims[b].weight);
            level(a, b).cmp(&level(b, a))
        }) else {
            return rates;
        };
        let full = rates[unbound].max(1);
        let rate = self.vms[unbound].share.rate().max(full >> 4);
        for vm in bits(can_run) {
            for cpu in claims[vm].cpus.iter() {
                self.preferred[cpu.index()] |= self.vms[vm].members;
            }
            self.full |= u64::from(rates[vm] == claims[vm].limit) << vm;
            let used = u64::from(rates[vm]);
            rates[vm] = ((used * u64::from(rate) / u64::from(full)) as u32).max(MIN_RATE);
        }
        rates
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
