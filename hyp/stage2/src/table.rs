//! Stage 2 translation tables: a root of two concatenated level 1 tables, level 2 with 2 MiB blocks, level 3 with
//! 4 KiB pages.
//!
//! # Order
//! Other CPUs walk these tables while they change (Arm ARM, "TLB maintenance" and "Using break-before-make
//! when updating translation table entries"). Three rules, checked by the tests on a trace of every access:
//! * What a table holds is visible before the descriptor that leads to it: [`TableMem::publish`] in between.
//! * A valid descriptor that gets another output address or size becomes invalid first, then all that may be cached
//!   of it is invalidated, and only then the new one is written. A change of permissions alone needs no break, just
//!   the invalidation.
//! * Invalidation goes from stage 2 to stage 1: an IPA's invalidation leaves entries that combine both stages, which
//!   could be made again from a stage 2 entry that is still there. So: descriptor visible, stage 2 invalidated and
//!   complete, combined entries invalidated and complete. A table is freed after that.

use crate::desc::{Desc, Level};
use crate::{BLOCK, Error, IPA_END, Ipa, Kind, PAGE, Pa, Rights, Vmid};

/// The most descriptors that one step of an operation changes, or empty GiB that it skips.
pub const STEP: u64 = 64;
/// The most descriptors that one step of [`Tables::split`] fills.
pub const SPLIT_STEP: u64 = 128;

/// What one level 1 entry covers.
const GIB: u64 = 1 << 30;

/// The memory that tables are made of.
pub trait TableMem {
    /// A table of 4 KiB, aligned to its size, filled with zeros; none if there is no memory left.
    fn alloc_table(&mut self) -> Option<Pa>;
    /// A root of 8 KiB, aligned to its size, filled with zeros.
    fn alloc_root(&mut self) -> Option<Pa>;
    /// Takes a table back.
    fn free_table(&mut self, table: Pa);
    /// Takes a root back.
    fn free_root(&mut self, root: Pa);
    /// Loads the descriptor at `at`, in a table that came from here.
    fn read(&self, at: Pa) -> u64;
    /// Stores the descriptor at `at` with one 64-bit store, inner shareable write-back. Table walks may see it at
    /// once or only after [`TableMem::publish`].
    fn write(&mut self, at: Pa, desc: u64);
    /// DSB ISHST: all stores so far (the zeros of new tables included) are seen by all later table walks of all CPUs.
    fn publish(&mut self);
}

/// TLB maintenance. `vttbr` is the VTTBR_EL2 value whose VMID the instruction is about; an implementation puts it
/// into the register for that time if another one is there. Doing more than asked for is permitted.
pub trait Tlb {
    /// TLBI IPAS2E1IS: forget the stage 2 translation of the page or block at `ipa`, on all CPUs.
    fn invalidate_ipa(&mut self, vttbr: u64, ipa: Ipa);
    /// TLBI VMALLE1IS: forget all stage 1 and all combined translations of the VMID, on all CPUs.
    fn invalidate_stage1(&mut self, vttbr: u64);
    /// TLBI VAAE1IS: forget the stage 1 and combined translations of the page at virtual address `va`.
    fn invalidate_va(&mut self, vttbr: u64, va: u64);
    /// TLBI VMALLS12E1IS: forget all translations of the VMID, on all CPUs.
    fn invalidate_all(&mut self, vttbr: u64);
    /// DSB ISH: all invalidations so far are complete on all CPUs.
    fn complete(&mut self);
}

/// Both.
pub trait Mmu: TableMem + Tlb {}
impl<T: TableMem + Tlb> Mmu for T {}

/// What an IPA translates to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// Its physical address.
    pub pa: Pa,
    /// Bytes that the descriptor covers: [`PAGE`] or [`BLOCK`].
    pub size: u64,
    /// The type of memory.
    pub kind: Kind,
    /// What the guest is entitled to.
    pub rights: Rights,
    /// A write traps at first, to be logged.
    pub write_protected: bool,
}

/// A block on its way to become a table: `filled` of its 512 pages are in `table`, which nobody sees yet.
#[derive(Clone, Copy, Debug)]
struct Split {
    ipa: Ipa,
    block: Desc,
    table: Pa,
    filled: u64,
}

/// The stage 2 tables of one VM.
#[derive(Debug)]
pub struct Tables {
    vttbr: u64,
    root: Pa,
    split: Option<Split>,
    /// All below this has been torn down.
    destroyed: u64,
}

