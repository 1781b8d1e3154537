//! The run loop of a physical CPU: pick a vCPU, load it, run it until something is to be done, do it.
//!
//! Interrupts are masked throughout, except inside a guest and inside a work item; physical interrupts are taken from the GIC when one
//! of those was left because of them, or when the CPU was idle.

use abi::smccc::Reservation;
use arch::enter;
use arch::work::Ran;
use arch::{context, cpu, time};
use drivers::gic::Gic;
use lock::TicketMutexGuard;
use sched::{CpuId, Decision, Leave};
use vgic::{Control, CpuMask, ListRegisters};
use vm::{Next, Phase, Power, StageTwo, VcpuState, inject, timer};

use crate::guest::Guest;
use crate::host::{Here, Registers};
use crate::machine::{self, Machine};
use crate::{boot, console, control, exits, load, log, memory, trace};

/// A vCPU whose registers are on this CPU. The guard is what makes them this CPU's alone.
struct Loaded {
    guest: &'static Guest,
    vcpu: usize,
    state: TicketMutexGuard<'static, VcpuState>,
}

/// What the inner loop does after an exit.
#[derive(PartialEq, Eq)]
enum Then {
    /// Go on with this vCPU.
    Continue,
    /// Ask the scheduler.
    Pick,
}

/// Whether a vCPU was loaded.
enum Load {
    Done,
    /// It is off.
    Off,
    /// An interrupt is pending, which comes first: ask the scheduler again.
    Interrupted,
}

struct Cpu {
    machine: &'static Machine,
    here: Here,
    loaded: Option<Loaded>,
    /// What becomes of the vCPU that the scheduler has let this CPU run, when it is asked again.
    leave: Leave,
    /// When the timer of the loaded vCPU interrupts this CPU by itself, ns: that vCPU has just gone to sleep.
    own_timer: Option<u64>,
    /// Devices' interrupts wait: a reservation runs here.
    devices_wait: bool,
}

/// Runs vCPUs on this CPU for ever.
pub fn run(machine: &'static Machine, index: usize) -> ! {
    let here = Here::new(machine, CpuId(index as u8));
    here.disarm();
    // It stays on: with empty list registers, and nothing spilled, it does nothing.
    Registers(&machine.gic).set_control(Control::default());
    let mut this =
        Cpu { machine, here, loaded: None, leave: Leave::Ready, own_timer: None, devices_wait: false };
    loop {
        this.pass();
    }
}

impl Cpu {
    /// One decision of the scheduler, and what follows from it.
    fn pass(&mut self) {
        self.poll();
        self.here.repick.set(false);
        if self.loaded.as_ref().is_some_and(|loaded| loaded.guest.vm.phase() != Phase::Running) {
            // Its VM is being stopped: whoever does that waits for the registers.
            self.unload();
        }
        let leave = core::mem::replace(&mut self.leave, Leave::Ready);
        let decision = self.machine.scheduler.lock().pick(self.here.cpu, leave, time::now());
        // At once, so that a reservation whose time comes during what follows is not late by that.
        let own = self.own_timer.take();
        self.here.awaits_timer.set(is_awaited(&decision, own));
        self.here.arm(decision.until.filter(|_| !self.here.awaits_timer.get()));
        self.here.trace(trace::picked, (decision.run, decision.waited));
        self.machine.repick(self.here.cpu, decision.repick);
        plant!("plant_rt_latency", decision.reserved && !self.devices_wait);
        if decision.unload {
            self.unload();
        }
        if self.devices_wait != decision.reserved {
            self.devices_wait = decision.reserved;
            self.machine.gic.let_devices(!decision.reserved);
        }
        // What came meanwhile may change the decision, which is cheaper now than when the vCPU is loaded.
        self.poll();
        if self.here.repick.get() {
            return;
        }
        let Some((guest, vcpu)) = decision.run.and_then(|id| self.machine.vcpu(id)) else {
            return self.idle();
        };
        match guest.vm.phase() {
            Phase::Running if !guest.change.is_for(vcpu) => self.run_vcpu(guest, vcpu, &decision),
            Phase::Running => self.run_work(guest, control::work),
            Phase::Loading | Phase::Stopping(_) if vcpu == 0 => self.run_work(guest, load::work),
            Phase::Loading | Phase::Stopping(_) | Phase::Stopped => {
                // Whoever else is to run what is loaded waits for its registers.
                self.unload();
                self.block(None);
            }
        }
    }

    /// Takes interrupts if there are any, and input: between two steps of what is to be done at EL2, none of which is long.
    #[inline]
    fn poll(&self) {
        if cpu::interrupt_pending() {
            self.here.take_interrupts();
        }
        self.here.deliver_input();
    }

    fn idle(&mut self) {
        if cfg!(feature = "plant_idle_wakeups") && !self.here.is_armed() {
            self.here.arm(Some(time::now() + 1_000_000_000));
        }
        if !console::has_input() && !self.here.repick.get() {
            cpu::wait_for_interrupt();
        }
        let others = || self.loaded.as_ref().is_some_and(|loaded| loaded.guest.index != 0);
        plant!("plant_wfi_wake_switched", others());
        self.here.take_interrupts();
    }

