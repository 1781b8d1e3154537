//! Pins that lead to another VM: what one end of a [channel](super::channel) drives, the other reads.

use core::convert::Infallible;
use core::sync::atomic::Ordering;

use embedded_hal::digital::{ErrorType, InputPin, OutputPin, StatefulOutputPin};

use super::channel::End;
use crate::flags::Events;

/// The 32 lines each way of a channel.
#[derive(Debug)]
pub struct Lines(End);

impl Lines {
    pub(crate) fn new(end: End) -> Self {
        Self(end)
    }

    /// The pin that drives line `n`, 0 to 31. All begin low.
    ///
    /// # Panics
    /// If there is no such line.
    pub fn output(&self, n: u32) -> Output {
        Output { end: self.0, mask: mask(n) }
    }

    /// The pin that reads the line `n`, 0 to 31, that the other end drives.
    ///
    /// # Panics
    /// If there is no such line.
    pub fn input(&self, n: u32) -> Input {
        Input { end: self.0, mask: mask(n) }
    }
}

fn mask(n: u32) -> u32 {
    1_u32.checked_shl(n).expect("a channel has 32 lines")
}

/// A pin that the other end of the channel reads.
#[derive(Debug)]
pub struct Output {
    end: End,
    mask: u32,
}

/// A pin that the other end of the channel drives.
#[derive(Debug)]
pub struct Input {
    end: End,
    mask: u32,
}

impl Input {
    /// The level, high or low.
    pub fn level(&self) -> bool {
        self.end.others().lines.load(Ordering::Acquire) & self.mask != 0
    }

    /// Waits until the level is `high`, or low. One task may wait for a line at a time. A pulse may be over before anybody
    /// looks.
    ///
    /// # Panics
    /// As [`Semaphore::take`](crate::Semaphore::take), if it would wait.
    pub fn wait_for(&self, high: bool) {
        while self.level() != high {
            self.end.events.lines.wait(Events::any(self.mask).clear_on_exit());
        }
    }
}

impl ErrorType for Output {
    type Error = Infallible;
}

impl ErrorType for Input {
    type Error = Infallible;
}

impl OutputPin for Output {
    fn set_low(&mut self) -> Result<(), Infallible> {
        let before = self.end.mine().lines.fetch_and(!self.mask, Ordering::AcqRel);
        if before & self.mask != 0 {
            self.end.notify();
        }
        Ok(())
    }

    fn set_high(&mut self) -> Result<(), Infallible> {
        let before = self.end.mine().lines.fetch_or(self.mask, Ordering::AcqRel);
        if before & self.mask == 0 {
            self.end.notify();
        }
        Ok(())
    }
}

impl StatefulOutputPin for Output {
    fn is_set_high(&mut self) -> Result<bool, Infallible> {
        Ok(self.end.mine().lines.load(Ordering::Relaxed) & self.mask != 0)
    }

    fn is_set_low(&mut self) -> Result<bool, Infallible> {
        self.is_set_high().map(|high| !high)
    }
}

impl InputPin for Input {
    fn is_high(&mut self) -> Result<bool, Infallible> {
        Ok(self.level())
    }

    fn is_low(&mut self) -> Result<bool, Infallible> {
        Ok(!self.level())
    }
}
