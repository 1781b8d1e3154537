//! The run loop of a physical CPU: pick a vCPU, load it, run it until something is to be done, do it.
//!
//! Interrupts are masked throughout, except inside a guest and inside a work item; physical interrupts are taken from the GIC when one
//! of those was left because of them, or when the CPU was idle.

use abi::smccc::Reservation;
use arch::enter::{self, Exit, Verdict};
use arch::work::Ran;
use arch::{context, cpu, time};
use drivers::gic::{Acknowledged, Gic};
use lock::TicketMutexGuard;
use sched::{CpuId, VcpuId};
use vgic::{Control, CpuMask, ListRegisters};
use vm::{Exit as VmExit, Next, Phase, Power, StageTwo, VcpuPower, VcpuState, handle, inject, timer};

use crate::guest::{Guest, Interface};
use crate::host::{Here, Registers};
use crate::machine::{self, KICK, Machine, NOTICE};
use crate::{boot, console, control, load, log, memory, operator};

/// A vCPU whose registers are on this CPU. The guards are what makes them this CPU's alone.
struct Loaded {
    guest: &'static Guest,
    vcpu: usize,
    state: TicketMutexGuard<'static, VcpuState>,
    interface: TicketMutexGuard<'static, Interface>,
}

/// What the inner loop does after an exit.
#[derive(PartialEq, Eq)]
enum Then {
    /// Go on with this vCPU.
    Continue,
    /// Ask the scheduler.
    Pick,
}

/// Why a guest was left, if it was not for what [`Here`] wants.
enum Left {
    /// For that.
    Look,
    /// Its exit needs more than an answer.
    Exit(Next),
    /// An SError was taken.
    SystemError,
}

struct Cpu {
    index: usize,
    id: CpuId,
    machine: &'static Machine,
    here: Here,
    loaded: Option<Loaded>,
    /// The vCPU that the scheduler counts as this CPU's.
    held: Option<VcpuId>,
    /// What CNTHP was armed for last, so that it is not written again.
    armed: Option<u64>,
    /// Devices' interrupts wait: a reservation runs here.
    devices_wait: bool,
}

/// Runs vCPUs on this CPU for ever.
pub fn run(machine: &'static Machine, index: usize) -> ! {
    let id = CpuId(index as u8);
    let here = Here::new(machine, id);
    let mut this =
        Cpu { index, id, machine, here, loaded: None, held: None, armed: None, devices_wait: false };
    time::arm(None);
    loop {
        this.pass();
    }
}

impl Cpu {
    /// One decision of the scheduler, and what follows from it.
    fn pass(&mut self) {
        self.here.repick.set(false);
        self.here.running.set(false);
        self.deliver_input();
        if self.loaded.as_ref().is_some_and(|loaded| loaded.guest.vm.phase() != Phase::Running) {
            // Its VM is being stopped: whoever does that waits for the registers.
            self.unload();
        }
        let now = time::now();
        let decision = self.machine.scheduler.lock().pick(self.id, now);
        self.machine.repick(self.id, decision.repick);
        self.release(decision.run, decision.unload, now);
        if self.devices_wait != decision.reserved {
            self.devices_wait = decision.reserved;
            self.machine.gic.let_devices(!decision.reserved);
        }
        let Some((guest, vcpu)) = decision.run.and_then(|id| self.machine.vcpu(id)) else {
            return self.idle(decision.until);
        };
        match guest.vm.phase() {
            Phase::Running if guest.change.is_for(vcpu) => {
                self.run_work(guest, control::work, decision.until)
            }
            Phase::Running => {
                guest.runs(vcpu, now);
                self.run_vcpu(guest, vcpu, decision.until);
            }
            Phase::Loading | Phase::Stopping(_) if vcpu == 0 => {
                self.run_work(guest, load::work, decision.until)
            }
            Phase::Loading | Phase::Stopping(_) | Phase::Stopped => _ = self.block(None),
        }
    }

    /// Lets go of the vCPU that the scheduler has taken away from this CPU. A CPU that idles keeps the registers of the vCPU that
    /// went to sleep, since it is likely to be the next, unless it is to `unload`.
    fn release(&mut self, next: Option<VcpuId>, unload: bool, now: u64) {
        let Some(old) = self.held.filter(|_| self.held != next) else {
            self.held = next;
            return;
        };
        if next.is_none() && self.loaded.is_some() && !unload {
            return;
        }
        self.unload();
        if let Some((guest, vcpu)) = self.machine.vcpu(old) {
            guest.waiting[vcpu].leaves(now);
        }
        self.held = next;
        let others = self.machine.scheduler.lock().released(self.id, old);
        if self.machine.repick(self.id, others) {
            self.here.pick_again();
        }
    }

