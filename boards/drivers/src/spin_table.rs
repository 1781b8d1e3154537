//! Starting CPUs that poll a word of memory for an address to jump to (Devicetree Specification v0.4, section 3.8.1; Linux
//! `Documentation/arch/arm64/booting.rst`). They poll with their caches off, so all goes through the Point of Coherency.

use core::arch::asm;

/// Sends the CPU that polls at `slot` to `entry`.
///
/// # Safety
/// `slot` is mapped, is the `cpu-release-addr` of a CPU that is still polling or is never used for anything else, and
/// `entry` is code made to be entered with the MMU off.
pub(crate) unsafe fn release(slot: u64, entry: u64) {
    // SAFETY: the caller's.
    unsafe { publish(slot, entry) };
    // SAFETY: an event to all CPUs; those that do not wait for it ignore it (Arm ARM, SEV).
    unsafe { asm!("sev", options(nomem, nostack, preserves_flags)) };
}

/// Empties the slot, so that a CPU that comes to poll there again stays. To be called when the CPU has arrived.
///
/// # Safety
/// As for [`release`].
pub(crate) unsafe fn clear(slot: u64) {
    // SAFETY: the caller's.
    unsafe { publish(slot, 0) };
}

/// # Safety
/// `slot` is mapped and no Rust object.
unsafe fn publish(slot: u64, value: u64) {
    // SAFETY: the caller's. Invalidating before the write drops what this CPU may have cached before the firmware wrote
    // there; cleaning after it makes the write visible at the Point of Coherency (Arm ARM, DC CIVAC), and the DSB waits for that.
    unsafe {
        asm!(
            "dc civac, {slot}",
            "dsb sy",
            "str {value}, [{slot}]",
            "dc civac, {slot}",
            "dsb sy",
            slot = in(reg) slot,
            value = in(reg) value,
            options(nostack, preserves_flags)
        );
    }
}
