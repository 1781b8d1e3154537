//! What the pure [`vm`] crate asks of the machine: [`vm::Host`] for the CPU that handles an exit.

use core::cell::Cell;

use abi::smccc::{Error, Left, Reservation};
use arch::{context, cpu, enter, features, time};
use drivers::gic::Gic;
use sched::{CpuId, Schedule, VcpuId};
use vgic::{Control, Effects, ListRegisters, Lr, State, Vgic};
use vm::exit::SysReg;
use vm::{Host, Next, Phase, StageTwoAccess, VcpuState, Vm};

use crate::guest::{Guest, Marked};
use crate::machine::{Machine, NOTICE};
use crate::{console, trace};

/// A CPU as the host of a vCPU that it has loaded, or of none.
pub struct Here {
    pub machine: &'static Machine,
    pub cpu: CpuId,
    /// The VM and the vCPU that are loaded.
    pub loaded: Cell<Option<(&'static Guest, usize)>>,
    /// The loaded vCPU runs, as [`Guest::enters`] tells the other CPUs.
    running: Cell<bool>,
    /// The loaded vCPU's EL1 registers were brought into its state and may have changed there.
    pub synced: Cell<bool>,
    /// The loaded vCPU sleeps, and nothing but its own timer is to wake this CPU for it.
    pub awaits_timer: Cell<bool>,
    /// This CPU has to pick again.
    pub repick: Cell<bool>,
    /// The run loop has to look at something before the guest goes on: at `next`, `synced`, `repick`, timers, console input.
    pub look: Cell<bool>,
    /// What the guest's exit asks for beyond an answer.
    pub next: Cell<Option<Next>>,
    /// Whether what happens here is recorded: see [`crate::trace`].
    pub traced: Cell<bool>,
    /// Who runs here, as was recorded last.
    pub traced_run: Cell<Option<VcpuId>>,
    /// What CNTHP was armed for last, so that it is not written again.
    armed: Cell<Option<u64>>,
}

impl Here {
    /// A CPU that has nothing loaded, and whose timer is off.
    pub fn new(machine: &'static Machine, cpu: CpuId) -> Self {
        Self {
            machine,
            cpu,
            loaded: Cell::new(None),
            running: Cell::new(false),
            synced: Cell::new(false),
            awaits_timer: Cell::new(false),
            repick: Cell::new(false),
            look: Cell::new(false),
            next: Cell::new(None),
            traced: Cell::new(trace::is_on()),
            traced_run: Cell::new(None),
            armed: Cell::new(None),
        }
    }

    /// This CPU's index.
    pub fn index(&self) -> usize {
        self.cpu.0.into()
    }

    /// Pays what a change of a VM's vGIC owes.
    #[inline]
    pub fn pay(&self, guest: &Guest, effects: Effects) {
        if effects != Effects::NONE {
            self.interrupts_of(guest, effects);
        }
    }

    fn interrupts_of(&self, guest: &Guest, effects: Effects) {
        self.trace(trace::kicked, (guest, effects));
        let mut asleep = 0;
        for vcpu in effects.kick.iter() {
            match guest.attend(vcpu) {
                // An exit is being answered: the run loop looks before the guest goes on.
                Marked::Runs(cpu) if cpu == self.index() => _ = self.refresh(guest, vcpu),
                Marked::Runs(cpu) => self.machine.gic.send_sgi(NOTICE, cpu),
                Marked::Sleeps => asleep |= 1 << guest.id(vcpu).0,
                Marked::Waits => {}
            }
        }
        self.wake_all(asleep);
        if effects.deactivate {
            self.deactivate(guest);
        }
    }

    /// Deactivates the physical interrupts whose virtual ones have ended without the hardware's help.
    #[cold]
    #[inline(never)]
    fn deactivate(&self, guest: &Guest) {
        let loaded = self.loaded.get().filter(|(other, _)| other.index == guest.index).map(|(_, vcpu)| vcpu);
        loop {
            // The lock is not held across the register write.
            let next = guest.vm.gic.lock().take_deactivation(loaded);
            let Some(pintid) = next else { break };
            self.machine.gic.set_active(self.index(), u32::from(pintid), false);
        }
    }

    /// Has this CPU pick again.
    pub fn pick_again(&self) {
        self.repick.set(true);
        self.look.set(true);
    }

    /// Has this CPU's timer fire at `until` (ns), or never.
    #[inline]
    pub fn arm(&self, until: Option<u64>) {
        if self.armed.get() != until {
            time::arm(until);
            self.armed.set(until);
        }
    }

    /// Whether it may fire.
    pub fn is_armed(&self) -> bool {
        self.armed.get().is_some()
    }

    /// Has it fire never, whatever it was armed for.
    pub fn disarm(&self) {
        time::arm(None);
        self.armed.set(None);
    }

