//! Reservations that change while the machine runs, as admission allows it.

use std::cell::Cell;
use std::rc::Rc;

use super::machine::*;
use crate::admission::{Admission, CAPACITY, Demand, Limits, Overhead, Request, Reservation, Utilisation};
use crate::server::LAST;
use crate::*;
use proptest::prelude::*;

/// The VM of those without a reservation, and the one that is busy beside.
const UNRESERVED: VmId = VmId(15);
const BUSY: VmId = VmId(14);

/// What a vCPU's guest and the test tell each other.
struct Task {
    reservation: Cell<Option<Reservation>>,
    /// Jobs that are released from then on have to be in time.
    judged_from: Cell<Ns>,
    judged: Cell<u64>,
    misses: Cell<u64>,
}

impl Task {
    fn new() -> Rc<Self> {
        Rc::new(Self {
            reservation: Cell::new(None),
            judged_from: Cell::new(NEVER),
            judged: Cell::new(0),
            misses: Cell::new(0),
        })
    }
}

/// Jobs of `percent` of the budget, which is less than all, a period and a pause apart, whoever wakes it in between. After a job that need not be in time, long
/// enough to have the whole budget at the next one.
fn jobs(task: Rc<Task>, percent: u64, pauses: Vec<Ns>) -> Guest {
    let mut next = 0;
    let mut job: Option<(Ns, Reservation)> = None;
    let mut count = 0;
    Box::new(move |now| {
        if let Some((release, reservation)) = job.take() {
            let current = task.reservation.get().map_or(0, |current| current.period);
            next = now + 2 * current.max(reservation.period);
            if release >= task.judged_from.get() {
                count += 1;
                task.judged.set(task.judged.get() + 1);
                task.misses.set(task.misses.get() + u64::from(now > release + reservation.deadline));
                next = release + reservation.period + pauses[count % pauses.len()];
            }
        }
        let Some(reservation) = task.reservation.get() else { return Step::Sleep(now + MS) };
        if now < next {
            return Step::Sleep(next);
        }
        job = Some((next, reservation));
        Step::Work((reservation.budget * percent / 100).max(1))
    })
}

#[derive(Clone, Debug)]
enum Op {
    Run(Ns),
    Wake(usize),
    /// Another reservation, or none.
    Change(usize, Option<Reservation>),
    SetShare(VmId, u32, u32),
}

fn reservation() -> impl Strategy<Value = Reservation> {
    (200 * US..5 * MS, 1_u64..90, 0_u64..=100).prop_map(|(period, percent, tight)| {
        let budget = (period * percent / 100).max(1);
        Reservation { budget, period, deadline: period - (period - budget) * tight / 100 }
    })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..5 * MS).prop_map(Op::Run),
        2 => (0..20 * MS).prop_map(Op::Run),
        3 => (0_usize..16).prop_map(Op::Wake),
        6 => (0_usize..16, prop::option::weighted(0.8, reservation())).prop_map(|(i, r)| Op::Change(i, r)),
        1 => (prop_oneof![Just(UNRESERVED), Just(BUSY)], 1_u32..1000, prop_oneof![Just(0_u32), 10_u32..200])
            .prop_map(|(vm, weight, cap)| Op::SetShare(vm, weight, cap)),
    ]
}

struct Changing {
    m: Machine,
    book: Admission,
    vcpus: Vec<VcpuId>,
    tasks: Vec<Rc<Task>>,
    /// Those that never sleep. Since when what they had before their last change does not matter, and what they have had since.
    busy: Vec<bool>,
    since: Vec<Option<(Ns, Ns)>>,
    /// Changed, and may not have begun: how long what they had before matters then.
    pending: Vec<Option<Ns>>,
    refused: u64,
}

