//! Trapped system registers: one table, and what is not in it is UNDEFINED for a guest, as on a CPU without the feature
//! (PMU, SVE, implementation-defined registers and instructions).
//!
//! The hardware's debug registers are EL2's; a guest sees two breakpoints and two watchpoints that never match. Its
//! own single-stepping (MDSCR_EL1.SS) works.

use vgic::{Sgi, SgiRegister, Version};

use crate::exit::{SysReg, SysRegAccess};
use crate::handle::{Context, Host, Next, skip};
use crate::state::{El1Regs, HCR_TVM, OSLOCK_LOCKED, VcpuState};
use crate::timer;
use crate::{idreg, inject};

/// How a register behaves.
#[derive(Clone, Copy)]
enum Register {
    /// Reads a constant; writes are ignored.
    Constant(u64),
    /// Reads a constant; a write is UNDEFINED.
    ReadOnly(u64),
    /// OSLAR_EL1.
    OsLockAccess,
    /// OSLSR_EL1.
    OsLockStatus,
    /// MDSCR_EL1.
    DebugControl,
    /// A physical timer register.
    Timer(timer::Register),
    /// CNTPCT_EL0.
    Counter,
    /// ICC_SGI1R_EL1, ICC_SGI0R_EL1 or ICC_ASGI1R_EL1 (GICv3).
    SendSgi(SgiRegister),
    /// ICC_DIR_EL1 (GICv3).
    Deactivate,
    /// ICC_SRE_EL1 (GICv3).
    SystemRegisterEnable,
    /// DC ISW, CSW or CISW.
    SetWay,
    /// A control of stage 1, whose writes trap while the guest's caches are off (HCR_EL2.TVM).
    Stage1(fn(&mut El1Regs) -> &mut u64),
}

use Register::*;

const fn reg(op0: u8, op1: u8, crn: u8, crm: u8, op2: u8) -> SysReg {
    SysReg::new(op0, op1, crn, crm, op2)
}

const SCTLR_EL1: SysReg = reg(3, 0, 1, 0, 0);
/// ICC_SRE_EL1: DIB, DFB and SRE are one and stay so.
const SRE: u64 = 7;
/// OSLSR_EL1.OSLM = 0b10: the OS lock is implemented.
const OSLSR_OSLM: u64 = 1 << 3;
const OSLSR_OSLK: u64 = 1 << 1;
/// MDSCR_EL1.SS, TDCC, KDE and MDE: what a guest may set.
const MDSCR_GUEST: u64 = 1 | 1 << 12 | 1 << 13 | 1 << 15;

