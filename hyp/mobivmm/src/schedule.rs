//! How the VMs of a bundle compete for the CPUs: which are admitted, and where their vCPUs go.

use alloc::vec::Vec;

use bundle::{Schedule, VmConfig};
use sched::admission::{Admission, Demand, Request, Reservation};
use sched::{CpuId, CpuSet, Scheduler, Share, VcpuId, VmId};

use crate::{control, log};

/// A VM that may be made.
#[derive(Clone, Copy)]
pub struct Candidate {
    /// Its number in the bundle.
    pub index: usize,
    pub config: VmConfig<'static>,
    /// The scheduler's number of its vCPU 0.
    pub first: u16,
}

impl Candidate {
    /// The scheduler's numbers of its vCPUs.
    pub fn vcpus(&self) -> impl Iterator<Item = VcpuId> + use<> {
        (self.first..self.first + self.config.vcpus as u16).map(VcpuId)
    }

    /// What each of its vCPUs asks for.
    fn demand(&self) -> Demand {
        match self.config.schedule {
            Schedule::Share { .. } => Demand::Share,
            Schedule::Reservation { budget_ns, period_ns, deadline_ns } => {
                Demand::Reserved(Reservation { budget: budget_ns, period: period_ns, deadline: deadline_ns })
            }
            Schedule::Exclusive => Demand::Exclusive,
        }
    }

    fn requests(&self) -> impl Iterator<Item = Request> {
        let demand = self.demand();
        self.vcpus().map(move |vcpu| Request { vcpu, affinity: CpuSet(self.config.affinity), demand })
    }
}

/// Finds places for the vCPUs of `candidates`, and takes out VMs whose promises those cannot keep until they
/// can keep the others'. The log says why.
#[inline(never)]
pub fn admit(candidates: &mut Vec<Candidate>, book: &mut Admission) {
    loop {
        let requests: Vec<Request> = candidates.iter().flat_map(Candidate::requests).collect();
        let Err(refusal) = book.admit(&requests) else { break };
        let mut last = 0;
        let refused = candidates.iter().position(|candidate| {
            last += candidate.config.vcpus as usize;
            refusal.request < last
        });
        let Some(refused) = refused else { break };
        let Candidate { config, .. } = candidates.remove(refused);
        let vcpu = refusal.request + config.vcpus as usize - last;
        log!("vm {}: refused: vCPU {vcpu}: {refusal}", config.name);
    }
    control::log_loads(book);
}

/// Tells the scheduler of a VM that has been admitted. It does not run before it is woken.
///
/// # Errors
/// The scheduler cannot have it; what it has of it is to be taken out.
pub fn add(
    scheduler: &mut Scheduler,
    book: &Admission,
    candidate: &Candidate,
) -> Result<(), sched::ScheduleError> {
    let config = &candidate.config;
    let vm = VmId(candidate.index as u8);
    if let Schedule::Share { weight, cap_percent } = config.schedule {
        let share = Share { weight, cap: cap_percent, affinity: CpuSet(config.affinity) };
        // Nothing runs yet, so nobody has to be told.
        let _ = scheduler.set_share(vm, share, 0)?;
    }
    for vcpu in candidate.vcpus() {
        let cpu = book.cpu_of(vcpu).unwrap_or(CpuId(0));
        let schedule = match candidate.demand() {
            Demand::Share => sched::Schedule::Shared(vm),
            Demand::Reserved(reservation) => sched::Schedule::Reserved { reservation, cpu },
            Demand::Exclusive => sched::Schedule::Exclusive(cpu),
        };
        scheduler.add(vcpu, schedule)?;
    }
    Ok(())
}
