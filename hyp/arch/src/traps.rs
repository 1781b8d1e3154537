//! What every guest traps on: the EL2 configuration of one CPU.

use core::arch::asm;

use crate::{cpu, features};

/// HCR_EL2 for every guest: stage 2; interrupts and SErrors to EL2; broadcast maintenance, inner shareable
/// barriers; traps of WFI, WFE, SMC, ID group 3, implementation-defined registers, ACTLR, set/way maintenance; AArch64 at EL1.
const HCR: u64 =
    VM | PTW | FMO | IMO | AMO | FB | BSU_INNER | TWI | TWE | TID3 | TSC | TIDCP | TACR | TSW | RW;
const VM: u64 = 1;
const PTW: u64 = 1 << 2;
const FMO: u64 = 1 << 3;
const IMO: u64 = 1 << 4;
const AMO: u64 = 1 << 5;
const FB: u64 = 1 << 9;
const BSU_INNER: u64 = 1 << 10;
const TWI: u64 = 1 << 13;
const TWE: u64 = 1 << 14;
const TID3: u64 = 1 << 18;
const TSC: u64 = 1 << 19;
const TIDCP: u64 = 1 << 20;
const TACR: u64 = 1 << 21;
const TSW: u64 = 1 << 22;
const RW: u64 = 1 << 31;
/// Pointer authentication instructions and keys run at EL1 without trap (keys are switched).
const APK: u64 = 1 << 40;
const API: u64 = 1 << 41;

/// CPTR_EL2 (as without VHE): trace, SVE and SME trap; FP/SIMD does not.
const CPTR: u64 = 0x33ff | (1 << 20);

/// MDCR_EL2: debug ROM, OS lock, debug and PMU registers trap; HPMN keeps the counters for EL2.
const MDCR: u64 = (1 << 11) | (1 << 10) | (1 << 9) | (1 << 6) | (1 << 5);

/// VTCR_EL2 without PS: 40-bit IPA from level 1, 4 KiB granule, walks write-back inner shareable, RES1 bit 31.
const VTCR: u64 = (1 << 31) | (3 << 12) | (1 << 10) | (1 << 8) | (1 << 6) | (64 - 40);

macro_rules! write {
    ($name:literal, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: configures what traps from EL1; EL2's own execution does not depend on it.
        unsafe { asm!(concat!("msr ", $name, ", {}"), in(reg) value, options(nostack, preserves_flags)) }
    }};
}

/// Sets HCR_EL2 with a vCPU's extra bits ([`vm::state::VcpuState::hcr`]).
pub fn set_hcr(extra: u64) {
    let pauth = if features::pauth() { APK | API } else { 0 };
    write!("hcr_el2", HCR | pauth | extra);
}

/// Configures this CPU, once, before its first guest.
pub fn init() {
    set_hcr(0);
    write!("cptr_el2", CPTR);
    let pmcr: u64;
    // SAFETY: reads PMCR_EL0; every supported CPU has a PMU, and QEMU models it.
    unsafe { asm!("mrs {}, pmcr_el0", out(reg) pmcr, options(nomem, nostack, preserves_flags)) };
    write!("mdcr_el2", MDCR | ((pmcr >> 11) & 0x1f));
    write!("hstr_el2", 0);
    // CNTP and CNTPCT of EL1 trap; no event stream of EL2's.
    write!("cnthctl_el2", 0);
    write!("vpidr_el2", cpu::midr());
    let ps = match features::physical_address_bits() {
        32 => 0,
        36 => 1,
        40 => 2,
        42 => 3,
        44 => 4,
        _ => 5,
    };
    write!("vtcr_el2", VTCR | (ps << 16));
    if features::fine_grained_traps() {
        write!("s3_4_c1_c1_4", 0); // HFGRTR_EL2
        write!("s3_4_c1_c1_5", 0); // HFGWTR_EL2
        write!("s3_4_c1_c1_6", 0); // HFGITR_EL2
        write!("s3_4_c3_c1_4", 0); // HDFGRTR_EL2
        write!("s3_4_c3_c1_5", 0); // HDFGWTR_EL2
    }
    if features::hcrx() {
        write!("s3_4_c1_c2_2", 0); // HCRX_EL2: what it would enable stays hidden
    }
    // SAFETY: a barrier.
    unsafe { asm!("isb", options(nostack, preserves_flags)) };
}
