//! Stage 2 TLB maintenance: one function an instruction. What must follow what is `stage2`'s affair; see its `table.rs`.

use core::arch::asm;

use aarch64_cpu::registers::{Readable, TCR_EL1, VTTBR_EL2};

use crate::context::TCR_EPD;

/// Runs `f` with another VTTBR_EL2, since invalidations act on the current VMID. EL1 is off while EL2 runs, so nothing walks with the
/// borrowed value, except by the erratum of [`TCR_EPD`], which is therefore set meanwhile.
fn with_vmid(vttbr: u64, f: impl FnOnce()) {
    let (old, tcr) = (VTTBR_EL2.get(), TCR_EL1.get());
    if old == vttbr {
        return f();
    }
    // SAFETY: VTTBR_EL2 and TCR_EL1 govern EL1 only and are put back below.
    unsafe {
        asm!("msr tcr_el1, {}", "isb", "msr vttbr_el2, {}", "isb", in(reg) tcr | TCR_EPD, in(reg) vttbr, options(nostack, preserves_flags));
    }
    f();
    // SAFETY: as above.
    unsafe {
        asm!("msr vttbr_el2, {}", "isb", "msr tcr_el1, {}", "isb", in(reg) old, in(reg) tcr, options(nostack, preserves_flags));
    }
}

/// DSB ISHST: descriptor writes so far are seen by later walks (Arm ARM, "TLB maintenance").
pub fn publish() {
    // SAFETY: a barrier.
    unsafe { asm!("dsb ishst", options(nostack, preserves_flags)) };
}

/// DSB ISH and ISB: invalidations so far are complete.
pub fn complete() {
    // SAFETY: barriers.
    unsafe { asm!("dsb ish", "isb", options(nostack, preserves_flags)) };
}

/// TLBI IPAS2E1IS.
pub fn invalidate_ipa(vttbr: u64, ipa: u64) {
    // SAFETY: drops cached translations only.
    with_vmid(vttbr, || unsafe {
        asm!("tlbi ipas2e1is, {}", in(reg) ipa >> 12, options(nostack, preserves_flags))
    });
}

/// TLBI VMALLE1IS.
pub fn invalidate_stage1(vttbr: u64) {
    // SAFETY: drops cached translations only.
    with_vmid(vttbr, || unsafe { asm!("tlbi vmalle1is", options(nostack, preserves_flags)) });
}

/// TLBI VAAE1IS.
pub fn invalidate_va(vttbr: u64, va: u64) {
    let operand = (va >> 12) & ((1 << 44) - 1);
    // SAFETY: drops cached translations only.
    with_vmid(vttbr, || unsafe {
        asm!("tlbi vaae1is, {}", in(reg) operand, options(nostack, preserves_flags))
    });
}

/// TLBI VMALLS12E1IS.
pub fn invalidate_vm(vttbr: u64) {
    // SAFETY: drops cached translations only.
    with_vmid(vttbr, || unsafe { asm!("tlbi vmalls12e1is", options(nostack, preserves_flags)) });
}
