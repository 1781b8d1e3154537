//! Which CPU each reservation gets, and whether its deadlines are sure there.
//!
//! Reservations are partitioned: each vCPU stays on one CPU, where earliest deadline first is optimal. An [`Admission`]
//! is the book of who is where. It is a plain value: to change a reservation, copy the book, [`Admission::remove`] and
//! [`Admission::admit`] on the copy, and keep the copy if it says yes; a refusal changes nothing.
//!
//! # What a CPU can hold
//! * At most [`CAPACITY`] of its time is reserved; the rest is left for shares.
//! * Every deadline holds in the worst case: in each interval, what has to be done by its end, every job with two
//!   switches, and the longest time with interrupts masked fit into it (the private module `demand`).
//! * A CPU that belongs to one vCPU exclusively holds nothing else, and each vCPU with a share keeps a CPU.
//!
//! # How a place is found
//! First fit, in the order: exclusive CPUs, then who may run on the fewest CPUs, then the densest. If somebody finds no
//! place the last choice is revised, and so on until one works, all have been tried, or [`Limits::trials`] are spent. The
//! host and EL2 run the same search with different limits, so EL2 refuses nothing else than what it gives up on.
//!
//! # Costs
//! Nothing is allocated. [`Admission::admit`] makes at most [`Limits::trials`] tests of at most [`Limits::demand_steps`]
//! steps, each of which looks at every vCPU: too long for a section with interrupts masked, so EL2 works on a copy.

mod demand;
mod refusal;
#[cfg(test)]
mod tests;

pub use refusal::{CpuLoad, Reason, Refusal};

use crate::ids::{CpuId, CpuSet, MAX_CPUS, MAX_VCPUS, Ns, VcpuId};
use core::cmp::Reverse;
use demand::{Task, Verdict};

/// The longest period of a reservation.
pub const MAX_PERIOD: Ns = 10_000_000_000;
/// The part of a CPU's time that can be reserved.
pub const CAPACITY: Utilisation = Utilisation(950_000_000);

/// A part of one CPU's time, in billionths, rounded up. Sums over many CPUs may pass one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Utilisation(pub u64);

impl Utilisation {
    /// All of one CPU's time.
    pub const FULL: Self = Self(1_000_000_000);

    /// `time` in every `period`, which is not 0.
    const fn of(time: Ns, period: Ns) -> Self {
        Self(time.saturating_mul(Self::FULL.0).div_ceil(period))
    }

    const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

/// CPU time that is guaranteed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Reservation {
    /// CPU time in every period.
    pub budget: Ns,
    /// At most [`MAX_PERIOD`].
    pub period: Ns,
    /// The budget is had so long after the period's start: from `budget` to `period`.
    pub deadline: Ns,
}

impl Reservation {
    /// Whether `0 < budget ≤ deadline ≤ period ≤ MAX_PERIOD`.
    pub const fn is_valid(&self) -> bool {
        let Self { budget, period, deadline } = *self;
        0 < budget && budget <= deadline && deadline <= period && period <= MAX_PERIOD
    }

    /// Whether whoever has `other` can do with this instead and asks no more of the CPU at any time.
    pub const fn is_within(&self, other: &Self) -> bool {
        self.budget <= other.budget && self.period >= other.period && self.deadline >= other.deadline
    }

    /// The part of a CPU that it takes. It has to be valid.
    pub const fn utilisation(&self) -> Utilisation {
        Utilisation::of(self.budget, self.period)
    }
}

/// What a vCPU asks of the CPUs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Demand {
    /// A share of what is left, on at least one CPU.
    Share,
    /// CPU time that is guaranteed, on one CPU.
    Reserved(Reservation),
    /// A CPU of its own.
    Exclusive,
}

/// A vCPU that wants to be admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Which one.
    pub vcpu: VcpuId,
    /// Where it may run.
    pub affinity: CpuSet,
    /// What it asks for.
    pub demand: Demand,
}

/// What EL2's own paths cost at most: the board's data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overhead {
    /// The longest time for which EL2 masks interrupts.
    pub irq_off_max: Ns,
    /// One switch between vCPUs, decision included.
    pub vm_switch: Ns,
}

