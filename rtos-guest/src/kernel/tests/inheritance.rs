//! Mutexes and priority inheritance.

use proptest::prelude::*;

use super::{kernel, p, settle};
use crate::kernel::mutex::Lock;
use crate::kernel::sem::Counter;
use crate::kernel::task::{State, Wake};
use crate::kernel::wait::{Outcome, TimedOut};
use crate::kernel::{Deadlock, Kernel, Priority};

/// Takes every task but these off the CPU; they are woken by [`Kernel::wake`].
fn sleep_until(k: &mut Kernel, running: u8) {
    while k.running() != p(running) {
        k.block(None);
        settle(k);
    }
}

#[test]
fn an_owner_is_as_urgent_as_who_waits_for_it() {
    let (mut k, mut lock) = (kernel([1, 5, 9]), Lock::new());
    sleep_until(&mut k, 9);
    assert!(lock.try_lock(&k));
    k.wake(p(1));
    k.wake(p(5));
    assert_eq!(settle(&mut k), p(1));
    assert_eq!(lock.lock(&mut k, None), Ok(Outcome::Waits));
    assert_eq!(settle(&mut k), p(9), "not 5, which nobody urgent waits for");
    lock.unlock(&mut k);
    assert_eq!(settle(&mut k), p(1));
    assert_eq!(lock.resume(&k), Ok(()));
    lock.unlock(&mut k);
    k.block(None);
    assert_eq!(settle(&mut k), p(5));
}

/// 1 waits for 5, which waits for 9: 9 runs before 3, and also after having waited for something else.
#[test]
fn inheritance_goes_through_chains_and_waits() {
    let (mut k, mut inner, mut outer, mut event) =
        (kernel([1, 3, 5, 9]), Lock::new(), Lock::new(), Counter::new(0, 1));
    sleep_until(&mut k, 9);
    assert!(inner.try_lock(&k));
    k.wake(p(5));
    settle(&mut k);
    assert!(outer.try_lock(&k));
    assert_eq!(inner.lock(&mut k, None), Ok(Outcome::Waits));
    assert_eq!(settle(&mut k), p(9));
    k.wake(p(1));
    k.wake(p(3));
    settle(&mut k);
    assert_eq!(outer.lock(&mut k, Some(100)), Ok(Outcome::Waits));
    assert_eq!(settle(&mut k), p(9), "on behalf of 1");
    assert_eq!(event.take(&mut k, None), Outcome::Waits);
    assert_eq!(settle(&mut k), p(3), "who 1 waits for waits itself");
    event.give(&mut k);
    assert_eq!(settle(&mut k), p(9), "it competes as 1 again");
    k.expire(100);
    assert_eq!(settle(&mut k), p(1));
    assert_eq!(outer.resume(&k), Err(TimedOut));
    k.block(None);
    assert_eq!(settle(&mut k), p(3), "9 is only as urgent as 5 now");
    k.block(None);
    assert_eq!(settle(&mut k), p(9), "on behalf of 5");
    inner.unlock(&mut k);
    assert_eq!(settle(&mut k), p(5));
}

#[test]
fn a_lent_priority_counts_in_the_queue_for_something_else() {
    let (mut k, mut lock, mut event) = (kernel([1, 5, 9]), Lock::new(), Counter::new(0, 1));
    sleep_until(&mut k, 9);
    assert!(lock.try_lock(&k));
    assert_eq!(event.take(&mut k, None), Outcome::Waits);
    settle(&mut k);
    k.wake(p(5));
    settle(&mut k);
    assert_eq!(event.take(&mut k, None), Outcome::Waits);
    settle(&mut k);
    k.wake(p(1));
    settle(&mut k);
    assert_eq!(lock.lock(&mut k, None), Ok(Outcome::Waits));
    settle(&mut k);
    event.give(&mut k);
    assert_eq!(settle(&mut k), p(9), "9 competes as 1, so it gets the unit before 5");
}

