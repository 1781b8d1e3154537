//! Stage 2 TLB maintenance. Everything is broadcast in the inner shareable domain and complete when the function returns.

use core::arch::asm;

/// Runs `f` with another VTTBR_EL2, since the invalidations below act on the current VMID. No walk of the borrowed regime can be
/// speculated in between: EL1 is off while EL2 runs, except on CPUs with erratum 1319367, where TCR_EL1.EPDx would be needed
/// and the loaded guest's own tables are consistent anyway (only its VMID is another for a moment), so walks are held off.
fn with_vmid(vttbr: u64, f: impl FnOnce()) {
    const EPD: u64 = (1 << 7) | (1 << 23);
    let (old, tcr): (u64, u64);
    // SAFETY: VTTBR_EL2 and TCR_EL1 govern EL1 only and are put back below.
    unsafe {
        asm!("mrs {old}, vttbr_el2", "mrs {tcr}, tcr_el1", "orr {tmp}, {tcr}, {epd}", "msr tcr_el1, {tmp}", "isb",
            "msr vttbr_el2, {new}", "isb",
            old = out(reg) old, tcr = out(reg) tcr, tmp = out(reg) _, epd = in(reg) EPD, new = in(reg) vttbr,
            options(nostack, preserves_flags));
    }
    f();
    // SAFETY: as above.
    unsafe {
        asm!("msr vttbr_el2, {old}", "isb", "msr tcr_el1, {tcr}", "isb", old = in(reg) old, tcr = in(reg) tcr,
            options(nostack, preserves_flags));
    }
}

/// Orders earlier descriptor writes before the walks and invalidations that follow (Arm ARM D8.13.1).
pub fn publish() {
    // SAFETY: a barrier.
    unsafe { asm!("dsb ishst", options(nostack, preserves_flags)) };
}

/// Forgets the translations of these IPA pages: TLBI IPAS2E1IS each, DSB, then VMALLE1IS, DSB, since entries that combine both
/// stages are not reached by IPA (Arm ARM D8.13.6; seen in QEMU too).
pub fn invalidate_ipas(vttbr: u64, start: u64, pages: u64) {
    with_vmid(vttbr, || {
        for page in 0..pages {
            let operand = (start >> 12) + page;
            // SAFETY: drops cached translations only.
            unsafe { asm!("tlbi ipas2e1is, {}", in(reg) operand, options(nostack, preserves_flags)) };
        }
        // SAFETY: as above, with the barriers between.
        unsafe { asm!("dsb ish", "tlbi vmalle1is", "dsb ish", "isb", options(nostack, preserves_flags)) };
    });
}

/// Forgets everything of the VMID: TLBI VMALLS12E1IS.
pub fn invalidate_vm(vttbr: u64) {
    with_vmid(vttbr, || {
        // SAFETY: drops cached translations only.
        unsafe { asm!("tlbi vmalls12e1is", "dsb ish", "isb", options(nostack, preserves_flags)) };
    });
}
