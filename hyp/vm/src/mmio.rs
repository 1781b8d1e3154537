//! Stage-2 aborts: emulated device accesses, memory for the integrator to map, and external aborts for all the rest.

use crate::exit::{self, Access, DataAbort, Fault, InstrAbort};
use crate::handle::{Context, Crash, Host, Next, StageTwo, StageTwoAccess, skip};
use crate::state::VcpuState;
use crate::{
    bus::{self, Device, Region, Target},
    handle, inject,
    insn::Instruction,
};

/// Answers a data abort: most are plain accesses to an emulated device, as the syndrome registers tell.
#[inline(never)]
pub(crate) fn access(cx: &Context<'_, impl Host>, state: &mut VcpuState, esr: u64) {
    if !emulates(cx, state, esr) {
        handle::decode_and_handle(cx, state, esr);
    }
}

#[inline(always)]
fn emulates(cx: &Context<'_, impl Host>, state: &mut VcpuState, esr: u64) -> bool {
    // What must be so: ISV, a translation fault (at any level), and not of a walk or cache maintenance.
    const BITS: u64 = exit::ISV | 1 << 10 | 1 << 8 | 1 << 7 | 0x3c;
    if esr & BITS != exit::ISV | 0x04 {
        return false;
    }
    let (far, hpfar) = cx.host.fault_address();
    let ipa = (hpfar & 0xfff_ffff_fff0) << 8 | far & 0xfff;
    // An aligned access crosses no device's end: devices are whole pages.
    if ipa & ((1 << (esr >> 22 & 3)) - 1) != 0 {
        return false;
    }
    // The distributor's registers are the ones that are used at run time.
    if bus::GICD.contains(&ipa) {
        let offset = ipa - bus::GICD.start;
        let write = |size, value| bus::write_gicd(cx, offset, size, value);
        transfer(state, esr, |size| bus::read_gicd(cx, offset, size), write);
        return true;
    }
    emulates_other(cx, state, esr, ipa)
}

#[inline(never)]
fn emulates_other(cx: &Context<'_, impl Host>, state: &mut VcpuState, esr: u64, ipa: u64) -> bool {
    let Some(&Region { ref range, target: Target::Device(device) }) = cx.vm.map.find(ipa) else {
        return false;
    };
    let offset = ipa - range.start;
    let write = |size, value| bus::write(cx, device, offset, size, value);
    transfer(state, esr, |size| bus::read(cx, device, offset, size), write);
    true
}

/// Does what the load or store of a syndrome with ISV does.
#[inline(always)]
fn transfer(state: &mut VcpuState, esr: u64, read: impl FnOnce(u8) -> u64, write: impl FnOnce(u8, u64)) {
    let Access { size, rt, sign_extend, wide } = Access::decode(esr);
    let unused = 64 - 8 * u32::from(size);
    if esr & 1 << 6 != 0 {
        write(size, state.x(rt) << unused >> unused);
    } else {
        let value = read(size) << unused;
        let extended = if sign_extend { (value as i64 >> unused) as u64 } else { value >> unused };
        state.set_x(rt, if wide { extended } else { extended & u64::from(u32::MAX) });
    }
    skip(state, exit::instruction_len(esr));
}

/// Answers a stage-2 data abort.
pub(crate) fn data_abort(cx: &Context<'_, impl Host>, state: &mut VcpuState, len: u8, abort: DataAbort) {
    let &Context { vm, host, .. } = cx;
    let access = if abort.write { StageTwoAccess::Write } else { StageTwoAccess::Read };
    let external = |state: &mut VcpuState| inject::external_abort(state, access, abort.va, abort.s1ptw, host);
    if let Some(crash) = unresolvable(abort.fault) {
        return crash.map_or_else(|| external(state), |crash| host.leave(Next::Crash(crash)));
    }
    let ipa = match (abort.ipa, abort.va) {
        (Some(ipa), _) => ipa,
        (None, Some(va)) => match host.translate(state, va, access) {
            Some(ipa) => ipa,
            // The guest's tables have changed since: it may try again.
            None => return,
        },
        (None, None) => return external(state),
    };
    let (device, range) = match vm.map.find(ipa) {
        Some(region) => match region.target {
            Target::Memory => {
                return host.leave(Next::StageTwo(StageTwo {
                    ipa,
                    va: abort.va,
                    access,
                    fault: abort.fault,
                    s1ptw: abort.s1ptw,
                }));
            }
            Target::Device(device) => (device, &region.range),
        },
        // Maintenance of what is in no cache is done as soon as it is asked for.
        None if abort.cache_maintenance => {
            return skip(state, len);
        }
        None => return external(state),
    };
    if abort.s1ptw {
        return external(state);
    }
    if abort.cache_maintenance {
        return skip(state, len);
    }
    let decoded = match abort.access {
        Some(access) => Some(Instruction::from(access)),
        None => decode(cx, state, &abort),
    };
    let Some(instruction) = decoded.filter(|instruction| {
        ipa.is_multiple_of(instruction.size.into())
            && ipa.checked_add(instruction.bytes()).is_some_and(|end| end <= range.end)
    }) else {
        return external(state);
    };
    emulate(cx, state, device, ipa - range.start, &instruction, abort.write);
    skip(state, len);
}

