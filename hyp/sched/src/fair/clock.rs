//! The VMs' virtual times, and the clock, which is their weighted mean.

use super::Fair;
use crate::ids::bit;

impl Fair {
    /// The virtual time of `vm` advances with the clock from now on.
    pub(super) fn thaw(&mut self, vm: usize) {
        if self.counted & bit(vm) == 0 {
            self.vms[vm].time = self.vms[vm].time.wrapping_add(self.clock);
            self.rates += self.vms[vm].rate;
            self.counted |= bit(vm);
        }
    }

    /// The virtual time of `vm` stays as far ahead of the clock, or behind, as it is.
    pub(super) fn freeze(&mut self, vm: usize) {
        if self.counted & bit(vm) != 0 {
            self.correct();
            self.vms[vm].time = self.vms[vm].time.wrapping_sub(self.clock);
            self.rates -= self.vms[vm].rate;
            self.counted &= !bit(vm);
        }
    }

    /// What a frozen VM is ahead, in ns · 2³²: part of the sum that is 0.
    pub(super) fn share_of_imbalance(&self, vm: usize) -> i64 {
        (self.vms[vm].time as i64).wrapping_mul(self.vms[vm].rate.into())
    }

    /// `vm`, which was counted or frozen, no longer has a part in the clock.
    pub(super) fn leave(&mut self, vm: usize) {
        self.freeze(vm);
        self.imbalance = self.imbalance.wrapping_sub(self.share_of_imbalance(vm));
        self.vms[vm].left_clock = self.clock;
    }

    /// `vm` has a part in the clock again, with the virtual time with which it left.
    pub(super) fn join(&mut self, vm: usize) {
        let this = &mut self.vms[vm];
        this.time = this.time.wrapping_sub(self.clock.wrapping_sub(this.left_clock));
        self.imbalance = self.imbalance.wrapping_add(self.share_of_imbalance(vm));
        self.thaw(vm);
    }

    /// Changes the effective weight of a VM that wants to run, but not to 0. It stays as many ns ahead or behind.
    #[inline(never)]
    pub(super) fn change_rate(&mut self, vm: usize, rate: u32) {
        if self.vms[vm].rate != rate && rate != 0 {
            let counted = self.counted & bit(vm) != 0;
            self.freeze(vm);
            self.vms[vm].convert(rate);
            if counted {
                self.thaw(vm);
            }
        }
    }

    /// What a counted VM is ahead of the clock, as virtual time; less than 0 if it is behind.
    #[inline]
    pub(super) fn ahead(&self, vm: usize) -> i64 {
        self.vms[vm].time.wrapping_sub(self.clock) as i64
    }

    /// Advances the virtual time of `vm` by `time` ns of CPU time.
    pub(super) fn advance(&mut self, vm: usize, time: i64) {
        if self.counted & bit(vm) != 0 {
            self.advance_virtual(vm, self.vms[vm].virtual_time(time));
        }
    }

    pub(super) fn advance_virtual(&mut self, vm: usize, by: i64) {
        let this = &mut self.vms[vm];
        this.time = this.time.wrapping_add_signed(by);
        self.imbalance = self.imbalance.wrapping_add(by.wrapping_mul(this.rate.into()));
    }

    /// Sets the clock to the mean again.
    pub(super) fn correct(&mut self) {
        if self.rates != 0 {
            let by = self.imbalance / i64::from(self.rates);
            self.clock = self.clock.wrapping_add_signed(by);
            self.imbalance -= by * i64::from(self.rates);
        }
    }
}
