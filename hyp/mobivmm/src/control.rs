//! Reservations change while the machine runs: a VM's own vCPU asks ([`ask`], [`abi::smccc::RESERVATION_SET`]) or the operator does
//! ([`order`]).
//!
//! Admission is too long for a masked section. It is the VM's work item, on a copy of the book, so its time is the VM's own. What is
//! refused, or overtaken by another change, has changed nothing.

use alloc::boxed::Box;
use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering};

use abi::smccc::Error;
use arch::{cpu, time};
use bundle::{MIN_BUDGET_NS, Schedule};
use lock::TicketMutex;
use sched::admission::{Admission, Demand, Reason, Refusal, Request, Reservation, Utilisation};
use sched::{CpuId, CpuSet, MAX_CPUS};

use crate::guest::Guest;
use crate::log;
use crate::machine::{self, Machine};

/// The most vCPUs of a VM.
const MAX_VCPUS: usize = bundle::MAX_VCPUS as usize;
/// [`Slot::carrier`] if nothing is wanted.
const NOBODY: usize = usize::MAX;

/// Who has been promised what.
pub struct Book {
    pub admission: Box<Admission>,
    /// How often it has changed.
    changes: u64,
}

impl Book {
    /// With what was admitted at boot.
    pub fn new(admission: Box<Admission>) -> Self {
        Self { admission, changes: 0 }
    }
}

/// Who wants a change, and so gets the answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asker {
    /// The vCPU, in x0.
    Guest,
    /// The operator, by the log.
    Operator,
}

/// A reservation that is wanted for some vCPUs of a VM.
#[derive(Clone, Copy)]
struct Change {
    first: usize,
    count: usize,
    wanted: Reservation,
    asker: Asker,
}

impl Change {
    fn vcpus(&self) -> Range<usize> {
        self.first..self.first + self.count
    }
}

/// The change that is wanted of a VM: one at a time.
pub struct Slot {
    /// The vCPU as whose EL2 half it is worked out, or [`NOBODY`].
    carrier: AtomicUsize,
    change: TicketMutex<Option<Change>>,
}

impl Slot {
    /// Nothing is wanted.
    pub fn new() -> Self {
        Self { carrier: AtomicUsize::new(NOBODY), change: TicketMutex::new(None) }
    }

    /// Whether `vcpu` has a change to work out before it runs on.
    pub fn is_for(&self, vcpu: usize) -> bool {
        self.carrier.load(Ordering::Acquire) == vcpu
    }

    fn put(&self, change: Change) -> bool {
        let mut slot = self.change.lock();
        let free = slot.is_none();
        if free {
            *slot = Some(change);
            self.carrier.store(change.first, Ordering::Release);
        }
        free
    }

    fn clear(&self) {
        *self.change.lock() = None;
        self.carrier.store(NOBODY, Ordering::Release);
    }
}

/// The guest asks for another reservation for its `vcpu`. If it may ask, the change waits in [`Guest::change`], and the answer comes in
/// x0 when it has been worked out; else this is the answer.
pub fn ask(guest: &Guest, vcpu: usize, wanted: Reservation) -> Result<(), Error> {
    if !matches!(guest.config.schedule, Schedule::Reservation { .. }) {
        return Err(Error::NotSupported);
    }
    if !is_valid(&wanted) {
        return Err(Error::InvalidParameter);
    }
    let limit = Utilisation::FULL.0 / 100 * u64::from(guest.config.adjustable_percent);
    if wanted.utilisation().0 > limit {
        return Err(Error::NotPermitted);
    }
    let change = Change { first: vcpu, count: 1, wanted, asker: Asker::Guest };
    if guest.change.put(change) { Ok(()) } else { Err(Error::Busy) }
}

/// The operator wants another reservation for each vCPU of a VM, whose vCPU 0 then has to be woken. Says why not, if it cannot be.
pub fn order(guest: &Guest, wanted: Reservation) -> Result<(), &'static str> {
    if !matches!(guest.config.schedule, Schedule::Reservation { .. }) {
        return Err("it has a share or CPUs of its own, no reservation");
    }
    if !is_valid(&wanted) {
        return Err("a reservation has 1us <= budget <= deadline <= period <= 10s");
    }
    let change = Change { first: 0, count: guest.vm.vcpus.len(), wanted, asker: Asker::Operator };
    if guest.change.put(change) { Ok(()) } else { Err("another change of it is under way: try again") }
}

fn is_valid(wanted: &Reservation) -> bool {
    wanted.is_valid() && wanted.budget >= MIN_BUDGET_NS
}