/// How much work a decision may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The steps of one processor-demand test.
    pub demand_steps: u32,
    /// The pairs of a vCPU and a CPU that are tried.
    pub trials: u32,
}

impl Limits {
    /// As good as exact.
    pub const HOST: Self = Self { demand_steps: 1 << 20, trials: 1 << 16 };
    /// Bounded for EL2.
    pub const EL2: Self = Self { demand_steps: 256, trials: 512 };
}

/// A vCPU in the book.
#[derive(Clone, Copy, Debug)]
struct Entry {
    affinity: CpuSet,
    demand: Demand,
    /// Where it is; none for a share, and for who is not placed yet.
    cpu: Option<CpuId>,
}

/// The book of who has been promised what, and where.
#[derive(Clone, Copy, Debug)]
pub struct Admission {
    online: CpuSet,
    overhead: Overhead,
    limits: Limits,
    entries: [Option<Entry>; MAX_VCPUS],
}

impl Admission {
    /// An empty book for the CPUs `online`.
    pub const fn new(online: CpuSet, overhead: Overhead, limits: Limits) -> Self {
        Self { online: online.and(CpuSet::ALL), overhead, limits, entries: [None; MAX_VCPUS] }
    }

    /// Whether a vCPU has been admitted.
    pub fn contains(&self, v: VcpuId) -> bool {
        self.entries.get(usize::from(v.0)).is_some_and(Option::is_some)
    }

    /// The CPU on which a reservation or an exclusive vCPU has its place.
    pub fn cpu_of(&self, v: VcpuId) -> Option<CpuId> {
        self.entries.get(usize::from(v.0)).copied().flatten()?.cpu
    }

    /// The CPUs that belong to one vCPU each.
    pub fn exclusive(&self) -> CpuSet {
        let mut cpus = CpuSet::EMPTY;
        for entry in self.entries.iter().flatten().filter(|entry| entry.demand == Demand::Exclusive) {
            cpus.insert(entry.cpu.map_or(CpuSet::EMPTY, CpuSet::only));
        }
        cpus
    }

    /// What has been promised on `cpu`.
    pub fn load(&self, cpu: CpuId) -> CpuLoad {
        let reserved = self.reserved_on(cpu).map(|reservation| reservation.utilisation());
        CpuLoad {
            reserved: reserved.fold(Utilisation::default(), Utilisation::plus),
            exclusive: self.exclusive().contains(cpu),
        }
    }

    /// Takes a vCPU out of the book, if it is there.
    pub fn remove(&mut self, v: VcpuId) {
        if let Some(entry) = self.entries.get_mut(usize::from(v.0)) {
            *entry = None;
        }
    }

    /// Finds a place for all of `requests`; those who are in the book stay where they are.
    ///
    /// # Errors
    /// Why not; nothing has changed then.
    pub fn admit(&mut self, requests: &[Request]) -> Result<(), Refusal> {
        let mut book = *self;
        book.enter(requests)?;
        let mut order = [0; MAX_VCPUS];
        let order = book.order(requests, &mut order);
        // What is over capacity has no partition: the first descent then only tells how far it goes.
        let shortage = book.shortage();
        let trials = if shortage.is_some() { 0 } else { self.limits.trials };
        book.place(requests, order, trials)
            .map_err(|refusal| Refusal { reason: shortage.unwrap_or(refusal.reason), ..refusal })?;
        *self = book;
        Ok(())
    }

