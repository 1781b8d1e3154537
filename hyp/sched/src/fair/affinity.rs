//! Where VMs may run, and who goes first on CPUs that not everybody may use.

use super::Fair;
use crate::ids::{CpuSet, MAX_CPUS, Table, bit, bits, mask};

impl Fair {
    /// Shares have the CPUs `usable` from now on.
    pub(crate) fn set_usable(&mut self, usable: CpuSet) {
        self.stale = true;
        self.last.who = 0;
        self.picky = 0;
        self.allowed = Table([0; MAX_CPUS]);
        for (vm, this) in self.vms.0.iter_mut().enumerate() {
            this.cpus = this.share.affinity.and(usable);
            if this.cpus != usable {
                self.picky |= bit(vm);
            }
            for cpu in this.cpus.iter() {
                self.allowed[cpu.index()] |= this.members;
            }
        }
    }

    /// Where the vCPU `v` may run.
    pub(crate) fn cpus(&self, v: usize) -> CpuSet {
        self.vms[self.vm_of(v)].cpus
    }

    /// The vCPUs that may run on `cpu`.
    pub(crate) fn allowed(&self, cpu: usize) -> u64 {
        self.allowed[cpu] & !self.capped
    }

    /// Shares have the CPUs `free`: no reservation runs there.
    pub(crate) const fn set_free(&mut self, free: CpuSet) {
        self.free = free;
        self.stale = true;
    }

    /// Those of `candidates` that may be chosen for `cpu`: what runs there makes way for others if it can.
    #[inline(never)]
    pub(super) fn make_way(&self, cpu: usize, candidates: u64) -> u64 {
        let preferred = candidates & self.preferred[cpu];
        let candidates = if preferred != 0 { preferred } else { candidates };
        self.kept_from(cpu, candidates).unwrap_or(candidates)
    }

    /// Whether somebody wants to run who may not do so everywhere.
    pub(crate) fn binds(&self) -> bool {
        self.active & self.picky != 0
    }

    /// Whether what runs on `cpu` would make way for one of those that are `waiting`.
    pub(crate) fn would_make_way(&self, cpu: usize, waiting: u64) -> bool {
        self.kept_from(cpu, waiting & self.allowed(cpu) & self.preferred[cpu]).is_some()
    }

    /// Those of `candidates` that are behind their shares and that what runs on `cpu` keeps from running: there is a way for it to where
    /// somebody runs who has been served though that one was ahead, and none for them that is as short. Those who may run there are too few,
    /// and it is one of them.
    fn kept_from(&self, cpu: usize, candidates: u64) -> Option<u64> {
        let this = &self.vms[self.vm_of(self.turn(cpu)?)];
        let kept = self.behind(candidates, |_| true);
        if kept == 0 {
            return None;
        }
        let is_far_ahead = |cpu: &usize| {
            let vm = self.vm_of(self.turns[*cpu].vcpu.into());
            self.ahead(vm) > self.vms[vm].span
        };
        let others = self.taken & !bit(cpu);
        let served = mask(bits(others).filter(is_far_ahead));
        let near = self.way(this.cpus.0, others, served)?;
        let has_none = |vm: usize| self.vms[vm].cpus.0 & near == 0;
        Some(self.behind(kept, has_none)).filter(|&kept| kept != 0)
    }

    /// Those of `vcpus` that are behind their shares and whose VM passes `test`.
    pub(crate) fn behind(&self, vcpus: u64, test: impl Fn(usize) -> bool) -> u64 {
        let passing = bits(self.counted).filter(|&vm| self.ahead(vm) <= 0 && test(vm));
        passing.fold(0, |set, vm| set | self.vms[vm].members & vcpus)
    }

    /// The CPUs that are as near to one of `to` as the nearest one of `cpus`: it, or one of `busy` whose vCPU can go there, or to where
    /// another one makes room in this way.
    pub(crate) fn way(&self, cpus: u64, busy: u64, mut to: u64) -> Option<u64> {
        let can_go = |cpu: usize| self.vms[self.vm_of(self.turns[cpu].vcpu.into())].cpus.0;
        while cpus & to == 0 {
            match mask(bits(busy & self.taken & !to).filter(|&cpu| can_go(cpu) & to != 0)) {
                0 => return None,
                more => to |= more,
            }
        }
        Some(to)
    }
}
