//! Power State Coordination Interface 1.1 (Arm DEN 0022E) for one VM: it reaches no other VM and no real CPU.
//!
//! A powerdown request of CPU_SUSPEND completes as a standby: an implementation may return SUCCESS
//! without having powered down, since a wake-up may always come first.

use core::sync::atomic::Ordering;

use crate::handle::{Context, Host, Next, Power};
use crate::state::VcpuState;
use crate::vm::{Entry, Phase, VcpuPower, Vm};

const SUCCESS: i64 = 0;
const NOT_SUPPORTED: i64 = -1;
const INVALID_PARAMETERS: i64 = -2;
const DENIED: i64 = -3;
const ALREADY_ON: i64 = -4;
const ON_PENDING: i64 = -5;
const INVALID_ADDRESS: i64 = -9;

/// Set in the identifiers of the SMC64 variants.
const SMC64: u32 = 1 << 30;
const VERSION: u32 = 0x8400_0000;
const CPU_SUSPEND: u32 = 0x8400_0001;
const CPU_OFF: u32 = 0x8400_0002;
const CPU_ON: u32 = 0x8400_0003;
const AFFINITY_INFO: u32 = 0x8400_0004;
const MIGRATE_INFO_TYPE: u32 = 0x8400_0006;
const SYSTEM_OFF: u32 = 0x8400_0008;
const SYSTEM_RESET: u32 = 0x8400_0009;
const FEATURES: u32 = 0x8400_000a;
const SYSTEM_RESET2: u32 = 0x8400_0012;
const CPU_SUSPEND_64: u32 = CPU_SUSPEND | SMC64;
const CPU_ON_64: u32 = CPU_ON | SMC64;
const AFFINITY_INFO_64: u32 = AFFINITY_INFO | SMC64;
const SYSTEM_RESET2_64: u32 = SYSTEM_RESET2 | SMC64;
/// The one function that FEATURES knows besides PSCI's own.
const SMCCC_VERSION: u32 = 0x8000_0000;

const VERSION_1_1: i64 = 0x1_0001;
/// Table 7: no Trusted OS that would have to migrate.
const MIGRATION_NOT_REQUIRED: i64 = 2;
const AFFINITY_ON: i64 = 0;
const AFFINITY_OFF: i64 = 1;
const AFFINITY_ON_PENDING: i64 = 2;
/// CPU_SUSPEND's power_state in the original format: the bits that must be zero.
const POWER_STATE_RESERVED: u64 = 0xfcfe_0000;
const RESET2_VENDOR: u64 = 1 << 31;

/// Whether PSCI owns a function identifier: the first 32 of the standard secure services, in both sizes.
pub(crate) fn owns(function: u32) -> bool {
    function & !SMC64 & !0x1f == VERSION
}

/// Answers a call.
#[inline(always)]
pub(crate) fn call(cx: &Context<'_, impl Host>, state: &mut VcpuState, function: u32) {
    let result = match function {
        VERSION => VERSION_1_1,
        MIGRATE_INFO_TYPE => MIGRATION_NOT_REQUIRED,
        FEATURES => features(state.gprs[1] as u32),
        _ => return power(cx, state, function),
    };
    state.gprs[0] = result as u64;
}

/// The calls that concern vCPUs, or the VM.
#[inline(never)]
fn power(cx: &Context<'_, impl Host>, state: &mut VcpuState, function: u32) {
    let &Context { vm, host, .. } = cx;
    // The SMC32 variants look at the lower halves of their arguments only.
    let mask = if function & SMC64 != 0 { u64::MAX } else { u32::MAX.into() };
    let [x1, x2, x3] = [1, 2, 3].map(|n| state.gprs[n] & mask);
    let result = match function {
        CPU_SUSPEND | CPU_SUSPEND_64 if x1 & u64::from(u32::MAX) & POWER_STATE_RESERVED != 0 => {
            INVALID_PARAMETERS
        }
        CPU_SUSPEND | CPU_SUSPEND_64 => {
            host.leave(Next::Wait);
            SUCCESS
        }
        CPU_OFF => return host.leave(cpu_off(cx)),
        CPU_ON | CPU_ON_64 => cpu_on(vm, x1, Entry { pc: x2, context: x3 }, host),
        AFFINITY_INFO | AFFINITY_INFO_64 => affinity_info(vm, x1, x2),
        SYSTEM_OFF => return host.leave(system(vm, Power::Off)),
        SYSTEM_RESET => return host.leave(system(vm, Power::Reset)),
        // Architectural warm reset, the only one there is.
        SYSTEM_RESET2 | SYSTEM_RESET2_64 if x1 & u64::from(u32::MAX) == 0 => {
            return host.leave(system(vm, Power::Reset));
        }
        SYSTEM_RESET2 | SYSTEM_RESET2_64 if x1 & RESET2_VENDOR != 0 => NOT_SUPPORTED,
        SYSTEM_RESET2 | SYSTEM_RESET2_64 => INVALID_PARAMETERS,
        _ => NOT_SUPPORTED,
    };
    state.gprs[0] = result as u64;
}

