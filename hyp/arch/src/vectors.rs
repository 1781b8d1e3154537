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

/// What [`mobivmm_work_resume`] returns.
const WORK_PREEMPTED: u64 = 0;
pub(crate) const WORK_DONE: u64 = 1;

/// Called on an exit, with the context, ESR_EL2 (not after an interrupt), and what [`mobivmm_run`] was given.
pub(crate) type Handler = unsafe extern "C" fn(*mut VcpuState, u64, *const ());

unsafe extern "C" {
    /// Runs the guest context until `leave` is true after an exit was answered. After an interrupt and a hypercall, x20 to x28, PC and
    /// PSTATE are not in the context before the guest is left.
    ///
    /// # Safety
    /// `context` is this CPU's alone until the return, and the rest of the vCPU is loaded. The handlers may be called with `data`.
    pub(crate) fn mobivmm_run(
        context: *mut VcpuState,
        data: *const (),
        on_interrupt: Handler,
        on_hypercall: Handler,
        on_trap: Handler,
        leave: *const bool,
    );
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

// The context's program counter and PSTATE are moved as a pair, and SP_EL2 is the address of the general registers.
const _: () = assert!(offset_of!(VcpuState, pstate) == offset_of!(VcpuState, pc) + 8);
const _: () = assert!(offset_of!(VcpuState, gprs) == 0 && align_of::<VcpuState>() >= 16);
/// ESR_EL2.EC of an HVC from AArch64.
const EC_HVC: u64 = 0x16;

global_asm!(
    include_str!("vectors.S"),
    PC = const offset_of!(VcpuState, pc),
    HOST_SP = const offset_of!(CpuLocal, host_sp),
    WORK_SP = const offset_of!(CpuLocal, work_sp),
    CRASH = const offset_of!(CpuLocal, crash),
    WORK_PREEMPTED = const WORK_PREEMPTED,
    WORK_DONE = const WORK_DONE,
    WORK_FRAME = const WORK_FRAME,
    EC_HVC = const EC_HVC,
    BHB_LOOPS = const crate::errata::BHB_LOOPS,
    FATAL = sym crate::panic::mobivmm_fatal,
    EMERGENCY = sym crate::panic::EMERGENCY,
    EMERGENCY_SIZE = const crate::panic::EMERGENCY_SIZE,
);
