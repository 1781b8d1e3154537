//! Where VMs may run, and who goes first on CPUs that not everybody may use.

use super::Fair;
use crate::ids::{CpuSet, MAX_CPUS, Table, bit, bits};

impl Fair {
    /// Shares have the CPUs `usable` from now on.
    pub(crate) fn set_usable(&mut self, usable: CpuSet) {
        self.stale = true;
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

    /// What runs on `cpu` leaves it to those of `candidates` that are behind their shares if it can go where somebody runs who has been
    /// served though that one was ahead: those who may run there are too few, and it is one of them.
    #[inline(never)]
    pub(super) fn make_way(&self, cpu: usize, candidates: u64) -> u64 {
        let preferred = candidates & self.preferred[cpu];
        let candidates = if preferred != 0 { preferred } else { candidates };
        let Some(v) = self.turn(cpu) else { return candidates };
        let this = &self.vms[self.vm_of(v)];
        let others = candidates & !this.members;
        let is_behind = |vm: usize| self.vms[vm].members & others != 0 && self.ahead(vm) <= 0;
        let is_far_ahead = |cpu: usize| {
            let vm = self.vm_of(self.turns[cpu].vcpu.into());
            self.ahead(vm) > self.vms[vm].span
        };
        let makes_way = bits(self.counted).any(is_behind) && bits(self.taken & this.cpus.0).any(is_far_ahead);
        if makes_way { others } else { candidates }
    }
}