#[test]
fn circles_are_refused() {
    let (mut k, mut a, mut b) = (kernel([1, 2]), Lock::new(), Lock::new());
    assert!(a.try_lock(&k));
    assert_eq!(a.lock(&mut k, None), Err(Deadlock), "of one");
    k.block(None);
    settle(&mut k);
    assert!(b.try_lock(&k));
    assert_eq!(a.lock(&mut k, None), Ok(Outcome::Waits));
    k.wake(p(1));
    settle(&mut k);
    assert_eq!(b.lock(&mut k, None), Err(Deadlock), "of two");
    assert_eq!(k.running(), p(1));
    a.unlock(&mut k);
    assert!(!k.needs_switch(), "2 has the mutex, and is less urgent");
}

const TASKS: usize = 6;
const LOCKS: usize = 4;

#[derive(Clone, Debug)]
enum Op {
    /// The running task locks the mutex if it has it not, and else unlocks it.
    Toggle(usize, Option<u64>),
    /// The running task waits for an event, for so long at most.
    Wait(Option<u64>),
    /// The event comes.
    Event,
    /// Time passes.
    Advance(u64),
}

/// What a task waits for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Waits {
    No,
    For(usize),
    Event,
}

proptest! {
    /// The definition: a task is as urgent as itself and all that wait for a mutex of its; the most urgent ready one runs.
    #[test]
    fn the_task_runs_that_the_definition_says(ops in prop::collection::vec(prop_oneof![
        6 => (0..LOCKS, prop::option::weighted(0.3, 1..60_u64)).prop_map(|(l, t)| Op::Toggle(l, t)),
        2 => prop::option::of(1..60_u64).prop_map(Op::Wait),
        2 => Just(Op::Event),
        1 => (1..30_u64).prop_map(Op::Advance),
    ], 0..400)) {
        let mut k = kernel(0..TASKS as u8);
        let mut locks = [Lock::new(); LOCKS];
        let mut event = Counter::new(0, u32::MAX);
        let mut owners = [None; LOCKS];
        let mut waits = [Waits::No; TASKS];
        let mut now = 0;
        for op in ops {
            let running = k.running();
            let me = running.index();
            match op {
                Op::Event => event.give(&mut k),
                Op::Advance(by) => {
                    now += by;
                    k.expire(now);
                }
                _ if running == Priority::IDLE => continue,
                Op::Toggle(l, _) if owners[l] == Some(me) => locks[l].unlock(&mut k),
                Op::Toggle(l, timeout) => match locks[l].lock(&mut k, timeout.map(|t| now + t)) {
                    Ok(Outcome::Got(())) => prop_assert!(owners[l].is_none()),
                    Ok(Outcome::Waits) => {
                        prop_assert!(owners[l].is_some());
                        waits[me] = Waits::For(l);
                    }
                    Err(Deadlock) => {
                        // The chain of owners leads back here, and nothing has changed.
                        let mut at = owners[l].unwrap();
                        while at != me {
                            let Waits::For(next) = waits[at] else { panic!("no deadlock") };
                            at = owners[next].unwrap();
                        }
                    }
                },
                Op::Wait(timeout) => {
                    if event.take(&mut k, timeout.map(|t| now + t)) == Outcome::Waits {
                        waits[me] = Waits::Event;
                    }
                }
            }
            for (l, lock) in locks.iter().enumerate() {
                owners[l] = lock.owner().map(Priority::index);
            }
            let ready = |k: &Kernel, t: usize| matches!(k.tasks[t].state, State::Ready(_));
            // As the definition has it, by brute force.
            let mut urgency: Vec<usize> = (0..TASKS).collect();
            for _ in 0..TASKS {
                for t in 0..TASKS {
                    if let (false, Waits::For(l)) = (ready(&k, t), waits[t]) {
                        let owner = owners[l].unwrap();
                        urgency[owner] = urgency[owner].min(urgency[t]);
                    }
                }
            }
            let expected = (0..TASKS).filter(|&t| ready(&k, t)).min_by_key(|&t| urgency[t]);
            let runs = settle(&mut k);
            prop_assert_eq!(Some(runs.index()).filter(|&t| t < TASKS), expected);
            if runs != Priority::IDLE {
                let why = k.woken_by();
                match std::mem::replace(&mut waits[runs.index()], Waits::No) {
                    Waits::No => {}
                    Waits::For(l) => {
                        prop_assert_eq!(locks[l].resume(&k).is_ok(), why == Wake::Event);
                        prop_assert_eq!(owners[l] == Some(runs.index()), why == Wake::Event);
                    }
                    Waits::Event => prop_assert_eq!(event.resume(&k).is_ok(), why == Wake::Event),
                }
            }
        }
    }

    /// The bound: a job of the most urgent task that locks two mutexes, nested, is kept waiting by no more than one critical
    /// section of each less urgent task, however long those compute in between.
    #[test]
    fn an_urgent_job_waits_for_one_critical_section_of_each_other_task_at_most(
        programs in prop::collection::vec(program(), 2..6),
        sleeps in prop::collection::vec(1..60_u64, 1..20),
    ) {
        let bound: u64 = programs.iter().map(|program| program.section + u64::from(program.nested)).sum();
        let mut machine = Simulation::new(programs);
        for sleep in sleeps {
            let waited = machine.urgent_job(sleep);
            prop_assert!(waited <= bound, "waited {waited} of {bound}");
        }
    }
}

