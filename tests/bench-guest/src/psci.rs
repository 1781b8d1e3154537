//! PSCI (Arm DEN 0022) by HVC or SMC, as the device tree says.

use core::arch::asm;

pub const VERSION: u32 = 0x8400_0000;
pub const CPU_ON: u32 = 0xC400_0003;

/// A call: x0 to x3, and what comes back in x0.
#[inline(always)]
pub fn call(smc: bool, function: u32, [x1, x2, x3]: [u64; 3]) -> i32 {
    let mut x0 = u64::from(function);
    // SAFETY: SMCCC calls change x0 to x17 at the most, and none that is used here writes to memory.
    unsafe {
        if smc {
            asm!("smc #0", inout("x0") x0, inout("x1") x1 => _, inout("x2") x2 => _, inout("x3") x3 => _, clobber_abi("C"));
        } else {
            asm!("hvc #0", inout("x0") x0, inout("x1") x1 => _, inout("x2") x2 => _, inout("x3") x3 => _, clobber_abi("C"));
        }
    }
    x0 as i32
}