    fn idle(&mut self, until: Option<u64>) {
        self.arm(until);
        if !console::has_input() && !self.here.repick.get() {
            cpu::wait_for_interrupt();
        }
        self.interrupts();
    }

    fn arm(&mut self, until: Option<u64>) {
        if self.armed != until {
            time::arm(until);
            self.armed = until;
        }
    }

    /// Makes the scheduler's current vCPU of this CPU sleep; true if it does.
    fn block(&mut self, until: Option<u64>) -> bool {
        if let Some((guest, vcpu)) = self.held.and_then(|id| self.machine.vcpu(id)) {
            guest.waiting[vcpu].sleeps(until);
        }
        self.machine.scheduler.lock().block(self.id, until)
    }

    /// Runs the EL2 half of a vCPU: `item`, or first what is under way of another one.
    fn run_work(&mut self, guest: &'static Guest, item: extern "C" fn(usize), until: Option<u64>) {
        self.unload();
        let Some(mut work) = guest.work.try_lock() else {
            // Another CPU runs one, until it is done or interrupted.
            cpu::relax();
            return self.interrupts();
        };
        if !work.is_active() {
            work.start(item, guest.index);
        }
        self.arm(until);
        while !self.here.repick.get() {
            let ran = work.run();
            self.interrupts();
            self.deliver_input();
            if ran == Ran::Done {
                return;
            }
        }
    }

    fn run_vcpu(&mut self, guest: &'static Guest, vcpu: usize, until: Option<u64>) {
        if !self.load(guest, vcpu) {
            // Off: it was woken by something that came too late for it.
            self.unload();
            self.block(None);
            return;
        }
        self.here.running.set(true);
        loop {
            self.here.look.set(false);
            self.timers(until);
            if self.here.repick.get() || self.step() == Then::Pick {
                return;
            }
            self.deliver_input();
        }
    }

    /// Arms this CPU's timer for the scheduler or the loaded vCPU's emulated timer, whichever is first, and fires the latter if it is due.
    fn timers(&mut self, until: Option<u64>) {
        let mut until = until;
        if let Some(loaded) = &self.loaded
            && let Some(at) = loaded.guest.deadline(loaded.vcpu)
        {
            if time::ticks() >= at {
                loaded.guest.set_deadline(loaded.vcpu, None);
                timer::due(&loaded.guest.vm, loaded.vcpu, &self.here);
            } else {
                let at = time::to_ns(at);
                until = Some(until.map_or(at, |until| until.min(at)));
            }
        }
        self.arm(until);
    }

    /// One step of the loaded vCPU: of its set/way maintenance, or in the guest until something is to be done outside.
    fn step(&mut self) -> Then {
        let Some((guest, vcpu)) = self.here.loaded.get() else { return Then::Pick };
        if let Some(from) = guest.flush(vcpu) {
            guest.set_flush(vcpu, memory::clean_slice(self.machine, guest, from));
            if cpu::interrupt_pending() {
                self.interrupts();
            }
            return Then::Continue;
        }
        self.here.refresh(guest, vcpu);
        match self.enter(guest, vcpu) {
            Left::Look => {
                self.reload();
                Then::Continue
            }
            Left::Exit(next) => {
                let then = self.answer(guest, vcpu, next);
                self.reload();
                then
            }
            Left::SystemError => {
                log!("{guest}: SError (ESR {:#x}) on vCPU {vcpu}: stopped", enter::syndrome());
                self.crash(guest);
                Then::Pick
            }
        }
    }

    /// Runs the guest for as long as its exits can be answered at once.
    fn enter(&mut self, guest: &'static Guest, vcpu: usize) -> Left {
        let mut left = Left::Look;
        let Some(mut loaded) = self.loaded.take() else { return left };
        enter::run(&mut loaded.state, |state, exit| {
            match exit {
                Exit::Interrupt => {
                    if let Some(interrupt) = self.machine.gic.acknowledge() {
                        self.interrupt(interrupt);
                    }
                }
                Exit::Trap { esr } => {
                    let (far, hpfar) = enter::fault_address();
                    match handle(&guest.vm, vcpu, state, VmExit::decode(esr, far, hpfar), &self.here) {
                        Next::Resume => {}
                        next => {
                            left = Left::Exit(next);
                            return Verdict::Leave;
                        }
                    }
                }
                Exit::SystemError => {
                    left = Left::SystemError;
                    return Verdict::Leave;
                }
            }
            if self.here.look.get() { Verdict::Leave } else { Verdict::Resume }
        });
        self.loaded = Some(loaded);
        left
    }

    /// Puts back the EL1 registers that answering an exit has changed.
    fn reload(&mut self) {
        let Some(loaded) = &self.loaded else { return };
        if self.here.synced.replace(false) {
            context::reload(&loaded.state, &loaded.guest.registers());
            arch::traps::set_hcr(loaded.state.hcr);
        }
    }