/// What a less urgent task does, over and over.
#[derive(Clone, Debug)]
struct Program {
    sleep: u64,
    compute: u64,
    /// The first mutex that it locks; with `nested`, the second after that.
    first: usize,
    nested: bool,
    /// How long it has the first one, without the unit for which it has the second one.
    section: u64,
}

fn program() -> impl Strategy<Value = Program> {
    (1..60_u64, 1..200_u64, 0..2_usize, any::<bool>(), 1..9_u64).prop_map(
        |(sleep, compute, first, nested, section)| Program {
            sleep,
            compute,
            first,
            nested: nested && first == 0,
            section,
        },
    )
}

/// Tasks that compute, in units of time. Task 0 is the urgent one; the others run their programs.
struct Simulation {
    kernel: Kernel,
    locks: [Lock; 2],
    programs: Vec<Program>,
    /// By task: the step of its program, and units of time that are left of it.
    steps: Vec<(u32, u64)>,
    now: u64,
}

impl Simulation {
    fn new(programs: Vec<Program>) -> Self {
        let tasks = programs.len() + 1;
        Self {
            kernel: kernel(0..tasks as u8),
            locks: [Lock::new(); 2],
            programs,
            steps: vec![(0, 0); tasks],
            now: 0,
        }
    }

    /// Task 0, which runs, sleeps and then has a job, that locks both mutexes; returns how long that took.
    fn urgent_job(&mut self, sleep: u64) -> u64 {
        let release = self.now + sleep;
        self.kernel.block(Some(release));
        settle(&mut self.kernel);
        self.run_to(0);
        for lock in 0..2 {
            self.lock(lock);
            self.run_to(0);
        }
        let waited = self.now - release;
        self.locks.iter_mut().rev().for_each(|lock| lock.unlock(&mut self.kernel));
        waited
    }

    /// Runs until task `level` does.
    fn run_to(&mut self, level: u8) {
        while self.kernel.running() != p(level) {
            self.step();
            self.kernel.expire(self.now);
            settle(&mut self.kernel);
        }
    }

    fn lock(&mut self, lock: usize) {
        self.locks[lock].lock(&mut self.kernel, None).unwrap();
        settle(&mut self.kernel);
    }

    /// One unit of time, or a step without time, of the task that runs.
    fn step(&mut self) {
        let me = self.kernel.running();
        if me == Priority::IDLE {
            self.now = self.kernel.next_deadline().expect("somebody sleeps");
            return;
        }
        let (step, left) = self.steps[me.index()];
        if left > 0 {
            self.steps[me.index()].1 -= 1;
            self.now += 1;
            return;
        }
        let Program { sleep, compute, first, nested, section } = self.programs[me.index() - 1];
        self.steps[me.index()] =
            ((step + 1) % 6, [0, compute, 0, section, u64::from(nested), 0][step as usize]);
        match step {
            0 => self.kernel.block(Some(self.now + sleep)),
            // All lock in the same order: no deadlock.
            2 => self.lock(first),
            4 if nested => self.lock(1),
            5 => {
                if nested {
                    self.locks[1].unlock(&mut self.kernel);
                }
                self.locks[first].unlock(&mut self.kernel);
            }
            _ => {}
        }
    }
}
