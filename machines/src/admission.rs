//! Whether the CPUs of a board can keep what a machine promises: the decision that EL2 makes at boot, made early.

use crate::machine::{Machine, Vm};
use crate::{Error, Schedule};
use sched::admission::{Admission, Demand, Limits, Overhead, Refusal, Request, Reservation};
use sched::{CpuSet, VcpuId};
use std::fmt;

/// Where the reservations and exclusive vCPUs of a machine go. Prints as one line a CPU.
#[derive(Clone, Debug)]
pub struct Plan {
    book: Admission,
    online: CpuSet,
    /// The name of each vCPU.
    names: Vec<String>,
}

impl Machine {
    /// All vCPUs with their VMs and their numbers in those, in the order in which the scheduler numbers them from 0.
    pub fn vcpus(&self) -> impl Iterator<Item = (&Vm, u32)> {
        self.vms.iter().flat_map(|vm| (0..vm.vcpus).map(move |vcpu| (vm, vcpu)))
    }

    /// What the vCPUs ask of the CPUs.
    pub fn requests(&self) -> impl Iterator<Item = Request> {
        self.vcpus().zip(0..).map(|((vm, _), number)| Request {
            vcpu: VcpuId(number),
            affinity: CpuSet(vm.affinity),
            demand: demand(&vm.schedule),
        })
    }

    /// Places the vCPUs on the CPUs `online` of a board whose EL2 paths cost `overhead`. The refusal of a VM says what
    /// its vCPU asked for, why that is too much, and what each CPU has.
    ///
    /// # Errors
    /// Not all have a place.
    pub fn admit(&self, online: CpuSet, overhead: Overhead) -> Result<Plan, Error> {
        let mut book = Admission::new(online, overhead, Limits::HOST);
        let requests: Vec<_> = self.requests().collect();
        match book.admit(&requests) {
            Ok(()) => {
                let names = self.vcpus().map(|(vm, vcpu)| vcpu_name(vm, vcpu)).collect();
                Ok(Plan { book, online, names })
            }
            Err(refusal) => Err(self.refused(&refusal)),
        }
    }

    fn refused(&self, refusal: &Refusal) -> Error {
        let (line, key, vcpu) = match self.vcpus().nth(refusal.request) {
            Some((vm, vcpu)) => (vm.schedule_line, format!("vm[{}].schedule", vm.name), vcpu),
            None => (0, String::new(), 0),
        };
        let reason = format!("vCPU {vcpu} is not admitted: {refusal}: ask for less, or allow other CPUs");
        Error { file: self.file.clone(), line, key, reason }
    }
}

impl Plan {
    /// The book with everybody in it.
    pub fn book(&self) -> &Admission {
        &self.book
    }

    /// The names of the vCPUs, by number: that of the VM, and if it has several the vCPU's, as in `linux.1`.
    pub fn names(&self) -> &[String] {
        &self.names
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for cpu in self.online.iter() {
            let here = self.names.iter().zip(0..).filter(|(_, v)| self.book.cpu_of(VcpuId(*v)) == Some(cpu));
            let here: Vec<_> = here.map(|(name, _)| name.as_str()).collect();
            let load = self.book.load(cpu);
            let text =
                if load.exclusive { "exclusive".into() } else { format!("{} reserved", load.reserved) };
            let colon = if here.is_empty() { "" } else { ": " };
            writeln!(f, "  CPU {}  {text}{colon}{}", cpu.0, here.join(", "))?;
        }
        Ok(())
    }
}

fn vcpu_name(vm: &Vm, vcpu: u32) -> String {
    if vm.vcpus == 1 { vm.name.clone() } else { format!("{}.{vcpu}", vm.name) }
}

fn demand(schedule: &Schedule) -> Demand {
    match *schedule {
        Schedule::Share { .. } => Demand::Share,
        Schedule::Reservation { budget_ns, period_ns, deadline_ns } => {
            Demand::Reserved(Reservation { budget: budget_ns, period: period_ns, deadline: deadline_ns })
        }
        Schedule::Exclusive => Demand::Exclusive,
    }
}
