//! System registers that [`aarch64_cpu`] does not know, and moving many of them in a row.

/// Reads a register whose reading has no effect.
macro_rules! read {
    ($name:literal) => {{
        let value: u64;
        // SAFETY: only registers whose reading has no effect are read by this macro.
        unsafe { core::arch::asm!(concat!("mrs {}, ", $name), out(reg) value, options(nostack, preserves_flags)) };
        value
    }};
}

/// Writes a register of EL1, or one that governs EL1 only.
macro_rules! write {
    ($name:expr, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: only registers on which EL2's own execution does not depend are written by this macro.
        unsafe { core::arch::asm!(concat!("msr ", $name, ", {}"), in(reg) value, options(nostack, preserves_flags)) }
    }};
}