fn features(function: u32) -> i64 {
    match function {
        VERSION | CPU_SUSPEND | CPU_SUSPEND_64 | CPU_OFF | CPU_ON | CPU_ON_64 | AFFINITY_INFO
        | AFFINITY_INFO_64 | MIGRATE_INFO_TYPE | SYSTEM_OFF | SYSTEM_RESET | FEATURES | SYSTEM_RESET2
        | SYSTEM_RESET2_64 | SMCCC_VERSION => SUCCESS,
        _ => NOT_SUPPORTED,
    }
}

fn cpu_off(cx: &Context<'_, impl Host>) -> Next {
    let &Context { vm, vcpu, host } = cx;
    let mut lifecycle = vm.lifecycle.lock();
    lifecycle.power[vcpu] = VcpuPower::Off;
    vm.vcpus[vcpu].on.store(false, Ordering::Relaxed);
    let dead = lifecycle.power.iter().all(|&power| power == VcpuPower::Off);
    drop(lifecycle);
    if dead {
        // Nobody is left who could start a vCPU again.
        return system(vm, Power::Off);
    }
    let effects = vm.gic.lock().set_online(vcpu, false);
    vm.pay(host, effects);
    Next::Stop
}

/// One vCPU takes all others along; one that asks meanwhile just stops.
fn system(vm: &Vm, power: Power) -> Next {
    if vm.stop(power) { Next::Power } else { Next::Stop }
}

fn cpu_on(vm: &Vm, target: u64, entry: Entry, host: &impl Host) -> i64 {
    let Some(target) = vm.vcpu_of(target) else {
        return INVALID_PARAMETERS;
    };
    if !entry.pc.is_multiple_of(4) || !vm.config.ram.contains(&entry.pc) {
        return INVALID_ADDRESS;
    }
    let mut lifecycle = vm.lifecycle.lock();
    if vm.phase() != Phase::Running {
        return DENIED;
    }
    let Some(power) = lifecycle.power.get_mut(target) else {
        return INVALID_PARAMETERS;
    };
    match power {
        VcpuPower::On => ALREADY_ON,
        VcpuPower::OnPending(_) => ON_PENDING,
        VcpuPower::Off => {
            *power = VcpuPower::OnPending(entry);
            drop(lifecycle);
            host.start(vm, target);
            SUCCESS
        }
    }
}

/// The state of a vCPU (level 0), or of a node of the affinity tree: on if one of its vCPUs is.
fn affinity_info(vm: &Vm, target: u64, level: u64) -> i64 {
    let node_mask = match level {
        0 => 0xff_00ff_ffff,
        1 => 0xff_00ff_ff00,
        2 => 0xff_00ff_0000,
        3 => 0xff_0000_0000,
        _ => return INVALID_PARAMETERS,
    };
    if target & !0xff_00ff_ffff != 0 {
        return INVALID_PARAMETERS;
    }
    let lifecycle = vm.lifecycle.lock();
    let mut info = INVALID_PARAMETERS;
    for (vcpu, power) in lifecycle.power.iter().enumerate() {
        if (u64::from(vgic::affinity(vcpu)) ^ target) & node_mask != 0 {
            continue;
        }
        info = match (power, info) {
            (VcpuPower::On, _) | (_, AFFINITY_ON) => AFFINITY_ON,
            (VcpuPower::OnPending(_), _) | (_, AFFINITY_ON_PENDING) => AFFINITY_ON_PENDING,
            (VcpuPower::Off, _) => AFFINITY_OFF,
        };
    }
    info
}

#[cfg(test)]
mod tests;
