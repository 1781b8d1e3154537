//! The exception vectors: from a guest back into [`crate::enter`], from a work item back to the run loop, and from EL2's own
//! faults into a report.

use core::arch::global_asm;
use core::mem::offset_of;

use vm::state::VcpuState;

use crate::cpu::CpuLocal;

unsafe extern "C" {
    /// The vector table without, and with, the branch-history loop of [`crate::errata`].
    pub(crate) fn mobivmm_vectors();
    pub(crate) fn mobivmm_vectors_bhb();
}

/// What [`mobivmm_enter`] and [`mobivmm_work_resume`] return in x0.
pub(crate) const SYNC: u64 = 0;
pub(crate) const IRQ: u64 = 1;
pub(crate) const SERROR: u64 = 2;
pub(crate) const WORK_DONE: u64 = 3;

unsafe extern "C" {
    /// Runs the guest context until it exits.
    ///
    /// # Safety
    /// `context` is this CPU's alone until the return, and the rest of the vCPU is loaded.
    pub(crate) fn mobivmm_enter(context: *mut VcpuState) -> u64;
    /// Runs the work item whose stack pointer is `sp` until it is preempted or done.
    ///
    /// # Safety
    /// `sp` was made by [`crate::work`] or stored by a preemption.
    pub(crate) fn mobivmm_work_resume(sp: u64) -> u64;
    /// Where a fresh work item starts: calls x19 with x20, then ends the item.
    pub(crate) fn mobivmm_work_start();
}

/// Bytes of the register frame that a preempted work item has on its stack: x0 to x30, ELR, SPSR, padding.
pub(crate) const WORK_FRAME: usize = 34 * 8;

// The context's program counter and PSTATE are moved as a pair.
const _: () = assert!(offset_of!(VcpuState, pstate) == offset_of!(VcpuState, pc) + 8);

global_asm!(
    include_str!("vectors.S"),
    GPRS = const offset_of!(VcpuState, gprs),
    PC = const offset_of!(VcpuState, pc),
    CONTEXT = const offset_of!(CpuLocal, context),
    HOST_SP = const offset_of!(CpuLocal, host_sp),
    WORK_SP = const offset_of!(CpuLocal, work_sp),
    CRASH = const offset_of!(CpuLocal, crash),
    SYNC = const SYNC,
    IRQ = const IRQ,
    SERROR = const SERROR,
    WORK_DONE = const WORK_DONE,
    WORK_FRAME = const WORK_FRAME,
    BHB_LOOPS = const crate::errata::BHB_LOOPS,
    FATAL = sym crate::panic::mobivmm_fatal,
    EMERGENCY = sym crate::panic::EMERGENCY,
    EMERGENCY_SIZE = const crate::panic::EMERGENCY_SIZE,
);
