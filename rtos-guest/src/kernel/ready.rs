//! Priorities, and sets of them.

/// A task's priority, unique among tasks: 0 is the most urgent, 62 the least. (63 is the idle task's.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(u8);

impl Priority {
    /// The idle task's, which no other task can have.
    pub(crate) const IDLE: Self = Self(63);

    /// The priority `level`.
    ///
    /// # Panics
    /// If `level` is above 62; at compile time in a constant.
    pub const fn new(level: u8) -> Self {
        assert!(level < Self::IDLE.0, "task priorities are 0 to 62");
        Self(level)
    }

    /// The number, 0 to 63.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A set of tasks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrioritySet(u64);

impl PrioritySet {
    /// The empty set.
    pub const fn new() -> Self {
        Self(0)
    }

    /// This set and `p`.
    pub const fn with(self, p: Priority) -> Self {
        Self(self.0 | 1 << p.0)
    }

    /// Adds `p`.
    pub fn insert(&mut self, p: Priority) {
        *self = self.with(p);
    }

    /// Takes `p` out.
    pub fn remove(&mut self, p: Priority) {
        self.0 &= !(1 << p.0);
    }

    /// Whether `p` is in it.
    pub fn contains(self, p: Priority) -> bool {
        self.0 >> p.0 & 1 == 1
    }

    /// The most urgent member, in constant time.
    pub fn highest(self) -> Option<Priority> {
        (self.0 != 0).then(|| Priority(self.0.trailing_zeros() as u8))
    }

    /// Takes the most urgent member out.
    pub fn pop(&mut self) -> Option<Priority> {
        let p = self.highest()?;
        self.remove(p);
        Some(p)
    }
}
