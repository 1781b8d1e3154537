//! Calls to the firmware's PSCI (Arm DEN 0022) by SMC. An HVC from EL2 would only come back to EL2.

pub use smccc::psci::error::Error;
use smccc::{Smc, psci};

/// Starts the CPU with this MPIDR affinity at [`arch::boot::secondary_entry`].
pub(crate) fn cpu_on(mpidr: u64) -> Result<(), Error> {
    psci::cpu_on::<Smc>(mpidr, arch::boot::secondary_entry(), 0)
}

/// Turns the machine off. Returns only if the firmware refuses.
pub(crate) fn system_off() {
    let _ = psci::system_off::<Smc>();
}
