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

    /// The bound: jobs of the most urgent task that lock up to two mutexes, nested, are kept waiting by no more than one
    /// critical section of each less urgent task, however long the others compute.
    #[test]
    fn an_urgent_job_waits_for_one_critical_section_of_each_other_task_at_most(
        programs in prop::collection::vec((0..2_usize, 1..9_u64, 1..9_u64, any::<bool>()), 3..6),
        releases in prop::collection::vec(1..40_u64, 1..8),
    ) {
        let tasks = programs.len() as u8;
        let mut k = kernel(0..=tasks);
        let mut locks = [Lock::new(), Lock::new()];
        // Step of each task's program: compute, lock, compute, unlock. Task 0 sleeps, and then locks both.
        let mut steps = vec![(0, 0_u64); usize::from(tasks) + 1];
        let bound: u64 = programs.iter().map(|&(_, _, section, nested)| section + u64::from(nested)).sum();
        let (mut releases, mut now, mut released) = (releases.into_iter(), 0_u64, None);
        let mut work = 0;
        loop {
            if let Some(by) = releases.next().filter(|_| k.running() == p(0)) {
                if let Some(at) = released {
                    prop_assert!(now - at <= bound, "waited {} of {bound}", now - at);
                }
                released = Some(now + by);
                k.block(released);
                settle(&mut k);
                steps[0] = (0, 0);
            } else if k.running() == p(0) {
                break;
            }
            // One unit of time at a time, until task 0 has both mutexes.
            for _ in 0..10_000 {
                let me = k.running().index();
                let (step, left) = steps[me];
                let (first, compute, section, nested) = if me == 0 { (0, 0, 0, true) } else { programs[me - 1] };
                if left > 0 {
                    steps[me].1 -= 1;
                    now += 1;
                    work += 1;
                    k.expire(now);
                    settle(&mut k);
                    continue;
                }
                steps[me].0 = (step + 1) % 6;
                match step {
                    0 => steps[me].1 = compute,
                    // All lock in the same order: no deadlock.
                    1 => _ = locks[first].lock(&mut k, None).unwrap(),
                    2 => steps[me].1 = section,
                    3 if nested && first == 0 => _ = locks[1].lock(&mut k, None).unwrap(),
                    4 if nested && first == 0 => {
                        steps[me].1 = u64::from(me != 0);
                        if me == 0 {
                            break;
                        }
                    }
                    5 => {
                        if nested && first == 0 {
                            locks[1].unlock(&mut k);
                        }
                        locks[first].unlock(&mut k);
                    }
                    _ => {}
                }
                settle(&mut k);
            }
            prop_assert_eq!(k.running(), p(0));
            locks[1].unlock(&mut k);
            locks[0].unlock(&mut k);
        }
        prop_assert!(work > 0);
    }
}
