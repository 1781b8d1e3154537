//! The virtual timer, one-shot (Arm ARM, "The AArch64 view of the Generic Timer").

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{CNTFRQ_EL0, CNTV_CTL_EL0, CNTV_CVAL_EL0, CNTVCT_EL0, Readable, Writeable};

/// The counter's frequency in Hz.
pub(super) fn frequency() -> u64 {
    CNTFRQ_EL0.get()
}

/// The virtual counter, not read earlier than program order says.
pub(crate) fn counter() -> u64 {
    barrier::isb(barrier::SY);
    CNTVCT_EL0.get()
}

/// Sets the timer to the tick `deadline`, or stops it.
pub(super) fn arm(deadline: Option<u64>) {
    match deadline {
        Some(deadline) => {
            CNTV_CVAL_EL0.set(deadline);
            CNTV_CTL_EL0.write(CNTV_CTL_EL0::ENABLE::SET);
        }
        None => disarm(),
    }
}

/// Stops the timer; its interrupt is deasserted when this returns.
pub(super) fn disarm() {
    CNTV_CTL_EL0.set(0);
    barrier::isb(barrier::SY);
}