impl Changing {
    fn new(cpus: usize, guests: &[(u64, Vec<Ns>)]) -> Self {
        let mut m = Machine::new(cpus);
        let share = Share { weight: 256, cap: 0, affinity: CpuSet::ALL };
        let tasks: Vec<Rc<Task>> = guests.iter().map(|_| Task::new()).collect();
        let of = |((percent, pauses), task): (&(u64, Vec<Ns>), &Rc<Task>)| match percent {
            0..=99 => jobs(Rc::clone(task), *percent, pauses.clone()),
            _ => busy(),
        };
        let vcpus = m.vm(UNRESERVED.0, share, guests.iter().zip(&tasks).map(of).collect());
        m.vm(BUSY.0, share, (0..cpus).map(|_| busy()).collect());
        let overhead = Overhead { irq_off_max: 0, vm_switch: 0 };
        let book = Admission::new(CpuSet::first(cpus), overhead, Limits::HOST);
        let busy = guests.iter().map(|(percent, _)| *percent > 99).collect();
        let count = guests.len();
        Self { m, book, vcpus, tasks, busy, since: vec![None; count], pending: vec![None; count], refused: 0 }
    }

    fn state(&self) -> (String, Vec<Option<Schedule>>) {
        (format!("{:?}", self.book), self.vcpus.iter().map(|&v| self.m.sched.schedule(v)).collect())
    }

    /// As EL2 does it: on a copy of the book, where the vCPU is or else anywhere.
    fn change(&mut self, i: usize, wanted: Option<Reservation>) {
        let v = self.vcpus[i];
        let mut draft = self.book;
        let place = draft.cpu_of(v).map(CpuSet::only);
        draft.remove(v);
        let schedule = match wanted {
            None => Schedule::Shared(UNRESERVED),
            Some(reservation) => {
                let demand = Demand::Reserved(reservation);
                let places = place.into_iter().chain([CpuSet::ALL]);
                let mut requests = places.map(|affinity| Request { vcpu: v, affinity, demand });
                let before = self.state();
                if !requests.any(|request| draft.admit(&[request]).is_ok()) {
                    assert_eq!(self.state(), before);
                    self.refused += 1;
                    return;
                }
                Schedule::Reserved { reservation, cpu: draft.cpu_of(v).expect("it has a place") }
            }
        };
        self.check_supply(i);
        self.book = draft;
        let told = self.m.sched.set_schedule(v, schedule, self.m.now).expect("it was admitted");
        self.m.tell(told);
        let task = &self.tasks[i];
        let old = task.reservation.replace(wanted).map_or(0, |old| old.period);
        // What it had before a change that is not settled yet comes back no earlier because of another one.
        let unsettled = match task.judged_from.replace(NEVER) {
            NEVER => self.pending[i].unwrap_or(0),
            settled => settled.saturating_sub(self.m.now),
        };
        self.since[i] = None;
        self.pending[i] = wanted.map(|wanted| old.max(unsettled) + 3 * wanted.period);
    }

    /// Who never sleeps has had its budget in each period since it began, and no more.
    fn check_supply(&self, i: usize) {
        let (Some((since, ran)), Some(reservation)) = (self.since[i], self.tasks[i].reservation.get()) else {
            return;
        };
        let Some(time) = self.m.now.checked_sub(since) else { return };
        let ran = self.m.ran[usize::from(self.vcpus[i].0)] - ran;
        let periods = time / reservation.period;
        let (least, most) =
            (periods.saturating_sub(1) * reservation.budget, (periods + 2) * reservation.budget);
        assert!(ran <= most, "{ran} ns in {time} of {reservation:?}");
        assert!(!self.busy[i] || ran >= least, "only {ran} ns in {time} of {reservation:?}");
    }

    fn run(&mut self, time: Ns) {
        // In steps, so that beginnings are seen.
        for _ in 0..8 {
            self.m.run(time / 8);
            for i in 0..self.vcpus.len() {
                let v = usize::from(self.vcpus[i].0);
                if let Some(settles) = self.pending[i]
                    && self.m.sched.vcpus[v].server.deadline() != LAST
                {
                    self.pending[i] = None;
                    self.tasks[i].judged_from.set(self.m.now + settles);
                }
                if self.since[i].is_none() && self.m.now >= self.tasks[i].judged_from.get() {
                    self.since[i] = Some((self.m.now, self.m.ran[v]));
                }
            }
        }
    }

    fn check(&self, cpus: usize) {
        for cpu in CpuSet::first(cpus).iter() {
            assert!(self.book.load(cpu).reserved <= CAPACITY);
            let mut sum = Utilisation::default();
            for &v in &self.vcpus {
                if let Some(Schedule::Reserved { reservation, cpu: own }) = self.m.sched.schedule(v)
                    && own == cpu
                {
                    assert_eq!(self.book.cpu_of(v), Some(cpu), "not where the book has it");
                    sum.0 += reservation.utilisation().0;
                }
            }
            assert_eq!(sum, self.book.load(cpu).reserved);
        }
        for (i, task) in self.tasks.iter().enumerate() {
            assert_eq!(task.misses.get(), 0, "vCPU {i} of {:?}", task.reservation.get());
            self.check_supply(i);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(super::cases(200)))]

