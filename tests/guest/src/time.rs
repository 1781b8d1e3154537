//! The generic timer (Arm ARM, "The AArch64 view of the Generic Timer"): the counters, and the virtual and the physical timer of a vCPU.

use core::arch::asm;

use aarch64_cpu::registers::{CNTFRQ_EL0, Readable};

use crate::cpu;

/// INTIDs of the virtual and the physical timer.
pub const TIMERS: [u32; 2] = [27, 30];

/// CNTVCT, after everything before it.
pub fn ticks() -> u64 {
    let ticks: u64;
    // SAFETY: reads the counter.
    unsafe { asm!("isb", "mrs {}, cntvct_el0", out(reg) ticks, options(nomem, nostack, preserves_flags)) };
    ticks
}

/// CNTPCT, likewise.
pub fn physical_ticks() -> u64 {
    let ticks: u64;
    // SAFETY: reads the counter.
    unsafe { asm!("isb", "mrs {}, cntpct_el0", out(reg) ticks, options(nomem, nostack, preserves_flags)) };
    ticks
}

/// Ticks in so many microseconds.
pub fn micros(us: u64) -> u64 {
    CNTFRQ_EL0.get() * us / 1_000_000
}

/// Ticks in 2^64 ns, or half of all that there are if that is more.
pub fn wrap() -> u64 {
    u64::try_from((u128::from(CNTFRQ_EL0.get()) << 64) / 1_000_000_000).unwrap_or(u64::MAX / 2)
}

/// Arms the virtual (or physical) timer for a counter value; `None` turns it off.
pub fn arm(physical: bool, at: Option<u64>) {
    let control = u64::from(at.is_some());
    let at = at.unwrap_or(0);
    // SAFETY: this vCPU's timers.
    unsafe {
        if physical {
            asm!("msr cntp_cval_el0, {}", "msr cntp_ctl_el0, {}", "isb", in(reg) at, in(reg) control, options(nostack));
        } else {
            asm!("msr cntv_cval_el0, {}", "msr cntv_ctl_el0, {}", "isb", in(reg) at, in(reg) control, options(nostack));
        }
    }
}

/// Spins until the condition holds, or for so long. Returns whether it holds.
pub fn spin(us: u64, condition: impl Fn() -> bool) -> bool {
    let give_up = ticks() + micros(us);
    while !condition() {
        if ticks() > give_up {
            return false;
        }
        cpu::relax();
    }
    true
}
