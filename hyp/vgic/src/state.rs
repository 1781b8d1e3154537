//! The state of interrupts, 32 to a [`Word`], so that a register of the distributor is one operation.

/// Numbers of the set bits of `mask`, lowest first.
#[inline]
pub(crate) fn bits(mask: impl Into<u64>) -> impl Iterator<Item = usize> {
    let mut left = mask.into();
    core::iter::from_fn(move || {
        (left != 0).then(|| {
            let bit = left.trailing_zeros() as usize;
            left &= left - 1;
            bit
        })
    })
}

/// 32 interrupts. Each field has bit n for interrupt n of the word, unless it is an array.
///
/// An interrupt is **listed** while it is in a list register. Its pending and active states then live there, in the
/// hardware's hands, and `lr_pending` and `lr_active` only say what was written or last seen. What arrives meanwhile is kept in the
/// other fields, and both are merged when the register is folded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    pub enabled: u32,
    pub group1: u32,
    pub edge: u32,
    /// The level of the interrupt's line. Mapped interrupts have none.
    pub line: u32,
    /// Pending whatever the line: a rising edge, ISPENDR, an SGI, or the physical interrupt of a mapped one.
    pub latch: u32,
    /// Active and not listed; for a listed one: make it active when it is folded.
    pub active: u32,
    pub lr_pending: u32,
    pub lr_active: u32,
    /// Listed, and made not pending (or not active) by a register write since: applied when it is folded.
    pub drop_pending: u32,
    pub drop_active: u32,
    /// Backed by the physical interrupt in `pintid`.
    pub mapped: u32,
    /// The physical interrupt is active, and no list register will deactivate it.
    pub owed: u32,
    pub pintid: [u16; 32],
    pub priorities: Priorities,
}

/// The priorities of 32 interrupts, or words of them: 32 levels, so the three lower bits of a priority are zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Priorities {
    pub of: [u8; 32],
    /// Which have each level, and which levels any has: finding the most urgent needs no loop over all.
    level: [u32; 32],
    levels: u32,
}

impl Priorities {
    pub const RESET: Priorities = {
        let mut level = [0; 32];
        level[0] = !0;
        Priorities { of: [0; 32], level, levels: 1 }
    };

    /// Sets the priority of number `n`.
    #[inline]
    pub fn set(&mut self, n: usize, priority: u8) {
        let (old, new, mask) = (self.of[n] as usize >> 3, priority as usize >> 3, 1 << n);
        self.of[n] = priority & 0xf8;
        self.level[old] &= !mask;
        if self.level[old] == 0 {
            self.levels &= !(1 << old);
        }
        self.level[new] |= mask;
        self.levels |= 1 << new;
    }

    /// The most urgent of `candidates`: its priority and its number.
    #[inline]
    pub fn most_urgent(&self, candidates: u32) -> Option<(u8, usize)> {
        if candidates == 0 {
            return None;
        }
        bits(self.levels)
            .find(|&level| self.level[level] & candidates != 0)
            .map(|level| ((level << 3) as u8, (self.level[level] & candidates).trailing_zeros() as usize))
    }
}

impl Word {
    pub const RESET: Word = Word {
        enabled: 0,
        group1: 0,
        edge: 0,
        line: 0,
        latch: 0,
        active: 0,
        lr_pending: 0,
        lr_active: 0,
        drop_pending: 0,
        drop_active: 0,
        mapped: 0,
        owed: 0,
        pintid: [0; 32],
        priorities: Priorities::RESET,
    };

    /// Pending as far as the distributor knows: the latch, or an asserted level line.
    #[inline]
    pub fn pending(&self) -> u32 {
        self.latch | self.line & !self.edge
    }

    /// In a list register.
    #[inline]
    pub fn listed(&self) -> u32 {
        self.lr_pending | self.lr_active
    }

    /// Bound to the vCPU that has it listed or that acknowledged it.
    #[inline]
    pub fn busy(&self) -> u32 {
        self.active | self.listed()
    }

    /// Could be signalled now: `groups` is the mask of [`Word::in_groups`].
    #[inline]
    pub fn ready(&self, groups: Groups) -> u32 {
        self.pending() & self.enabled & self.in_groups(groups) & !self.busy()
    }

    /// Active, and in want of a list register.
    #[inline]
    pub fn unlisted_active(&self) -> u32 {
        self.active & !self.listed()
    }

    /// Members of the enabled groups.
    #[inline]
    pub fn in_groups(&self, groups: Groups) -> u32 {
        let mask = |on: bool| 0u32.wrapping_sub(on.into());
        self.group1 & mask(groups.group1) | !self.group1 & mask(groups.group0)
    }

    /// Mapped interrupts that are over virtually while the physical one is still active.
    #[inline]
    pub fn orphans(&self) -> u32 {
        self.owed & !(self.pending() | self.busy())
    }
}

/// Interrupt groups that are enabled: in the distributor (GICD_CTLR), or in a CPU interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Groups {
    /// Group 0.
    pub group0: bool,
    /// Group 1.
    pub group1: bool,
}