const TABLE: &[(SysReg, Register)] = &[
    (reg(1, 0, 7, 6, 2), SetWay),                             // DC ISW
    (reg(1, 0, 7, 10, 2), SetWay),                            // DC CSW
    (reg(1, 0, 7, 14, 2), SetWay),                            // DC CISW
    (reg(2, 0, 0, 0, 2), Constant(0)),                        // OSDTRRX_EL1
    (reg(2, 0, 0, 2, 0), Constant(0)),                        // MDCCINT_EL1
    (reg(2, 0, 0, 2, 2), DebugControl),                       // MDSCR_EL1
    (reg(2, 0, 0, 3, 2), Constant(0)),                        // OSDTRTX_EL1
    (reg(2, 0, 0, 6, 2), Constant(0)),                        // OSECCR_EL1
    (reg(2, 0, 1, 0, 0), ReadOnly(0)),                        // MDRAR_EL1
    (reg(2, 0, 1, 0, 4), OsLockAccess),                       // OSLAR_EL1
    (reg(2, 0, 1, 1, 4), OsLockStatus),                       // OSLSR_EL1
    (reg(2, 0, 1, 3, 4), Constant(0)),                        // OSDLR_EL1
    (reg(2, 0, 1, 4, 4), Constant(0)),                        // DBGPRCR_EL1
    (reg(2, 0, 7, 8, 6), Constant(0)),                        // DBGCLAIMSET_EL1: no tags
    (reg(2, 0, 7, 9, 6), Constant(0)),                        // DBGCLAIMCLR_EL1
    (reg(2, 0, 7, 14, 6), ReadOnly(0)),                       // DBGAUTHSTATUS_EL1
    (reg(2, 3, 0, 1, 0), ReadOnly(0)),                        // MDCCSR_EL0
    (reg(2, 3, 0, 4, 0), Constant(0)),                        // DBGDTR_EL0
    (reg(2, 3, 0, 5, 0), Constant(0)),                        // DBGDTRRX_EL0, DBGDTRTX_EL0
    (SCTLR_EL1, Stage1(|sys| &mut sys.sctlr)),                // SCTLR_EL1
    (reg(3, 0, 1, 0, 1), Constant(0)),                        // ACTLR_EL1
    (reg(3, 0, 2, 0, 0), Stage1(|sys| &mut sys.ttbr0)),       // TTBR0_EL1
    (reg(3, 0, 2, 0, 1), Stage1(|sys| &mut sys.ttbr1)),       // TTBR1_EL1
    (reg(3, 0, 2, 0, 2), Stage1(|sys| &mut sys.tcr)),         // TCR_EL1
    (reg(3, 0, 5, 1, 0), Stage1(|sys| &mut sys.afsr0)),       // AFSR0_EL1
    (reg(3, 0, 5, 1, 1), Stage1(|sys| &mut sys.afsr1)),       // AFSR1_EL1
    (reg(3, 0, 5, 2, 0), Stage1(|sys| &mut sys.esr)),         // ESR_EL1
    (reg(3, 0, 6, 0, 0), Stage1(|sys| &mut sys.far)),         // FAR_EL1
    (reg(3, 0, 10, 2, 0), Stage1(|sys| &mut sys.mair)),       // MAIR_EL1
    (reg(3, 0, 10, 3, 0), Stage1(|sys| &mut sys.amair)),      // AMAIR_EL1
    (reg(3, 0, 12, 11, 1), Deactivate),                       // ICC_DIR_EL1
    (reg(3, 0, 12, 11, 5), SendSgi(SgiRegister::Sgi1r)),      // ICC_SGI1R_EL1
    (reg(3, 0, 12, 11, 6), SendSgi(SgiRegister::Asgi1r)),     // ICC_ASGI1R_EL1
    (reg(3, 0, 12, 11, 7), SendSgi(SgiRegister::Sgi0r)),      // ICC_SGI0R_EL1
    (reg(3, 0, 12, 12, 5), SystemRegisterEnable),             // ICC_SRE_EL1
    (reg(3, 0, 13, 0, 1), Stage1(|sys| &mut sys.contextidr)), // CONTEXTIDR_EL1
    (reg(3, 3, 14, 0, 1), Counter),                           // CNTPCT_EL0
    (reg(3, 3, 14, 2, 0), Timer(timer::Register::Value)),     // CNTP_TVAL_EL0
    (reg(3, 3, 14, 2, 1), Timer(timer::Register::Control)),   // CNTP_CTL_EL0
    (reg(3, 3, 14, 2, 2), Timer(timer::Register::Compare)),   // CNTP_CVAL_EL0
];

/// [`SysReg::hash`] with this has a place of its own for each register of [`TABLE`].
const MULTIPLIER: u32 = {
    let mut multiplier = 1;
    while places(multiplier).is_none() {
        // Any sequence of odd numbers will do.
        multiplier = multiplier.wrapping_mul(0x9e37_79b1).wrapping_add(2) | 1;
    }
    multiplier
};
/// By hash: where in [`TABLE`] the register is, if it is there.
const PLACES: [u8; 256] = match places(MULTIPLIER) {
    Some(places) => places,
    None => unreachable!(),
};

const fn places(multiplier: u32) -> Option<[u8; 256]> {
    let mut places = [u8::MAX; 256];
    let mut n = 0;
    while n < TABLE.len() {
        let place = TABLE[n].0.hash(multiplier);
        if places[place] != u8::MAX {
            return None;
        }
        places[place] = n as u8;
        n += 1;
    }
    Some(places)
}

/// Breakpoint and watchpoint registers: S2_0_C0_C`n`_4 to 7.
fn is_breakpoint(reg: SysReg) -> bool {
    matches!(reg.parts(), (2, 0, 0, _, 4..=7))
}

#[inline]
fn find(reg: SysReg) -> Option<&'static Register> {
    let (key, register) = TABLE.get(usize::from(PLACES[reg.hash(MULTIPLIER)]))?;
    (*key == reg).then_some(register)
}