impl Tables {
    /// Empty tables.
    ///
    /// # Errors
    /// [`Error::OutOfTables`].
    pub fn new(hw: &mut impl Mmu, vmid: Vmid) -> Result<Self, Error> {
        let root = hw.alloc_root().ok_or(Error::OutOfTables)?;
        hw.publish();
        Ok(Self { vttbr: u64::from(vmid.get()) << 48 | root.0, root, split: None, destroyed: 0 })
    }

    /// VTTBR_EL2: the VMID and the address of the root.
    pub const fn vttbr(&self) -> u64 {
        self.vttbr
    }

    /// Maps `len` bytes at `ipa` to `pa`, in blocks where both are aligned to them. Returns how many bytes were mapped,
    /// more than 0: the caller goes on behind them. With `logging` the first write to each descriptor traps.
    ///
    /// # Errors
    /// [`Error::Misaligned`], [`Error::OutOfRange`], [`Error::OutOfTables`], and [`Error::Mapped`] if the first
    /// page is mapped already.
    pub fn map(
        &mut self,
        hw: &mut impl Mmu,
        (ipa, pa, len): (Ipa, Pa, u64),
        kind: Kind,
        rights: Rights,
        logging: bool,
    ) -> Result<u64, Error> {
        check(ipa, len)?;
        check_pa(pa, len)?;
        let first = Desc::block(pa, kind, rights, logging);
        let level2 = self.next_table(hw, self.root_entry(ipa))?;
        let entry = Desc(hw.read(slot(level2, Level::Two, ipa)));
        let blocks = !entry.is_table() && (ipa.0 | pa.0).is_multiple_of(BLOCK) && len >= BLOCK;
        let (table, level, first) = if blocks {
            (level2, Level::Two, first)
        } else {
            (self.next_table(hw, slot(level2, Level::Two, ipa))?, Level::Three, first.page())
        };
        let mut done = 0;
        for at in entries(table, level, ipa, len) {
            if Desc(hw.read(at)).is_valid() {
                break;
            }
            hw.write(at, first.advanced(done).0);
            done += level.entry_size();
        }
        hw.publish();
        if done == 0 { Err(Error::Mapped) } else { Ok(done) }
    }

    /// Unmaps what is mapped of `len` bytes at `ipa`. Returns how many bytes are done; 0 while a block is being split.
    ///
    /// # Errors
    /// [`Error::Misaligned`], [`Error::OutOfRange`], and [`Error::OutOfTables`] if a block cannot be split.
    pub fn unmap(&mut self, hw: &mut impl Mmu, ipa: Ipa, len: u64) -> Result<u64, Error> {
        check(ipa, len)?;
        if ipa.0.is_multiple_of(BLOCK)
            && len >= BLOCK
            && let Some(level2) = self.table_at(hw, self.root_entry(ipa))
            && let at = slot(level2, Level::Two, ipa)
            && self.drop_table(hw, at)
        {
            return Ok(BLOCK);
        }
        self.edit(hw, ipa, len, |_| Desc::INVALID)
    }

    /// Sets the rights of what is mapped of `len` bytes at `ipa`. Returns how many bytes are done; 0 while a block is
    /// being split. With `logging` the first write to each descriptor traps.
    ///
    /// # Errors
    /// As [`Tables::unmap`].
    pub fn protect(
        &mut self,
        hw: &mut impl Mmu,
        ipa: Ipa,
        len: u64,
        rights: Rights,
        logging: bool,
    ) -> Result<u64, Error> {
        self.edit(hw, ipa, len, |desc| desc.with_rights(rights, logging))
    }

    /// What `ipa` translates to.
    pub fn lookup(&self, hw: &impl TableMem, ipa: Ipa) -> Option<Mapping> {
        let (_, level, desc) = self.leaf(hw, ipa)?;
        Some(Mapping {
            pa: Pa(desc.output().0 + ipa.0 % level.entry_size()),
            size: level.entry_size(),
            kind: desc.kind(),
            rights: desc.rights(),
            write_protected: desc.is_write_protected(),
        })
    }

    /// Replaces the block around `ipa` by 512 pages of the same meaning. The block translates until they are ready.
    /// Returns true when there is no block (any more), false when another step is needed.
    ///
    /// # Errors
    /// [`Error::OutOfTables`].
    pub fn split(&mut self, hw: &mut impl Mmu, ipa: Ipa) -> Result<bool, Error> {
        let ipa = Ipa(ipa.0 - ipa.0 % BLOCK);
        let Some((at, Level::Two, block)) = self.leaf(hw, ipa) else {
            return Ok(true);
        };
        // The block may have changed since the last step: then what was filled is worthless.
        let mut split = match self.split.take() {
            Some(split) if split.ipa == ipa && split.block == block => split,
            other => {
                if let Some(stale) = other {
                    hw.free_table(stale.table);
                }
                Split { ipa, block, table: hw.alloc_table().ok_or(Error::OutOfTables)?, filled: 0 }
            }
        };
        for _ in 0..SPLIT_STEP {
            let page = block.page().advanced(split.filled * PAGE);
            hw.write(Pa(split.table.0 + split.filled * 8), page.0);
            split.filled += 1;
        }
        if split.filled * PAGE < BLOCK {
            self.split = Some(split);
            return Ok(false);
        }
        hw.write(at, Desc::INVALID.0);
        self.invalidate(hw, [ipa]);
        hw.write(at, Desc::table(split.table).0);
        hw.publish();
        Ok(true)
    }

