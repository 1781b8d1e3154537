//! What every guest traps on: the EL2 configuration of one CPU.

use core::sync::atomic::{AtomicU64, Ordering};

use aarch64_cpu::asm::barrier;

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
/// Where they exist: the registers of LORegions and of error records trap.
const TLOR: u64 = 1 << 35;
const TERR: u64 = 1 << 36;
/// Pointer authentication instructions and keys run at EL1 without trap (keys are switched).
const APK: u64 = 1 << 40;
const API: u64 = 1 << 41;

/// CPTR_EL2 (as without VHE): trace, SVE and SME trap; FP/SIMD does not.
const CPTR: u64 = 0x33ff | (1 << 20);
/// CPTR_EL2.TAM, where activity monitors exist: their registers trap.
const CPTR_TAM: u64 = 1 << 30;

/// MDCR_EL2: debug ROM, OS lock, debug and PMU registers trap.
const MDCR: u64 = (1 << 11) | (1 << 10) | (1 << 9) | (1 << 6) | (1 << 5);
/// MDCR_EL2.TPMS and TTRF, where they exist: profiling and trace filter registers trap.
const MDCR_TPMS: u64 = 1 << 14;
const MDCR_TTRF: u64 = 1 << 19;

/// `bit` where the CPU has what it controls.
fn if_any(feature: bool, bit: u64) -> u64 {
    if feature { bit } else { 0 }
}

/// HCR_EL2 with what these CPUs have: the same for all that boot, since guests move between them.
static HCR_ALL: AtomicU64 = AtomicU64::new(0);

/// Sets HCR_EL2 with a vCPU's extra bits ([`vm::state::VcpuState::hcr`]).
pub fn set_hcr(extra: u64) {
    write!("hcr_el2", HCR_ALL.load(Ordering::Relaxed) | extra);
}

/// Whether guests have pointer authentication, and so keys of their own.
pub(crate) fn pauth() -> bool {
    HCR_ALL.load(Ordering::Relaxed) & APK != 0
}

/// Configures this CPU, once, before its first guest.
pub fn init() {
    let features = if_any(features::pauth(), APK | API)
        | if_any(features::limited_ordering_regions(), TLOR)
        | if_any(features::error_records(), TERR);
    HCR_ALL.fetch_or(HCR | features, Ordering::Relaxed);
    set_hcr(0);
    write!("cptr_el2", CPTR | if_any(features::activity_monitors(), CPTR_TAM));
    // HPMN is PMCR_EL0.N, as after reset: none of the counters is apart.
    let counters = if features::pmu() { (read!("pmcr_el0") >> 11) & 0x1f } else { 0 };
    let traps = if_any(features::profiling(), MDCR_TPMS) | if_any(features::trace_filter(), MDCR_TTRF);
    write!("mdcr_el2", MDCR | traps | counters);
    quiet_debug();
    write!("hstr_el2", 0);
    // CNTP and CNTPCT of EL1 trap; no event stream of EL2's.
    write!("cnthctl_el2", 0);
    write!("vpidr_el2", cpu::midr());
    write!("vtcr_el2", stage2::vtcr(features::pa_range()));
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
    barrier::isb(barrier::SY);
}

/// Unlocks the OS lock, which is locked after reset and would hold back the guests' software steps, and turns the breakpoints and
/// watchpoints off, which may be in any state: guests have none, but can enable debug exceptions (Arm ARM, OSLAR_EL1, DBGBCR\<n\>_EL1).
fn quiet_debug() {
    macro_rules! off {
        ($count:expr, $register:literal; $($n:literal)*) => {
            $(if $n < $count { write!(concat!($register, $n, "_el1"), 0) })*
        };
    }
    let (breakpoints, watchpoints) = features::breakpoints();
    off!(breakpoints, "dbgbcr"; 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    off!(watchpoints, "dbgwcr"; 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    write!("oslar_el1", 0);
}
