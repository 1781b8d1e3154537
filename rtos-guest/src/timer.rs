//! Software timers: functions that a task of the application calls at their times, once or periodically. There is no
//! tick: that task sleeps until the first of them is due.

use core::cell::RefCell;

use critical_section::Mutex;

use crate::kernel::deadline::Deadlines;
use crate::port;
use crate::sem::Semaphore;
use crate::time::{self, Duration, Instant};

/// All timers of a group are in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooManyTimers;

/// A group of up to `N` timers (64 at the most), whose functions run in one task, at its priority, one after the other.
///
/// ```
/// use mobi_rtos::time::{self, ExtU64};
/// use mobi_rtos::{Priority, Semaphore, Task, Timers};
///
/// static TIMERS: Timers<4> = Timers::new();
/// static TIMER_TASK: Task<4096> = Task::new();
/// static BLINKS: Semaphore = Semaphore::new(0);
///
/// # mobi_rtos::host::run_for(100.millis(), || {
/// TIMER_TASK.spawn("timers", Priority::new(2), || TIMERS.run()).unwrap();
/// let blink = TIMERS.add(|| BLINKS.give()).unwrap();
/// blink.start_periodic(time::now() + 10.millis(), 20.millis());
/// # });
/// # assert_eq!((0..).take_while(|_| BLINKS.try_take()).count(), 5);
/// ```
#[derive(Debug)]
pub struct Timers<const N: usize> {
    table: Mutex<RefCell<Table<N>>>,
    /// The earliest deadline has changed.
    changed: Semaphore,
}

#[derive(Debug)]
struct Table<const N: usize> {
    deadlines: Deadlines<N>,
    entries: heapless::Vec<Entry, N>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    function: fn(),
    /// When it is due, and how long after that again; zero: not again.
    due: Instant,
    period: Duration,
}

/// A timer of a group.
#[derive(Clone, Copy, Debug)]
pub struct Timer<const N: usize> {
    timers: &'static Timers<N>,
    index: usize,
}

impl<const N: usize> Timers<N> {
    /// A group without timers.
    pub const fn new() -> Self {
        let table = Table { deadlines: Deadlines::new(), entries: heapless::Vec::new() };
        Self { table: Mutex::new(RefCell::new(table)), changed: Semaphore::binary() }
    }

    /// A new timer, which is stopped, for this function.
    ///
    /// # Errors
    /// [`TooManyTimers`] if the group has `N`.
    pub fn add(&'static self, function: fn()) -> Result<Timer<N>, TooManyTimers> {
        critical_section::with(|cs| {
            let entries = &mut self.table.borrow_ref_mut(cs).entries;
            let entry = Entry { function, due: Instant::from_ticks(0), period: Duration::from_ticks(0) };
            entries.push(entry).map_err(|_| TooManyTimers)?;
            Ok(Timer { timers: self, index: entries.len() - 1 })
        })
    }

    /// Calls the functions of the group's timers when they are due, for ever.
    ///
    /// # Panics
    /// If the caller is no task.
    pub fn run(&self) -> ! {
        loop {
            let next = critical_section::with(|cs| self.table.borrow_ref(cs).deadlines.first());
            // Whether the time has come or something has changed: the table tells.
            let _ = self.changed.take_by(next);
            while let Some(function) = self.pop_due() {
                function();
            }
        }
    }

    /// The function of the first timer that is due. A periodic one is set anew, on the grid of its first time: periods
    /// that have passed meanwhile are left out.
    fn pop_due(&self) -> Option<fn()> {
        critical_section::with(|cs| {
            let table = &mut *self.table.borrow_ref_mut(cs);
            let (index, _) = table.deadlines.pop_due(port::counter())?;
            let entry = &mut table.entries[index];
            if entry.period != Duration::from_ticks(0) {
                let late = time::now().as_ticks().saturating_sub(entry.due.as_ticks());
                let periods = 1 + late / entry.period.as_ticks();
                entry.due += Duration::from_ticks(periods.saturating_mul(entry.period.as_ticks()));
                table.deadlines.set(index, time::clock().ticks(entry.due));
            }
            Some(entry.function)
        })
    }
}

impl<const N: usize> Timer<N> {
    /// Has the function called at `due`, once. A timer that runs is set anew. Allowed everywhere.
    pub fn start(&self, due: Instant) {
        self.set(due, Duration::from_ticks(0));
    }

    /// Has the function called at `first` and then every `period`. A timer that runs is set anew. Allowed everywhere.
    ///
    /// # Panics
    /// If `period` is zero.
    pub fn start_periodic(&self, first: Instant, period: Duration) {
        assert!(period > Duration::from_ticks(0), "a period of nothing");
        self.set(first, period);
    }

    /// Stops the timer: its function is not called any more, once this has returned to a task that is less urgent than
    /// the group's. Returns whether it ran. Allowed everywhere.
    pub fn stop(&self) -> bool {
        critical_section::with(|cs| self.timers.table.borrow_ref_mut(cs).deadlines.remove(self.index))
    }

    fn set(&self, due: Instant, period: Duration) {
        let deadline = time::clock().ticks(due);
        let first = critical_section::with(|cs| {
            let table = &mut *self.timers.table.borrow_ref_mut(cs);
            let entry = &mut table.entries[self.index];
            (entry.due, entry.period) = (due, period);
            table.deadlines.set(self.index, deadline);
            table.deadlines.first() == Some(deadline)
        });
        if first {
            self.timers.changed.give();
        }
    }
}

impl<const N: usize> Default for Timers<N> {
    fn default() -> Self {
        Self::new()
    }
}
