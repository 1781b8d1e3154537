use super::*;
use crate::state::pstate;
use crate::testing::{ENTRY, Guest};

#[test]
fn a_skip_honours_the_length_and_uses_up_step_and_btype() {
    let mut state = VcpuState {
        pc: 0x1000,
        pstate: pstate::EL1H | pstate::SS | pstate::BTYPE | pstate::DAIF | pstate::NZCV,
        ..VcpuState::default()
    };
    skip(&mut state, 4);
    assert_eq!((state.pc, state.pstate), (0x1004, pstate::EL1H | pstate::DAIF | pstate::NZCV));
    state.pc = u64::MAX - 1;
    skip(&mut state, 4);
    assert_eq!(state.pc, 2, "the address space wraps");
}

#[test]
fn a_skip_in_t32_advances_the_it_block() {
    // ITTE EQ: IT = 0b0000_0110; then the condition's low bit and the mask shift left, until the mask is used up.
    let with_it = |it: u64| pstate::AARCH32 | pstate::T32 | (it & 3) << 25 | (it >> 2) << 10;
    let mut state = VcpuState { pstate: with_it(0b0000_0110), ..VcpuState::default() };
    for (pc, it) in [(2, 0b0000_1100), (4, 0b0001_1000), (6, 0)] {
        skip(&mut state, 2);
        assert_eq!((state.pc, state.pstate), (pc, with_it(it)));
    }
}

#[test]
fn an_hvc_is_behind_itself_already_and_an_smc_is_not() {
    let mut guest = Guest::v3();
    assert_eq!(guest.trap(Trap::Hvc { imm: 0 }), None);
    assert_eq!(guest.state.pc, ENTRY);
    assert_eq!(guest.trap(Trap::Smc { imm: 0 }), None);
    assert_eq!(guest.state.pc, ENTRY + 4);
}

#[test]
fn waits_go_on_behind_the_instruction() {
    let mut guest = Guest::v3();
    assert_eq!(guest.trap(Trap::Wfx { wfe: false }), Some(Next::Wait));
    assert_eq!(guest.trap(Trap::Wfx { wfe: true }), Some(Next::Yield));
    assert_eq!(guest.state.pc, ENTRY + 8);
    guest.state.pstate = pstate::AARCH32;
    assert_eq!(guest.trap(Trap::Wfx { wfe: false }), Some(Next::Yield));
}

#[test]
fn features_that_are_hidden_are_undefined() {
    // SVE, SME, an AArch32 coprocessor, pointer authentication, and an unallocated class.
    for ec in [0x19, 0x1d, 0x03, 0x09, 0x3f] {
        let (mut guest, trap) = (Guest::v3(), Trap::Other { ec });
        guest.state.sys.vbar = 0x4000_1000;
        assert_eq!(guest.trap(trap), None);
        assert_eq!((guest.state.pc, guest.state.sys.elr), (0x4000_1200, ENTRY), "{trap:?}");
        assert_eq!(guest.state.sys.esr, 1 << 25);
    }
}

#[test]
fn an_serror_ends_the_vm() {
    assert_eq!(Guest::v3().trap(Trap::SError), Some(Next::Crash(Crash::SError)));
}
