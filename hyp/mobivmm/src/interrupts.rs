//! Physical interrupts, taken where they arrive.

use core::sync::atomic::{Ordering, fence};

use arch::{cpu, time};
use drivers::gic::Acknowledged;
use lock::TicketMutex;
use vm::{Phase, timer};

use crate::guest::Guest;
use crate::host::{Here, Registers};
use crate::machine::{KICK, NOTICE};
use crate::{console, log, operator, trace};

/// The right to hand over input. It is tried only, so it can be taken whatever is held.
static DELIVERY: TicketMutex<()> = TicketMutex::new(());

impl Here {
    /// Takes the interrupts that are pending, up to one after which the scheduler is to be asked: a storm of others does not come
    /// before that.
    pub fn take_interrupts(&self) {
        while let Some(interrupt) = self.machine.gic.acknowledge() {
            self.interrupt(interrupt);
            if self.repick.get() || !cpu::interrupt_pending() {
                break;
            }
        }
    }

    /// Takes the interrupt that a guest was interrupted by, if it is still there.
    #[inline(always)]
    pub fn interrupted(&self, guest: &Guest, vcpu: usize) {
        match self.machine.gic.acknowledge() {
            Some(interrupt) if interrupt.intid() == time::VIRTUAL_TIMER_INTID => {
                plant!("plant_timer_tick", self.machine.guests.len() == 1);
                self.virtual_timer(interrupt, guest, vcpu);
            }
            Some(interrupt) if interrupt.intid() == NOTICE => {
                // Looked for after the timer.
                core::hint::cold_path();
                self.notice(interrupt, guest, vcpu);
            }
            Some(interrupt) => self.interrupt(interrupt),
            None => {}
        }
    }

    #[inline(never)]
    fn interrupt(&self, interrupt: Acknowledged) {
        let intid = interrupt.intid();
        match intid {
            time::HYP_TIMER_INTID => {
                // A level: it must go before the interrupt is ended, or it comes again.
                self.disarm();
                self.pick_again();
            }
            time::VIRTUAL_TIMER_INTID => {
                if let Some((guest, vcpu)) = self.loaded.get() {
                    if self.awaits_timer.get() {
                        self.pick_again();
                    }
                    return self.virtual_timer(interrupt, guest, vcpu);
                }
            }
            NOTICE => {
                if let Some((guest, vcpu)) = self.loaded.get() {
                    return self.notice(interrupt, guest, vcpu);
                }
            }
            KICK => {
                trace::follow(self);
                self.pick_again();
            }
            _ if intid == self.machine.maintenance_intid => return self.maintenance(interrupt),
            _ if Some(intid) == self.machine.uart_intid => self.serve_console(),
            _ => log!("unexpected interrupt {intid}"),
        }
        self.end(interrupt);
    }

    /// The interrupt has been answered, and may come again.
    #[inline(always)]
    fn end(&self, interrupt: Acknowledged) {
        let gic = &self.machine.gic;
        gic.priority_drop(interrupt);
        gic.deactivate(interrupt);
    }

    /// The loaded vCPU's timer fired. The physical interrupt stays active until the guest deactivates the virtual one.
    #[inline(always)]
    fn virtual_timer(&self, interrupt: Acknowledged, guest: &Guest, vcpu: usize) {
        let gic = &self.machine.gic;
        gic.priority_drop(interrupt);
        let effects = guest.vm.gic.lock().fire(vcpu, timer::CNTV_INTID, &mut Registers(gic));
        self.pay_own(guest, vcpu, effects);
    }

    /// Something has changed for the loaded vCPU: its interrupts, which are looked at before it goes on, or that its VM is to stop or
    /// to change.
    #[inline(always)]
    fn notice(&self, interrupt: Acknowledged, guest: &Guest, vcpu: usize) {
        plant!("plant_vipi", true);
        // First: before, no other interrupt of its priority is pending for who looks.
        self.end(interrupt);
        if guest.vm.phase() != Phase::Running || guest.change.is_for(vcpu) {
            self.pick_again();
        }
        self.refresh(guest, vcpu);
    }

    #[cold]
    #[inline(never)]
    fn maintenance(&self, interrupt: Acknowledged) {
        let gic = &self.machine.gic;
        gic.priority_drop(interrupt);
        if cpu::interrupt_pending() {
            // Others come first: this one, which is still active, does not come again before them.
            self.take_interrupts();
        }
        // If the scheduler is to be asked, that is first as well, and then this comes again.
        if let (Some((guest, vcpu)), false) = (self.loaded.get(), self.repick.get()) {
            let effects = guest.vm.gic.lock().maintenance(vcpu, &mut Registers(gic));
            self.pay_own(guest, vcpu, effects);
        }
        gic.deactivate(interrupt);
    }

    #[cold]
    #[inline(never)]
    fn serve_console(&self) {
        let from = time::now();
        let vm = console::receive();
        self.charge(vm.and_then(|vm| self.machine.guest(vm)), from);
        if console::has_input() {
            self.look.set(true);
        }
        let from = time::now();
        let (ready, sender) = console::send();
        for guest in &self.machine.guests {
            if ready >> guest.vm.config.id & 1 != 0 {
                guest.vm.console_ready(self);
            }
        }
        self.charge(sender.and_then(|vm| self.machine.guest(vm)), from);
    }

    /// What EL2 has done since `from` was for this VM, if any, whoever runs here.
    fn charge(&self, guest: Option<&Guest>, from: u64) {
        if let Some(guest) = guest {
            self.machine.scheduler.lock().charge_to(self.cpu, guest.id(0), time::now() - from);
        }
    }

    /// Hands waiting input to the VMs' UARTs, and to the operator's commands; if an interrupt is pending, a piece of it.
    #[inline]
    pub fn deliver_input(&self) {
        if console::has_input() {
            self.deliver();
        }
    }

    /// Hands over input until there is none, or an interrupt comes first. One CPU at a time does, or bytes could come before others that
    /// another CPU has taken; it looks once more when it is done, for one that came meanwhile.
    #[cold]
    #[inline(never)]
    fn deliver(&self) {
        let mut bytes = [0; 32];
        loop {
            // Whoever brings input sets its flag and then tries the lock; whoever has the lock lets go of it and then looks at the flag.
            // Without a barrier between the two each may miss what the other has written, and the input waits for another exit.
            fence(Ordering::SeqCst);
            if !console::has_input() {
                return;
            }
            let Some(_turn) = DELIVERY.try_lock() else { return };
            while let Some((channel, count)) = console::take_input(&mut bytes) {
                let bytes = &bytes[..count];
                match channel.vm_index() {
                    None => operator::input(bytes, self),
                    Some(id) => {
                        let from = time::now();
                        let guest = self.machine.guest(id.into());
                        if let Some(guest) = guest {
                            guest.vm.console_input(bytes, self);
                        }
                        self.charge(guest, from);
                    }
                }
                if cpu::interrupt_pending() {
                    // That comes first, and then the rest.
                    return self.look.set(true);
                }
            }
        }
    }
}
