//! A record as it lies in memory: the other half of [`Record::encode`].

use abi::trace::{Kind, Record, TIME_MASK};

/// All kinds, by their numbers.
const KINDS: [Kind; 9] = {
    use Kind::*;
    [Run, Idle, Sleep, Preempt, Exhausted, Exit, Inject, Job, Begin]
};

/// What these words say; `None` if there is no such kind.
pub fn decode([first, argument]: [u64; 2]) -> Option<Record> {
    let kind = *KINDS.get((first >> 56) as usize)?;
    Some(Record { time: first & TIME_MASK, kind, vcpu: (first >> 48) as u8, argument })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_kind_has_its_number() {
        for (number, kind) in KINDS.into_iter().enumerate() {
            assert_eq!(kind as usize, number);
        }
        assert_eq!(decode([(KINDS.len() as u64) << 56, 0]), None);
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_was_written(time: u64, vcpu: u8, argument: u64, kind in 0..KINDS.len()) {
            let record = Record { time, kind: KINDS[kind], vcpu, argument };
            let read = Record { time: time & TIME_MASK, ..record };
            prop_assert_eq!(decode(record.encode()), Some(read));
        }
    }
}
