//! Tasks, and what is known about them.

use crate::kernel::{self, PRIORITIES, Priority};
use crate::port::{self, Stack};
use crate::time::{self, Duration};

pub use crate::kernel::SpawnError;

/// A task's memory: a stack of `STACK` bytes, a multiple of 4096, above a page that faults when the stack overflows.
/// Interrupts have a stack of their own, so that a task needs room for its own calls and 272 bytes for its registers.
///
/// ```
/// use mobi_rtos::{Priority, Task};
/// static BLINK: Task<4096> = Task::new();
///
/// # mobi_rtos::host::run(|| {
/// BLINK.spawn("blink", Priority::new(10), || { /* ... */ }).unwrap();
/// # });
/// ```
#[derive(Debug)]
pub struct Task<const STACK: usize>(Stack<STACK>);

impl<const STACK: usize> Task<STACK> {
    /// A task that does not run yet.
    pub const fn new() -> Self {
        Self(Stack::new())
    }

    /// Starts to run `entry`, which is moved onto the stack, as the task of this priority: at once if that is the most
    /// urgent, or when the scheduler starts. The task ends when `entry` returns, and can be spawned again then.
    ///
    /// # Errors
    /// [`SpawnError`] if the priority or this stack is taken.
    ///
    /// # Panics
    /// If `entry` leaves less than 512 bytes of the stack.
    pub fn spawn(
        &'static self,
        name: &'static str,
        priority: Priority,
        entry: impl FnOnce() + Send + 'static,
    ) -> Result<(), SpawnError> {
        kernel::with(|kernel, _| kernel.create(priority, name, self.0.addresses()))?;
        port::start(&self.0, priority, entry);
        Ok(())
    }
}

impl<const STACK: usize> Default for Task<STACK> {
    fn default() -> Self {
        Self::new()
    }
}

/// What is known about a task that has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statistics {
    /// What it is called.
    pub name: &'static str,
    /// Its number, 0 to 63: 63 is the idle task.
    pub priority: usize,
    /// How long it has run. An interrupt's time is that of the task that it interrupts, and so is what the hypervisor
    /// takes from the CPU ([`time::stolen`]).
    pub cpu_time: Duration,
    /// How often it began to run.
    pub switches: u32,
    /// The size of its stack in bytes.
    pub stack: usize,
    /// The most bytes of the stack that were ever in use; on the host, where tasks run on threads' stacks, 0.
    pub stack_used: usize,
}

/// The statistics of all tasks, the most urgent first; the last is the idle task. They are taken one by one.
pub fn statistics() -> impl Iterator<Item = Statistics> {
    (0..PRIORITIES).filter_map(|index| {
        let task = kernel::with(|kernel, _| kernel.task(Priority::of(index), port::counter()))?;
        Some(Statistics {
            name: task.name,
            priority: index,
            cpu_time: time::clock().duration(task.ran),
            switches: task.switches,
            stack: task.stack.len(),
            stack_used: port::stack_used(task.stack),
        })
    })
}
