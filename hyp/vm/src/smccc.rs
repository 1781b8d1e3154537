//! Calls by HVC and SMC: the SMC Calling Convention 1.2 (Arm DEN 0028E).
//!
//! Both conduits offer the same calls. Results go to x0 to x3 as each call says; every other register is preserved. An
//! unknown function, and any function by an HVC or SMC with an immediate other than 0 (which are reserved),
//! returns NOT_SUPPORTED.

use abi::smccc as vendor;

use crate::handle::{Context, Host, Next};
use crate::state::VcpuState;
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
        0 if function & !0xff == vendor::CALLS => vendor(cx, state, function as u8),
        0 => other(cx, state, function),
        _ => state.gprs[0] = NOT_SUPPORTED as u64,
    }
}

/// The standard's own calls, and who we are.
#[inline(never)]
fn other(cx: &Context<'_, impl Host>, state: &mut VcpuState, function: u32) {
    let &Context { vcpu, host, .. } = cx;
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
        _ => NOT_SUPPORTED,
    };
    state.gprs[0] = result as u64;
}

/// The numbers of the vendor's calls, from [`vendor::CALLS`] on: small constants, which take one instruction to compare with.
mod number {
    use abi::smccc as vendor;

    pub(super) const CONSOLE_WRITE: u8 = vendor::CONSOLE_WRITE as u8;
    pub(super) const CONSOLE_READ: u8 = vendor::CONSOLE_READ as u8;
    pub(super) const CONSOLE_EVENTS: u8 = vendor::CONSOLE_EVENTS as u8;
    pub(super) const JOB_DONE: u8 = vendor::JOB_DONE as u8;
    pub(super) const RESERVATION_GET: u8 = vendor::RESERVATION_GET as u8;
    pub(super) const RESERVATION_LEFT: u8 = vendor::RESERVATION_LEFT as u8;
    pub(super) const RESERVATION_SET: u8 = vendor::RESERVATION_SET as u8;
    pub(super) const CHANNEL_NOTIFY: u8 = vendor::CHANNEL_NOTIFY as u8;
}

/// The vendor's calls. Nothing is saved for those who need nothing saved.
#[inline(never)]
fn vendor(cx: &Context<'_, impl Host>, state: &mut VcpuState, number: u8) {
    match number {
        number::CONSOLE_WRITE => console_write(cx, state),
        number::CONSOLE_READ => console_read(cx, state),
        number::CONSOLE_EVENTS => console_events(cx, state),
        number::JOB_DONE => job_done(cx, state),
        number::RESERVATION_GET => reservation(cx, state),
        number::RESERVATION_LEFT => reservation_left(cx, state),
        number::RESERVATION_SET => {
            let [_, budget, period, deadline, ..] = state.gprs;
            cx.host.leave(Next::Reserve(vendor::Reservation { budget, period, deadline }));
        }
        number::CHANNEL_NOTIFY => notify(cx, state),
        _ => state.gprs[0] = NOT_SUPPORTED as u64,
    }
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

#[inline(never)]
fn notify(cx: &Context<'_, impl Host>, state: &mut VcpuState) {
    state.gprs[0] = answer(cx.host.notify(cx.vm, state.gprs[1] as usize)) as u64;
}

#[inline(never)]
fn reservation(cx: &Context<'_, impl Host>, state: &mut VcpuState) {
    match cx.host.reservation(cx.vm, cx.vcpu) {
        Ok(r) => results(state, [SUCCESS as u64, r.budget, r.period, r.deadline]),
        Err(error) => state.gprs[0] = error as i64 as u64,
    }
}

#[inline(never)]
fn reservation_left(cx: &Context<'_, impl Host>, state: &mut VcpuState) {
    match cx.host.reservation_left(cx.vm, cx.vcpu) {
        Ok(left) => {
            let replenished = left.replenished.wrapping_sub(cx.vm.cntvoff());
            results(state, [SUCCESS as u64, left.budget, replenished]);
        }
        Err(error) => state.gprs[0] = error as i64 as u64,
    }
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
fn console_write(cx: &Context<'_, impl Host>, state: &mut VcpuState) {
    let mut bytes = [0; vendor::CONSOLE_WRITE_MAX];
    for (chunk, register) in bytes.chunks_exact_mut(8).zip(&state.gprs[2..]) {
        chunk.copy_from_slice(&register.to_le_bytes());
    }
    let count = usize::try_from(state.gprs[1]).unwrap_or(usize::MAX);
    let result = match bytes.get(..count) {
        Some([]) => 0,
        Some(bytes) => console::pv_write(cx.vm, bytes, cx.host) as i64,
        None => vendor::Error::InvalidParameter as i64,
    };
    state.gprs[0] = result as u64;
}

#[inline(never)]
fn console_read(cx: &Context<'_, impl Host>, state: &mut VcpuState) {
    let mut bytes = [0; vendor::CONSOLE_READ_MAX];
    let count = console::pv_read(cx.vm, &mut bytes, cx.host);
    state.gprs[0] = count as u64;
    for (register, chunk) in state.gprs[1..].iter_mut().zip(bytes.chunks_exact(8)) {
        *register = chunk.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte));
    }
}

#[inline(never)]
fn console_events(cx: &Context<'_, impl Host>, state: &mut VcpuState) {
    let events = state.gprs[1];
    let result = if events & !(vendor::CONSOLE_EVENT_RX | vendor::CONSOLE_EVENT_TX) == 0 {
        console::pv_events(cx.vm, events, cx.host);
        SUCCESS
    } else {
        vendor::Error::InvalidParameter as i64
    };
    state.gprs[0] = result as u64;
}

#[cfg(test)]
mod tests;
