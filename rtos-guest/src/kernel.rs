//! The kernel core: which task runs. Pure state without hardware, in the line of uC/OS-II: a task *is* its priority,
//! so every set of tasks is a 64-bit mask and every choice one count of trailing zeros.
//!
//! The core never switches stacks. It says that a switch is due ([`Kernel::needs_switch`]); the port takes it at the
//! end of the outermost critical section or of the interrupt, through [`Kernel::switch`].
//!
//! # Priority inheritance
//! A task that waits for a mutex goes on competing with its priority, on behalf of the mutex's owner: its bit stays
//! among the ready ones, and whoever is chosen by it is found by following [`Tcb::waits_for`], from owner to owner, to
//! a task that does not wait for a mutex. Each task has in [`Tcb::urgency`] the bits that lead to it: they leave the
//! ready ones together when it waits for something else, and come back together. So inheritance is transitive, ends
//! with its cause whatever that is, and costs nothing where there is none. A chain has at most as many links as there
//! are tasks; one that would close to a circle is a deadlock and refused.

pub mod deadline;
pub mod flags;
pub mod mutex;
pub mod ready;
pub mod sem;
pub mod task;
pub mod wait;

use core::cell::RefCell;
use core::ops::Range;

use critical_section::{CriticalSection, Mutex};

use deadline::Deadlines;
use flags::Wanted;
pub use ready::{Priority, PrioritySet};
use task::{State, Tcb, Wake};

use crate::port;

/// The number of priorities, the idle task's included.
pub const PRIORITIES: usize = 64;

/// Why a task cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpawnError {
    /// Another task has this priority.
    PriorityInUse,
    /// Another task has this stack.
    StackInUse,
}

/// A task would wait for a mutex whose owner waits for that task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlock;

/// All tasks and what they wait for. Times are counter ticks.
#[derive(Debug)]
pub struct Kernel {
    tasks: [Tcb; PRIORITIES],
    /// The [`Tcb::urgency`] of all tasks that can run.
    ready: PrioritySet,
    deadlines: Deadlines<PRIORITIES>,
    running: Priority,
    /// Since when it runs.
    since: u64,
}

impl Kernel {
    /// A kernel in which only the idle task exists, and runs.
    pub const fn new() -> Self {
        let mut tasks = [const { Tcb::new() }; PRIORITIES];
        let idle = &mut tasks[Priority::IDLE.index()];
        idle.state = State::Ready(Wake::Event);
        idle.urgency = PrioritySet::only(Priority::IDLE);
        idle.name = "idle";
        Self {
            tasks,
            ready: PrioritySet::only(Priority::IDLE),
            deadlines: Deadlines::new(),
            running: Priority::IDLE,
            since: 0,
        }
    }

    /// Makes a task, which does not run before it is [started](Self::start).
    ///
    /// # Errors
    /// [`SpawnError`] if there is one with this priority or this stack that has not ended.
    pub fn create(&mut self, p: Priority, name: &'static str, stack: Range<usize>) -> Result<(), SpawnError> {
        let alive = |task: &Tcb| task.state != State::Dormant;
        if self.tasks.iter().any(|task| alive(task) && task.stack.start == stack.start) {
            return Err(SpawnError::StackInUse);
        }
        let task = &mut self.tasks[p.index()];
        if alive(task) {
            return Err(SpawnError::PriorityInUse);
        }
        *task = Tcb { state: State::Created, urgency: PrioritySet::only(p), name, stack, ..Tcb::new() };
        Ok(())
    }

    /// Makes a created task ready to run from the saved `context`.
    pub fn start(&mut self, p: Priority, context: usize) {
        let task = &mut self.tasks[p.index()];
        task.context = context;
        task.state = State::Ready(Wake::Event);
        self.ready.insert_all(task.urgency);
    }

    /// Gives the idle task its stack.
    pub fn set_idle_stack(&mut self, stack: Range<usize>) {
        self.tasks[Priority::IDLE.index()].stack = stack;
    }

    /// Ends the running task.
    ///
    /// # Panics
    /// If another one waits for it to unlock a mutex.
    pub fn exit(&mut self) {
        let task = &mut self.tasks[self.running.index()];
        assert!(task.urgency == PrioritySet::only(self.running), "a task ends with a mutex locked");
        task.state = State::Dormant;
        self.ready.remove(self.running);
    }

    /// The running task waits until it is woken or, with a `deadline`, until that time has come.
    ///
    /// # Panics
    /// If no task runs: before the scheduler starts, and in the idle task.
    pub fn block(&mut self, deadline: Option<u64>) {
        let urgency = self.tasks[self.running.index()].urgency;
        self.suspend(deadline);
        self.ready.remove_all(urgency);
    }

    /// The running task waits for `owner` to unlock a mutex, and lends it its urgency for as long.
    ///
    /// # Errors
    /// [`Deadlock`] if `owner` is the running task, or waits for it. Nothing has changed then.
    ///
    /// # Panics
    /// As [`block`](Self::block), and if `owner` has ended.
    pub fn block_on(&mut self, owner: Priority, deadline: Option<u64>) -> Result<(), Deadlock> {
        let (me, urgency) = (self.running, self.tasks[self.running.index()].urgency);
        let root = self.root(owner);
        if root == me {
            return Err(Deadlock);
        }
        assert!(self.tasks[root.index()].state != State::Dormant, "a task has ended with a mutex locked");
        self.suspend(deadline);
        self.tasks[me.index()].waits_for = Some(owner);
        self.each_owner(me, |set| set.insert_all(urgency));
        if self.is_blocked(root) {
            self.ready.remove_all(urgency);
        }
        Ok(())
    }

