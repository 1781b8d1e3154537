//! How the bundle's VMs compete for CPUs: which vCPU has which number and place, decided once for all of them.

use bundle::{Schedule, VmConfig};
use drivers::board::Timing;
use heapless::Vec;
use sched::admission::{Admission, Demand, Limits, Overhead, Refusal, Request, Reservation};
use sched::{CpuSet, MAX_VCPUS, ScheduleError, Scheduler, Share, VcpuId, VmId};

/// EL2's own paths on a board that it does not know: as long as on the slowest that it does.
const UNKNOWN: Timing = Timing { irq_off_max_ns: 20_000, vm_switch_ns: 16_000 };

/// Why a VM cannot compete.
pub enum NotAdmitted {
    /// The machine would have more vCPUs than the scheduler can know.
    TooMany,
    /// What it asks for cannot be promised beside what others have been.
    Refused(Refusal),
    /// The scheduler does not take it.
    Schedule(ScheduleError),
}

/// The CPU time that has been promised.
pub struct Places {
    book: Admission,
}

impl Places {
    /// Nothing has been promised on the CPUs `online` of a board.
    pub fn new(online: CpuSet, timing: Option<Timing>) -> Self {
        let Timing { irq_off_max_ns, vm_switch_ns } = timing.unwrap_or(UNKNOWN);
        let overhead = Overhead { irq_off_max: irq_off_max_ns.into(), vm_switch: vm_switch_ns.into() };
        Self { book: Admission::new(online, overhead, Limits::EL2) }
    }

    /// Finds a place for all VMs together, as the host did when it checked the machine file. Without one nobody is admitted,
    /// and each has to be by itself ([`Places::admit`]).
    #[cold]
    #[inline(never)]
    pub fn admit_all<'a>(&mut self, vms: impl Iterator<Item = (u16, VmConfig<'a>)>) {
        let mut all = Vec::<Request, MAX_VCPUS>::new();
        for (first, config) in vms {
            for request in requests(first, &config) {
                if all.push(request).is_err() {
                    return;
                }
            }
        }
        let _ = self.book.admit(&all);
    }

    /// Makes sure that a VM whose vCPUs have the numbers from `first` on has its place, and tells the scheduler.
    ///
    /// # Errors
    /// Why not; it has no place then.
    #[cold]
    #[inline(never)]
    pub fn admit(
        &mut self,
        scheduler: &mut Scheduler,
        vm: VmId,
        first: u16,
        config: &VmConfig<'_>,
    ) -> Result<(), NotAdmitted> {
        if usize::from(first) + config.vcpus as usize > MAX_VCPUS {
            return Err(NotAdmitted::TooMany);
        }
        if !self.book.contains(VcpuId(first)) {
            let requests: Vec<Request, MAX_VCPUS> = requests(first, config).collect();
            self.book.admit(&requests).map_err(NotAdmitted::Refused)?;
        }
        if let Schedule::Share { weight, cap_percent } = config.schedule {
            let share = Share { weight, cap: cap_percent, affinity: CpuSet(config.affinity) };
            scheduler.set_share(vm, share, 0).map_err(NotAdmitted::Schedule)?;
        }
        for request in requests(first, config) {
            let schedule = match (request.demand, self.book.cpu_of(request.vcpu)) {
                (Demand::Reserved(reservation), Some(cpu)) => sched::Schedule::Reserved { reservation, cpu },
                (Demand::Exclusive, Some(cpu)) => sched::Schedule::Exclusive(cpu),
                _ => sched::Schedule::Shared(vm),
            };
            scheduler.add(request.vcpu, schedule).map_err(NotAdmitted::Schedule)?;
        }
        Ok(())
    }

    /// Takes back what a VM has been promised that is not made after all. It never ran.
    pub fn withdraw(&mut self, scheduler: &mut Scheduler, first: u16, config: &VmConfig<'_>) {
        for request in requests(first, config) {
            self.book.remove(request.vcpu);
            // No CPU has its registers.
            let _ = scheduler.remove(request.vcpu);
        }
    }
}

/// What each vCPU of a VM asks for.
fn requests<'a>(first: u16, config: &'a VmConfig<'_>) -> impl Iterator<Item = Request> + use<'a> {
    let demand = match config.schedule {
        Schedule::Share { .. } => Demand::Share,
        Schedule::Exclusive => Demand::Exclusive,
        Schedule::Reservation { budget_ns, period_ns, deadline_ns } => {
            Demand::Reserved(Reservation { budget: budget_ns, period: period_ns, deadline: deadline_ns })
        }
    };
    let affinity = CpuSet(config.affinity);
    (0..config.vcpus as u16).map(move |vcpu| Request { vcpu: VcpuId(first + vcpu), affinity, demand })
}
