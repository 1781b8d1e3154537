//! The heap of deadlines against a sorted map.

use std::collections::BTreeSet;

use proptest::prelude::*;

use crate::kernel::deadline::Deadlines;

#[test]
fn equal_deadlines_come_in_order_of_number() {
    let mut deadlines = Deadlines::<64>::new();
    for (n, deadline) in [(9, 50), (3, 50), (7, 40), (1, 60), (5, 50)] {
        deadlines.set(n, deadline);
    }
    assert!(deadlines.remove(5));
    assert!(!deadlines.remove(5));
    let order: Vec<_> = std::iter::from_fn(|| deadlines.pop_due(55)).collect();
    assert_eq!(order, [(7, 40), (3, 50), (9, 50)]);
    assert_eq!(deadlines.first(), Some(60));
}

#[derive(Clone, Debug)]
enum Op {
    Set(usize, u64),
    Remove(usize),
    Advance(u64),
}

proptest! {
    #[test]
    fn what_is_due_comes_in_order_and_nothing_else(ops in prop::collection::vec(prop_oneof![
        4 => (0..64_usize, 0..500_u64).prop_map(|(n, d)| Op::Set(n, d)),
        1 => (0..64_usize).prop_map(Op::Remove),
        1 => (0..50_u64).prop_map(Op::Advance),
    ], 0..400)) {
        let (mut heap, mut model, mut now) = (Deadlines::<64>::new(), BTreeSet::new(), 0);
        for op in ops {
            match op {
                Op::Set(n, after) => {
                    model.retain(|&(_, other)| other != n);
                    model.insert((now + after, n));
                    heap.set(n, now + after);
                }
                Op::Remove(n) => {
                    let before = model.len();
                    model.retain(|&(_, other)| other != n);
                    prop_assert_eq!(heap.remove(n), model.len() < before);
                }
                Op::Advance(by) => {
                    now += by;
                    while let Some(&(at, n)) = model.first().filter(|&&(at, _)| at <= now) {
                        prop_assert_eq!(heap.pop_due(now), Some((n, at)));
                        model.remove(&(at, n));
                    }
                    prop_assert_eq!(heap.pop_due(now), None);
                }
            }
            prop_assert_eq!(heap.first(), model.first().map(|&(at, _)| at));
        }
    }
}
