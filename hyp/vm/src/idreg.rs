//! The ID registers that a guest sees (HCR_EL2.TID3): the hardware's, field by field no higher than a limit.
//!
//! The limits are an allow-list: a field that this table does not know reads as 0. Hidden are EL2 and EL3, SVE, SME,
//! MTE, RAS, AMU, MPAM, TME, the PMU, trace, big-endian data, and whatever needs a register that is not switched or a
//! control of EL2 that is off (MOPS, LS64, WFxT, ECV, TCR2, SCTLR2, SCXTNUM, LORegions).

use crate::exit::SysReg;

/// The limits of one register's sixteen 4-bit fields: every field of an ID register lies on a multiple of 4.
struct Limit {
    crm: u8,
    op2: u8,
    /// The highest value of each field.
    most: u64,
    /// Fields in which 0xF means "not there", which is always allowed (Arm ARM, "Principles of the ID
    /// scheme for fields in ID registers").
    signed: u64,
}

const fn limit(crm: u8, op2: u8, most: u64) -> Limit {
    Limit { crm, op2, most, signed: 0 }
}

/// S3_0_C0_C`crm`_`op2`: AArch64's, and those of AArch32's that are not passed on whole.
const LIMITS: [Limit; 13] = [
    // ID_PFR0, ID_PFR1, ID_DFR0, ID_PFR2.
    limit(1, 0, 0x0f0f_ffff),
    limit(1, 1, 0x000f_0000),
    limit(1, 2, 0x0000_0006),
    limit(3, 4, 0x0000_00ff),
    // ID_AA64PFR0: CSV3, CSV2, DIT, GIC, AdvSIMD, FP, EL1 (AArch64 only), EL0.
    Limit { crm: 4, op2: 0, most: 0x1101_0000_0111_0012, signed: 0x00ff_0000 },
    // ID_AA64PFR1: SSBS, BT.
    limit(4, 1, 0x0000_0000_0000_0021),
    // ID_AA64DFR0: v8 debug with two watchpoints and two breakpoints, the fewest that the architecture allows.
    limit(5, 0, 0x0000_0000_0010_1006),
    // ID_AA64ISAR0: RNDR, TLB, TS, FHM, DP, SM4, SM3, SHA3, RDM, Atomic, CRC32, SHA2, SHA1, AES.
    limit(6, 0, 0x1221_1111_1021_2120),
    // ID_AA64ISAR1: I8MM, DGH, BF16, SPECRES, SB, FRINTTS, GPI, GPA, LRCPC, FCMA, JSCVT, API, APA, DPB.
    limit(6, 1, 0x0011_1111_1121_1552),
    // ID_AA64ISAR2: CSSC, CLRBHB, PAC_frac, BC, APA3, GPA3, RPRES.
    limit(6, 2, 0x0010_0000_1110_5110),
    // ID_AA64MMFR0: TGran4 and TGran64 (0: there), TGran16, ASIDBits, PARange (40 bits, as stage 2 has).
    Limit { crm: 7, op2: 0, most: 0x0000_0000_0010_0022, signed: 0xff00_0000 },
    // ID_AA64MMFR1: nTLBPA, AFP, ETS, PAN, HPDS, HAFDBS.
    limit(7, 1, 0x0001_1010_0030_2002),
    // ID_AA64MMFR2: E0PD, BBM, TTL, AT, ST, CCIDX, VARange, LSM, UAO, CnP.
    limit(7, 2, 0x1021_0001_1011_0111),
];

/// ID_AA64PFR0_EL1.GIC: the system register interface.
const PFR0_GIC: u64 = 0xf << 24;

/// Whether a register is in the ID space that HCR_EL2.TID3 traps.
pub(crate) fn is_id(reg: SysReg) -> bool {
    matches!(reg.parts(), (3, 0, 0, 1..=7, _))
}

/// What a guest reads where the hardware has `raw`.
#[inline(never)]
pub(crate) fn value(reg: SysReg, raw: u64, gic: vgic::Version) -> u64 {
    let (_, _, _, crm, op2) = reg.parts(); // ID_MMFR0 to 4, ID_ISAR0 to 6 and MVFR0 to 2: what a 32-bit EL0 can do.
    if matches!((crm, op2), (1, 4..) | (2, _) | (3, ..=2)) {
        return raw;
    }
    let Some(limit) = LIMITS.iter().find(|limit| (limit.crm, limit.op2) == (crm, op2)) else {
        return 0;
    };
    let value = (0..64).step_by(4).fold(0, |value, shift| {
        let [raw, most, signed] = [raw, limit.most, limit.signed].map(|register| register >> shift & 0xf);
        let field = if signed & raw == 0xf { 0xf } else { raw.min(most) };
        value | field << shift
    });
    let without_gic = (crm, op2) == (4, 0) && gic == vgic::Version::V2;
    if without_gic { value & !PFR0_GIC } else { value }
}

#[cfg(test)]
mod tests;
