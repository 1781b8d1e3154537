//! Event flags.

use super::{kernel, p, settle};
use crate::kernel::flags::{FlagGroup, Wanted};
use crate::kernel::wait::{Outcome, TimedOut};

const ANY: Wanted = Wanted { mask: 0b011, all: false, clear: false };
const ALL: Wanted = Wanted { mask: 0b011, all: true, clear: false };
const ALL_CLEAR: Wanted = Wanted { clear: true, ..ALL };

#[test]
fn what_is_there_is_not_waited_for() {
    let (mut k, mut flags) = (kernel([1]), FlagGroup::new(0b110));
    assert_eq!(flags.wait(&mut k, ANY, None), Outcome::Got(0b010));
    assert_eq!(flags.poll(ALL), None);
    flags.set(&mut k, 0b001);
    assert_eq!(flags.wait(&mut k, ALL_CLEAR, None), Outcome::Got(0b011));
    assert_eq!(flags.get(), 0b100);
    flags.clear(0b100);
    assert_eq!(flags.get(), 0);
}

#[test]
fn one_event_wakes_all_whom_it_satisfies_and_is_cleared_afterwards() {
    let (mut k, mut flags) = (kernel([1, 2, 3, 9]), FlagGroup::new(0));
    for wanted in [ALL_CLEAR, ANY, Wanted { mask: 0b100, ..ANY }] {
        assert_eq!(flags.wait(&mut k, wanted, None), Outcome::Waits);
        settle(&mut k);
    }
    flags.set(&mut k, 0b001);
    assert_eq!(settle(&mut k), p(2));
    assert_eq!(flags.resume(&mut k), Ok(0b001));
    flags.set(&mut k, 0b010);
    assert_eq!(flags.get(), 0, "both are cleared by the wait for all");
    assert_eq!(settle(&mut k), p(1));
    assert_eq!(flags.resume(&mut k), Ok(0b011));
    assert!(k.is_blocked(p(3)));
}

#[test]
fn flags_that_come_too_late_are_not_got() {
    let (mut k, mut flags) = (kernel([1, 9]), FlagGroup::new(0));
    assert_eq!(flags.wait(&mut k, ALL_CLEAR, Some(10)), Outcome::Waits);
    settle(&mut k);
    k.expire(10);
    flags.set(&mut k, 0b011);
    assert_eq!(flags.get(), 0b011, "nobody waits any more");
    assert_eq!(settle(&mut k), p(1));
    assert_eq!(flags.resume(&mut k), Err(TimedOut));
}