/// The work item: the change that is wanted of the VM with this index.
pub extern "C" fn work(index: usize) {
    let Some(machine) = machine::get() else { return };
    let Some(guest) = machine.guests.get(index) else { return };
    let Some(change) = cpu::masked(|| *guest.change.change.lock()) else { return };
    let result = apply(machine, guest, &change);
    match (change.asker, &result) {
        (Asker::Guest, _) => cpu::masked(|| {
            // This item stands in for the vCPU, so no CPU has its registers.
            guest.vm.vcpus[change.first].state.lock().gprs[0] = answer(&result) as u64;
        }),
        (Asker::Operator, Ok(book)) => {
            log!("{guest}: {}", change.wanted);
            log_loads(book);
        }
        (Asker::Operator, Err(refusal)) => {
            log!("{guest}: refused, nothing has changed: vCPU {}: {refusal}", refusal.request);
        }
    }
    cpu::masked(|| guest.change.clear());
}

fn answer(result: &Result<Box<Admission>, Box<Refusal>>) -> i64 {
    match result.as_ref().map_err(|refusal| refusal.reason) {
        Ok(_) => 0,
        Err(Reason::OverCapacity { .. } | Reason::Alone { .. }) => Error::OverCapacity as i64,
        Err(Reason::NoPartition { .. } | Reason::GaveUp { .. } | Reason::NoCpu) => Error::NoPartition as i64,
        Err(Reason::OutOfRange | Reason::Exists | Reason::Malformed) => Error::InvalidParameter as i64,
    }
}

/// Carries out the change. Returns the book with it.
fn apply(machine: &Machine, guest: &Guest, change: &Change) -> Result<Box<Admission>, Box<Refusal>> {
    loop {
        let (mut draft, changes) = cpu::masked(|| {
            let book = machine.book.lock();
            (book.admission.clone(), book.changes)
        });
        admit(&mut draft, guest, change)?;
        if cpu::masked(|| commit(machine, guest, change, &draft, changes)) {
            return Ok(draft);
        }
    }
}

/// Writes the change into `draft`: where the vCPUs are, or if that does not do, where they may be.
fn admit(draft: &mut Admission, guest: &Guest, change: &Change) -> Result<(), Box<Refusal>> {
    let demand = Demand::Reserved(change.wanted);
    let anywhere = CpuSet(guest.config.affinity);
    let mut requests = [Request { vcpu: guest.id(0), affinity: anywhere, demand }; MAX_VCPUS];
    let requests = &mut requests[..change.count];
    for (request, vcpu) in requests.iter_mut().zip(change.vcpus()) {
        request.vcpu = guest.id(vcpu);
        request.affinity = draft.cpu_of(request.vcpu).map_or(anywhere, CpuSet::only);
        draft.remove(request.vcpu);
    }
    if draft.admit(requests).is_ok() {
        return Ok(());
    }
    requests.iter_mut().for_each(|request| request.affinity = anywhere);
    draft.admit(requests).map_err(Box::new)
}

/// Makes `draft` the book, and tells the scheduler. False if another change has come first.
fn commit(machine: &Machine, guest: &Guest, change: &Change, draft: &Admission, changes: u64) -> bool {
    let mut book = machine.book.lock();
    if book.changes != changes {
        return false;
    }
    *book.admission = *draft;
    book.changes += 1;
    let mut told = CpuSet::EMPTY;
    let mut scheduler = machine.scheduler.lock();
    for id in change.vcpus().map(|vcpu| guest.id(vcpu)) {
        let cpu = draft.cpu_of(id).unwrap_or(CpuId(0));
        let schedule = sched::Schedule::Reserved { reservation: change.wanted, cpu };
        // What admission has let in is valid, and its CPU is there.
        told.insert(scheduler.set_schedule(id, schedule, time::now()).unwrap_or_default());
    }
    drop(scheduler);
    // This CPU picks again as soon as the item is done.
    machine.repick(CpuId(cpu::index() as u8), told);
    true
}

/// A VM has stopped for good: what it had been promised is free for others.
pub fn release(machine: &Machine, guest: &Guest) {
    let mut book = machine.book.lock();
    for vcpu in 0..guest.vm.vcpus.len() {
        book.admission.remove(guest.id(vcpu));
    }
    book.changes += 1;
}

/// What is promised on each CPU, as log lines.
pub fn log_loads(book: &Admission) {
    for cpu in (0..MAX_CPUS as u8).map(CpuId) {
        let load = book.load(cpu);
        if load != Default::default() {
            log!("CPU {}: {load}{}", cpu.0, if load.exclusive { "" } else { " reserved" });
        }
    }
}
