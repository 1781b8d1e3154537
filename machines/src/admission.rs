//! Whether the CPUs of a board can keep what a machine promises: the decision that EL2 makes at boot, made early.

use crate::machine::{Machine, Vm};
use crate::{Error, Schedule};
use sched::admission::{Admission, Demand, Limits, Overhead, Refusal, Request, Reservation};
use sched::{CpuSet, MAX_AFFINITIES, VcpuId};
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
        self.refuse_many_affinities(online)?;
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
        let reason =
            |vcpu| format!("vCPU {vcpu} is not admitted: {refusal}: ask for less, or allow other CPUs");
        match self.vcpus().nth(refusal.request) {
            Some((vm, vcpu)) => self.schedule_error(vm, reason(vcpu)),
            None => Error { file: self.file.clone(), line: 0, key: String::new(), reason: reason(0) },
        }
    }

    /// The scheduler divides CPUs among so many different sets of them at most.
    fn refuse_many_affinities(&self, online: CpuSet) -> Result<(), Error> {
        let mut known = Vec::new();
        for vm in self.vms.iter().filter(|vm| matches!(vm.schedule, Schedule::Share { .. })) {
            let affinity = CpuSet(vm.affinity).and(online);
            if !known.contains(&affinity) {
                known.push(affinity);
            }
            if known.len() > MAX_AFFINITIES {
                let reason = format!(
                    "VMs with a share have more than {MAX_AFFINITIES} different affinities: make some alike"
                );
                return Err(self.schedule_error(vm, reason));
            }
        }
        Ok(())
    }

    fn schedule_error(&self, vm: &Vm, reason: String) -> Error {
        let key = format!("vm[{}].schedule", vm.name);
        Error { file: self.file.clone(), line: vm.schedule_line, key, reason }
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
