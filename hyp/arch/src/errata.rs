//! Processor errata and speculation, found by MIDR.

use core::arch::asm;

use crate::{cpu, vectors};

/// Iterations of the branch-history loop for a Cortex-A72 (Arm "Spectre-BHB", whitepaper 1.9, table of loop counts).
pub(crate) const BHB_LOOPS: u64 = 8;

const PART_A57: u64 = 0xd07;
const PART_A72: u64 = 0xd08;

/// Implementer (Arm) and part of a MIDR, or `None` for another implementer's.
fn arm_part(midr: u64) -> Option<u64> {
    (midr >> 24 == 0x41).then_some((midr >> 4) & 0xfff)
}

/// A Cortex-A57 or -A72, whose branch history outlives an exception.
fn keeps_branch_history() -> bool {
    matches!(arm_part(cpu::midr()), Some(PART_A57 | PART_A72))
}

/// Chooses this CPU's vectors: with the branch-history loop on a Cortex-A57 or -A72 whose firmware offers no mitigation (the Pi 4 has
/// no firmware below us). `firmware_mitigates` is the answer of SMCCC_ARCH_WORKAROUND_3 (Arm DEN 0028E). Spectre v2
/// stays unmitigated there: the A72 needs the firmware for it.
pub fn install_vectors(firmware_mitigates: bool) {
    let table = if keeps_branch_history() && !firmware_mitigates {
        vectors::mobivmm_vectors_bhb as *const ()
    } else {
        vectors::mobivmm_vectors as *const ()
    };
    // SAFETY: both tables are complete and differ in the loop only.
    unsafe { asm!("msr vbar_el2, {}", "isb", in(reg) table, options(nostack, preserves_flags)) };
}

/// What SMCCC_ARCH_WORKAROUND_`n` is to a guest (Arm DEN 0028E): 0 where EL2's entry does what the call would do, −1 where
/// nothing is known.
pub fn workaround(function: u32) -> i64 {
    const ARCH_WORKAROUND_3: u32 = 0x8000_3fff;
    if function == ARCH_WORKAROUND_3 && keeps_branch_history() { 0 } else { -1 }
}
