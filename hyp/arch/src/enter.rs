//! Running a guest: the safe face of the world switch.

use aarch64_cpu::registers::{ESR_EL2, FAR_EL2, HPFAR_EL2, Readable};
use vm::state::VcpuState;

pub use crate::vectors::Verdict;
use crate::vectors::{self, IRQ, SERROR};

/// Why a guest stopped running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit(u64);

/// The kinds of [`Exit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A physical interrupt is pending. x20 to x28, PC and PSTATE are in the state only once the guest is left.
    Interrupt,
    /// An asynchronous external abort was taken to EL2.
    SystemError,
    /// The guest did something that traps. After an HVC the same is so.
    Trap,
}

impl Exit {
    /// Which kind it is.
    #[inline]
    pub fn cause(self) -> Cause {
        match self.0 {
            IRQ => Cause::Interrupt,
            SERROR => Cause::SystemError,
            _ => Cause::Trap,
        }
    }

    /// ESR_EL2 of a trap; else a value that is not one.
    #[inline]
    pub fn syndrome(self) -> u64 {
        self.0
    }
}

/// Runs the guest whose registers are loaded ([`crate::context::load`]) from `state`'s general registers. Each exit is for `handler`,
/// which lets it go on, or leaves it.
#[inline]
pub fn run<F: FnMut(&mut VcpuState, Exit) -> Verdict>(state: &mut VcpuState, mut handler: F) {
    let data = (&raw mut handler).cast();
    // SAFETY: `state` is borrowed for the call; interrupts are masked at EL2 and the guest cannot reach EL2's memory: stage 2 is on
    // (`context::load`) and maps only pages that `phys` keeps apart from Rust's. `data` is a live F, the one that `on_exit` takes.
    unsafe { vectors::mobivmm_run(state, on_exit::<F>, data) };
}

unsafe extern "C" fn on_exit<F: FnMut(&mut VcpuState, Exit) -> Verdict>(
    state: *mut VcpuState,
    exit: u64,
    handler: *mut (),
) -> Verdict {
    // SAFETY: both are `run`'s, which waits for this call and uses neither meanwhile.
    let (state, handler) = unsafe { (&mut *state, &mut *handler.cast::<F>()) };
    handler(state, Exit(exit))
}

/// FAR_EL2 and HPFAR_EL2: where the last exit's abort was.
#[inline]
pub fn fault_address() -> (u64, u64) {
    (FAR_EL2.get(), HPFAR_EL2.get())
}

/// ESR_EL2: what the last exit was.
pub fn syndrome() -> u64 {
    ESR_EL2.get()
}
