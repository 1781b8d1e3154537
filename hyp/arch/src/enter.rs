//! Running a guest: the safe face of the world switch.

use core::cell::Cell;

use aarch64_cpu::registers::{ESR_EL2, FAR_EL2, HPFAR_EL2, Readable};
use vm::state::VcpuState;

use crate::vectors;

/// What answers a guest's exits.
pub trait Exits {
    /// A physical interrupt is pending.
    fn interrupt(&self);
    /// An HVC with this ESR_EL2. Of `state`, x0 to x19 are current.
    fn hypercall(&self, state: &mut VcpuState, esr: u64);
    /// Any other trap, or an SError, with this ESR_EL2. All general registers, PC and PSTATE are current.
    fn trap(&self, state: &mut VcpuState, esr: u64);
}

/// Exits that somebody is told of before they are answered.
#[derive(Debug)]
pub struct Watched<E, W> {
    /// What answers them.
    pub exits: E,
    /// Is told x0 and ESR_EL2, or nothing if it is an interrupt.
    pub watch: W,
}

/// It calls E's handlers, which the vectors call where nobody watches, and not E's methods: those are meant to be in line, and would be in
/// the image twice.
impl<E: Exits, W: Fn(Option<(u64, u64)>)> Exits for Watched<E, W> {
    fn interrupt(&self) {
        (self.watch)(None);
        // SAFETY: the handler takes an E, and nothing else.
        unsafe { on_interrupt::<E>(core::ptr::null_mut(), 0, (&raw const self.exits).cast()) };
    }

    fn hypercall(&self, state: &mut VcpuState, esr: u64) {
        (self.watch)(Some((state.gprs[0], esr)));
        // SAFETY: the handler takes an E, and `state` is not used meanwhile.
        unsafe { on_hypercall::<E>(state, esr, (&raw const self.exits).cast()) };
    }

    fn trap(&self, state: &mut VcpuState, esr: u64) {
        (self.watch)(Some((state.gprs[0], esr)));
        // SAFETY: as above.
        unsafe { on_trap::<E>(state, esr, (&raw const self.exits).cast()) };
    }
}

/// Runs the guest whose registers are loaded ([`crate::context::load`]) from `state`'s general registers. It goes on after each exit that
/// `exits` has answered, until that has set `leave`. All general registers, PC and PSTATE are in `state` then.
#[inline]
pub fn run<E: Exits>(state: &mut VcpuState, exits: &E, leave: &Cell<bool>) {
    // SAFETY: `state` is borrowed for the call; interrupts are masked at EL2 and the guest cannot reach EL2's memory: stage 2 is on
    // (`context::load`) and maps only pages that `phys` keeps apart from Rust's. `exits` is a live E, which the handlers take, and
    // `leave` is this CPU's, as a `Cell`.
    unsafe {
        let data = (&raw const *exits).cast();
        vectors::mobivmm_run(state, data, on_interrupt::<E>, on_hypercall::<E>, on_trap::<E>, leave.as_ptr());
    }
}

unsafe extern "C" fn on_interrupt<E: Exits>(_: *mut VcpuState, _: u64, exits: *const ()) {
    // SAFETY: `run`'s, which waits for this call.
    unsafe { &*exits.cast::<E>() }.interrupt();
}

unsafe extern "C" fn on_hypercall<E: Exits>(state: *mut VcpuState, esr: u64, exits: *const ()) {
    // SAFETY: both are `run`'s, which waits for this call and does not use `state` meanwhile.
    let (state, exits) = unsafe { (&mut *state, &*exits.cast::<E>()) };
    exits.hypercall(state, esr);
}

unsafe extern "C" fn on_trap<E: Exits>(state: *mut VcpuState, esr: u64, exits: *const ()) {
    // SAFETY: as above.
    let (state, exits) = unsafe { (&mut *state, &*exits.cast::<E>()) };
    exits.trap(state, esr);
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
