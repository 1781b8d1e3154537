//! Cache maintenance by address. QEMU does not model caches; the Pi 4 has them, so each rule stands with its section.

use core::arch::asm;

/// Lines of a round of [`by_line!`].
const ROUND: usize = 32;

/// Does something to each line of `$line` bytes between two addresses. In rounds: on gigabytes of RAM the loop would cost more than what it does.
macro_rules! by_line {
    ($line:expr, $start:expr, $len:expr, $($op:literal),+) => {{
        let (line, end): (usize, usize) = ($line, $start.saturating_add($len));
        let at: usize = $start & !(line - 1);
        let lines = (end - at).div_ceil(line);
        // SAFETY: each caller says why `$op` may be done to these lines.
        unsafe {
            asm!(
                "cbz {rounds}, 3f",
                "2:", ".rept {round}", $($op,)+ "add {at}, {at}, {line}", ".endr",
                "subs {rounds}, {rounds}, #1", "b.ne 2b",
                "3:", "cbz {rest}, 5f",
                "4:", $($op,)+ "add {at}, {at}, {line}", "subs {rest}, {rest}, #1", "b.ne 4b",
                "5:",
                round = const ROUND, rounds = inout(reg) lines / ROUND => _, rest = inout(reg) lines % ROUND => _,
                at = inout(reg) at => _, line = in(reg) line, options(nostack)
            );
        }
        complete();
    }};
}

/// Waits until this CPU's maintenance so far is complete for every observer (Arm ARM, "Ordering and completion of data and instruction cache
/// instructions").
pub(crate) fn complete() {
    // SAFETY: a barrier.
    unsafe { asm!("dsb sy", options(nostack, preserves_flags)) };
}

/// Bytes of the smallest data cache line (CTR_EL0.DminLine).
fn line() -> usize {
    4 << ((read!("ctr_el0") >> 16) & 0xf)
}

/// Cleans to the Point of Coherency: what a CPU with its caches off, or a device, will read (Arm ARM, "Effects of
/// instructions that operate by VA to the PoC").
pub fn clean(start: usize, len: usize) {
    // Cleaning writes dirty lines to memory and changes no content.
    by_line!(line(), start, len, "dc cvac, {at}");
}

/// Cleans and invalidates to the Point of Coherency: also drops the lines, before a caches-off guest writes there.
pub fn clean_invalidate(start: usize, len: usize) {
    // As `clean`.
    by_line!(line(), start, len, "dc civac, {at}");
}

/// Clears memory, and cleans and invalidates it to the Point of Coherency.
///
/// # Safety
/// The bytes are mapped normal memory without Rust objects.
pub(crate) unsafe fn zero(start: usize, len: usize) {
    match zero_block() {
        // The caller's contract.
        Some(block) if start.is_multiple_of(block) && len.is_multiple_of(block) => {
            if block == line() {
                by_line!(block, start, len, "dc zva, {at}", "dc civac, {at}");
            } else {
                by_line!(block, start, len, "dc zva, {at}");
                clean_invalidate(start, len);
            }
        }
        _ => {
            // SAFETY: the caller's contract.
            (start..start + len).for_each(|at| unsafe { (at as *mut u8).write_volatile(0) });
            clean_invalidate(start, len);
        }
    }
}

/// Bytes that one DC ZVA clears, or `None` where it is prohibited (DCZID_EL0).
fn zero_block() -> Option<usize> {
    let dczid = read!("dczid_el0");
    (dczid & (1 << 4) == 0).then_some(4 << (dczid & 0xf))
}

/// Forgets all instructions that any CPU may have cached, after guest code was written (Arm ARM, "The instruction cache
/// maintenance instruction (IC)").
pub fn invalidate_instructions() {
    // SAFETY: instruction caches hold copies only.
    unsafe { asm!("ic ialluis", "dsb ish", "isb", options(nostack, preserves_flags)) };
}