    /// Frees all tables, the root last. Returns true when that is done; the tables are of no use from the first step
    /// on. No CPU may enter the guest any more.
    pub fn destroy(&mut self, hw: &mut impl Mmu) -> bool {
        if let Some(split) = self.split.take() {
            hw.free_table(split.table);
        }
        for _ in 0..STEP {
            if self.destroyed == IPA_END {
                return true;
            }
            let ipa = Ipa(self.destroyed);
            let root_entry = self.root_entry(ipa);
            let rest = GIB - ipa.0 % GIB;
            let busy = self.table_at(hw, root_entry).is_some();
            // Whole blocks and tables are unmapped here, so nothing has to be split and nothing can fail.
            self.destroyed += self.unmap(hw, ipa, rest).unwrap_or(rest);
            if self.destroyed.is_multiple_of(GIB) {
                self.drop_table(hw, root_entry);
            }
            if self.destroyed == IPA_END {
                // No TLB knows the VMID any more: each level 2 table took the entries made through it with it.
                hw.free_root(self.root);
                return true;
            }
            if busy {
                return false;
            }
        }
        false
    }

    /// Makes the page or block at `ipa` writable that was write-protected for the log, if `unprotect`, and forgets
    /// what caused a permission fault at virtual address `va`. Only more is permitted than before, so entries cached
    /// elsewhere do no harm: whoever meets one comes here.
    pub(crate) fn relax(&mut self, hw: &mut impl Mmu, ipa: Ipa, va: u64, unprotect: bool) {
        if unprotect && let Some((at, _, desc)) = self.leaf(hw, ipa) {
            hw.write(at, desc.unprotected().0);
        }
        hw.publish();
        hw.invalidate_ipa(self.vttbr, ipa);
        hw.complete();
        hw.invalidate_va(self.vttbr, va);
        hw.complete();
    }

    /// Write-protects the pages, or blocks, at `ipas` again.
    pub(crate) fn write_protect(&mut self, hw: &mut impl Mmu, ipas: impl Iterator<Item = Ipa> + Clone) {
        let mut changed = false;
        for ipa in ipas.clone() {
            if let Some((at, _, desc)) = self.leaf(hw, ipa)
                && desc.write_protected() != desc
            {
                hw.write(at, desc.write_protected().0);
                changed = true;
            }
        }
        if changed {
            self.invalidate(hw, ipas);
        }
    }

    /// Replaces each descriptor that maps something in `len` bytes at `ipa` by `change` of it: invalid, or the same with other permissions. Returns how many bytes are done; 0 while a block is being split.
    pub(crate) fn edit(
        &mut self,
        hw: &mut impl Mmu,
        ipa: Ipa,
        len: u64,
        change: impl Fn(Desc) -> Desc,
    ) -> Result<u64, Error> {
        check(ipa, len)?;
        let Some(level2) = self.table_at(hw, self.root_entry(ipa)) else {
            return Ok(len.min(GIB - ipa.0 % GIB));
        };
        let at = slot(level2, Level::Two, ipa);
        let entry = Desc(hw.read(at));
        if entry.is_table() {
            return Ok(self.edit_run(hw, entry.output(), Level::Three, ipa, len, change));
        }
        if ipa.0.is_multiple_of(BLOCK) && len >= BLOCK {
            return Ok(self.edit_run(hw, level2, Level::Two, ipa, len, change));
        }
        if entry.is_valid() && change(entry) != entry {
            self.split(hw, ipa)?;
            return Ok(0);
        }
        Ok(len.min(BLOCK - ipa.0 % BLOCK))
    }