    fn answer(&mut self, guest: &'static Guest, vcpu: usize, next: Next) -> Then {
        match next {
            Next::Resume => Then::Continue,
            Next::Wait => self.wait(guest, vcpu),
            Next::Yield => {
                self.machine.scheduler.lock().yield_now(self.id);
                Then::Pick
            }
            Next::StageTwo(fault) => {
                self.stage_two(guest, &fault);
                Then::Continue
            }
            Next::Reserve(Reservation { budget, period, deadline }) => {
                let wanted = sched::admission::Reservation { budget, period, deadline };
                match (control::ask(guest, vcpu, wanted), &mut self.loaded) {
                    (Err(error), Some(loaded)) => {
                        loaded.state.gprs[0] = error as i64 as u64;
                        Then::Continue
                    }
                    _ => Then::Pick,
                }
            }
            Next::CacheMaintenance => {
                guest.set_flush(vcpu, Some(guest.config.memory.base));
                Then::Continue
            }
            Next::Stop => {
                self.unload();
                self.block(None);
                Then::Pick
            }
            Next::Power => {
                self.stop(guest);
                Then::Pick
            }
            Next::Crash(crash) => {
                let pc = self.loaded.as_ref().map_or(0, |loaded| loaded.state.pc);
                log!("{guest}: vCPU {vcpu} at {pc:#x} cannot go on ({crash:?}): stopped");
                self.crash(guest);
                Then::Pick
            }
        }
    }

    /// WFI: sleeps unless an interrupt is there.
    fn wait(&mut self, guest: &'static Guest, vcpu: usize) -> Then {
        let gic = &self.machine.gic;
        let mask = match gic {
            Gic::V2(_) => CpuMask::from_gicv2_vmcr(gic.vmcr()),
            Gic::V3(_) => CpuMask::from_gicv3_vmcr(u64::from(gic.vmcr())),
        };
        let mut vgic = guest.vm.gic.lock();
        let effects = vgic.exit(vcpu, &mut Registers(gic));
        let deliverable = vgic.deliverable(vcpu, mask);
        drop(vgic);
        guest.attend(1 << vcpu);
        self.here.pay(guest, effects);
        if deliverable {
            return Then::Continue;
        }
        let Some(loaded) = &mut self.loaded else { return Then::Pick };
        context::sync_timer(&mut loaded.state);
        let own = timer::virtual_deadline(&guest.vm, &loaded.state.timer);
        let until = [own, guest.deadline(vcpu)].into_iter().flatten().min().map(time::to_ns);
        self.block(until);
        Then::Pick
    }

    fn stage_two(&mut self, guest: &'static Guest, fault: &StageTwo) {
        let resolved = memory::resolve(self.machine, guest, fault);
        if let (false, Some(loaded)) = (resolved, &mut self.loaded) {
            inject::external_abort(&mut loaded.state, fault.access, fault.va, fault.s1ptw, &self.here);
        }
    }

    /// The loaded vCPU cannot go on, and its VM with it.
    fn crash(&mut self, guest: &'static Guest) {
        if guest.vm.stop(Power::Off) {
            self.stop(guest);
        } else {
            self.unload();
            self.block(None);
        }
    }

    /// Takes all vCPUs of a VM that has been stopped off their CPUs, this one's too, and lets vCPU 0's work item do the rest. The work
    /// item waits for the vCPU that is loaded here, so none of this comes too late.
    fn stop(&mut self, guest: &'static Guest) {
        for vcpu in 0..guest.vm.vcpus.len() {
            // Whoever runs one comes out, finds the VM stopping, and lets go of it.
            self.here.wake(guest, vcpu);
        }
        self.unload();
    }

    /// Takes the physical interrupts that are pending.
    fn interrupts(&mut self) {
        while let Some(interrupt) = self.machine.gic.acknowledge() {
            self.interrupt(interrupt);
        }
    }

    fn interrupt(&mut self, interrupt: Acknowledged) {
        let gic = &self.machine.gic;
        let intid = interrupt.intid();
        match intid {
            time::VIRTUAL_TIMER_INTID => {
                gic.priority_drop(interrupt);
                return self.virtual_timer();
            }
            NOTICE => self.notice(),
            KICK => self.here.pick_again(),
            time::HYP_TIMER_INTID => {
                // A level: it must go before the interrupt is ended, or it comes again.
                time::arm(None);
                self.armed = None;
                self.here.pick_again();
            }
            _ if intid == self.machine.maintenance_intid => self.maintenance(),
            _ if Some(intid) == self.machine.uart_intid => self.serve_console(),
            _ => log!("unexpected interrupt {intid}"),
        }
        gic.priority_drop(interrupt);
        gic.deactivate(interrupt);
    }

