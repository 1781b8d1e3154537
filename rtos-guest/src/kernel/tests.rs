//! The kernel core against models that are obviously right.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::sem::{Counter, Take, TimedOut};
use super::task::{State, Wake};
use super::*;

fn p(level: u8) -> Priority {
    Priority::new(level)
}

/// Lets the kernel switch to the task it wants.
fn settle(kernel: &mut Kernel) -> Priority {
    let context = kernel.running().index();
    assert_eq!(kernel.switch(context), kernel.running().index(), "each task gets its own context back");
    assert!(!kernel.needs_switch());
    kernel.running()
}

/// A kernel with the tasks of these levels, each with its level as its context.
fn kernel(levels: impl IntoIterator<Item = u8>) -> Kernel {
    let mut kernel = Kernel::new();
    for level in levels {
        kernel.start(p(level), usize::from(level)).unwrap();
    }
    settle(&mut kernel);
    kernel
}

#[test]
fn the_most_urgent_ready_task_runs_and_idle_when_there_is_none() {
    let mut k = kernel([30, 10, 20]);
    for level in [10, 20, 30] {
        assert_eq!(k.running(), p(level));
        k.block(None);
        settle(&mut k);
    }
    assert_eq!(k.running(), Priority::IDLE);
    assert!(k.wake(p(20)));
    assert!(k.needs_switch());
    assert_eq!(settle(&mut k), p(20));
    assert!(k.wake(p(30)));
    assert!(!k.needs_switch(), "a less urgent task does not preempt");
    assert!(!k.wake(p(30)), "it no longer waits");
}

#[test]
fn a_priority_has_one_task_until_that_ends() {
    let mut k = kernel([5]);
    assert_eq!(k.start(p(5), 0), Err(PriorityInUse));
    k.exit();
    assert_eq!(settle(&mut k), Priority::IDLE);
    assert!(!k.wake(p(5)));
    assert_eq!(k.start(p(5), 5), Ok(()));
    assert_eq!(settle(&mut k), p(5));
}

#[test]
#[should_panic(expected = "outside a task")]
fn idle_never_blocks() {
    Kernel::new().block(None);
}

#[test]
#[should_panic(expected = "critical section")]
fn a_wait_that_has_not_ended_is_noticed() {
    let mut k = kernel([5]);
    k.block(None);
    k.woken_by();
}

#[test]
fn equal_deadlines_expire_in_order_of_priority() {
    let mut timers = TimerList::new();
    for (level, deadline) in [(9, 50), (3, 50), (7, 40), (1, 60), (5, 50)] {
        timers.insert(p(level), deadline);
    }
    timers.remove(p(5));
    let mut order = Vec::new();
    while let Some(q) = timers.pop_due(55) {
        order.push(q.index());
    }
    assert_eq!(order, [7, 3, 9]);
    assert_eq!(timers.first(), Some(60));
}

#[derive(Clone, Debug)]
enum TimerOp {
    Insert(u8, u64),
    Remove(u8),
    Advance(u64),
}

proptest! {
    #[test]
    fn the_timer_list_is_a_sorted_map(ops in prop::collection::vec(prop_oneof![
        (0..63_u8, 0..500_u64).prop_map(|(l, d)| TimerOp::Insert(l, d)),
        (0..63_u8).prop_map(TimerOp::Remove),
        (0..20_u64).prop_map(TimerOp::Advance),
    ], 0..300)) {
        let (mut list, mut model, mut now) = (TimerList::new(), BTreeSet::new(), 0);
        for op in ops {
            match op {
                TimerOp::Insert(level, after) if !model.iter().any(|&(_, q)| q == p(level)) => {
                    list.insert(p(level), now + after);
                    model.insert((now + after, p(level)));
                }
                TimerOp::Insert(..) => {}
                TimerOp::Remove(level) => {
                    list.remove(p(level));
                    model.retain(|&(_, q)| q != p(level));
                }
                TimerOp::Advance(by) => {
                    now += by;
                    while let Some(&(at, q)) = model.first().filter(|&&(at, _)| at <= now) {
                        prop_assert_eq!(list.pop_due(now), Some(q));
                        model.remove(&(at, q));
                    }
                    prop_assert_eq!(list.pop_due(now), None);
                }
            }
            prop_assert_eq!(list.first(), model.first().map(|&(at, _)| at));
        }
    }
}

