//! The list registers' encodings against the field layouts of Arm IHI 0048B (GICH_LR\<n\>) and Arm IHI 0069H
//! (ICH_LR\<n\>_EL2).

use mobivmm_vgic::{CpuMask, Groups, Lr, State};
use proptest::prelude::*;

const PENDING: State = State::PENDING;
const BOTH: State = State { pending: true, active: true };

#[test]
fn gicv2_fields() {
    let timer = Lr { vintid: 27, state: PENDING, priority: 0xa0, hw: Some(30), ..Lr::EMPTY };
    assert_eq!(timer.to_gicv2(), 1 << 31 | 0b01 << 28 | 0x14 << 23 | 30 << 10 | 27);
    let sgi = Lr { vintid: 5, state: BOTH, priority: 0xf8, group1: true, eoi: true, source: 7, ..Lr::EMPTY };
    assert_eq!(sgi.to_gicv2(), 1 << 30 | 0b11 << 28 | 0x1f << 23 | 1 << 19 | 7 << 10 | 5);
    assert_eq!(Lr::EMPTY.to_gicv2(), 0);
}

#[test]
fn gicv3_fields() {
    let timer = Lr { vintid: 27, state: PENDING, priority: 0xa0, group1: true, hw: Some(30), ..Lr::EMPTY };
    assert_eq!(timer.to_gicv3(), 0b01 << 62 | 1 << 61 | 1 << 60 | 0xa0 << 48 | 30 << 32 | 27);
    let line = Lr { vintid: 1019, state: BOTH, priority: 0x08, eoi: true, ..Lr::EMPTY };
    assert_eq!(line.to_gicv3(), 0b11 << 62 | 0x08 << 48 | 1 << 41 | 1019);
    assert_eq!(Lr::EMPTY.to_gicv3(), 0);
}

#[test]
fn vmcr_fields() {
    let groups = Groups { group0: true, group1: false };
    assert_eq!(CpuMask::from_gicv2_vmcr(0x1e << 27 | 1), CpuMask { pmr: 0xf0, groups });
    let groups = Groups { group0: false, group1: true };
    assert_eq!(CpuMask::from_gicv3_vmcr(0xf0 << 24 | 2), CpuMask { pmr: 0xf0, groups });
}

fn lr() -> impl Strategy<Value = Lr> {
    (0..1020u16, any::<(bool, bool, bool, bool)>(), 0..32u8, prop::option::of(0..1020u16), 0..8u8).prop_map(
        |(vintid, (pending, active, group1, eoi), level, hw, source)| Lr {
            vintid,
            state: State { pending, active },
            priority: level << 3,
            group1,
            hw,
            eoi: eoi && hw.is_none(),
            source: if hw.is_none() { source } else { 0 },
        },
    )
}

proptest! {
    #[test]
    fn decoding_inverts_encoding(lr in lr()) {
        prop_assert_eq!(Lr::from_gicv2(lr.to_gicv2()), lr);
        prop_assert_eq!(Lr::from_gicv3(lr.to_gicv3()), Lr { source: 0, ..lr });
    }

    #[test]
    fn any_register_value_decodes(value in any::<u64>()) {
        let v3 = Lr::from_gicv3(value);
        prop_assert_eq!(Lr::from_gicv3(v3.to_gicv3()), v3);
        let v2 = Lr::from_gicv2(value as u32);
        prop_assert_eq!(Lr::from_gicv2(v2.to_gicv2()), v2);
    }
}
