//! Time since boot, and waiting for it. There is no tick: a wait sets the hardware timer for its own end, so that its
//! resolution is the counter's (1 to 20 ns as a rule) and an idle system never wakes up.

use core::cell::Cell;

use critical_section::Mutex;
use embedded_hal::delay::DelayNs;
pub use fugit::ExtU64;

use crate::kernel;
use crate::port;

/// A point in time: nanoseconds since the counter started.
pub type Instant = fugit::MonotonicTimerInstantU64<1_000_000_000>;
/// A span of time in nanoseconds. With [`ExtU64`] in scope: `1.millis()`, `250.micros()`.
pub type Duration = fugit::NanosDurationU64;

/// The time now.
pub fn now() -> Instant {
    clock().instant(port::counter())
}

/// How long the hypervisor has kept this CPU from running since boot though it could have run, if it tells: the share
/// of a deadline missed that is not the application's.
pub fn stolen() -> Option<Duration> {
    port::stolen_nanos().map(Duration::from_ticks)
}

/// Waits until `when`, not at all if that has passed. A periodic task adds its period to the last release and waits
/// for that: then no delay adds up.
///
/// Before the scheduler starts (device initialisation) this spins.
pub fn delay_until(when: Instant) {
    let deadline = clock().ticks(when);
    if kernel::in_task() {
        if port::counter() < deadline {
            kernel::with(|kernel, _| kernel.block(Some(deadline)));
            kernel::assert_waited();
        }
    } else {
        while port::counter() < deadline {
            core::hint::spin_loop();
        }
    }
}

/// Waits for at least `duration`.
pub fn delay(duration: Duration) {
    delay_until(now() + duration);
}

/// [`DelayNs`] for drivers on embedded-hal: other tasks run meanwhile.
#[derive(Clone, Copy, Debug, Default)]
pub struct Delay;

impl DelayNs for Delay {
    fn delay_ns(&mut self, ns: u32) {
        delay(u64::from(ns).nanos());
    }
    fn delay_us(&mut self, us: u32) {
        delay(u64::from(us).micros());
    }
    fn delay_ms(&mut self, ms: u32) {
        delay(u64::from(ms).millis());
    }
}

/// Converts between counter ticks and nanoseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    to_nanos: Ratio,
    to_ticks: Ratio,
}

impl Clock {
    const HZ: u64 = 1_000_000_000;

    /// For a counter of `frequency` Hz.
    pub(crate) const fn new(frequency: u64) -> Self {
        Self { to_nanos: Ratio::new(Self::HZ, frequency), to_ticks: Ratio::new(frequency, Self::HZ) }
    }

    /// So many ticks in nanoseconds.
    fn nanos(&self, ticks: u64) -> u64 {
        self.to_nanos.of(ticks, 0)
    }

    /// The time at tick `ticks`.
    pub(crate) fn instant(&self, ticks: u64) -> Instant {
        Instant::from_ticks(self.nanos(ticks))
    }

    /// The time of so many ticks.
    pub(crate) fn duration(&self, ticks: u64) -> Duration {
        Duration::from_ticks(self.nanos(ticks))
    }

    /// The first tick that is not before `when`.
    pub(crate) fn ticks(&self, when: Instant) -> u64 {
        self.to_ticks.of(when.as_ticks(), (1 << self.to_ticks.shift) - 1)
    }
}

/// `numerator / denominator` as a multiplication and a shift, rounded up by less than 2⁻⁶³ of itself.
#[derive(Clone, Copy, Debug)]
struct Ratio {
    multiplier: u64,
    shift: u32,
}

impl Ratio {
    const fn new(numerator: u64, denominator: u64) -> Self {
        let mut shift = 63;
        loop {
            let multiplier = ((numerator as u128) << shift).div_ceil(denominator as u128);
            if multiplier <= u64::MAX as u128 {
                return Self { multiplier: multiplier as u64, shift };
            }
            shift -= 1;
        }
    }

    fn of(self, value: u64, round: u128) -> u64 {
        ((u128::from(value) * u128::from(self.multiplier) + round) >> self.shift) as u64
    }
}

static CLOCK: Mutex<Cell<Clock>> = Mutex::new(Cell::new(Clock::new(Clock::HZ)));

/// Sets the counter's frequency, once at boot.
#[cfg(target_os = "none")]
pub(crate) fn set_clock(clock: Clock) {
    critical_section::with(|cs| CLOCK.borrow(cs).set(clock));
}

/// The clock.
pub(crate) fn clock() -> Clock {
    critical_section::with(|cs| CLOCK.borrow(cs).get())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// A wait never ends early and never a tick late, whatever the counter, for a hundred years.
        #[test]
        fn a_deadline_is_the_first_tick_not_before_it(
            hz in prop_oneof![Just(1_000_000_000), Just(62_500_000), Just(54_000_000), Just(19_200_000), 1_000_000_u64..=1_000_000_000],
            ns in 0_u64..3_000_000_000_000_000_000,
        ) {
            let clock = Clock::new(hz);
            let tick = clock.ticks(Instant::from_ticks(ns));
            let exact = (u128::from(ns) * u128::from(hz)).div_ceil(1_000_000_000) as u64;
            prop_assert!((exact..=exact + 1).contains(&tick));
            prop_assert!(clock.nanos(tick) >= ns);
            prop_assert!(clock.nanos(tick) - ns <= 2 * 1_000_000_000_u64.div_ceil(hz));
        }
    }

    #[test]
    fn common_counters_convert_exactly() {
        for (hz, ticks, ns) in
            [(62_500_000, 62_500_000 * 86_400, 86_400_000_000_000), (1_000_000_000, 1 << 60, 1 << 60)]
        {
            assert_eq!(Clock::new(hz).nanos(ticks), ns);
            assert_eq!(Clock::new(hz).ticks(Instant::from_ticks(ns)), ticks);
        }
    }
}