    fn suspend(&mut self, deadline: Option<u64>) {
        assert!(self.running != Priority::IDLE, "a blocking call outside a task");
        self.tasks[self.running.index()].state = State::Blocked;
        if let Some(deadline) = deadline {
            self.deadlines.set(self.running.index(), deadline);
        }
    }

    /// Those of `waiters` that wait for the running task to unlock a mutex wait for `owner`, the next one to lock it.
    pub fn follow(&mut self, waiters: PrioritySet, owner: Priority) {
        for p in waiters.iter() {
            let task = &mut self.tasks[p.index()];
            if task.waits_for == Some(self.running) {
                task.waits_for = Some(owner);
                let urgency = task.urgency;
                self.tasks[self.running.index()].urgency.remove_all(urgency);
                self.tasks[owner.index()].urgency.insert_all(urgency);
            }
        }
    }

    /// Makes the blocked task `p` ready; false if it does not wait (any more).
    pub fn wake(&mut self, p: Priority) -> bool {
        self.deadlines.remove(p.index());
        self.unblock(p, Wake::Event)
    }

    /// Makes every task ready whose deadline is at or before `now`.
    pub fn expire(&mut self, now: u64) {
        while let Some((n, _)) = self.deadlines.pop_due(now) {
            self.unblock(Priority::of(n), Wake::Timeout);
        }
    }

    fn unblock(&mut self, p: Priority, why: Wake) -> bool {
        if !self.is_blocked(p) {
            return false;
        }
        let urgency = self.tasks[p.index()].urgency;
        self.each_owner(p, |set| set.remove_all(urgency));
        let task = &mut self.tasks[p.index()];
        task.waits_for = None;
        task.state = State::Ready(why);
        self.ready.insert_all(urgency);
        true
    }

    /// Applies `change` to the urgency of the task for which `p` waits, the one for which that waits, and so on.
    fn each_owner(&mut self, p: Priority, change: impl Fn(&mut PrioritySet)) {
        let mut next = self.tasks[p.index()].waits_for;
        while let Some(owner) = next {
            let task = &mut self.tasks[owner.index()];
            change(&mut task.urgency);
            next = task.waits_for;
        }
    }

    /// The task on which `p` depends: itself unless it waits for a mutex.
    fn root(&self, mut p: Priority) -> Priority {
        while let Some(owner) = self.tasks[p.index()].waits_for {
            p = owner;
        }
        p
    }

    /// Whether `p` waits.
    pub fn is_blocked(&self, p: Priority) -> bool {
        self.tasks[p.index()].state == State::Blocked
    }

    /// The most urgent of `tasks`, lent urgency included.
    pub fn most_urgent(&self, tasks: PrioritySet) -> Option<Priority> {
        tasks.iter().min_by_key(|p| self.tasks[p.index()].urgency.highest())
    }

    /// The flags that `p` waits for.
    pub fn wanted(&mut self, p: Priority) -> &mut Wanted {
        &mut self.tasks[p.index()].wanted
    }

    /// Why the running task's last wait ended.
    ///
    /// # Panics
    /// If it has not.
    pub fn woken_by(&self) -> Wake {
        match self.tasks[self.running.index()].state {
            State::Ready(why) => why,
            _ => panic!("a wait that has not ended"),
        }
    }

    /// The earliest time at which a waiting task is due.
    pub fn next_deadline(&self) -> Option<u64> {
        self.deadlines.first()
    }

    /// The task that runs.
    pub fn running(&self) -> Priority {
        self.running
    }

    /// The task of priority `p`, if there is one, as it is at the time `now`.
    pub fn task(&self, p: Priority, now: u64) -> Option<Tcb> {
        let mut task = self.tasks[p.index()].clone();
        if p == self.running {
            task.ran += now - self.since;
        }
        (task.state != State::Dormant).then_some(task)
    }

    /// The task that should run: the most urgent ready one, or the owner of the mutex that keeps it from running.
    fn chosen(&self) -> Priority {
        self.root(self.ready.highest().unwrap_or(Priority::IDLE))
    }

    /// Whether a task other than the running one should run.
    pub fn needs_switch(&self) -> bool {
        self.chosen() != self.running
    }

    /// Saves the running task's `context`, makes the chosen one the running one from `now` on and returns its context.
    pub fn switch(&mut self, context: usize, now: u64) -> usize {
        let chosen = self.chosen();
        let old = &mut self.tasks[self.running.index()];
        old.context = context;
        if chosen == self.running {
            return context;
        }
        old.ran += now - self.since;
        (self.running, self.since) = (chosen, now);
        let new = &mut self.tasks[chosen.index()];
        new.switches = new.switches.wrapping_add(1);
        new.context
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

/// Runs `f` on the kernel in an exception, at whose end the port switches.
#[cfg(target_os = "none")]
pub(crate) fn in_exception<R>(cs: CriticalSection<'_>, f: impl FnOnce(&mut Kernel) -> R) -> R {
    f(&mut KERNEL.borrow_ref_mut(cs))
}

/// Checks that the running task, which [blocked](Kernel::block), has waited.
///
/// # Panics
/// If it has not: the call was made with interrupts masked, where no other task can run.
pub(crate) fn assert_waited() {
    assert!(port::may_wait(), "a blocking call in an interrupt handler or a critical section");
}

/// Whether a task runs that could wait: false before the scheduler starts.
pub(crate) fn in_task() -> bool {
    with(|kernel, _| kernel.running() != Priority::IDLE)
}

/// The running task, unless the kernel itself is what failed.
#[cfg(target_os = "none")]
pub(crate) fn running_task() -> Option<Tcb> {
    critical_section::with(|cs| {
        let kernel = KERNEL.borrow(cs).try_borrow().ok()?;
        kernel.task(kernel.running(), kernel.since)
    })
}

#[cfg(test)]
mod tests;
