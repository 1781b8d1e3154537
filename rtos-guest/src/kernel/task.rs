//! What the kernel knows of a task.

use core::ops::Range;

use super::flags::Wanted;
use super::{Priority, PrioritySet};

/// What a task is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// There is no such task, or it has ended.
    Dormant,
    /// It is being made.
    Created,
    /// Runs or could run. Holds how its last wait ended.
    Ready(Wake),
    /// Waits for an event, a time, or whichever is first.
    Blocked,
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// With what was waited for.
    Event,
    /// At its deadline.
    Timeout,
}

/// A task control block.
#[derive(Clone, Debug)]
pub struct Tcb {
    /// The port's handle on the registers while the task does not run: the saved stack pointer.
    pub context: usize,
    /// What the task is doing.
    pub state: State,
    /// The priorities with which it competes: its own, and those of the tasks that wait for it to unlock a mutex, directly
    /// or one through the other.
    pub urgency: PrioritySet,
    /// The task that it waits for to unlock a mutex.
    pub waits_for: Option<Priority>,
    /// The flags that it waits for, and those that it got.
    pub wanted: Wanted,
    /// What it is called.
    pub name: &'static str,
    /// The addresses of its stack.
    pub stack: Range<usize>,
    /// Counter ticks for which it has run, up to when it last began to.
    pub ran: u64,
    /// How often it began to run.
    pub switches: u32,
}

impl Tcb {
    /// Of a task that does not exist yet.
    pub const fn new() -> Self {
        Self {
            context: 0,
            state: State::Dormant,
            urgency: PrioritySet::new(),
            waits_for: None,
            wanted: Wanted::NOTHING,
            name: "",
            stack: 0..0,
            ran: 0,
            switches: 0,
        }
    }
}

impl Default for Tcb {
    fn default() -> Self {
        Self::new()
    }
}