    /// Brings the list registers of the loaded vCPU up to date, if it was marked. If an interrupt is pending that is first: then they are
    /// not, false is returned, the run loop looks, and the guest is not to be entered before this has been called again.
    #[inline(never)]
    pub fn refresh(&self, guest: &Guest, vcpu: usize) -> bool {
        if !guest.take_attention(vcpu) {
            return true;
        }
        loop {
            let (gic, mut effects) = (&mut Registers(&self.machine.gic), None);
            if !cpu::interrupt_pending() {
                effects = guest.vm.deliver(vcpu, gic);
                if effects.is_none() && !cpu::interrupt_pending() {
                    effects = Some(guest.vm.gic.lock().enter(vcpu, gic));
                }
            }
            let Some(effects) = effects else {
                guest.attend(vcpu);
                self.look.set(true);
                return false;
            };
            if !self.pay_own(guest, vcpu, effects) || !guest.take_attention(vcpu) {
                break;
            }
        }
        if cpu::interrupt_pending() {
            // That was long, and while an exit is answered to take it here is cheaper than out of the guest.
            self.look.set(true);
        }
        true
    }

    /// Pays what bringing the loaded vCPU's list registers up to date owes. Returns whether another step has to follow: then it is
    /// marked, and the run loop looks.
    #[inline]
    pub fn pay_own(&self, guest: &Guest, vcpu: usize, effects: Effects) -> bool {
        effects != Effects::NONE && self.kick_own(guest, vcpu, effects)
    }

    #[inline(never)]
    fn kick_own(&self, guest: &Guest, vcpu: usize, Effects { kick, deactivate }: Effects) -> bool {
        let again = kick.contains(vcpu);
        if again {
            guest.attend(vcpu);
            self.look.set(true);
        }
        self.pay(guest, Effects { kick: kick.without(vcpu), deactivate });
        again
    }

    /// The loaded vCPU runs from now on.
    pub fn enters(&self, guest: &Guest, vcpu: usize) {
        guest.enters(vcpu, self.index());
        self.running.set(true);
    }

    /// The loaded vCPU no longer runs and goes to sleep, unless something came for it. Returns whether it does.
    #[inline]
    pub fn sleeps(&self, guest: &Guest, vcpu: usize) -> bool {
        let sleeps = guest.sleeps(vcpu);
        self.running.set(!sleeps);
        sleeps
    }

    /// The loaded vCPU no longer runs, if it did. Returns whether something came for it meanwhile.
    #[inline]
    pub fn leaves(&self) -> bool {
        self.running.get()
            && self.loaded.get().is_some_and(|(guest, vcpu)| {
                self.running.set(false);
                guest.leaves(vcpu)
            })
    }

    #[inline]
    fn guest(&self, vm: &Vm) -> Option<&'static Guest> {
        match self.loaded.get() {
            Some((guest, _)) if core::ptr::eq(&raw const guest.vm, vm) => Some(guest),
            _ => self.machine.guest(usize::from(vm.config.id)),
        }
    }

    /// Takes the wake-up's consequence for this CPU.
    pub fn wake(&self, guest: &Guest, vcpu: usize) {
        self.wake_all(1 << guest.id(vcpu).0);
    }

    /// The same for several vCPUs: bit n is number n of all.
    fn wake_all(&self, vcpus: u64) {
        if vcpus != 0 && self.machine.wake(self.cpu, vcpus) {
            self.pick_again();
        }
    }
}

impl Host for Here {
    fn counter(&self) -> u64 {
        time::ticks()
    }

    fn id_register(&self, reg: SysReg) -> u64 {
        let (_, _, _, crm, op2) = reg.parts();
        features::id_register(crm, op2)
    }

    fn workaround(&self, function: u32) -> i64 {
        arch::errata::workaround(function)
    }

    fn sync(&self, state: &mut VcpuState) {
        if !self.synced.replace(true) {
            self.look.set(true);
            context::sync(state);
        }
    }

    fn instruction(&self, vm: &Vm, state: &VcpuState) -> Option<u32> {
        let ipa = context::translate(state.pc, false, state.el0())?;
        let guest = self.guest(vm)?;
        let mut word = [0; 4];
        crate::memory::read(self.machine, guest, ipa, &mut word).then(|| u32::from_le_bytes(word))
    }

    fn translate(&self, state: &VcpuState, va: u64, access: StageTwoAccess) -> Option<u64> {
        context::translate(va, access == StageTwoAccess::Write, state.el0())
    }

    fn fault_address(&self) -> (u64, u64) {
        enter::fault_address()
    }

    fn leave(&self, next: Next) {
        self.next.set(Some(next));
        self.look.set(true);
    }

    fn observe(&self, gic: &mut Vgic, vcpu: usize, word: usize) -> Effects {
        let mut effects = gic.observe(vcpu, word, &mut Registers(&self.machine.gic));
        if gic.needs_enter(vcpu) {
            effects.kick.0 |= 1 << vcpu;
        }
        effects
    }

