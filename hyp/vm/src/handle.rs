//! The answer to a guest's exit.

use crate::exit::{self, Exit, Fault, SysReg, SysRegAccess, Trap};
use crate::state::{VcpuState, pstate};
use crate::vm::Vm;
use crate::{inject, mmio, smccc, sysreg};
use abi::smccc::{Error, Left, Reservation};
use vgic::{Effects, Vgic};

/// What emulation needs of the machine. Methods are bounded and do not allocate; they are called with locks of the
/// VM held, as the order of locks in docs/architecture.md permits (scheduler and console may be locked in here).
pub trait Host {
    /// The physical counter (CNTPCT_EL0), ticks.
    fn counter(&self) -> u64;
    /// The raw value of an ID register (S3_0_C0_C1 to C7) of this CPU.
    fn id_register(&self, reg: SysReg) -> u64;
    /// What the machine knows about an SMCCC workaround call (`SMCCC_ARCH_WORKAROUND_n`): 0 it helps, 1 it is not
    /// needed, −1 not known (Arm DEN 0028E). EL2 itself does on every entry what the call would do.
    fn workaround(&self, function: u32) -> i64;

    /// Brings [`VcpuState::sys`] of the vCPU that this CPU has loaded up to date. Before the guest runs again, `sys`
    /// and [`VcpuState::hcr`] must be loaded from `state`.
    fn sync(&self, state: &mut VcpuState);
    /// The instruction at the guest's PC, if the guest's own translation and its RAM yield one now.
    fn instruction(&self, vm: &Vm, state: &VcpuState) -> Option<u32>;
    /// Translates a virtual address of the loaded guest by its own tables for a read, a write or a fetch. None if
    /// they have changed since.
    fn translate(&self, state: &VcpuState, va: u64, access: StageTwoAccess) -> Option<u64>;

    /// FAR_EL2 and HPFAR_EL2 of the exit that is being answered.
    fn fault_address(&self) -> (u64, u64);
    /// The guest is not entered again before its CPU has done this.
    fn leave(&self, next: Next);

    /// Brings what the vGIC knows of `word` in the list registers of the vCPU that this CPU has loaded up to date: [`Vgic::observe`].
    fn observe(&self, gic: &mut Vgic, vcpu: usize, word: usize) -> Effects;
    /// Pays what a change of the vGIC's state owes: kicks, deactivations.
    fn interrupts(&self, vm: &Vm, effects: Effects);
    /// Makes a vCPU that was off runnable: before it runs, [`Vm::prepare`] must be called.
    fn start(&self, vm: &Vm, vcpu: usize);
    /// Sets the deadline of a vCPU's emulated physical timer, on the physical counter; None disarms it. When it is
    /// reached, whether or not the vCPU runs, call [`crate::timer::due`].
    fn arm_timer(&self, vm: &Vm, vcpu: usize, deadline: Option<u64>);

    /// The vCPU's reservation.
    ///
    /// # Errors
    /// [`Error::NotSupported`] if it has none.
    fn reservation(&self, _vm: &Vm, _vcpu: usize) -> Result<Reservation, Error> {
        Err(Error::NotSupported)
    }
    /// What is left of the vCPU's budget, and when it is replenished, on the physical counter.
    ///
    /// # Errors
    /// [`Error::NotSupported`] if it has no reservation.
    fn reservation_left(&self, _vm: &Vm, _vcpu: usize) -> Result<Left, Error> {
        Err(Error::NotSupported)
    }
    /// The job of the vCPU's reservation is done; the next one is released at `release` on the physical counter:
    /// [`abi::smccc::JOB_DONE`].
    ///
    /// # Errors
    /// [`Error::NotSupported`] if it has no reservation.
    fn job_done(&self, _vm: &Vm, _vcpu: usize, _release: u64) -> Result<(), Error> {
        Err(Error::NotSupported)
    }
    /// Rings the bell at the other end of a channel, by [`Vm::ring`] of the VM there; `channel` is an index into
    /// [`crate::Config::channels`].
    ///
    /// # Errors
    /// [`Error::InvalidParameter`] if the VM has no such channel, [`Error::NotSupported`] if there is no VM at its other end.
    fn notify(&self, _vm: &Vm, _channel: usize) -> Result<(), Error> {
        Err(Error::NotSupported)
    }

    /// Gives bytes to the VM's console. Returns how many were taken.
    fn console_put(&self, vm: &Vm, bytes: &[u8]) -> usize;
    /// How many bytes [`Host::console_put`] would take now. When room returns, call [`Vm::console_ready`].
    fn console_room(&self, vm: &Vm) -> usize;
    /// The guest has read so many bytes of what [`Vm::console_input`] took: credit for its sender.
    fn console_taken(&self, vm: &Vm, bytes: usize);
}

/// What the vCPU's CPU does before it enters the guest again. The registers in `state` are final: PC stands where the guest goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// WFI: sleep until an interrupt is deliverable. [`crate::timer::virtual_deadline`] bounds the sleep.
    Wait,
    /// WFE: let others run, then resume.
    Yield,
    /// A stage-2 fault on what stage 2 should map: RAM, a page of a device that is passed through, the stolen time. Resolve it and
    /// resume, so that the guest tries again, or call [`inject::external_abort`].
    StageTwo(StageTwo),
    /// The guest's set/way maintenance: clean and invalidate its RAM to the point of coherency, then resume.
    CacheMaintenance,
    /// The guest asks for another reservation, with any numbers whatever ([`abi::smccc::RESERVATION_SET`]): put that call's answer into
    /// x0, then resume.
    Reserve(Reservation),
    /// The vCPU is off: it runs again when [`Host::start`] says so (which may already have happened).
    Stop,
    /// The guest has stopped its VM ([`Vm::stop`]): all its vCPUs leave their CPUs.
    Power,
    /// The VM cannot go on: stop it ([`Vm::stop`]), and say why.
    Crash(Crash),
}

