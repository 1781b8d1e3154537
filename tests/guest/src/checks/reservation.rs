//! A guest's own reservation of CPU time, and other ones that it asks for.

use core::arch::asm;

use abi::smccc::{RESERVATION_GET, RESERVATION_SET};

use crate::println;

/// Asks for budget, period and deadline, all in ns, and says what the answer was and what holds now.
pub fn reserve(arguments: &str) {
    let mut wanted = [0; 3];
    for (wanted, word) in wanted.iter_mut().zip(arguments.split_ascii_whitespace()) {
        *wanted = word.parse().unwrap_or(u64::MAX);
    }
    let (answer, _) = call(RESERVATION_SET, wanted);
    let (got, [budget, period, deadline]) = call(RESERVATION_GET, [0; 3]);
    println!("reserve={answer} get={got} now={budget}/{period}/{deadline}");
}

/// x0 to x3 of a call.
fn call(function: u32, arguments: [u64; 3]) -> (i64, [u64; 3]) {
    let mut x0 = u64::from(function);
    let [mut x1, mut x2, mut x3] = arguments;
    // SAFETY: SMCCC calls change x0 to x17 at the most, and these do not write to memory.
    unsafe {
        asm!("hvc #0", inout("x0") x0, inout("x1") x1, inout("x2") x2, inout("x3") x3, clobber_abi("C"));
    }
    (x0 as i64, [x1, x2, x3])
}
