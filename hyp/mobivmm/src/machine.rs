//! The machine as a whole: what boot puts together and all CPUs share.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicUsize, Ordering};

use arch::time;
use drivers::devices::Power;
use drivers::gic::Gic;
use drivers::semihosting;
use lock::TicketMutex;
use sched::{CpuId, CpuSet, Scheduler, VcpuId};
use spin::Once;
use stage2::{DirtyMap, Owners};

use crate::control::Book;
use crate::guest::Guest;
use crate::memory::{Ram, TablePool};
use crate::{console, log};

/// The interrupt by which CPUs tell each other to pick again (SGI 0).
pub const KICK: u32 = 0;
/// The one by which they tell that something has changed for the vCPU that runs there (SGI 1).
pub const NOTICE: u32 = 1;

/// Everything that is shared.
pub struct Machine {
    pub gic: Gic,
    /// INTIDs of EL2's own: the UART (if it has one) and the list registers' maintenance.
    pub uart_intid: Option<u32>,
    pub maintenance_intid: u32,
    /// Those of the bundle's VMs that could be made.
    pub guests: Vec<&'static Guest>,
    /// By a VM's place in `guests` and its channel: the VM at the other end, and its channel.
    pub peers: Vec<Vec<Option<(&'static Guest, usize)>>>,
    /// By a VM's index in the bundle: its place in `guests`.
    pub places: Vec<Option<usize>>,
    /// By the scheduler's number of a vCPU: its VM and its number there, if that could be made.
    pub vcpus: Vec<Option<(&'static Guest, usize)>>,
    pub scheduler: &'static TicketMutex<Scheduler>,
    /// What has been promised to whom.
    pub book: TicketMutex<Book>,
    pub tables: TicketMutex<TablePool>,
    pub owners: Box<TicketMutex<Owners>>,
    pub ram: Ram,
    pub dirty: DirtyMap,
    pub power: TicketMutex<Option<Power>>,
    /// The boot arguments say that semihosting is there.
    pub semihosting: bool,
    /// VMs that have not stopped for good.
    pub alive: AtomicUsize,
}

static MACHINE: Once<Machine> = Once::new();

/// [`Machine::scheduler`]: in place from the start, since it is larger than a stack.
pub static SCHEDULER: TicketMutex<Scheduler> = TicketMutex::new(Scheduler::empty());

/// Publishes the machine, once, at the end of boot.
pub fn set(machine: Machine) -> &'static Machine {
    MACHINE.call_once(|| machine)
}

/// The machine, or `None` while it boots.
pub fn get() -> Option<&'static Machine> {
    MACHINE.get()
}

impl Machine {
    /// The VM with this index in the bundle, if it could be made.
    pub fn guest(&self, id: usize) -> Option<&'static Guest> {
        self.guests.get((*self.places.get(id)?)?).copied()
    }

    /// The VM and vCPU behind a scheduler's number.
    pub fn vcpu(&self, id: VcpuId) -> Option<(&'static Guest, usize)> {
        *self.vcpus.get(usize::from(id.0))?
    }

    /// Makes CPUs pick again. Returns true if this one is among them.
    #[inline]
    pub fn repick(&self, me: CpuId, cpus: CpuSet) -> bool {
        !cpus.is_empty() && self.kick(me, cpus)
    }

    fn kick(&self, me: CpuId, cpus: CpuSet) -> bool {
        let mut mine = false;
        for cpu in cpus.iter() {
            if cpu == me {
                mine = true;
            } else {
                self.gic.send_sgi(KICK, usize::from(cpu.0));
            }
        }
        mine
    }

    /// Makes vCPUs runnable (bit n is number n of all), or the CPUs that run them look again. Returns true if this CPU has to pick again.
    pub fn wake(&self, me: CpuId, vcpus: u64) -> bool {
        let wake = self.scheduler.lock().wake_all(vcpus, time::now());
        for cpu in wake.running.without(CpuSet::only(me)).iter() {
            self.gic.send_sgi(NOTICE, usize::from(cpu.0));
        }
        self.repick(me, wake.repick)
    }

    /// A VM has stopped for good. With the last one the machine ends.
    pub fn retire(&self) {
        if self.alive.fetch_sub(1, Ordering::AcqRel) == 1 {
            log!("all VMs have stopped");
            self.end(0);
        }
    }

    /// Turns the machine off; `status` is the emulator's exit status, where there is one.
    pub fn end(&self, status: u32) -> ! {
        console::end(status == 0);
        if self.semihosting {
            semihosting::exit(status);
        }
        if let Some(power) = self.power.lock().as_mut() {
            power.off();
        }
        arch::cpu::park()
    }
}
