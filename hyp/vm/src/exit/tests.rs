use super::*;
use proptest::prelude::*;

const EC: u32 = 26;
const IL: u64 = 1 << 25;
const ISV: u64 = 1 << 24;

#[test]
fn an_mmio_load_is_decoded_with_its_register() {
    // LDRSH w5, [PL011 + 0x18]: ISV, SAS = 1, SSE, SRT = 5, translation fault level 3.
    let esr = 0x24 << EC | IL | ISV | 1 << 22 | 1 << 21 | 5 << 16 | 0x07;
    let exit = Exit::decode(esr, 0xffff_8000_1234_5018, 0x9000 << 4);
    assert_eq!(exit.len, 4);
    assert_eq!(
        exit.trap,
        Trap::DataAbort(DataAbort {
            va: Some(0xffff_8000_1234_5018),
            ipa: Some(0x0900_0018),
            fault: Fault::Translation,
            write: false,
            cache_maintenance: false,
            s1ptw: false,
            access: Some(Access { size: 2, rt: 5, sign_extend: true, wide: false }),
        })
    );
}

#[test]
fn hpfar_is_not_believed_after_a_permission_fault() {
    let Trap::DataAbort(abort) = Exit::decode(0x24 << EC | IL | 0x0f | 1 << 6, 0x1234, 0x55 << 4).trap else {
        panic!("a data abort")
    };
    assert_eq!((abort.ipa, abort.fault, abort.write), (None, Fault::Permission, true));
    // On a walk it is valid, but the offset is the descriptor's and not FAR's.
    let Trap::InstrAbort(abort) = Exit::decode(0x20 << EC | IL | 1 << 7 | 0x0f, 0x1234, 0x55 << 4).trap
    else {
        panic!("an instruction abort")
    };
    assert_eq!((abort.ipa, abort.s1ptw), (Some(0x5_5000), true));
}

#[test]
fn far_is_not_believed_when_fnv_is_set() {
    let Trap::DataAbort(abort) = Exit::decode(0x24 << EC | IL | 1 << 10 | 0x10, 0x1234, 0).trap else {
        panic!("a data abort")
    };
    assert_eq!((abort.va, abort.fault), (None, Fault::External));
}

#[test]
fn a_system_register_access_names_its_register() {
    // MSR ICC_SGI1R_EL1, x3: S3_0_C12_C11_5.
    let esr = 0x18 << EC | IL | 3 << 20 | 5 << 17 | 12 << 10 | 3 << 5 | 11 << 1;
    let reg = SysReg::new(3, 0, 12, 11, 5);
    assert_eq!(Exit::decode(esr, 0, 0).trap, Trap::SysReg(SysRegAccess::new(reg, 3, true)));
    assert_eq!(reg.parts(), (3, 0, 12, 11, 5));
    assert_eq!(format!("{reg:?}"), "S3_0_C12_C11_5");
}

#[test]
fn calls_and_waits_are_decoded() {
    assert_eq!(Exit::decode(0x16 << EC | IL | 0xabcd, 0, 0).trap, Trap::Hvc { imm: 0xabcd });
    assert_eq!(Exit::decode(0x17 << EC | IL | 1, 0, 0).trap, Trap::Smc { imm: 1 });
    assert_eq!(Exit::decode(0x01 << EC | IL, 0, 0).trap, Trap::Wfx { wfe: false });
    assert_eq!(Exit::decode(0x01 << EC | 1, 0, 0), Exit { trap: Trap::Wfx { wfe: true }, len: 2 });
    assert_eq!(Exit::decode(0x3f << EC | IL, 0, 0).trap, Trap::Other { ec: 0x3f });
}

proptest! {
    #[test]
    fn every_syndrome_decodes(esr: u64, far: u64, hpfar: u64) {
        let exit = Exit::decode(esr, far, hpfar);
        prop_assert!(exit.len == 2 || exit.len == 4);
        let ipa = match exit.trap {
            Trap::DataAbort(abort) => abort.ipa,
            Trap::InstrAbort(abort) => abort.ipa,
            _ => None,
        };
        prop_assert!(ipa.unwrap_or(0) < 1 << 52);
    }
}
