//! What this CPU can do: the ID registers.

use core::arch::asm;

macro_rules! id {
    ($crm:literal, $op2:literal) => {{
        let value: u64;
        // SAFETY: op0 = 3, op1 = 0, CRn = 0, CRm 0 to 7 is the ID space: every encoding reads, unallocated ones as zero
        // (Arm ARM, "Principles of the ID scheme for fields in ID registers").
        unsafe {
            asm!(concat!("mrs {}, s3_0_c0_c", $crm, "_", $op2), out(reg) value, options(nomem, nostack, preserves_flags));
        }
        value
    }};
}

macro_rules! id_row {
    ($crm:expr, $op2:expr; $($c:literal)*) => {
        match $crm { $($c => id_cell!($c, $op2; 0 1 2 3 4 5 6 7),)* _ => 0 }
    };
}
macro_rules! id_cell {
    ($crm:literal, $op2:expr; $($o:literal)*) => { match $op2 { $($o => id!($crm, $o),)* _ => 0 } };
}

/// The ID register S3_0_C0_C`crm`_`op2` (CRm 1 to 7; others read zero) of this CPU.
pub fn id_register(crm: u8, op2: u8) -> u64 {
    id_row!(crm, op2; 1 2 3 4 5 6 7)
}

fn field(crm: u8, op2: u8, shift: u32) -> u64 {
    (id_register(crm, op2) >> shift) & 0xf
}

/// FEAT_PAuth: address authentication in ID_AA64ISAR1_EL1 (API, APA) or ID_AA64ISAR2_EL1 (APA3).
pub(crate) fn pauth() -> bool {
    id!(6, 1) & 0xff0 != 0 || id!(6, 2) & 0xf000 != 0
}

/// FEAT_FGT: fine-grained traps exist.
pub(crate) fn fine_grained_traps() -> bool {
    field(7, 0, 56) != 0
}

/// FEAT_HCX: HCRX_EL2 exists.
pub(crate) fn hcrx() -> bool {
    field(7, 1, 40) != 0
}

/// ID_AA64MMFR0_EL1.PARange: the width of physical addresses, encoded.
pub(crate) fn pa_range() -> u64 {
    field(7, 0, 0)
}

/// FEAT_LOR: LORegions exist.
pub(crate) fn limited_ordering_regions() -> bool {
    field(7, 1, 16) != 0
}

/// FEAT_RAS: error records exist.
pub(crate) fn error_records() -> bool {
    field(4, 0, 28) != 0
}

/// FEAT_AMUv1: activity monitors exist.
pub(crate) fn activity_monitors() -> bool {
    field(4, 0, 44) != 0
}

/// FEAT_PMUv3 in ID_AA64DFR0_EL1.PMUVer, where 0xF means one that is not Arm's.
pub(crate) fn pmu() -> bool {
    !matches!(field(5, 0, 8), 0 | 0xf)
}

/// FEAT_SPE: statistical profiling exists.
pub(crate) fn profiling() -> bool {
    field(5, 0, 32) != 0
}

/// FEAT_TRF: trace filter controls exist.
pub(crate) fn trace_filter() -> bool {
    field(5, 0, 40) != 0
}

/// Numbers of breakpoints and of watchpoints (ID_AA64DFR0_EL1.BRPs and WRPs).
pub(crate) fn breakpoints() -> (u64, u64) {
    (field(5, 0, 12) + 1, field(5, 0, 20) + 1)
}