    /// Writes the requests into the book, without a place, if each could have one were it alone.
    fn enter(&mut self, requests: &[Request]) -> Result<(), Refusal> {
        for (index, request) in requests.iter().enumerate() {
            let &Request { vcpu, affinity, demand } = request;
            let refuse = |book: &Self, reason| Err(book.refusal(index, reason));
            match self.entries.get(usize::from(vcpu.0)) {
                None => return refuse(self, Reason::OutOfRange),
                Some(Some(_)) => return refuse(self, Reason::Exists),
                Some(None) => {}
            }
            let affinity = affinity.and(self.online);
            if affinity.is_empty() {
                return refuse(self, Reason::NoCpu);
            }
            if let Demand::Reserved(reservation) = demand {
                if !reservation.is_valid() {
                    return refuse(self, Reason::Malformed);
                }
                if reservation.utilisation() > CAPACITY || self.test(None, reservation) != Verdict::Fits {
                    return refuse(self, Reason::Alone { reservation, overhead: self.overhead });
                }
            }
            self.entries[usize::from(vcpu.0)] = Some(Entry { affinity, demand, cpu: None });
            if !self.shares_have_cpus(self.exclusive()) {
                return refuse(self, self.shortage().unwrap_or(Reason::NoPartition { demand }));
            }
        }
        Ok(())
    }