    /// What the scheduler has let this CPU run is to sleep.
    fn block(&mut self, until: Option<u64>) {
        self.here.leaves();
        self.leave = Leave::Sleeps(until);
    }

    /// Runs the EL2 half of a vCPU: `item`, or first what is under way of another one.
    #[inline(never)]
    fn run_work(&mut self, guest: &'static Guest, item: extern "C" fn(usize)) {
        self.unload();
        let Some(mut work) = guest.work.try_lock() else {
            // Another CPU runs one, until it is done or interrupted.
            cpu::relax();
            return self.here.take_interrupts();
        };
        if !work.is_active() {
            work.start(item, guest.index);
        }
        while !self.here.repick.get() {
            let ran = work.run();
            self.here.take_interrupts();
            self.here.deliver_input();
            if ran == Ran::Done {
                return;
            }
        }
    }

    fn run_vcpu(&mut self, guest: &'static Guest, vcpu: usize, decision: &Decision) {
        match self.load(guest, vcpu, decision.waited) {
            Load::Done => {}
            // It was woken by something that came too late for it.
            Load::Off => return self.block(None),
            Load::Interrupted => return,
        }
        self.here.enters(guest, vcpu);
        loop {
            self.here.look.set(false);
            self.poll();
            if self.here.repick.get() {
                break;
            }
            self.timers(guest, vcpu, decision.until);
            if self.here.repick.get() || self.step(guest, vcpu) == Then::Pick {
                break;
            }
        }
        plant!("plant_vm_switch", guest.index != 0 && self.here.repick.get());
        // What came for it is looked at when it runs again.
        self.here.leaves();
    }

    /// Arms this CPU's timer for the scheduler or the loaded vCPU's emulated timer, whichever is first, and fires the latter if it is due.
    fn timers(&self, guest: &Guest, vcpu: usize, until: Option<u64>) {
        let mut until = until;
        if let Some(at) = guest.deadline(vcpu) {
            if time::ticks() >= at {
                guest.set_deadline(vcpu, None);
                timer::due(&guest.vm, vcpu, &self.here);
            } else {
                until = earlier(until, Some(time::to_ns(at)));
            }
        }
        self.here.arm(until);
    }

    /// One step of the loaded vCPU: of its set/way maintenance, or in the guest until something is to be done outside.
    fn step(&mut self, guest: &'static Guest, vcpu: usize) -> Then {
        if let Some(from) = guest.flush(vcpu) {
            guest.set_flush(vcpu, memory::clean_slice(self.machine, guest, from));
            return Then::Continue;
        }
        if !self.here.refresh(guest, vcpu) {
            return Then::Continue;
        }
        if let Some(loaded) = &mut self.loaded {
            exits::run(&self.here, guest, vcpu, &mut loaded.state);
        }
        let then = match self.here.next.take() {
            // By far the most frequent.
            Some(Next::Wait) => self.wait(guest, vcpu),
            Some(next) => self.answer(guest, vcpu, &next),
            None => Then::Continue,
        };
        self.reload();
        then
    }

    /// Puts back the EL1 registers that answering an exit has changed.
    fn reload(&mut self) {
        let Some(loaded) = &self.loaded else { return };
        if self.here.synced.replace(false) {
            context::reload(&loaded.state, &loaded.guest.registers());
            arch::traps::set_hcr(loaded.state.hcr);
        }
    }

    #[inline(never)]
    fn answer(&mut self, guest: &'static Guest, vcpu: usize, next: &Next) -> Then {
        match *next {
            Next::Wait => self.wait(guest, vcpu),
            Next::Yield => {
                self.leave = Leave::Yields;
                Then::Pick
            }
            Next::StageTwo(ref fault) => {
                self.stage_two(guest, fault);
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
                log!(
                    "{guest}: vCPU {vcpu} at {pc:#x} cannot go on ({crash:?}, ESR {:#x}): stopped",
                    enter::syndrome()
                );
                self.crash(guest);
                Then::Pick
            }
        }
    }

    /// WFI: sleeps unless an interrupt is there.
    #[inline(never)]
    fn wait(&mut self, guest: &'static Guest, vcpu: usize) -> Then {
        let Some(loaded) = &mut self.loaded else { return Then::Pick };
        let gic = &self.machine.gic;
        let mut vgic = guest.vm.gic.lock();
        let quiet = vgic.is_quiet(vcpu, &Registers(gic));
        // Its timer can interrupt this CPU. It can't while a guest has disabled what fired before.
        let awaited = quiet && !vgic.owes(vcpu, timer::CNTV_INTID);
        let mut deliverable = false;
        if quiet {
            drop(vgic);
        } else {
            let effects = vgic.exit(vcpu, &mut Registers(gic));
            let mask = match gic {
                Gic::V2(_) => CpuMask::from_gicv2_vmcr(gic.vmcr()),
                Gic::V3(_) => CpuMask::from_gicv3_vmcr(u64::from(gic.vmcr())),
            };
            deliverable = vgic.deliverable(vcpu, mask);
            drop(vgic);
            self.here.pay(guest, effects);
        }
        let sleeps = !deliverable && self.here.sleeps(guest, vcpu);
        if !quiet {
            // The list registers are empty now.
            guest.attend(vcpu);
        }
        if !sleeps {
            return Then::Continue;
        }
        context::sync_timer(&mut loaded.state);
        let own = timer::virtual_deadline(&guest.vm, &loaded.state.timer).map(time::to_ns);
        self.own_timer = own.filter(|_| awaited);
        self.block(earlier(own, guest.deadline(vcpu).map(time::to_ns)));
        Then::Pick
    }