    fn interrupts(&self, vm: &Vm, effects: Effects) {
        if let Some(guest) = self.guest(vm) {
            self.interrupts_of(guest, effects);
        }
    }

    fn start(&self, vm: &Vm, vcpu: usize) {
        if let Some(guest) = self.guest(vm) {
            crate::plant::start(&self.machine.guests, guest);
            self.wake(guest, vcpu);
        }
    }

    fn arm_timer(&self, vm: &Vm, vcpu: usize, deadline: Option<u64>) {
        if let Some(guest) = self.guest(vm) {
            guest.set_deadline(vcpu, deadline);
            self.look.set(true);
        }
    }

    fn reservation(&self, vm: &Vm, vcpu: usize) -> Result<Reservation, Error> {
        let guest = self.guest(vm).ok_or(Error::NotSupported)?;
        match self.machine.scheduler.lock().schedule(guest.id(vcpu)) {
            Some(Schedule::Reserved { reservation, .. }) => {
                let sched::admission::Reservation { budget, period, deadline } = reservation;
                Ok(Reservation { budget, period, deadline })
            }
            _ => Err(Error::NotSupported),
        }
    }

    fn reservation_left(&self, vm: &Vm, vcpu: usize) -> Result<Left, Error> {
        let guest = self.guest(vm).ok_or(Error::NotSupported)?;
        let now = time::now();
        let budget = self.machine.scheduler.lock().budget(guest.id(vcpu), now).ok_or(Error::NotSupported)?;
        Ok(Left { budget: budget.left, replenished: time::to_ticks(budget.replenished) })
    }

    fn job_done(&self, vm: &Vm, vcpu: usize, release: u64) -> Result<(), Error> {
        self.reservation(vm, vcpu)?;
        self.machine.scheduler.lock().job_done(self.cpu, time::to_ns(release), time::now());
        self.trace(trace::job_done, (vm, vcpu));
        Ok(())
    }

    fn notify(&self, vm: &Vm, channel: usize) -> Result<(), Error> {
        plant!("plant_vm_notify", true);
        let end = self.guest(vm).and_then(|guest| self.machine.peers.get(guest.index)?.get(channel));
        match *end.ok_or(Error::InvalidParameter)? {
            Some((peer, channel)) if peer.vm.phase() == Phase::Running => {
                self.pay(peer, peer.vm.ring(channel));
                Ok(())
            }
            _ => Err(Error::NotSupported),
        }
    }

    fn console_put(&self, vm: &Vm, bytes: &[u8]) -> usize {
        plant!("plant_linux_boot", true);
        // The answer may have brought input.
        self.look.set(true);
        console::write(usize::from(vm.config.id), bytes)
    }

    fn console_room(&self, vm: &Vm) -> usize {
        console::room(usize::from(vm.config.id))
    }

    fn console_taken(&self, vm: &Vm, bytes: usize) {
        console::consumed(usize::from(vm.config.id), bytes);
        // The answer may have brought input.
        self.look.set(true);
    }
}

/// This CPU's list registers.
pub struct Registers<'a>(pub &'a Gic);

/// HCR of the hypervisor interface (Arm IHI 0048B, section 5.3; IHI 0069H, section 12.4): En, LRENPIE, NPIE, TDIR (GICv3), EOIcount.
const HCR_EN: u32 = 1;
const HCR_LRENPIE: u32 = 1 << 2;
const HCR_NPIE: u32 = 1 << 3;
const HCR_TDIR: u32 = 1 << 14;
const HCR_EOI_COUNT: u32 = 27;
const VMCR_EOIM: u32 = 1 << 9;

impl ListRegisters for Registers<'_> {
    fn state(&self, n: usize) -> State {
        match self.0 {
            Gic::V2(gic) => Lr::from_gicv2(gic.read_lr(n)).state,
            Gic::V3(gic) => Lr::from_gicv3(gic.read_lr(n)).state,
        }
    }

    #[inline(always)]
    fn write(&mut self, n: usize, value: u64) {
        match self.0 {
            Gic::V2(gic) => gic.write_lr(n, value as u32),
            Gic::V3(gic) => gic.write_lr(n, value),
        }
    }

    fn empty(&self) -> u16 {
        self.0.elrsr()
    }

    fn eoi_count(&self) -> u8 {
        (self.0.hcr() >> HCR_EOI_COUNT) as u8
    }

    fn splits_eoi(&self) -> bool {
        self.0.vmcr() & VMCR_EOIM != 0
    }

    fn set_control(&mut self, control: Control) {
        let mut hcr = HCR_EN;
        if control.pending_spilled {
            hcr |= HCR_NPIE;
        }
        if control.active_spilled {
            hcr |= HCR_LRENPIE;
            // A GICv2 has no such trap: its deactivation register is never mapped (`boot`).
            if matches!(self.0, Gic::V3(_)) {
                hcr |= HCR_TDIR;
            }
        }
        self.0.set_hcr(hcr);
    }
}
