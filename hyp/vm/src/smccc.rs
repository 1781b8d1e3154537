//! Calls by HVC and SMC: the SMC Calling Convention 1.2 (Arm DEN 0028E).
//!
//! Both conduits offer the same calls. Results go to x0 to x3 as each call says; every other register is preserved. An
//! unknown function, and any function by an HVC or SMC with an immediate other than 0 (which are reserved),
//! returns NOT_SUPPORTED.

use abi::smccc as vendor;

use crate::handle::{Context, Host, Next};
use crate::state::VcpuState;
use crate::vm::Vm;
use crate::{console, psci, stolen};

const NOT_SUPPORTED: i64 = vendor::NOT_SUPPORTED;
const SUCCESS: i64 = 0;

const VERSION: u32 = 0x8000_0000;
const VERSION_1_2: i64 = 0x1_0002;
const ARCH_FEATURES: u32 = 0x8000_0001;
const ARCH_WORKAROUND_1: u32 = 0x8000_8000;
const ARCH_WORKAROUND_2: u32 = 0x8000_7fff;
const ARCH_WORKAROUND_3: u32 = 0x8000_3fff;
/// Paravirtualised time (Arm DEN 0057A).
const PV_TIME_FEATURES: u32 = 0xc500_0020;
const PV_TIME_ST: u32 = 0xc500_0021;

/// Answers a call. The guest's PC is behind the instruction already.
#[inline(always)]
pub(crate) fn call(cx: &Context<'_, impl Host>, state: &mut VcpuState, imm: u16) {
    let function = state.gprs[0] as u32;
    match imm {
        0 if psci::owns(function) => psci::call(cx, state, function),
        0 => other(cx, state, function),
        _ => state.gprs[0] = NOT_SUPPORTED as u64,
    }
}

/// What is not PSCI's.
#[inline(never)]
fn other(cx: &Context<'_, impl Host>, state: &mut VcpuState, function: u32) {
    let &Context { vm, vcpu, host } = cx;
    let result = match function {
        VERSION => VERSION_1_2,
        ARCH_FEATURES => arch_features(state.gprs[1] as u32, host),
        ARCH_WORKAROUND_1 | ARCH_WORKAROUND_2 | ARCH_WORKAROUND_3 if host.workaround(function) >= 0 => {
            SUCCESS
        }
        PV_TIME_FEATURES => pv_time_features(state.gprs[1] as u32),
        PV_TIME_ST => stolen::record(vcpu) as i64,
        vendor::CALL_UID => return results(state, vendor::UID.map(u64::from)),
        vendor::CALL_REVISION => {
            return results(state, [vendor::REVISION_MAJOR.into(), vendor::REVISION_MINOR.into()]);
        }
        vendor::CONSOLE_WRITE => console_write(vm, state, host),
        vendor::CONSOLE_READ => return console_read(vm, state, host),
        vendor::CONSOLE_EVENTS => console_events(vm, state.gprs[1], host),
        vendor::JOB_DONE => return job_done(cx, state),
        vendor::RESERVATION_GET => match host.reservation(vm, vcpu) {
            Ok(r) => return results(state, [SUCCESS as u64, r.budget, r.period, r.deadline]),
            Err(error) => error as i64,
        },
        vendor::RESERVATION_LEFT => match host.reservation_left(vm, vcpu) {
            Ok(left) => {
                let replenished = left.replenished.wrapping_sub(vm.cntvoff());
                return results(state, [SUCCESS as u64, left.budget, replenished]);
            }
            Err(error) => error as i64,
        },
        vendor::RESERVATION_SET => {
            let [_, budget, period, deadline, ..] = state.gprs;
            return host.leave(Next::Reserve(vendor::Reservation { budget, period, deadline }));
        }
        vendor::CHANNEL_NOTIFY => answer(notify(vm, state.gprs[1], host)),
        _ => NOT_SUPPORTED,
    };
    state.gprs[0] = result as u64;
}

/// Puts results into x0 and up.
fn results<const N: usize>(state: &mut VcpuState, values: [u64; N]) {
    for (register, value) in state.gprs.iter_mut().zip(values) {
        *register = value;
    }
}

/// What x0 says about how a call went.
fn answer(result: Result<(), vendor::Error>) -> i64 {
    result.map_or_else(|error| error as i64, |()| SUCCESS)
}

#[inline(never)]
fn job_done(cx: &Context<'_, impl Host>, state: &mut VcpuState) {
    let [_, release, flags, ..] = state.gprs;
    let result = match flags {
        0 | vendor::JOB_DONE_WAIT => cx.host.job_done(cx.vm, cx.vcpu, cx.vm.to_physical(release)),
        _ => Err(vendor::Error::InvalidParameter),
    };
    state.gprs[0] = answer(result) as u64;
    if result.is_ok() && flags == vendor::JOB_DONE_WAIT {
        cx.host.leave(Next::Wait);
    }
}

fn notify(vm: &Vm, channel: u64, host: &impl Host) -> Result<(), vendor::Error> {
    let channel = usize::try_from(channel).ok().filter(|&channel| channel < vm.config.channels.len());
    host.notify(vm, channel.ok_or(vendor::Error::InvalidParameter)?)
}

fn arch_features(function: u32, host: &impl Host) -> i64 {
    match function {
        VERSION | ARCH_FEATURES | PV_TIME_FEATURES => SUCCESS,
        ARCH_WORKAROUND_1 | ARCH_WORKAROUND_2 | ARCH_WORKAROUND_3 => host.workaround(function),
        _ => NOT_SUPPORTED,
    }
}

fn pv_time_features(function: u32) -> i64 {
    match function {
        PV_TIME_FEATURES | PV_TIME_ST => SUCCESS,
        _ => NOT_SUPPORTED,
    }
}

#[inline(never)]
fn console_write(vm: &Vm, state: &VcpuState, host: &impl Host) -> i64 {
    let mut bytes = [0; vendor::CONSOLE_WRITE_MAX];
    for (chunk, register) in bytes.chunks_exact_mut(8).zip(&state.gprs[2..]) {
        chunk.copy_from_slice(&register.to_le_bytes());
    }
    let count = usize::try_from(state.gprs[1]).unwrap_or(usize::MAX);
    match bytes.get(..count) {
        Some([]) => 0,
        Some(bytes) => console::pv_write(vm, bytes, host) as i64,
        None => vendor::Error::InvalidParameter as i64,
    }
}

#[inline(never)]
fn console_read(vm: &Vm, state: &mut VcpuState, host: &impl Host) {
    let mut bytes = [0; vendor::CONSOLE_READ_MAX];
    let count = console::pv_read(vm, &mut bytes, host);
    state.gprs[0] = count as u64;
    for (register, chunk) in state.gprs[1..].iter_mut().zip(bytes.chunks_exact(8)) {
        *register = chunk.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
    }
}

fn console_events(vm: &Vm, events: u64, host: &impl Host) -> i64 {
    if events & !(vendor::CONSOLE_EVENT_RX | vendor::CONSOLE_EVENT_TX) != 0 {
        return vendor::Error::InvalidParameter as i64;
    }
    console::pv_events(vm, events, host);
    SUCCESS
}

#[cfg(test)]
mod tests;
