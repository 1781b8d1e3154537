use vgic::Version;

use super::*;
use crate::testing::{ENTRY, Guest, RAM};

const MDSCR: SysReg = reg(2, 0, 0, 2, 2);
const OSLAR: SysReg = reg(2, 0, 1, 0, 4);
const OSLSR: SysReg = reg(2, 0, 1, 1, 4);
const PMCR: SysReg = reg(3, 3, 9, 12, 0);
const SGI1R: SysReg = reg(3, 0, 12, 11, 5);
const ICC_SRE: SysReg = reg(3, 0, 12, 12, 5);
const CISW: SysReg = reg(1, 0, 7, 14, 2);
const TTBR0: SysReg = reg(3, 0, 2, 0, 0);
const RESUME: Option<Option<Next>> = Some(None);

#[test]
fn what_is_not_there_is_undefined() {
    // PMCR_EL0, CPUACTLR_EL1 of an A72, an implementation-defined instruction, ZCR_EL1, CNTPCTSS_EL0, SCXTNUM_EL1.
    let nothing = [
        PMCR,
        reg(3, 1, 15, 2, 0),
        reg(1, 0, 11, 0, 0),
        reg(3, 0, 1, 2, 0),
        reg(3, 3, 14, 0, 5),
        reg(3, 0, 13, 0, 7),
    ];
    for reg in nothing {
        let mut guest = Guest::v3();
        guest.state.sys.vbar = RAM;
        assert_eq!(guest.mrs(reg), None);
        assert_eq!((guest.state.pc, guest.state.sys.elr, guest.state.sys.esr), (RAM + 0x200, ENTRY, 1 << 25));
        assert_eq!(guest.msr(reg, 1), None);
    }
}

#[test]
fn id_registers_are_read_and_not_written() {
    let mut guest = Guest::v3();
    guest.host.set(|m| m.id = 0x2222);
    assert_eq!(guest.mrs(reg(3, 0, 0, 4, 0)), Some(0x12));
    assert_eq!(guest.msr(reg(3, 0, 0, 4, 0), 0), None);
    assert_eq!(guest.mrs(reg(3, 0, 0, 7, 7)), Some(0));
}

#[test]
fn xzr_reads_zero_and_takes_nothing() {
    let mut guest = Guest::v3();
    let trap = |reg, write| crate::Trap::SysReg(SysRegAccess::new(reg, 31, write));
    let before = guest.state.gprs;
    assert_eq!(guest.trap(trap(OSLSR, false)), None);
    assert_eq!(guest.trap(trap(OSLAR, true)), None);
    assert_eq!((guest.state.gprs, guest.state.sys.oslock), (before, 0));
}

#[test]
fn the_os_lock_is_locked_after_reset() {
    let mut guest = Guest::v3();
    assert_eq!(guest.mrs(OSLSR), Some(0b1010));
    assert_eq!(guest.msr(OSLAR, 0), RESUME);
    assert_eq!(guest.mrs(OSLSR), Some(0b1000));
    assert_eq!(guest.mrs(OSLAR), None, "write only");
    assert_eq!(guest.msr(OSLSR, 0), None, "read only");
}

#[test]
fn debug_registers_take_single_step_and_nothing_of_the_hardware() {
    let mut guest = Guest::v3();
    assert_eq!(guest.msr(MDSCR, u64::MAX), RESUME);
    assert_eq!(guest.mrs(MDSCR), Some(0xb001));
    assert_eq!(guest.host.set(|m| m.synced), 1, "it goes to the hardware");
    for op2 in 4..8 {
        for n in 0..16 {
            assert_eq!(guest.msr(reg(2, 0, 0, n, op2), u64::MAX), RESUME);
            assert_eq!(guest.mrs(reg(2, 0, 0, n, op2)), Some(0));
        }
    }
}

#[test]
fn sgis_go_to_the_vgic_and_to_nobody_else() {
    let mut guest = Guest::v3();
    // Group 1, enabled, for SGI 5 of vCPU 1; then target list {0, 1} of cluster 0.
    for (offset, value) in [(0x0080u64, 0xffff_ffffu64), (0x0100, 1 << 5)] {
        guest.store(0x080a_0000 + 0x2_0000 + 0x1_0000 + offset, value);
    }
    guest.store(0x0800_0000, 3);
    assert_eq!(guest.msr(SGI1R, 5 << 24 | 0b10), RESUME);
    assert!(guest.host.set(|m| m.effects.kick.contains(1)));
    assert_eq!(guest.load(0x080a_0000 + 0x3_0200), 1 << 5);
    assert_eq!(guest.mrs(SGI1R), None, "write only");
    assert_eq!(guest.mrs(ICC_SRE), Some(7));
    assert_eq!(guest.msr(ICC_SRE, 0), RESUME);
    assert_eq!(guest.mrs(ICC_SRE), Some(7));
    assert_eq!(guest.msr(reg(3, 0, 12, 11, 1), u64::MAX), RESUME);
}

#[test]
fn a_gicv2_has_no_system_registers() {
    let mut guest = Guest::new(2, Version::V2);
    for reg in [SGI1R, reg(3, 0, 12, 11, 1), ICC_SRE] {
        assert_eq!(guest.msr(reg, 0), None);
        assert_eq!(guest.mrs(reg), None);
    }
}

#[test]
fn actlr_is_zero() {
    let mut guest = Guest::v3();
    assert_eq!(guest.msr(reg(3, 0, 1, 0, 1), u64::MAX), RESUME);
    assert_eq!(guest.mrs(reg(3, 0, 1, 0, 1)), Some(0));
}

#[test]
fn set_way_maintenance_cleans_at_the_first_one_and_when_caches_switch() {
    const ON: u64 = 0x30d0_0805;
    let clean = Some(Some(Next::CacheMaintenance));
    let mut guest = Guest::v3();
    assert_eq!(guest.msr(CISW, 0), clean);
    assert_eq!(guest.state.hcr, HCR_TVM);
    assert_eq!(guest.msr(CISW, 1 << 6), RESUME, "the other sets are done");
    assert_eq!(guest.msr(TTBR0, 0x4123_4000), RESUME);
    assert_eq!(guest.state.sys.ttbr0, 0x4123_4000);
    assert_eq!(guest.msr(SCTLR_EL1, 0x30d0_0801), RESUME, "the MMU without caches");
    assert_eq!(guest.msr(SCTLR_EL1, ON), clean);
    assert_eq!((guest.state.sys.sctlr, guest.state.hcr), (ON, 0), "no more traps");

    // Caches off, as before a kexec: the maintenance comes first.
    assert_eq!(guest.msr(CISW, 0), clean);
    assert_eq!(guest.msr(SCTLR_EL1, 0x30d0_0800), clean);
    assert_eq!(guest.state.hcr, HCR_TVM, "until they are on again");
    assert_eq!(guest.mrs(CISW), None);
}
