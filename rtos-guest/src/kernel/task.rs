//! What the kernel knows of a task.

/// What a task is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// There is no such task, or it has ended.
    Dormant,
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
#[derive(Clone, Copy, Debug)]
pub struct Tcb {
    /// The port's handle on the registers while the task does not run: the saved stack pointer.
    pub context: usize,
    /// What the task is doing.
    pub state: State,
}

impl Tcb {
    /// Of a task that does not exist yet.
    pub const fn new() -> Self {
        Self { context: 0, state: State::Dormant }
    }
}

impl Default for Tcb {
    fn default() -> Self {
        Self::new()
    }
}