/// Answers a trapped MSR, MRS or system instruction.
pub(crate) fn access(cx: &Context<'_, impl Host>, state: &mut VcpuState, len: u8, access: SysRegAccess) {
    let (reg, rt) = (access.reg(), access.rt());
    let done = if access.is_write() {
        write(cx, state, reg, state.x(rt))
    } else {
        read(cx, state, reg).map(|value| state.set_x(rt, value))
    };
    match done {
        Some(()) => skip(state, len),
        None => inject::undefined(state, cx.host),
    }
}

/// None: UNDEFINED.
fn read(cx: &Context<'_, impl Host>, state: &mut VcpuState, reg: SysReg) -> Option<u64> {
    let &Context { vm, host, .. } = cx;
    let Some(&register) = find(reg) else {
        return if idreg::is_id(reg) {
            Some(idreg::value(reg, host.id_register(reg), vm.config.gic.version))
        } else {
            is_breakpoint(reg).then_some(0)
        };
    };
    match register {
        Constant(value) | ReadOnly(value) => Some(value),
        OsLockStatus => Some(OSLSR_OSLM | if state.sys.oslock & OSLOCK_LOCKED != 0 { OSLSR_OSLK } else { 0 }),
        // Every write traps, so this is what the hardware has.
        DebugControl => Some(state.sys.mdscr),
        Timer(register) => Some(timer::read(&state.timer, register, vm.counter(host))),
        Counter => Some(vm.counter(host)),
        SystemRegisterEnable if vm.config.gic.version == Version::V3 => Some(SRE),
        Stage1(field) => {
            host.sync(state);
            Some(*field(&mut state.sys))
        }
        OsLockAccess | SendSgi(_) | Deactivate | SystemRegisterEnable | SetWay => None,
    }
}

/// None: UNDEFINED.
fn write(cx: &Context<'_, impl Host>, state: &mut VcpuState, reg: SysReg, value: u64) -> Option<()> {
    let &Context { vm, vcpu, host } = cx;
    let Some(&register) = find(reg) else {
        return is_breakpoint(reg).then_some(());
    };
    let v3 = vm.config.gic.version == Version::V3;
    match register {
        Constant(_) => {}
        OsLockAccess => state.sys.oslock = value & OSLOCK_LOCKED,
        DebugControl => {
            host.sync(state);
            state.sys.mdscr = value & MDSCR_GUEST;
        }
        Timer(register) => timer::write(cx, &mut state.timer, register, value),
        SendSgi(register) if v3 => {
            vm.send(host, Sgi::from_register(register, value, vcpu, vm.vcpus.len()));
        }
        Deactivate if v3 => {
            let effects = vm.gic.lock().dir(vcpu, value as u32 & 0xff_ffff);
            vm.pay(host, effects);
        }
        SystemRegisterEnable if v3 => {}
        SetWay => set_way(state, host),
        Stage1(field) => stage1(state, reg, field, value, host),
        ReadOnly(_) | OsLockStatus | Counter | SendSgi(_) | Deactivate | SystemRegisterEnable => return None,
    }
    Some(())
}

/// Maintenance by set and way reaches one CPU's caches, and a vCPU may be anywhere. What a guest wants with it is to
/// switch caches on or off (Arm ARM, "Effects of All and set/way maintenance instructions"): its RAM is cleaned by address,
/// once, and again when that happens, which the trap of stage 1's controls tells.
#[inline(never)]
fn set_way(state: &mut VcpuState, host: &impl Host) {
    if state.hcr & HCR_TVM != 0 {
        return;
    }
    host.sync(state);
    state.hcr |= HCR_TVM;
    host.leave(Next::CacheMaintenance);
}

/// A trapped write of a control of stage 1; traps no more once the caches are on.
#[inline(never)]
fn stage1(
    state: &mut VcpuState,
    reg: SysReg,
    field: fn(&mut El1Regs) -> &mut u64,
    value: u64,
    host: &impl Host,
) {
    const SCTLR_M_C: u64 = 1 | 1 << 2;
    host.sync(state);
    let caches_on = |sctlr: u64| sctlr & SCTLR_M_C == SCTLR_M_C;
    let before = caches_on(state.sys.sctlr);
    *field(&mut state.sys) = value;
    if reg != SCTLR_EL1 {
        return;
    }
    let after = caches_on(value);
    if after {
        state.hcr &= !HCR_TVM;
    }
    if before != after {
        host.leave(Next::CacheMaintenance);
    }
}

#[cfg(test)]
mod tests;
