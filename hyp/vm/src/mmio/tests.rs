use vgic::Version;

use crate::exit::{Access, DataAbort, Fault, InstrAbort, Trap};
use crate::handle::{Crash, Next, StageTwo, StageTwoAccess};
use crate::testing::{ENTRY, Guest, RAM, fetch, mmio};

const UART: u64 = 0x0900_0000;
const GICD_TYPER: u64 = 0x0800_0004;
const NOWHERE: u64 = 0x0b00_0000;
const VBAR: u64 = RAM + 0x800;
/// The vector of an exception from EL1h.
const VECTOR: u64 = VBAR + 0x200;

fn guest() -> Guest {
    let mut guest = Guest::v3();
    guest.state.sys.vbar = VBAR;
    guest
}

fn access(size: u8, sign_extend: bool, wide: bool) -> Option<Access> {
    Some(Access { size, rt: 1, sign_extend, wide })
}

#[test]
fn a_load_goes_to_its_register_as_the_instruction_says() {
    let mut guest = guest();
    guest.vm.console_input(&[0x80, 0x81, 0x82], &guest.host);
    for (sign_extend, wide, value) in
        [(true, true, 0xffff_ffff_ffff_ff80), (true, false, 0xffff_ff81), (false, false, 0x82)]
    {
        guest.state.gprs[1] = u64::MAX;
        let abort = DataAbort { access: access(1, sign_extend, wide), ..mmio(UART, false) };
        assert_eq!(guest.trap(Trap::DataAbort(abort)), None);
        assert_eq!(guest.state.gprs[1], value);
    }
    assert_eq!(guest.state.pc, ENTRY + 12);
}

#[test]
fn a_load_to_xzr_is_made_and_a_store_of_xzr_stores_zero() {
    let mut guest = guest();
    guest.vm.console_input(b"ab", &guest.host);
    let zr = Some(Access { size: 4, rt: 31, sign_extend: false, wide: false });
    let before = guest.state.gprs;
    guest.trap(Trap::DataAbort(DataAbort { access: zr, ..mmio(UART, false) }));
    assert_eq!(guest.state.gprs, before);
    assert_eq!(guest.load(UART), u64::from(b'b'));
    guest.store(UART + 0x38, 0x7ff);
    guest.trap(Trap::DataAbort(DataAbort { access: zr, ..mmio(UART + 0x38, true) }));
    assert_eq!(guest.load(UART + 0x38), 0);
}

#[test]
fn nothing_at_an_address_is_an_external_abort() {
    let mut guest = guest();
    guest.trap(Trap::DataAbort(mmio(NOWHERE, true)));
    assert_eq!((guest.state.pc, guest.state.sys.elr), (VECTOR, ENTRY));
    assert_eq!(guest.state.sys.far, 0xffff_0000_0000_0000 | NOWHERE);
    assert_eq!(guest.state.sys.esr, 0x25 << 26 | 1 << 25 | 1 << 6 | 0x10);
}

#[test]
fn memory_is_for_stage_two() {
    let mut guest = guest();
    let abort = mmio(RAM + 0x1238, true);
    let expected = |access, fault| {
        Some(Next::StageTwo(StageTwo { ipa: RAM + 0x1238, va: abort.va, access, fault, s1ptw: false }))
    };
    assert_eq!(guest.trap(Trap::DataAbort(abort)), expected(StageTwoAccess::Write, Fault::Translation));
    assert_eq!(guest.state.pc, ENTRY, "to be tried again");

    // A permission fault has no address of its own: the guest's tables are asked, which may have changed.
    let permission = DataAbort { ipa: None, fault: Fault::Permission, ..abort };
    assert_eq!(guest.trap(Trap::DataAbort(permission)), None);
    assert_eq!(guest.state.pc, ENTRY);
    guest.host.set(|m| m.translation = Some(RAM + 0x1238));
    assert_eq!(guest.trap(Trap::DataAbort(permission)), expected(StageTwoAccess::Write, Fault::Permission));
}

#[test]
fn a_fetch_from_a_device_is_an_abort_and_never_spins() {
    let mut guest = guest();
    guest.state.pc = UART;
    assert_eq!(guest.trap(Trap::InstrAbort(fetch(UART))), None);
    assert_eq!((guest.state.pc, guest.state.sys.elr, guest.state.sys.far), (VECTOR, UART, UART));
    assert_eq!(guest.state.sys.esr, 0x21 << 26 | 1 << 25 | 0x10);

    // Vectors that are nowhere themselves would abort for ever.
    guest.state.sys.vbar = NOWHERE;
    guest.state.pc = UART;
    assert_eq!(guest.trap(Trap::InstrAbort(fetch(UART))), None);
    assert_eq!(guest.state.pc, NOWHERE + 0x200);
    let end = guest.trap(Trap::InstrAbort(fetch(NOWHERE + 0x200)));
    assert_eq!(end, Some(Next::Crash(Crash::NoVectors { pc: NOWHERE + 0x200 })));
}

