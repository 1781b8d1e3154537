//! Table memory and TLBs that watch the order in which they are used, and panic when a CPU could have walked or cached
//! something that is no longer, or not yet, true.

use super::*;
use std::collections::{HashMap, HashSet};

const VALID: u64 = 1;
const TABLE: u64 = 3;
/// S2AP, XN and the software bits: what may change without a break.
const PERMISSIONS: u64 = 3 << 6 | 0xF << 55 | 3 << 53;
const S2AP_WRITE: u64 = 1 << 7;
const OUTPUT: u64 = 0x0000_FFFF_FFFF_F000;

/// A table that walks can reach, and what its first entry translates.
#[derive(Clone, Copy)]
struct Live {
    level: u32,
    ipa: u64,
}

impl Live {
    fn entry_size(self) -> u64 {
        1 << (12 + 9 * (3 - self.level))
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum What {
    /// A page or block became invalid or lost permissions.
    Leaf,
    /// A table was cut off.
    Table(u64),
    /// A page or block gained permissions: only who faulted has to forget the old ones.
    Gained,
}

/// How far a change has got to all CPUs.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Phase {
    Written,
    Visible,
    Stage2Invalidated,
    Stage2Complete,
    Stage1Invalidated,
}

#[derive(Clone, Copy, Debug)]
struct Stale {
    what: What,
    ipa: u64,
    size: u64,
    phase: Phase,
}

#[derive(Default)]
pub struct Hw {
    tables: HashMap<u64, [u64; 512]>,
    roots: HashSet<u64>,
    live: HashMap<u64, Live>,
    unpublished: HashSet<u64>,
    stale: Vec<Stale>,
    next: u64,
    /// How many more tables there are.
    pub budget: usize,
    /// Stores, and invalidations of single IPAs, since this was last set to 0.
    pub writes: usize,
    pub ipa_invalidations: usize,
    pub full_invalidations: usize,
}

impl Hw {
    pub fn new() -> Self {
        Self { next: 0x1_0000_0000, budget: 10_000, ..Self::default() }
    }

    /// How many tables, halves of roots included, are in use.
    pub fn in_use(&self) -> usize {
        self.tables.len()
    }

    /// What must hold whenever an operation returns.
    pub fn check_idle(&self) {
        assert!(self.stale.is_empty(), "not invalidated: {:x?}", self.stale);
        let unpublished = self.unpublished.iter().find(|table| self.live.contains_key(table));
        assert_eq!(unpublished, None, "stores not published");
    }

    fn alloc(&mut self, pages: u64) -> Option<Pa> {
        self.budget = self.budget.checked_sub(1)?;
        // Roots have to be aligned to two pages.
        let pa = self.next.next_multiple_of(pages * PAGE);
        self.next = pa + pages * PAGE;
        for page in 0..pages {
            self.tables.insert(pa + page * PAGE, [0; 512]);
            self.unpublished.insert(pa + page * PAGE);
        }
        Some(Pa(pa))
    }

    /// `table` is no longer reached by walks; nothing else may be reached only through it.
    fn cut_off(&mut self, table: u64) {
        let live = self.live.remove(&table).expect("not a live table");
        let leaks = live.level < 3 && self.tables[&table].iter().any(|desc| desc & TABLE == TABLE);
        assert!(!leaks, "tables below it leak");
    }

    fn advance(&mut self, from: Phase, to: Option<Phase>, which: impl Fn(&Stale) -> bool) {
        for stale in self.stale.iter_mut().filter(|stale| stale.phase == from && which(stale)) {
            stale.phase = to.unwrap_or(stale.phase);
        }
        if to.is_none() {
            self.stale.retain(|stale| stale.phase != from || !which(stale));
        }
    }
}

impl TableMem for Hw {
    fn alloc_table(&mut self) -> Option<Pa> {
        self.alloc(1)
    }

    fn alloc_root(&mut self) -> Option<Pa> {
        let root = self.alloc(2)?;
        self.roots.insert(root.0);
        self.live.insert(root.0, Live { level: 1, ipa: 0 });
        self.live.insert(root.0 + PAGE, Live { level: 1, ipa: 512 << 30 });
        Some(root)
    }

