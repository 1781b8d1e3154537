//! Semaphores.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{kernel, p, settle};
use crate::kernel::Priority;
use crate::kernel::sem::Counter;
use crate::kernel::task::{State, Wake};
use crate::kernel::wait::{Outcome, TimedOut};

#[test]
fn units_above_the_limit_are_lost() {
    let (mut k, mut bell) = (kernel([1]), Counter::new(0, 1));
    bell.give(&mut k);
    bell.give(&mut k);
    assert!(bell.try_take());
    assert!(!bell.try_take());
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
        let mut sems = [Counter::new(1, u32::MAX), Counter::new(0, u32::MAX)];
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
                    let expected = if units[s] > 0 { Outcome::Got(()) } else { Outcome::Waits };
                    prop_assert_eq!(sems[s].take(&mut k, deadline), expected);
                    match expected {
                        Outcome::Got(()) => units[s] -= 1,
                        Outcome::Waits => { waiting.insert(k.running(), (s, deadline)); }
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
