//! What is typed into one console, and how much of it the guest has yet to take.

use std::collections::VecDeque;

use abi::mux::RX_WINDOW;

/// Input of one console on its way to EL2's ring (flow control of [`abi::mux`]).
#[derive(Debug, Default)]
pub(crate) struct Input {
    pending: VecDeque<u8>,
    unacknowledged: usize,
}

impl Input {
    /// Queues `bytes`.
    pub fn push(&mut self, bytes: &[u8]) {
        self.pending.extend(bytes);
    }

    /// What may be sent now: no more than EL2 has room for.
    pub fn take(&mut self) -> Vec<u8> {
        let room = RX_WINDOW - self.unacknowledged;
        let now: Vec<u8> = self.pending.drain(..room.min(self.pending.len())).collect();
        self.unacknowledged += now.len();
        now
    }

    /// The guest took `count` bytes.
    pub fn credit(&mut self, count: usize) {
        self.unacknowledged = self.unacknowledged.saturating_sub(count);
    }

    /// Whether the guest has taken everything.
    pub fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.unacknowledged == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_window_is_never_exceeded_and_nothing_is_lost(
            typed in prop::collection::vec(any::<u8>(), 0..2000), reads in prop::collection::vec(0..=255usize, 1..100),
        ) {
            let mut input = Input::default();
            input.push(&typed);
            let (mut ring, mut got) = (VecDeque::new(), Vec::new());
            for read in reads.iter().chain([&255; 9]) {
                ring.extend(input.take());
                prop_assert!(ring.len() <= RX_WINDOW);
                let count = (*read).min(ring.len());
                got.extend(ring.drain(..count));
                input.credit(count);
            }
            prop_assert_eq!(got, typed);
            prop_assert!(input.is_idle());
        }
    }

    #[test]
    fn credit_for_nothing_changes_nothing() {
        let mut input = Input::default();
        input.credit(255);
        input.push(&[0; 1000]);
        assert_eq!(input.take().len(), RX_WINDOW);
    }
}