    /// The indices of the requests that need a place, in the order of their search.
    fn order<'a>(&self, requests: &[Request], order: &'a mut [u8; MAX_VCPUS]) -> &'a [u8] {
        let key = |index: u8| {
            let Request { affinity, demand, .. } = requests[usize::from(index)];
            let density = match demand {
                Demand::Reserved(reservation) => Utilisation::of(reservation.budget, reservation.deadline),
                Demand::Share | Demand::Exclusive => Utilisation::FULL,
            };
            (demand != Demand::Exclusive, affinity.and(self.online).iter().count(), Reverse(density), index)
        };
        let mut len = 0;
        for (index, _) in requests.iter().enumerate().filter(|(_, request)| request.demand != Demand::Share) {
            // At most MAX_VCPUS: each has a number of its own.
            let index = index as u8;
            let at = order[..len].partition_point(|&other| key(other) < key(index));
            order.copy_within(at..len, at + 1);
            order[at] = index;
            len += 1;
        }
        &order[..len]
    }

    /// Places the requests of `order`: depth first, with at most about `trials` trials once somebody found no place. The
    /// refusal tells of the first who did not, and of the CPUs as they were then.
    fn place(&mut self, requests: &[Request], order: &[u8], trials: u32) -> Result<(), Refusal> {
        let mut refusal = None;
        let (mut tried, mut gave_up) = (0, false);
        // How many CPUs have been tried for each request up to the one at `depth`.
        let mut next = [0; MAX_VCPUS];
        let mut depth = 0;
        while let Some(&index) = order.get(depth) {
            let Request { vcpu, demand, .. } = requests[usize::from(index)];
            let mut placed = false;
            while !placed && next[depth] < MAX_CPUS {
                // The highest first for exclusive CPUs, since the lowest take the board's interrupts.
                let cpu = if demand == Demand::Exclusive { MAX_CPUS - 1 - next[depth] } else { next[depth] };
                let verdict = self.try_place(vcpu, CpuId(cpu as u8));
                placed = verdict == Verdict::Fits;
                gave_up |= verdict == Verdict::GaveUp;
                next[depth] += 1;
                tried += 1;
            }
            if placed {
                depth += 1;
                continue;
            }
            let mut refusal =
                *refusal.get_or_insert_with(|| self.refusal(index.into(), Reason::NoPartition { demand }));
            if depth == 0 || tried >= trials {
                if gave_up || depth > 0 {
                    refusal.reason = Reason::GaveUp { demand };
                }
                return Err(refusal);
            }
            next[depth] = 0;
            depth -= 1;
            self.move_to(requests[usize::from(order[depth])].vcpu, None);
        }
        Ok(())
    }

    fn move_to(&mut self, v: VcpuId, cpu: Option<CpuId>) {
        if let Some(Some(entry)) = self.entries.get_mut(usize::from(v.0)) {
            entry.cpu = cpu;
        }
    }

    /// Places `v` on `cpu` if it fits there.
    fn try_place(&mut self, v: VcpuId, cpu: CpuId) -> Verdict {
        let Some(Some(Entry { affinity, demand, .. })) = self.entries.get(usize::from(v.0)).copied() else {
            return Verdict::Misses;
        };
        let exclusive = self.exclusive();
        if !affinity.contains(cpu) || exclusive.contains(cpu) {
            return Verdict::Misses;
        }
        let verdict = match demand {
            Demand::Share => Verdict::Misses,
            Demand::Reserved(reservation) => {
                let reserved = self.load(cpu).reserved.plus(reservation.utilisation());
                if reserved <= CAPACITY { self.test(Some(cpu), reservation) } else { Verdict::Misses }
            }
            Demand::Exclusive => {
                let mut exclusive = exclusive;
                exclusive.insert(CpuSet::only(cpu));
                let empty = self.reserved_on(cpu).next().is_none();
                if empty && self.shares_have_cpus(exclusive) { Verdict::Fits } else { Verdict::Misses }
            }
        };
        if verdict == Verdict::Fits {
            self.move_to(v, Some(cpu));
        }
        verdict
    }

    /// Whether one CPU can hold what is on `cpu`, if on any, and `new`.
    fn test(&self, cpu: Option<CpuId>, new: Reservation) -> Verdict {
        let switches = self.overhead.vm_switch.saturating_mul(2);
        let task = |Reservation { budget, period, deadline }| Task {
            cost: budget.saturating_add(switches),
            period,
            deadline,
        };
        // The new one has no place yet, so there are at most MAX_VCPUS.
        let mut tasks = [task(new); MAX_VCPUS];
        let mut count = 1;
        for (place, reservation) in
            tasks[1..].iter_mut().zip(cpu.into_iter().flat_map(|cpu| self.reserved_on(cpu)))
        {
            *place = task(reservation);
            count += 1;
        }
        demand::test(&tasks[..count], self.overhead.irq_off_max, self.limits.demand_steps)
    }

    fn reserved_on(&self, cpu: CpuId) -> impl Iterator<Item = Reservation> {
        self.entries.iter().flatten().filter(move |entry| entry.cpu == Some(cpu)).filter_map(|entry| {
            match entry.demand {
                Demand::Reserved(reservation) => Some(reservation),
                Demand::Share | Demand::Exclusive => None,
            }
        })
    }

    /// Whether each vCPU with a share may run on a CPU that is not one of `exclusive`.
    fn shares_have_cpus(&self, exclusive: CpuSet) -> bool {
        let shared = CpuSet(self.online.0 & !exclusive.0);
        let mut shares = self.entries.iter().flatten().filter(|entry| entry.demand == Demand::Share);
        shares.all(|share| !share.affinity.and(shared).is_empty())
    }

    /// The smallest set of CPUs that is asked for more than it has, however one cut the reservations.
    fn shortage(&self) -> Option<Reason> {
        let sets = (1..=self.online.0).map(CpuSet).filter(|set| set.and(self.online) == *set);
        sets.filter_map(|cpus| self.shortage_of(cpus))
            .min_by_key(|(count, _)| *count)
            .map(|(_, reason)| reason)
    }

    fn shortage_of(&self, cpus: CpuSet) -> Option<(u64, Reason)> {
        let (mut reserved, mut exclusive, mut shares) = (Utilisation::default(), 0, 0);
        for entry in self.entries.iter().flatten() {
            let may = entry.cpu.map_or(entry.affinity, CpuSet::only);
            if may.and(cpus) != may {
                continue;
            }
            match entry.demand {
                Demand::Share => shares += 1,
                Demand::Reserved(reservation) => reserved = reserved.plus(reservation.utilisation()),
                Demand::Exclusive => exclusive += 1,
            }
        }
        let count = cpus.iter().count() as u64;
        let shared = reserved.0.div_ceil(CAPACITY.0).max(u64::from(shares > 0));
        let short = exclusive + shared > count;
        short.then_some((count, Reason::OverCapacity { cpus, reserved, exclusive, shares }))
    }

    fn refusal(&self, request: usize, reason: Reason) -> Refusal {
        let mut reserved = [0; MAX_CPUS];
        for (cpu, reserved) in reserved.iter_mut().enumerate() {
            *reserved = self.load(CpuId(cpu as u8)).reserved.0 as u32;
        }
        Refusal { request, reason, online: self.online, exclusive: self.exclusive(), reserved }
    }
}
