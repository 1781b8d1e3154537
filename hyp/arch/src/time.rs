//! The counter, nanoseconds, and the EL2 physical timer.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering};

use aarch64_cpu::registers::{CNTFRQ_EL0, CNTHP_CTL_EL2, CNTPCT_EL0, Readable, Writeable};

/// The GIC INTID of CNTHP (PPI 10; Arm BSA, section "PPI assignments").
pub const HYP_TIMER_INTID: u32 = 26;
/// The GIC INTID of CNTV (PPI 11).
pub const VIRTUAL_TIMER_INTID: u32 = 27;

/// ns per tick and ticks per ns as fixed-point numbers, set once at boot. 56 and 60 fraction bits leave room for counters from
/// 4 MHz to 16 GHz, and no drift that matters in a century: what a timer was armed for is due when it fires.
static NS_PER_TICK: AtomicU64 = AtomicU64::new(0);
static TICKS_PER_NS: AtomicU64 = AtomicU64::new(0);
const NS_FRACTION: u32 = 56;
const TICKS_FRACTION: u32 = 60;

/// Reads CNTFRQ_EL0. Returns the frequency in Hz, or `None` if it is out of range (0: the firmware did not set it): then
/// nothing can be timed.
pub fn init() -> Option<u64> {
    let hz = CNTFRQ_EL0.get();
    if !(4_000_000..=15_000_000_000).contains(&hz) {
        return None;
    }
    NS_PER_TICK.store(((1_000_000_000u128 << NS_FRACTION) / u128::from(hz)) as u64, Ordering::Relaxed);
    TICKS_PER_NS.store(((u128::from(hz) << TICKS_FRACTION) / 1_000_000_000) as u64, Ordering::Relaxed);
    Some(hz)
}

/// CNTPCT: ticks since the counter started. The ISB keeps the read from being speculated early (Arm ARM, "The physical counter").
pub fn ticks() -> u64 {
    // SAFETY: a barrier.
    unsafe { asm!("isb", options(nostack, preserves_flags)) };
    CNTPCT_EL0.get()
}

/// Nanoseconds of so many ticks, rounded down; the most that there are if it is more.
pub fn to_ns(ticks: u64) -> u64 {
    let ns = (u128::from(ticks) * u128::from(NS_PER_TICK.load(Ordering::Relaxed))) >> NS_FRACTION;
    u64::try_from(ns).unwrap_or(u64::MAX)
}

/// Ticks of so many nanoseconds, rounded up, so that a timer armed with them never fires early.
pub fn to_ticks(ns: u64) -> u64 {
    let product = u128::from(ns) * u128::from(TICKS_PER_NS.load(Ordering::Relaxed));
    ((product >> TICKS_FRACTION) as u64).saturating_add(1)
}

/// Now, in nanoseconds since the counter started.
pub fn now() -> u64 {
    to_ns(ticks())
}

/// Makes the EL2 timer fire at `at` (ns), or never.
pub fn arm(at: Option<u64>) {
    match at {
        Some(ns) => {
            // SAFETY: the compare value of EL2's own timer.
            unsafe {
                asm!("msr cnthp_cval_el2, {}", in(reg) to_ticks(ns), options(nomem, nostack, preserves_flags))
            };
            CNTHP_CTL_EL2.set(1);
        }
        None => CNTHP_CTL_EL2.set(0),
    }
}