    /// Who is admitted misses nothing and has no more than its budget, whoever else comes, goes, grows, shrinks, moves to another CPU,
    /// overruns or is woken for nothing; and who has changed misses nothing once that has begun and what it had before is settled.
    #[test]
    fn admitted_reservations_hold_whatever_changes(
        cpus in 1_usize..=8,
        guests in prop::collection::vec((20_u64..130, prop::collection::vec(0..2 * MS, 1..4)), 1..12),
        ops in prop::collection::vec(op(), 1..60),
    ) {
        let mut c = Changing::new(cpus, &guests);
        let count = guests.len();
        for op in ops {
            match op {
                Op::Run(time) => c.run(time),
                Op::Wake(i) => c.m.wake(c.vcpus[i % count]),
                Op::Change(i, wanted) => c.change(i % count, wanted),
                Op::SetShare(vm, weight, cap) => {
                    let told = c.m.sched.set_share(vm, Share { weight, cap, affinity: CpuSet::ALL }, c.m.now);
                    c.m.tell(told.expect("it is well-formed"));
                }
            }
            c.check(cpus);
        }
        c.run(100 * MS);
        c.check(cpus);
    }
}

/// The property has something to say: reservations change, some changes are refused, and jobs are judged.
#[test]
fn changes_are_refused_and_jobs_are_judged() {
    let mut c = Changing::new(1, &[(99, vec![0]), (130, vec![0]), (90, vec![300 * US])]);
    let of = |percent: u64| Some(Reservation { budget: percent * 10 * US, period: MS, deadline: MS });
    for (i, percent) in [(0, 40), (1, 50), (2, 10), (1, 30), (2, 20), (0, 60)] {
        c.change(i, of(percent));
        c.run(20 * MS);
        c.check(1);
    }
    assert_eq!(c.refused, 2, "95 % at most");
    let judged: Vec<u64> = c.tasks.iter().map(|task| task.judged.get()).collect();
    assert!(judged[0] > 100 && judged[1] == 0 && judged[2] > 5, "{judged:?}");
}

/// A share's wake-up is overdue, as a reservation has the CPU, when it gets a reservation: that has no deadline from before, which would
/// be too early for others.
#[test]
fn an_overdue_wake_up_gives_no_early_deadline() {
    let mut c = Changing::new(1, &[(100, vec![0]), (36, vec![0]), (42, vec![0])]);
    let of = |budget, period, deadline| Some(Reservation { budget, period, deadline });
    c.run(MS + 500 * US);
    c.change(1, of(2 * US, 200 * US, 200 * US));
    c.change(0, of(3900 * US, 4500 * US, 4500 * US));
    c.run(3 * MS);
    c.run(4 * MS);
    c.change(0, None);
    c.change(2, of(670 * US, 3900 * US, 2400 * US));
    let changed = c.m.now;
    c.run(MS);
    let deadline = c.m.sched.vcpus[usize::from(c.vcpus[2].0)].server.deadline();
    assert!(deadline >= changed + 2400 * US, "{deadline} after a change at {changed}");
}

/// One whose wake-up is overdue wants to run too: what grows while that is so comes after it. (The larger budget was used at once, beside
/// what had been used of the smaller one.)
#[test]
fn what_grows_comes_after_an_overdue_wake_up() {
    let mut m = Machine::new(1);
    let late = m.reserve(0, 450 * US, MS, MS, periodic(450 * US, MS, 10 * US));
    m.run(0);
    let grows = m.reserve(0, 100 * US, 200 * US, 200 * US, busy());
    m.run(90 * US);
    let reservation = Reservation { budget: 500 * US, period: MS, deadline: 520 * US };
    let told = m.sched.set_schedule(grows, Schedule::Reserved { reservation, cpu: CpuId(0) }, m.now).unwrap();
    m.tell(told);
    m.run(920 * US);
    assert_eq!(m.ran[usize::from(late.0)], 450 * US, "by {}", m.now);
}
