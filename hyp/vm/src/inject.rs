//! Exceptions that a guest takes to its EL1 because EL2 says so.

use crate::handle::{Host, StageTwoAccess};
use crate::state::{VcpuState, pstate};

const EC_UNKNOWN: u64 = 0x00;
const EC_INSTRUCTION_ABORT: u64 = 0x20;
const EC_DATA_ABORT: u64 = 0x24;
/// Added to an abort's EC when it is taken from EL1 itself.
const EC_SAME_EL: u64 = 1;
const ESR_IL: u64 = 1 << 25;
const ESR_FNV: u64 = 1 << 10;
const ESR_WNR: u64 = 1 << 6;
const FSC_EXTERNAL: u64 = 0x10;
/// On a table walk, level 0: the syndrome of stage 2 does not say at which level of stage 1 it was.
const FSC_EXTERNAL_ON_WALK: u64 = 0x14;
const SCTLR_SPAN: u64 = 1 << 23;
const SCTLR_DSSBS: u64 = 1 << 44;

/// UNDEFINED: the instruction at PC does not exist for this guest (EC 0).
pub fn undefined(state: &mut VcpuState, host: &impl Host) {
    host.sync(state);
    take(state, EC_UNKNOWN << 26 | ESR_IL, None);
}

/// A synchronous external abort of the access to `va` (None: FAR is not valid), on a walk of the guest's tables if
/// `s1ptw`.
pub fn external_abort(
    state: &mut VcpuState,
    access: StageTwoAccess,
    va: Option<u64>,
    s1ptw: bool,
    host: &impl Host,
) {
    host.sync(state);
    let (class, write) = match access {
        StageTwoAccess::Fetch => (EC_INSTRUCTION_ABORT, 0),
        StageTwoAccess::Read => (EC_DATA_ABORT, 0),
        StageTwoAccess::Write => (EC_DATA_ABORT, ESR_WNR),
    };
    let ec = if state.el0() { class } else { class + EC_SAME_EL };
    let fsc = if s1ptw { FSC_EXTERNAL_ON_WALK } else { FSC_EXTERNAL };
    let fnv = if va.is_none() { ESR_FNV } else { 0 };
    take(state, ec << 26 | ESR_IL | write | fnv | fsc, Some(va.unwrap_or(0)));
}

/// Where a synchronous exception taken now would go: the vector's address (Arm ARM, "Exception vectors").
pub(crate) fn vector(state: &VcpuState) -> u64 {
    let offset = match (state.el0(), state.aarch32(), state.pstate & 1 != 0) {
        (true, true, _) => 0x600,
        (true, false, _) => 0x400,
        (false, _, true) => 0x200,
        (false, _, false) => 0x000,
    };
    (state.sys.vbar & !0x7ff).wrapping_add(offset)
}

/// `AArch64.TakeException` to EL1 (Arm ARM): flags stay, the masks are set. PSTATE.TCO is left alone, since no
/// guest has FEAT_MTE.
fn take(state: &mut VcpuState, esr: u64, far: Option<u64>) {
    let from = state.pstate;
    state.sys.elr = state.pc;
    state.sys.spsr = from;
    state.sys.esr = esr;
    if let Some(far) = far {
        state.sys.far = far;
    }
    state.pc = vector(state);
    state.pstate = from & (pstate::NZCV | pstate::DIT | pstate::PAN) | pstate::DAIF | pstate::EL1H;
    if state.sys.sctlr & SCTLR_SPAN == 0 {
        state.pstate |= pstate::PAN;
    }
    if state.sys.sctlr & SCTLR_DSSBS != 0 {
        state.pstate |= pstate::SSBS;
    }
}

#[cfg(test)]
mod tests;