/// Answers a stage-2 instruction abort.
pub(crate) fn instruction_abort(cx: &Context<'_, impl Host>, state: &mut VcpuState, abort: InstrAbort) {
    let &Context { vm, host, .. } = cx;
    let access = StageTwoAccess::Fetch;
    let va = abort.va.or(Some(state.pc));
    if let Some(crash) = unresolvable(abort.fault) {
        return crash
            .map_or_else(|| no_fetch(state, va, abort.s1ptw, host), |crash| host.leave(Next::Crash(crash)));
    }
    let Some(ipa) = abort.ipa.or_else(|| host.translate(state, state.pc, access)) else {
        return;
    };
    if vm.map.is_memory(ipa) {
        let fault = StageTwo { ipa, va, access, fault: abort.fault, s1ptw: abort.s1ptw };
        return host.leave(Next::StageTwo(fault));
    }
    no_fetch(state, va, abort.s1ptw, host);
}

/// An external abort for a fetch; unless it is the fetch of the very vector that would handle it, which would abort for
/// ever.
fn no_fetch(state: &mut VcpuState, va: Option<u64>, s1ptw: bool, host: &impl Host) {
    host.sync(state);
    if !state.el0() && inject::vector(state) == state.pc {
        return host.leave(Next::Crash(Crash::NoVectors { pc: state.pc }));
    }
    inject::external_abort(state, StageTwoAccess::Fetch, va, s1ptw, host);
}

/// What no mapping cures: Some(None) is an external abort for the guest.
fn unresolvable(fault: Fault) -> Option<Option<Crash>> {
    match fault {
        Fault::Translation | Fault::AccessFlag | Fault::Permission => None,
        Fault::AddressSize | Fault::External | Fault::Alignment | Fault::UnsupportedAtomic => Some(None),
        Fault::TlbConflict | Fault::Other(_) => Some(Some(Crash::Fault(fault))),
    }
}

/// Decodes an access that the syndrome does not describe, if the instruction that stands at PC now is one that would
/// make this very access.
fn decode(cx: &Context<'_, impl Host>, state: &VcpuState, abort: &DataAbort) -> Option<Instruction> {
    if state.aarch32() {
        return None;
    }
    let (instruction, load, base, offset) = Instruction::decode(cx.host.instruction(cx.vm, state)?)?;
    let address = state.x(base).wrapping_add_signed(offset);
    (load != abort.write && abort.va == Some(address)).then_some(instruction)
}

fn emulate(
    cx: &Context<'_, impl Host>,
    state: &mut VcpuState,
    device: Device,
    offset: u64,
    instruction: &Instruction,
    write: bool,
) {
    let registers = core::iter::once(instruction.rt).chain(instruction.rt2);
    for (register, offset) in registers.zip((offset..).step_by(instruction.size.into())) {
        if write {
            let value = state.x(register) & instruction.mask();
            bus::write(cx, device, offset, instruction.size, value);
        } else {
            let value = bus::read(cx, device, offset, instruction.size);
            state.set_x(register, instruction.extend(value));
        }
    }
    if let Some((base, add)) = instruction.writeback {
        state.set_x(base, state.x(base).wrapping_add_signed(add));
    }
}

#[cfg(test)]
mod tests;