#[test]
fn a_fetch_from_memory_is_for_stage_two() {
    let mut guest = guest();
    assert!(
        matches!(guest.trap(Trap::InstrAbort(fetch(RAM))), Some(Next::StageTwo(s)) if s.access == StageTwoAccess::Fetch)
    );
}

#[test]
fn tables_in_a_device_abort_on_the_walk() {
    let mut guest = guest();
    let abort = DataAbort { s1ptw: true, ..mmio(UART, false) };
    assert_eq!(guest.trap(Trap::DataAbort(abort)), None);
    assert_eq!(guest.state.sys.esr & 0x3f, 0x14);
    let walk = InstrAbort { s1ptw: true, ..fetch(RAM) };
    assert!(matches!(guest.trap(Trap::InstrAbort(walk)), Some(Next::StageTwo(s)) if s.s1ptw));
}

#[test]
fn accesses_without_a_syndrome_are_decoded() {
    let mut guest = guest();
    let base = 0xffff_0000_0000_0000 | GICD_TYPER;
    let abort = DataAbort { access: None, ..mmio(GICD_TYPER, false) };
    // ldr w1, [x2], #4
    guest.host.set(|m| m.instruction = Some(0xb840_4441));
    guest.state.gprs[2] = base;
    assert_eq!(guest.trap(Trap::DataAbort(abort)), None);
    assert_eq!((guest.state.pc, guest.state.gprs[2]), (ENTRY + 4, base + 4));
    assert_eq!(guest.state.gprs[1] & 0x1f, 2, "64 SPIs");

    // stp w1, w2, [x3]: IBRD and FBRD.
    guest.host.set(|m| m.instruction = Some(0x2900_0861));
    guest.state.gprs[1..4].copy_from_slice(&[13, 37, 0xffff_0000_0900_0024]);
    let pair = DataAbort { access: None, ..mmio(UART + 0x24, true) };
    assert_eq!(guest.trap(Trap::DataAbort(pair)), None);
    assert_eq!((guest.load(UART + 0x24), guest.load(UART + 0x28)), (13, 37));
}

#[test]
fn an_instruction_that_did_not_make_the_access_is_not_believed() {
    let abort = DataAbort { access: None, ..mmio(GICD_TYPER, false) };
    let base = 0xffff_0000_0000_0000 | GICD_TYPER;
    for (instruction, x2) in [
        (None, base),
        (Some(0xb840_4441), base + 4), // another address
        (Some(0xb800_4441), base),     // a store
        (Some(0x885f_7c41), base),     // an exclusive
    ] {
        let mut guest = guest();
        guest.host.set(|m| m.instruction = instruction);
        guest.state.gprs[2] = x2;
        assert_eq!(guest.trap(Trap::DataAbort(abort)), None);
        assert_eq!((guest.state.pc, guest.state.gprs[2]), (VECTOR, x2), "{instruction:x?}");
    }
}

#[test]
fn accesses_across_a_border_or_misaligned_abort() {
    for (ipa, size) in [(GICD_TYPER + 1, 4), (UART + 0x1000 - 2, 4), (UART + 4, 8)] {
        let mut guest = guest();
        let abort = DataAbort { access: access(size, false, true), ..mmio(ipa, false) };
        assert_eq!(guest.trap(Trap::DataAbort(abort)), None);
        assert_eq!(guest.state.pc, VECTOR, "{ipa:#x}");
    }
}

#[test]
fn cache_maintenance_of_what_is_no_memory_does_nothing() {
    for ipa in [UART, NOWHERE] {
        let mut guest = guest();
        let abort = DataAbort { cache_maintenance: true, access: None, ..mmio(ipa, true) };
        assert_eq!(guest.trap(Trap::DataAbort(abort)), None);
        assert_eq!(guest.state.pc, ENTRY + 4);
    }
}

#[test]
fn faults_that_no_mapping_cures() {
    for fault in [Fault::External, Fault::AddressSize, Fault::UnsupportedAtomic, Fault::Alignment] {
        let mut guest = guest();
        let abort = DataAbort { fault, ..mmio(RAM, false) };
        assert_eq!(guest.trap(Trap::DataAbort(abort)), None);
        assert_eq!(guest.state.pc, VECTOR, "{fault:?}");
    }
    let abort = DataAbort { fault: Fault::TlbConflict, ..mmio(RAM, false) };
    assert_eq!(guest().trap(Trap::DataAbort(abort)), Some(Next::Crash(Crash::Fault(Fault::TlbConflict))));
}

#[test]
fn the_gicv2_deactivation_register_is_emulated_while_it_traps() {
    let mut guest = Guest::new(2, Version::V2);
    guest.store(0x0801_1000, 40);
    guest.store(0x0801_1000, u64::from(u32::MAX));
    assert_eq!(guest.load(0x0801_1000), 0);
}