    fn free_table(&mut self, table: Pa) {
        let stale = self.stale.iter().any(|stale| stale.what == What::Table(table.0));
        assert!(!stale && !self.live.contains_key(&table.0), "freed a table that may be in use");
        self.tables.remove(&table.0).expect("not a table");
        self.unpublished.remove(&table.0);
    }

    fn free_root(&mut self, root: Pa) {
        assert!(self.roots.remove(&root.0), "not a root");
        for half in [root.0, root.0 + PAGE] {
            self.cut_off(half);
            self.free_table(Pa(half));
        }
    }

    fn read(&self, at: Pa) -> u64 {
        self.tables[&(at.0 / PAGE * PAGE)][(at.0 % PAGE / 8) as usize]
    }

    fn write(&mut self, at: Pa, new: u64) {
        self.writes += 1;
        let table = at.0 / PAGE * PAGE;
        let old = core::mem::replace(
            &mut self.tables.get_mut(&table).expect("not a table")[(at.0 % PAGE / 8) as usize],
            new,
        );
        self.unpublished.insert(table);
        let Some(&live) = self.live.get(&table) else {
            return;
        };
        let size = live.entry_size();
        let ipa = live.ipa + at.0 % PAGE / 8 * size;
        let leads_on = |desc: u64| live.level < 3 && desc & TABLE == TABLE;

        if old & VALID == 0 && new & VALID != 0 {
            let overlaps = |stale: &Stale| stale.ipa < ipa + size && ipa < stale.ipa + stale.size;
            assert!(!self.stale.iter().any(overlaps), "made before what was there is invalidated");
        }
        if leads_on(new) {
            let next = new & OUTPUT;
            assert!(!self.unpublished.contains(&next), "leads to a table whose stores are not published");
            assert!(live.level < 3 && self.live.insert(next, Live { level: live.level + 1, ipa }).is_none());
        }
        if old & VALID == 0 || old == new {
            return;
        }
        let what = if leads_on(old) {
            self.cut_off(old & OUTPUT);
            What::Table(old & OUTPUT)
        } else if new & VALID != 0 && old | S2AP_WRITE | 1 << 55 == new | 1 << 55 {
            What::Gained
        } else {
            What::Leaf
        };
        if new & VALID != 0 {
            assert_eq!((old ^ new) & !PERMISSIONS, 0, "no break before {old:#x} became {new:#x}");
        }
        self.stale.push(Stale { what, ipa, size, phase: Phase::Written });
    }

    fn publish(&mut self) {
        self.unpublished.clear();
        self.advance(Phase::Written, Some(Phase::Visible), |_| true);
    }
}

impl Tlb for Hw {
    fn invalidate_ipa(&mut self, vttbr: u64, ipa: Ipa) {
        assert!(self.roots.contains(&(vttbr & OUTPUT)) && vttbr >> 48 != 0);
        self.ipa_invalidations += 1;
        self.advance(Phase::Visible, Some(Phase::Stage2Invalidated), |stale| {
            !matches!(stale.what, What::Table(_)) && stale.ipa <= ipa.0 && ipa.0 < stale.ipa + stale.size
        });
    }

    fn invalidate_stage1(&mut self, _: u64) {
        self.advance(Phase::Stage2Complete, Some(Phase::Stage1Invalidated), |_| true);
    }

    fn invalidate_va(&mut self, _: u64, _: u64) {
        self.advance(Phase::Stage2Complete, Some(Phase::Stage1Invalidated), |stale| {
            stale.what == What::Gained
        });
    }

    fn invalidate_all(&mut self, _: u64) {
        self.full_invalidations += 1;
        self.advance(Phase::Visible, Some(Phase::Stage1Invalidated), |_| true);
    }

    fn complete(&mut self) {
        self.advance(Phase::Stage2Invalidated, Some(Phase::Stage2Complete), |_| true);
        self.advance(Phase::Stage1Invalidated, None, |_| true);
    }
}