#[derive(Clone, Debug)]
enum Op {
    /// The running task, if there is one, takes from a semaphore, for so long at most.
    Take(usize, Option<u64>),
    /// A task or an interrupt gives to a semaphore, with a switch afterwards or (interrupts masked) not yet.
    Give(usize, bool),
    /// Time passes.
    Advance(u64, bool),
}

proptest! {
    /// Many tasks on two semaphores: the most urgent waiter gets the unit, no unit is lost or made up, a time-out comes
    /// at its time and not after the unit, and the most urgent task that can run does.
    #[test]
    fn semaphores(ops in prop::collection::vec(prop_oneof![
        3 => (0..2_usize, prop::option::of(0..40_u64)).prop_map(|(s, d)| Op::Take(s, d)),
        2 => (0..2_usize, any::<bool>()).prop_map(|(s, switch)| Op::Give(s, switch)),
        2 => (0..30_u64, any::<bool>()).prop_map(|(t, switch)| Op::Advance(t, switch)),
    ], 0..400)) {
        const TASKS: u8 = 6;
        let mut k = kernel(0..TASKS);
        let mut sems = [Counter::new(1), Counter::new(0)];
        // The model: units left, who waits for what until when, and what those will be told who wait no more.
        let mut units = [1_u64, 0];
        let mut waiting: BTreeMap<Priority, (usize, Option<u64>)> = BTreeMap::new();
        let mut told: BTreeMap<Priority, (usize, Result<(), TimedOut>)> = BTreeMap::new();
        let mut now = 0;
        for op in ops {
            let switch = match op {
                Op::Take(s, timeout) => {
                    if k.running() == Priority::IDLE {
                        continue;
                    }
                    let deadline = timeout.map(|t| now + t);
                    let expected = if units[s] > 0 { Take::Taken } else { Take::Waiting };
                    prop_assert_eq!(sems[s].take(&mut k, deadline), expected);
                    match expected {
                        Take::Taken => units[s] -= 1,
                        Take::Waiting => { waiting.insert(k.running(), (s, deadline)); }
                    }
                    true
                }
                Op::Give(s, switch) => {
                    sems[s].give(&mut k);
                    match waiting.iter().find(|(_, w)| w.0 == s).map(|(&q, _)| q) {
                        Some(q) => {
                            waiting.remove(&q);
                            told.insert(q, (s, Ok(())));
                        }
                        None => units[s] += 1,
                    }
                    switch
                }
                Op::Advance(by, switch) => {
                    now += by;
                    k.expire(now);
                    waiting.retain(|&q, &mut (s, deadline)| {
                        let due = deadline.is_some_and(|d| d <= now);
                        if due {
                            told.insert(q, (s, Err(TimedOut)));
                        }
                        !due
                    });
                    switch
                }
            };
            prop_assert_eq!(k.next_deadline(), waiting.values().filter_map(|w| w.1).min());
            let most_urgent = (0..TASKS).map(p).find(|q| !waiting.contains_key(q)).unwrap_or(Priority::IDLE);
            if switch {
                prop_assert_eq!(settle(&mut k), most_urgent);
                if let Some((s, result)) = told.remove(&k.running()) {
                    prop_assert_eq!(sems[s].resume(&k), result);
                }
            } else {
                prop_assert_eq!(k.needs_switch(), k.running() != most_urgent);
            }
        }
        // Whoever waits no more but has not run yet still learns how its wait ended.
        for (q, (_, result)) in told {
            let why = if result.is_ok() { Wake::Event } else { Wake::Timeout };
            prop_assert_eq!(k.tasks[q.index()].state, State::Ready(why));
        }
        for (s, sem) in sems.iter_mut().enumerate() {
            prop_assert_eq!(std::iter::from_fn(|| sem.try_take().then_some(())).count() as u64, units[s]);
        }
    }
}
