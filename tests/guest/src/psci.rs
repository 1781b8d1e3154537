//! PSCI 1.1 (Arm DEN 0022E), by HVC or SMC.

use core::arch::asm;

pub const VERSION: u32 = 0x8400_0000;
pub const CPU_OFF: u32 = 0x8400_0002;
pub const MIGRATE_INFO_TYPE: u32 = 0x8400_0006;
pub const SYSTEM_OFF: u32 = 0x8400_0008;
pub const SYSTEM_RESET: u32 = 0x8400_0009;
pub const FEATURES: u32 = 0x8400_000A;
pub const CPU_SUSPEND: u32 = 0xC400_0001;
pub const CPU_ON: u32 = 0xC400_0003;
pub const AFFINITY_INFO: u32 = 0xC400_0004;

pub const SUCCESS: i32 = 0;
pub const NOT_SUPPORTED: i32 = -1;
pub const INVALID_PARAMETERS: i32 = -2;
pub const ALREADY_ON: i32 = -4;
/// What AFFINITY_INFO says of a vCPU that is off.
pub const OFF: i32 = 1;

/// How a call is made.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Conduit {
    Hvc,
    Smc,
}

/// A call: x0 to x3, and what comes back in w0.
pub fn call(conduit: Conduit, function: u32, arguments: [u64; 3]) -> i32 {
    let [x1, x2, x3] = arguments;
    let mut x0 = u64::from(function);
    // SAFETY: SMCCC calls change x0 to x17 at the most, and none that is used here writes to memory.
    unsafe {
        match conduit {
            Conduit::Hvc => {
                asm!("hvc #0", inout("x0") x0, inout("x1") x1 => _, inout("x2") x2 => _, inout("x3") x3 => _, clobber_abi("C"))
            }
            Conduit::Smc => {
                asm!("smc #0", inout("x0") x0, inout("x1") x1 => _, inout("x2") x2 => _, inout("x3") x3 => _, clobber_abi("C"))
            }
        }
    }
    x0 as i32
}

/// A call by HVC.
pub fn hvc(function: u32, arguments: [u64; 3]) -> i32 {
    call(Conduit::Hvc, function, arguments)
}