/// How a VM asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    /// SYSTEM_OFF, or CPU_OFF of the last vCPU that was on.
    Off,
    /// SYSTEM_RESET or SYSTEM_RESET2: start again from its images.
    Reset,
}

/// What a stage-2 access was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StageTwoAccess {
    /// A load, or a read by a table walk.
    Read,
    /// A store, or an update by a table walk.
    Write,
    /// An instruction fetch.
    Fetch,
}

/// A stage-2 fault inside what the address map calls memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageTwo {
    /// The intermediate physical address; exact to the page at least.
    pub ipa: u64,
    /// The virtual address, for [`inject::external_abort`].
    pub va: Option<u64>,
    /// What the access was for.
    pub access: StageTwoAccess,
    /// [`Fault::Translation`], [`Fault::AccessFlag`] or [`Fault::Permission`].
    pub fault: Fault,
    /// The guest's table walk made the access.
    pub s1ptw: bool,
}

/// Why a VM cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// An instruction abort at the guest's own vector for instruction aborts: taking it again would take it again.
    NoVectors {
        /// The vector's address.
        pc: u64,
    },
    /// An SError that the guest caused.
    SError,
    /// A stage-2 fault that nobody can resolve.
    Fault(Fault),
}

/// Whose exit is being answered, and where: a vCPU that this CPU has loaded.
#[derive(Debug)]
pub struct Context<'a, H> {
    /// Its VM.
    pub vm: &'a Vm,
    /// Which vCPU.
    pub vcpu: usize,
    /// This CPU.
    pub host: &'a H,
}

/// Answers an HVC by its ESR_EL2. Of `state` it needs x0 to x17.
#[inline(always)]
pub fn hypercall(cx: &Context<'_, impl Host>, state: &mut VcpuState, esr: u64) {
    smccc::call(cx, state, esr as u16);
}

/// Answers any other exit by its ESR_EL2: as [`handle`] does with [`Exit::decode`], but decodes of the frequent ones what is needed only.
#[inline(always)]
pub fn trap(cx: &Context<'_, impl Host>, state: &mut VcpuState, esr: u64) {
    match exit::class(esr) {
        0x24 => mmio::access(cx, state, esr),
        0x18 => sysreg::access(cx, state, exit::instruction_len(esr), SysRegAccess::decode(esr)),
        0x01 => wait(cx, state, exit::instruction_len(esr), exit::is_wfe(esr)),
        _ => decode_and_handle(cx, state, esr),
    }
}

#[inline(never)]
pub(crate) fn decode_and_handle(cx: &Context<'_, impl Host>, state: &mut VcpuState, esr: u64) {
    let (far, hpfar) = cx.host.fault_address();
    handle(cx, state, Exit::decode(esr, far, hpfar));
}

/// Answers an exit.
pub fn handle(cx: &Context<'_, impl Host>, state: &mut VcpuState, exit: Exit) {
    match exit.trap {
        Trap::Hvc { imm } => smccc::call(cx, state, imm),
        Trap::Smc { imm } => {
            skip(state, exit.len);
            smccc::call(cx, state, imm);
        }
        Trap::Wfx { wfe } => wait(cx, state, exit.len, wfe),
        Trap::SysReg(access) => sysreg::access(cx, state, exit.len, access),
        Trap::DataAbort(abort) => mmio::data_abort(cx, state, exit.len, abort),
        Trap::InstrAbort(abort) => mmio::instruction_abort(cx, state, abort),
        Trap::SError => cx.host.leave(Next::Crash(Crash::SError)),
        Trap::Other { .. } => inject::undefined(state, cx.host),
    }
}

/// WFI or WFE.
#[inline]
fn wait(cx: &Context<'_, impl Host>, state: &mut VcpuState, len: u8, wfe: bool) {
    skip(state, len);
    // A 32-bit WFI may be conditional. Ending one early is always allowed, so nobody looks at the condition.
    cx.host.leave(if wfe || state.aarch32() { Next::Yield } else { Next::Wait });
}

/// Goes on behind the instruction at PC, as if it had run: BTYPE becomes 0 and a software step is used up
/// (Arm ARM, "Software Step exceptions").
#[inline]
pub(crate) fn skip(state: &mut VcpuState, len: u8) {
    state.pc = state.pc.wrapping_add(len.into());
    if state.aarch32() {
        return skip_it_block(state);
    }
    state.pstate &= !(pstate::SS | pstate::BTYPE);
}

/// Advances the IT block of a T32 instruction (Arm ARM, `AArch32.ITAdvance`): IT\[1:0\] in bits 26:25, IT\[7:2\] in
/// bits 15:10.
#[cold]
#[inline(never)]
fn skip_it_block(state: &mut VcpuState) {
    const IT_LOW: u64 = 0b11 << 25;
    const IT_HIGH: u64 = 0x3f << 10;
    let it = (state.pstate >> 8 & 0xfc) | (state.pstate >> 25 & 0b11);
    let next = if it & 0b111 == 0 { 0 } else { it & 0xe0 | it << 1 & 0x1f };
    state.pstate = state.pstate & !(pstate::SS | IT_LOW | IT_HIGH) | (next & 0b11) << 25 | (next & 0xfc) << 8;
}

#[cfg(test)]
mod tests;
