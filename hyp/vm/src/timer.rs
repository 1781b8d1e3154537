//! Generic timers: the emulated physical timer, and when the timers are due (Arm ARM, "The AArch64 view of the Generic Timer").
//!
//! Guests use CNTV, which is the hardware's. CNTP is emulated on the VM's counter, which CNTPCT shows too: for a guest
//! the two timers differ in their interrupt only.

use core::sync::atomic::Ordering;

use crate::handle::{Context, Host};
use crate::state::VTimer;
use crate::vm::Vm;

/// The physical timer's interrupt, PPI 14.
pub const CNTP_INTID: u16 = 30;
/// The virtual timer's interrupt, PPI 11: backed by the hardware's of the same number.
pub const CNTV_INTID: u16 = 27;

/// In [`crate::vm::Vcpu`]: the physical timer is off. A counter does not get there.
pub(crate) const NEVER: u64 = u64::MAX;

const ENABLE: u64 = 1;
const IMASK: u64 = 1 << 1;
const ISTATUS: u64 = 1 << 2;

/// A register of the physical timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Register {
    /// CNTP_CTL_EL0.
    Control,
    /// CNTP_CVAL_EL0.
    Compare,
    /// CNTP_TVAL_EL0.
    Value,
}

/// A read of a register when the VM's counter is at `now`.
pub(crate) fn read(timer: &VTimer, register: Register, now: u64) -> u64 {
    match register {
        Register::Control => {
            let met = timer.cntp_ctl & ENABLE != 0 && now >= timer.cntp_cval;
            timer.cntp_ctl | if met { ISTATUS } else { 0 }
        }
        Register::Compare => timer.cntp_cval,
        Register::Value => timer.cntp_cval.wrapping_sub(now) & 0xffff_ffff,
    }
}

/// A write to a register; then the interrupt's line and the deadline follow.
#[inline(never)]
pub(crate) fn write(cx: &Context<'_, impl Host>, timer: &mut VTimer, register: Register, value: u64) {
    match register {
        Register::Control => timer.cntp_ctl = value & (ENABLE | IMASK),
        Register::Compare => timer.cntp_cval = value,
        Register::Value => timer.cntp_cval = cx.vm.counter(cx.host).wrapping_add(value as i32 as u64),
    }
    changed(cx, timer);
}

/// Makes the line and the deadline of the physical timer fit its registers.
pub(crate) fn changed(cx: &Context<'_, impl Host>, timer: &VTimer) {
    let &Context { vm, vcpu, host } = cx;
    let deadline = deadline(timer.cntp_ctl, timer.cntp_cval);
    vm.vcpus[vcpu].cntp_deadline.store(deadline.unwrap_or(NEVER), Ordering::Relaxed);
    due(vm, vcpu, host);
    // A deadline that passes right here is in the past when it is armed, so it fires at once.
    let pending = deadline.filter(|&at| at > vm.counter(host));
    host.arm_timer(vm, vcpu, pending.map(|at| vm.to_physical(at)));
}

/// The deadline of [`Host::arm_timer`] has come. The line follows the condition as it is now, so calling this too
/// often, or while the vCPU changes the timer on another CPU, does no harm.
pub fn due(vm: &Vm, vcpu: usize, host: &impl Host) {
    let Some(slot) = vm.vcpus.get(vcpu) else { return };
    let mut gic = vm.gic.lock();
    let level = vm.counter(host) >= slot.cntp_deadline.load(Ordering::Relaxed);
    let effects = gic.line(vcpu, CNTP_INTID, level);
    drop(gic);
    vm.pay(host, effects);
}

/// When a timer asserts its interrupt, on the VM's counter; in the past if it does already. None: never.
fn deadline(ctl: u64, cval: u64) -> Option<u64> {
    (ctl & (ENABLE | IMASK) == ENABLE).then_some(cval)
}

/// When the virtual timer of a vCPU that is not loaded is due, on the physical counter; in the past if it is due.
/// None: never.
pub fn virtual_deadline(vm: &Vm, timer: &VTimer) -> Option<u64> {
    deadline(timer.cntv_ctl, timer.cntv_cval).map(|at| vm.to_physical(at))
}

#[cfg(test)]
mod tests;
