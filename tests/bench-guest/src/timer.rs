//! The virtual timer.

use core::arch::asm;

/// CNTVCT_EL0, after everything before it.
#[inline(always)]
pub fn now() -> u64 {
    let ticks: u64;
    // SAFETY: reads the counter.
    unsafe { asm!("isb", "mrs {}, cntvct_el0", out(reg) ticks, options(nomem, nostack, preserves_flags)) };
    ticks
}

/// CNTFRQ_EL0, Hz.
pub fn frequency() -> u64 {
    let hz: u64;
    // SAFETY: reads a register that does not change.
    unsafe { asm!("mrs {}, cntfrq_el0", out(reg) hz, options(pure, nomem, nostack, preserves_flags)) };
    hz
}

/// Arms the timer for a counter value.
#[inline(always)]
pub fn arm(at: u64) {
    // SAFETY: this CPU's own timer.
    unsafe {
        asm!("msr cntv_cval_el0, {}", "msr cntv_ctl_el0, {}", "isb", in(reg) at, in(reg) 1u64, options(nostack))
    };
}

/// When the timer is due.
#[inline(always)]
pub fn due() -> u64 {
    let at: u64;
    // SAFETY: reads this CPU's own timer.
    unsafe { asm!("mrs {}, cntv_cval_el0", out(reg) at, options(nomem, nostack, preserves_flags)) };
    at
}

/// Turns the timer off, and with it its interrupt.
#[inline(always)]
pub fn disarm() {
    // SAFETY: this CPU's own timer.
    unsafe { asm!("msr cntv_ctl_el0, xzr", "isb", options(nostack)) };
}
