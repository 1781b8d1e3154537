//! Who sleeps while that makes no difference to anybody.

use super::{Fair, Regime, Turn};
use crate::ids::{Ns, bit, bits};

impl Fair {
    /// `v` stops wanting to run. What it has run is counted. While every vCPU has a CPU, or nobody else wants to run, that makes no
    /// difference to anybody before somebody else does: it dozes until then, or until it wakes.
    #[inline]
    pub(crate) fn sleep(&mut self, v: usize, now: Ns) {
        if self.awake & !self.dozing & bit(v) == 0 {
            return;
        }
        let vm = self.vm_of(v);
        self.vms[vm].left = now;
        if self.regime == Regime::Slack || self.awake == bit(v) {
            self.dozing |= bit(v);
        } else {
            self.fall_asleep(v);
        }
    }

    /// Those that doze have slept since they began to.
    #[inline]
    pub(super) fn end_dozing(&mut self) {
        for v in bits(core::mem::take(&mut self.dozing)) {
            self.fall_asleep(v);
        }
    }

    #[inline(never)]
    fn fall_asleep(&mut self, v: usize) {
        let vm = self.vm_of(v);
        self.awake &= !bit(v);
        self.awake_count -= 1;
        self.stale = true;
        self.vms[vm].awake -= 1;
        if self.vms[vm].awake == 0 {
            self.leave(vm);
            self.active &= !bit(vm);
            self.moved ^= bit(vm);
            if self.active == 0 {
                self.imbalance = 0;
            }
            let this = &mut self.vms[vm];
            self.weights -= this.share.weight;
            this.round = this.round.max(self.had[v] + u64::from(self.slice));
        }
    }

    /// Whether all that there is to be done when `v` wakes is [`Fair::resume`].
    pub(crate) fn is_dozing(&self, v: usize) -> bool {
        self.dozing & bit(v) != 0 && !self.has_caps
    }

    /// `v`, which was dozing, runs on `cpu` as of `now`, and nobody waits for that.
    pub(crate) fn resume(&mut self, cpu: usize, v: usize, now: Ns) {
        self.dozing &= !bit(v);
        self.taken |= bit(cpu);
        let this = &self.vms[self.vm_of(v)];
        let deadline = this.time.wrapping_add_signed(this.span);
        self.turns[cpu] = Turn { vcpu: v as u8, since: now, granted: 0, rest: 0, deadline };
    }
}
