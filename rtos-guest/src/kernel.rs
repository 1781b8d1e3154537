//! The kernel core: which task runs. Pure state without hardware, in the line of uC/OS-II: a task *is* its priority,
//! so every set of tasks is a 64-bit mask and every choice one count of trailing zeros.
//!
//! The core never switches stacks. It says that a switch is due ([`Kernel::needs_switch`]); the port takes it at the
//! end of the outermost critical section or of the interrupt, through [`Kernel::switch`].

pub mod ready;
pub mod sem;
pub mod task;
pub mod timer;

use core::cell::RefCell;

use critical_section::{CriticalSection, Mutex};

pub use ready::{Priority, PrioritySet};
use task::{State, Tcb, Wake};
use timer::TimerList;

use crate::port;

/// The number of priorities, the idle task's included.
pub const PRIORITIES: usize = 64;

/// A task of this priority exists already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PriorityInUse;

/// All tasks and what they wait for. Times are counter ticks.
#[derive(Debug)]
pub struct Kernel {
    tasks: [Tcb; PRIORITIES],
    ready: PrioritySet,
    timers: TimerList,
    running: Priority,
}

impl Kernel {
    /// A kernel in which only the idle task exists, and runs.
    pub const fn new() -> Self {
        let mut tasks = [const { Tcb::new() }; PRIORITIES];
        tasks[Priority::IDLE.index()].state = State::Ready(Wake::Event);
        Self {
            tasks,
            ready: PrioritySet::new().with(Priority::IDLE),
            timers: TimerList::new(),
            running: Priority::IDLE,
        }
    }

    /// Creates the task of priority `p`, ready to run from the saved `context`.
    ///
    /// # Errors
    /// [`PriorityInUse`] unless `p` has never been started or its task has ended.
    pub fn start(&mut self, p: Priority, context: usize) -> Result<(), PriorityInUse> {
        let task = &mut self.tasks[p.index()];
        if task.state != State::Dormant {
            return Err(PriorityInUse);
        }
        *task = Tcb { context, state: State::Ready(Wake::Event) };
        self.ready.insert(p);
        Ok(())
    }

    /// Ends the running task.
    pub fn exit(&mut self) {
        self.tasks[self.running.index()].state = State::Dormant;
        self.ready.remove(self.running);
    }

    /// The running task waits until it is woken or, with a `deadline`, until that time has come.
    ///
    /// # Panics
    /// If no task runs: before the scheduler starts, and in the idle task.
    pub fn block(&mut self, deadline: Option<u64>) {
        assert!(self.running != Priority::IDLE, "a blocking call outside a task");
        self.tasks[self.running.index()].state = State::Blocked;
        self.ready.remove(self.running);
        if let Some(deadline) = deadline {
            self.timers.insert(self.running, deadline);
        }
    }

    /// Makes the blocked task `p` ready; false if it does not wait (any more).
    pub fn wake(&mut self, p: Priority) -> bool {
        self.timers.remove(p);
        self.unblock(p, Wake::Event)
    }

    /// Makes every task ready whose deadline is at or before `now`.
    pub fn expire(&mut self, now: u64) {
        while let Some(p) = self.timers.pop_due(now) {
            self.unblock(p, Wake::Timeout);
        }
    }

    fn unblock(&mut self, p: Priority, why: Wake) -> bool {
        let task = &mut self.tasks[p.index()];
        let blocked = task.state == State::Blocked;
        if blocked {
            task.state = State::Ready(why);
            self.ready.insert(p);
        }
        blocked
    }

    /// Why the running task's last wait ended.
    ///
    /// # Panics
    /// If it has not: the call was made with interrupts masked, where no other task can run.
    pub fn woken_by(&self) -> Wake {
        match self.tasks[self.running.index()].state {
            State::Ready(why) => why,
            _ => panic!("a blocking call in an interrupt handler or a critical section"),
        }
    }

    /// The earliest time at which a waiting task is due.
    pub fn next_deadline(&self) -> Option<u64> {
        self.timers.first()
    }

    /// The task that runs.
    pub fn running(&self) -> Priority {
        self.running
    }

    /// Whether a task other than the running one should run.
    pub fn needs_switch(&self) -> bool {
        self.ready.highest() != Some(self.running)
    }

    /// Saves the running task's `context`, makes the highest ready task the running one and returns its context.
    pub fn switch(&mut self, context: usize) -> usize {
        self.tasks[self.running.index()].context = context;
        self.running = self.ready.highest().unwrap_or(Priority::IDLE);
        self.tasks[self.running.index()].context
    }
}

impl Default for Kernel {
    fn default() -> Self {
        Self::new()
    }
}

/// The one kernel of this CPU.
static KERNEL: Mutex<RefCell<Kernel>> = Mutex::new(RefCell::new(Kernel::new()));

/// Runs `f` on the kernel in a critical section; a switch that becomes due is taken at the end of the outermost one.
pub(crate) fn with<R>(f: impl FnOnce(&mut Kernel, CriticalSection<'_>) -> R) -> R {
    critical_section::with(|cs| {
        let mut kernel = KERNEL.borrow_ref_mut(cs);
        let result = f(&mut kernel, cs);
        if kernel.needs_switch() {
            port::request_switch();
        }
        result
    })
}

/// Whether a task runs that could wait: false before the scheduler starts.
pub(crate) fn in_task() -> bool {
    with(|kernel, _| kernel.running() != Priority::IDLE)
}

#[cfg(test)]
mod tests;
