//! Running a guest: the safe face of the world switch.

use core::arch::asm;

use vm::state::VcpuState;

use crate::vectors;

/// Why a guest stopped running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// A physical interrupt is pending.
    Interrupt,
    /// The guest did something that traps: the syndrome registers, raw.
    Trap {
        /// ESR_EL2.
        esr: u64,
        /// FAR_EL2.
        far: u64,
        /// HPFAR_EL2.
        hpfar: u64,
    },
    /// An asynchronous external abort was taken to EL2 (ESR_EL2).
    SystemError {
        /// ESR_EL2.
        esr: u64,
    },
}

/// Runs the guest whose registers are loaded ([`crate::context::load`]) from `state`'s general registers, until it exits.
pub fn enter(state: &mut VcpuState) -> Exit {
    // SAFETY: `state` is borrowed for the call; interrupts are masked at EL2 and the guest cannot reach EL2's memory: stage 2 is on
    // (`context::load`) and maps only pages that `phys` keeps apart from Rust's.
    let cause = unsafe { vectors::mobivmm_enter(state) };
    if cause == vectors::IRQ {
        return Exit::Interrupt;
    }
    let (esr, far, hpfar): (u64, u64, u64);
    // SAFETY: reads the syndrome registers.
    unsafe {
        asm!("mrs {}, esr_el2", "mrs {}, far_el2", "mrs {}, hpfar_el2", out(reg) esr, out(reg) far, out(reg) hpfar,
            options(nomem, nostack, preserves_flags));
    }
    if cause == vectors::SERROR { Exit::SystemError { esr } } else { Exit::Trap { esr, far, hpfar } }
}
