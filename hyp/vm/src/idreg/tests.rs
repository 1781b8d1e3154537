use proptest::prelude::*;
use vgic::Version;

use super::*;

fn id(crm: u8, op2: u8) -> SysReg {
    SysReg::new(3, 0, 0, crm, op2)
}

/// The raw values are those of QEMU's cortex-a72.
#[test]
fn a_cortex_a72_keeps_what_a_guest_may_use() {
    let see = |crm, op2, raw| value(id(crm, op2), raw, Version::V2);
    assert_eq!(see(4, 0, 0x2222), 0x0012, "PFR0: EL0 with AArch32, EL1, no EL2, no EL3, FP, AdvSIMD");
    assert_eq!(see(5, 0, 0x1030_5106), 0x0010_1006, "DFR0: no PMU, two breakpoints");
    assert_eq!(see(6, 0, 0x0001_1120), 0x0001_1120, "ISAR0: AES, SHA1, SHA2, CRC32");
    assert_eq!(see(7, 0, 0x1124), 0x0022, "MMFR0: 40 bits, ASID 16, no big endian");
    assert_eq!(see(2, 5, 0x0001_1121), 0x0001_1121, "ID_ISAR5");
}

#[test]
fn what_is_not_switched_is_hidden() {
    let all = 0xeeee_eeee_eeee_eeee;
    let field = |crm, op2, shift: u32| value(id(crm, op2), all, Version::V3) >> shift & 0xf;
    for (shift, name) in [(28, "RAS"), (32, "SVE"), (36, "SEL2"), (40, "MPAM"), (44, "AMU"), (52, "RME")] {
        assert_eq!(field(4, 0, shift), 0, "{name}");
    }
    for (shift, name) in [(8, "MTE"), (12, "RAS_frac"), (24, "SME"), (36, "NMI")] {
        assert_eq!(field(4, 1, shift), 0, "{name}");
    }
    for (shift, name) in [(4, "TraceVer"), (8, "PMUVer"), (32, "PMSVer"), (40, "TraceFilt")] {
        assert_eq!(field(5, 0, shift), 0, "{name}");
    }
    assert_eq!(field(6, 0, 24), 0, "TME");
    assert_eq!(field(7, 1, 8), 0, "VH");
    assert_eq!(field(7, 2, 24), 0, "NV");
    for (crm, op2) in [(4, 4), (4, 5), (5, 1), (1, 3), (7, 3), (7, 4), (4, 7)] {
        assert_eq!(value(id(crm, op2), all, Version::V3), 0);
    }
}

#[test]
fn signed_fields_may_say_no() {
    assert_eq!(value(id(4, 0), 0x00ff_0000, Version::V3), 0x00ff_0000, "no FP");
    assert_eq!(value(id(7, 0), 0xff00_0000, Version::V3), 0xff00_0000, "neither 4 KiB nor 64 KiB");
    assert_eq!(value(id(7, 0), 0x1000_0000, Version::V3), 0, "52 bits with 4 KiB: only 48");
}

#[test]
fn the_gic_is_the_vms() {
    assert_eq!(value(id(4, 0), 3 << 24, Version::V3), 1 << 24);
    assert_eq!(value(id(4, 0), 3 << 24, Version::V2), 0);
}

proptest! {
    #[test]
    fn no_field_is_more_than_the_hardware_has(raw: u64, crm in 0u8..16, op2 in 0u8..8) {
        let seen = value(id(crm, op2), raw, Version::V3);
        for shift in (0..64).step_by(4) {
            prop_assert!(seen >> shift & 0xf <= raw >> shift & 0xf);
        }
    }
}
