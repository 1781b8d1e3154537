//! Cache maintenance by address. QEMU does not model caches; the Pi 4 has them, so each rule stands with its section.

use core::arch::asm;

fn line(shift: u32) -> usize {
    let ctr: u64;
    // SAFETY: reads CTR_EL0, an identification register.
    unsafe { asm!("mrs {}, ctr_el0", out(reg) ctr, options(nomem, nostack, preserves_flags)) };
    4 << ((ctr >> shift) & 0xf)
}

macro_rules! by_address {
    ($(#[$doc:meta])* $name:ident, $shift:literal, $op:literal) => {
        $(#[$doc])*
        pub fn $name(start: usize, len: usize) {
            let line = line($shift);
            let mut at = start & !(line - 1);
            while at < start.saturating_add(len) {
                // SAFETY: cleaning (and cleaning with invalidation) writes dirty lines to memory and changes no content.
                unsafe { asm!($op, in(reg) at, options(nostack, preserves_flags)) };
                at += line;
            }
            // SAFETY: a barrier: the maintenance is complete for every observer (Arm ARM, "Ordering and completion of data
            // and instruction cache instructions").
            unsafe { asm!("dsb sy", options(nostack, preserves_flags)) };
        }
    };
}

by_address! {
    /// Cleans to the Point of Coherency: what a CPU with its caches off, or a device, will read (Arm ARM, "Effects of
    /// instructions that operate by VA to the PoC").
    clean, 16, "dc cvac, {}"
}
by_address! {
    /// Cleans and invalidates to the Point of Coherency: also drops the lines, before a caches-off guest writes there.
    clean_invalidate, 16, "dc civac, {}"
}

/// Forgets all instructions that any CPU may have cached, after guest code was written (Arm ARM, "The instruction cache
/// maintenance instruction (IC)").
pub fn invalidate_instructions() {
    // SAFETY: instruction caches hold copies only.
    unsafe { asm!("ic ialluis", "dsb ish", "isb", options(nostack, preserves_flags)) };
}

/// Bytes that one [`zero_block`] clears, or `None` where DC ZVA is prohibited (DCZID_EL0).
pub(crate) fn zero_block_size() -> Option<usize> {
    let dczid: u64;
    // SAFETY: reads an identification register.
    unsafe { asm!("mrs {}, dczid_el0", out(reg) dczid, options(nomem, nostack, preserves_flags)) };
    (dczid & (1 << 4) == 0).then_some(4 << (dczid & 0xf))
}
