//! Calls of the firmware or hypervisor (SMCCC 1.2) by the device tree's conduit.

use core::cell::OnceCell;

use abi::smccc::{CALL_UID, NOT_SUPPORTED, UID};
use critical_section::Mutex;

use crate::dt::Conduit;

/// PSCI 1.1 (Arm DEN 0022).
const PSCI_SYSTEM_OFF: u32 = 0x8400_0008;

static CONDUIT: Mutex<OnceCell<Conduit>> = Mutex::new(OnceCell::new());

/// Takes the conduit; returns whether MobiVMM is at its other end.
pub(super) fn set_up(conduit: Conduit) -> bool {
    critical_section::with(|cs| {
        let fresh = CONDUIT.borrow(cs).set(conduit);
        assert!(fresh.is_ok(), "the machine is set up once");
    });
    // The results of a 32-bit call are in w0 to w3.
    call(CALL_UID, [0; 7])[..4].iter().map(|&x| x as u32).eq(UID)
}

/// Calls `function` with x1 to x7; returns x0 to x7.
pub(crate) fn call(function: u32, args: [u64; 7]) -> [u64; 8] {
    let mut x = [0; 17];
    x[..7].copy_from_slice(&args);
    let result = match critical_section::with(|cs| CONDUIT.borrow(cs).get().copied()) {
        Some(Conduit::Hvc) => smccc::hvc64(function, x),
        Some(Conduit::Smc) => smccc::smc64(function, x),
        None => [NOT_SUPPORTED as u64; 18],
    };
    core::array::from_fn(|n| result[n])
}

/// Powers the machine off; returns only where there is no way to.
pub(super) fn system_off() {
    call(PSCI_SYSTEM_OFF, [0; 7]);
}
