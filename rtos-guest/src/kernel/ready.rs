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

    /// The priority of the kernel's number `index`, which is below 64.
    pub(crate) const fn of(index: usize) -> Self {
        Self(index as u8)
    }

    /// The number, 0 to 63.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A set of priorities, which is a set of tasks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrioritySet(u64);

impl PrioritySet {
    /// The empty set.
    pub const fn new() -> Self {
        Self(0)
    }

    /// The set of `p` alone.
    pub const fn only(p: Priority) -> Self {
        Self(1 << p.0)
    }

    /// Adds `p`.
    pub fn insert(&mut self, p: Priority) {
        self.0 |= 1 << p.0;
    }

    /// Takes `p` out.
    pub fn remove(&mut self, p: Priority) {
        self.0 &= !(1 << p.0);
    }

    /// Adds all of `other`.
    pub fn insert_all(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// Takes all of `other` out.
    pub fn remove_all(&mut self, other: Self) {
        self.0 &= !other.0;
    }

    /// Whether `p` is in it.
    pub fn contains(self, p: Priority) -> bool {
        self.0 >> p.0 & 1 == 1
    }

    /// The most urgent member, in constant time.
    pub fn highest(self) -> Option<Priority> {
        (self.0 != 0).then(|| Priority(self.0.trailing_zeros() as u8))
    }

    /// Its members, the most urgent first.
    pub fn iter(mut self) -> impl Iterator<Item = Priority> {
        core::iter::from_fn(move || {
            let p = self.highest()?;
            self.remove(p);
            Some(p)
        })
    }
}