    /// The loaded vCPU's timer fired. The physical interrupt stays active until the guest deactivates the virtual one.
    fn virtual_timer(&mut self) {
        let Some((guest, vcpu)) = self.here.loaded.get() else {
            return self.machine.gic.set_active(self.index, time::VIRTUAL_TIMER_INTID, false);
        };
        let mut vgic = guest.vm.gic.lock();
        let mut effects = vgic.line(vcpu, timer::CNTV_INTID, true);
        effects |= vgic.enter(vcpu, &mut Registers(&self.machine.gic));
        drop(vgic);
        effects.kick = effects.kick.without(vcpu);
        self.here.pay(guest, effects);
    }

    /// Something has changed for the loaded vCPU: its interrupts, or that its VM is to stop.
    fn notice(&mut self) {
        if let Some((guest, vcpu)) = self.here.loaded.get() {
            self.here.refresh(guest, vcpu);
            if guest.vm.phase() != Phase::Running || guest.change.is_for(vcpu) {
                self.here.pick_again();
            }
        }
    }

    fn maintenance(&mut self) {
        let Some((guest, vcpu)) = self.here.loaded.get() else { return };
        let mut vgic = guest.vm.gic.lock();
        vgic.maintenance(vcpu);
        let effects = vgic.enter(vcpu, &mut Registers(&self.machine.gic));
        drop(vgic);
        self.here.pay(guest, effects);
    }

    fn serve_console(&mut self) {
        let ready = console::service();
        if console::has_input() {
            self.here.look.set(true);
        }
        for guest in &self.machine.guests {
            if ready >> guest.vm.config.id & 1 != 0 {
                guest.vm.console_ready(&self.here);
            }
        }
    }

    /// Hands waiting input to the VMs' UARTs, and to the operator's commands.
    fn deliver_input(&mut self) {
        if !console::has_input() {
            return;
        }
        let mut bytes = [0; 32];
        while let Some((channel, count)) = console::take_input(&mut bytes) {
            let bytes = &bytes[..count];
            match channel.vm_index() {
                None => operator::input(bytes, &self.here),
                Some(id) => {
                    if let Some(guest) = self.machine.guest(id.into()) {
                        guest.vm.console_input(bytes, &self.here);
                    }
                }
            }
        }
    }

    /// Makes `vcpu` the loaded one. False if it is off.
    fn load(&mut self, guest: &'static Guest, vcpu: usize) -> bool {
        let same = self
            .loaded
            .as_ref()
            .is_some_and(|loaded| loaded.guest.index == guest.index && loaded.vcpu == vcpu);
        if same && guest.vm.power(vcpu) == Some(VcpuPower::On) {
            return true;
        }
        self.unload();
        let mut state = guest.vm.vcpus[vcpu].state.lock();
        let mut interface = guest.interfaces[vcpu].lock();
        let fresh = matches!(guest.vm.power(vcpu), Some(VcpuPower::OnPending(_)));
        if !guest.vm.prepare(vcpu, &mut state, &self.here) {
            return false;
        }
        if fresh {
            *interface = Interface::default();
        }
        let gic = &self.machine.gic;
        let stale = guest.arrives(vcpu, self.index);
        let active = guest.vm.gic.lock().physical_active(vcpu, timer::CNTV_INTID);
        gic.set_active(self.index, time::VIRTUAL_TIMER_INTID, active);
        gic.set_vmcr(interface.vmcr);
        gic.load_active_priorities(&interface.priorities);
        // As `unload` left the vGIC: nothing spilled.
        Registers(gic).set_control(Control::default());
        context::load(&state, &guest.registers(), stale);
        guest.attend(1 << vcpu);
        self.here.loaded.set(Some((guest, vcpu)));
        self.loaded = Some(Loaded { guest, vcpu, state, interface });
        true
    }

    /// Takes the loaded vCPU's registers off this CPU.
    fn unload(&mut self) {
        self.reload();
        let Some(mut loaded) = self.loaded.take() else { return };
        let gic = &self.machine.gic;
        let mut vgic = loaded.guest.vm.gic.lock();
        let effects = vgic.exit(loaded.vcpu, &mut Registers(gic));
        drop(vgic);
        self.here.pay(loaded.guest, effects);
        context::save(&mut loaded.state);
        gic.set_active(self.index, time::VIRTUAL_TIMER_INTID, false);
        loaded.interface.vmcr = gic.vmcr();
        gic.save_active_priorities(&mut loaded.interface.priorities);
        gic.set_hcr(0);
        self.here.loaded.set(None);
    }
}

/// A secondary CPU, from [`arch::boot`]: waits until the primary has put the machine together.
pub fn secondary(index: usize) -> ! {
    boot::secondary_arrived();
    loop {
        if let Some(machine) = machine::get() {
            boot::init_cpu(machine, index);
            run(machine, index)
        }
        cpu::relax();
    }
}