    /// [`Tables::edit`] for entries of one table, up to one that leads to another table.
    fn edit_run(
        &mut self,
        hw: &mut impl Mmu,
        table: Pa,
        level: Level,
        ipa: Ipa,
        len: u64,
        change: impl Fn(Desc) -> Desc,
    ) -> u64 {
        let (mut done, mut changed) = (0, 0u64);
        for (n, at) in entries(table, level, ipa, len).enumerate() {
            let old = Desc(hw.read(at));
            if level == Level::Two && old.is_table() {
                break;
            }
            let new = if old.is_valid() { change(old) } else { old };
            if new != old {
                hw.write(at, new.0);
                changed |= 1 << n;
            }
            done += level.entry_size();
        }
        if changed != 0 {
            let pages = (0..STEP).filter(|n| changed >> n & 1 != 0);
            self.invalidate(hw, pages.map(|n| Ipa(ipa.0 + n * level.entry_size())));
        }
        done
    }

    /// After descriptors for `pages` have become invalid or lost permissions: makes sure that no CPU uses the old ones.
    fn invalidate(&self, hw: &mut impl Mmu, pages: impl IntoIterator<Item = Ipa>) {
        hw.publish();
        for ipa in pages {
            hw.invalidate_ipa(self.vttbr, ipa);
        }
        hw.complete();
        hw.invalidate_stage1(self.vttbr);
        hw.complete();
    }

    /// Cuts off and frees the table to which the descriptor at `at` leads, with all that it maps. False if there is
    /// none.
    fn drop_table(&mut self, hw: &mut impl Mmu, at: Pa) -> bool {
        let Some(table) = self.table_at(hw, at) else {
            return false;
        };
        hw.write(at, Desc::INVALID.0);
        hw.publish();
        hw.invalidate_all(self.vttbr);
        hw.complete();
        hw.free_table(table);
        true
    }

    /// The descriptor that maps `ipa`, with its place and level.
    pub(crate) fn leaf(&self, hw: &impl TableMem, ipa: Ipa) -> Option<(Pa, Level, Desc)> {
        if ipa.0 >= IPA_END {
            return None;
        }
        let level2 = self.table_at(hw, self.root_entry(ipa))?;
        let at = slot(level2, Level::Two, ipa);
        let (at, level) = match self.table_at(hw, at) {
            Some(level3) => (slot(level3, Level::Three, ipa), Level::Three),
            None => (at, Level::Two),
        };
        let desc = Desc(hw.read(at));
        desc.is_valid().then_some((at, level, desc))
    }

    /// Where the level 1 descriptor for `ipa` is.
    fn root_entry(&self, ipa: Ipa) -> Pa {
        Pa(self.root.0 + ipa.0 / GIB * 8)
    }

    /// The table to which the descriptor at `at` leads.
    fn table_at(&self, hw: &impl TableMem, at: Pa) -> Option<Pa> {
        let desc = Desc(hw.read(at));
        desc.is_table().then(|| desc.output())
    }

    /// The table to which the descriptor at `at` leads, a new one if there was nothing.
    fn next_table(&self, hw: &mut impl Mmu, at: Pa) -> Result<Pa, Error> {
        let desc = Desc(hw.read(at));
        if desc.is_table() {
            return Ok(desc.output());
        }
        if desc.is_valid() {
            return Err(Error::Mapped);
        }
        let table = hw.alloc_table().ok_or(Error::OutOfTables)?;
        hw.publish();
        hw.write(at, Desc::table(table).0);
        hw.publish();
        Ok(table)
    }
}

/// Where the descriptor for `ipa` is in `table`.
fn slot(table: Pa, level: Level, ipa: Ipa) -> Pa {
    Pa(table.0 + ipa.0 / level.entry_size() % 512 * 8)
}

/// Where the descriptors are for what `len` bytes at `ipa` cover whole, up to the end of the table or [`STEP`].
fn entries(table: Pa, level: Level, ipa: Ipa, len: u64) -> impl Iterator<Item = Pa> {
    let index = ipa.0 / level.entry_size() % 512;
    let count = (len / level.entry_size()).min(512 - index).min(STEP);
    (index..index + count).map(move |i| Pa(table.0 + i * 8))
}

/// Whether tables can translate the `len` bytes at `ipa`.
pub(crate) fn check(ipa: Ipa, len: u64) -> Result<(), Error> {
    if !(ipa.0 | len).is_multiple_of(PAGE) || len == 0 {
        return Err(Error::Misaligned);
    }
    match ipa.0.checked_add(len) {
        Some(end) if end <= IPA_END => Ok(()),
        _ => Err(Error::OutOfRange),
    }
}

/// Whether tables can translate to the `len` bytes at `pa`: 48 bits without FEAT_LPA2.
pub(crate) fn check_pa(pa: Pa, len: u64) -> Result<(), Error> {
    if !pa.0.is_multiple_of(PAGE) {
        return Err(Error::Misaligned);
    }
    match pa.0.checked_add(len) {
        Some(end) if end <= 1 << 48 => Ok(()),
        _ => Err(Error::OutOfRange),
    }
}
