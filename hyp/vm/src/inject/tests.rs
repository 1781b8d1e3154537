use proptest::prelude::*;

use super::*;
use crate::testing::Mock;

/// What the Arm ARM says of each PSTATE field after an exception to EL1, one line each.
fn expected_pstate(from: u64, sctlr: u64) -> u64 {
    let keep = |bit: u32| from & 1 << bit;
    let bit = |bit: u32, set: bool| u64::from(set) << bit;
    let flags = keep(31) | keep(30) | keep(29) | keep(28);
    let span = sctlr >> 23 & 1 != 0;
    let pan = if span { keep(22) } else { bit(22, true) };
    let ssbs = bit(12, sctlr >> 44 & 1 != 0);
    let masks = bit(9, true) | bit(8, true) | bit(7, true) | bit(6, true);
    flags | keep(24) | pan | ssbs | masks | 0b00101
}

/// Modes that a guest can be in: AArch64 EL1h, EL1t, EL0, and AArch32 User.
fn modes() -> impl Strategy<Value = (u64, u64)> {
    prop_oneof![Just((0b0101, 0x200)), Just((0b0100, 0x000)), Just((0b0000, 0x400)), Just((0b1_0000, 0x600))]
}

proptest! {
    #[test]
    fn exceptions_follow_the_architecture(
        (mode, offset) in modes(), flags: u64, pc: u64, vbar: u64, sctlr: u64, va: Option<u64>, which in 0..3u8,
        s1ptw: bool,
    ) {
        let from = flags & !0x1f | mode;
        let mut state = VcpuState { pc, pstate: from, ..VcpuState::default() };
        state.sys.vbar = vbar;
        state.sys.sctlr = sctlr;
        let host = Mock::new();
        let access = [StageTwoAccess::Read, StageTwoAccess::Write, StageTwoAccess::Fetch][usize::from(which)];
        external_abort(&mut state, access, va, s1ptw, &host);

        prop_assert_eq!(host.set(|m| m.synced), 1);
        prop_assert_eq!(state.pc, (vbar & !0x7ff).wrapping_add(offset));
        prop_assert_eq!(state.pstate, expected_pstate(from, sctlr));
        prop_assert_eq!((state.sys.elr, state.sys.spsr), (pc, from));
        prop_assert_eq!(state.sys.far, va.unwrap_or(0));
        let esr = state.sys.esr;
        let class = if which == 2 { 0x20 } else { 0x24 };
        prop_assert_eq!(esr >> 26, class | u64::from(mode & 0b1111 != 0));
        prop_assert_eq!(esr >> 25 & 1, 1, "IL");
        prop_assert_eq!(esr >> 10 & 1 != 0, va.is_none(), "FnV");
        prop_assert_eq!(esr >> 6 & 1 != 0, which == 1, "WnR");
        prop_assert_eq!(esr & 0x3f, if s1ptw { 0x14 } else { 0x10 }, "FSC");
        prop_assert_eq!(esr & 0x01ff_fb80, 0, "ISV and the rest");
    }

    #[test]
    fn undefined_says_nothing_but_that((mode, offset) in modes(), flags: u64, pc: u64, far: u64) {
        let from = flags & !0x1f | mode;
        let mut state = VcpuState { pc, pstate: from, ..VcpuState::default() };
        state.sys.far = far;
        undefined(&mut state, &Mock::new());
        prop_assert_eq!((state.pc, state.sys.elr, state.sys.spsr), (offset, pc, from));
        prop_assert_eq!((state.sys.esr, state.sys.far), (1 << 25, far));
        prop_assert_eq!(state.pstate, expected_pstate(from, 0));
    }
}