    #[inline(never)]
    fn stage_two(&mut self, guest: &'static Guest, fault: &StageTwo) {
        let resolved = memory::resolve(self.machine, guest, fault);
        if let (false, Some(loaded)) = (resolved, &mut self.loaded) {
            inject::external_abort(&mut loaded.state, fault.access, fault.va, fault.s1ptw, &self.here);
        }
    }

    /// The loaded vCPU cannot go on, and its VM with it.
    #[cold]
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
    #[cold]
    fn stop(&mut self, guest: &'static Guest) {
        for vcpu in 0..guest.vm.vcpus.len() {
            // Whoever runs one comes out, finds the VM stopping, and lets go of it.
            self.here.wake(guest, vcpu);
        }
        self.unload();
    }

    /// Makes `vcpu`, which has waited for a CPU for `waited` ns in all, the loaded one. If that is not done, none is.
    fn load(&mut self, guest: &'static Guest, vcpu: usize, waited: u64) -> Load {
        // One that goes off is unloaded at once.
        if self.loaded.as_ref().is_some_and(|loaded| loaded.guest.index == guest.index && loaded.vcpu == vcpu)
        {
            plant!("plant_wfi_wake", true);
            return Load::Done;
        }
        self.save();
        if cpu::interrupt_pending() {
            return Load::Interrupted;
        }
        let mut state = guest.vm.vcpus[vcpu].state.lock();
        if !guest.vm.prepare(vcpu, &mut state, &self.here) {
            return Load::Off;
        }
        guest.tell_stolen(vcpu, waited);
        let gic = &self.machine.gic;
        gic.load_interface(state.interface.vmcr, &state.interface.active_priorities);
        if cpu::interrupt_pending() {
            return Load::Interrupted;
        }
        context::load(&state, &guest.registers(), guest.arrives(vcpu, self.here.index()));
        // Up to here everything is as valid in `state` as it was.
        if cpu::interrupt_pending() {
            return Load::Interrupted;
        }
        guest.take_attention(vcpu);
        let mut vgic = guest.vm.gic.lock();
        let mut active = vgic.physical_active(vcpu, timer::CNTV_INTID);
        guest.vm.absorb(vcpu, &mut vgic);
        let mut effects = vgic.enter(vcpu, &mut Registers(gic));
        if !active && timer::virtual_deadline(&guest.vm, &state.timer).is_some_and(|at| time::ticks() >= at) {
            // As if it had been taken: often that is what woke this vCPU.
            effects |= vgic.fire(vcpu, timer::CNTV_INTID, &mut Registers(gic));
            active = true;
        }
        drop(vgic);
        if active {
            gic.set_active(self.here.index(), time::VIRTUAL_TIMER_INTID, true);
        }
        context::load_timer(&state);
        self.here.loaded.set(Some((guest, vcpu)));
        self.loaded = Some(Loaded { guest, vcpu, state });
        self.here.pay_own(guest, vcpu, effects);
        Load::Done
    }

    /// Takes the loaded vCPU's registers off this CPU, where that is no part of a switch.
    #[inline(never)]
    fn unload(&mut self) {
        self.save();
    }

    /// Takes the loaded vCPU's registers off this CPU. What answering its last exit has left to be put back is in them: no mark of it
    /// stays for the next one.
    #[inline(always)]
    fn save(&mut self) {
        let Some(Loaded { guest, vcpu, mut state }) = self.loaded.take() else { return };
        self.own_timer = None;
        self.here.leaves();
        let gic = &self.machine.gic;
        let mut vgic = guest.vm.gic.lock();
        let effects = vgic.exit(vcpu, &mut Registers(gic));
        let active = vgic.physical_active(vcpu, timer::CNTV_INTID);
        drop(vgic);
        self.here.pay(guest, effects);
        context::save(&mut state, self.here.synced.replace(false));
        if active {
            gic.set_active(self.here.index(), time::VIRTUAL_TIMER_INTID, false);
        }
        let interface = &mut state.interface;
        gic.save_interface(&mut interface.vmcr, &mut interface.active_priorities);
        self.here.loaded.set(None);
    }
}

/// Whether what a CPU is to wait for is the timer, at `own`, of the vCPU that it keeps loaded: that interrupts it by itself.
fn is_awaited(decision: &Decision, own: Option<u64>) -> bool {
    own.is_some() && own == decision.until && decision.run.is_none() && !decision.unload
}

/// The earlier of two times, where none is never.
fn earlier(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, None) | (None, one) => one,
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
