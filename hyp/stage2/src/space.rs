//! A VM's view of memory: extents, and the tables that follow from them.

use crate::desc::Desc;
use crate::table::{check, check_pa};
use crate::{
    DirtyMap, Error, Ipa, Kind, LoanId, Mapping, Mmu, PAGE, Pa, Rights, TableMem, Tables, VmId, Vmid,
};
use alloc::vec::Vec;

/// The most extents that a VM has.
pub const MAX_EXTENTS: usize = 32;

/// What an extent is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// RAM that belongs to the VM.
    Owned,
    /// RAM that another VM lends it.
    Borrowed(LoanId),
    /// A device's registers.
    Device,
    /// A page of the hypervisor's own that it shows to the VM.
    Hypervisor,
}

/// A range of intermediate physical addresses and the physical range of the same length behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where the guest sees it.
    pub ipa: Ipa,
    /// Where it is.
    pub pa: Pa,
    /// Bytes, a multiple of [`PAGE`].
    pub len: u64,
    /// What the guest may do with it.
    pub rights: Rights,
    /// What is there.
    pub backing: Backing,
    /// Writes are logged: [`Stage2::start_logging`].
    pub logging: bool,
}

impl Extent {
    /// The VM's own RAM: the guest may do anything with it.
    pub const fn ram(ipa: Ipa, pa: Pa, len: u64) -> Self {
        Self { ipa, pa, len, rights: Rights::all(), backing: Backing::Owned, logging: false }
    }

    /// A device's registers.
    pub const fn device(ipa: Ipa, pa: Pa, len: u64) -> Self {
        let rights = Rights::READ.union(Rights::WRITE);
        Self { ipa, pa, len, rights, backing: Backing::Device, logging: false }
    }

    /// Pages of the hypervisor's own, which the guest may read.
    pub const fn shown(ipa: Ipa, pa: Pa, len: u64) -> Self {
        Self { ipa, pa, len, rights: Rights::READ, backing: Backing::Hypervisor, logging: false }
    }

    /// The first IPA behind it.
    pub const fn end(&self) -> Ipa {
        Ipa(self.ipa.0 + self.len)
    }

    /// Where the byte at `ipa` is, which must be in the extent.
    pub(crate) const fn translate(&self, ipa: Ipa) -> Pa {
        Pa(self.pa.0 + (ipa.0 - self.ipa.0))
    }

    const fn kind(&self) -> Kind {
        match self.backing {
            Backing::Owned | Backing::Borrowed(_) | Backing::Hypervisor => Kind::Normal,
            Backing::Device => Kind::Device,
        }
    }
}

/// What a stage 2 abort comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Enter the guest again at the same instruction: the access is permitted now, or the translation is under way.
    Retry,
    /// The write is to be logged, but it hit a block: run [`Stage2::split`] to its end, then retry.
    Split,
    /// No memory is there: a device to emulate, or an external abort for the guest.
    Unmapped,
    /// The guest may not do that here: an external abort for the guest.
    Permission,
}

/// The address space of one VM.
#[derive(Debug)]
pub struct Stage2 {
    vm: VmId,
    pub(crate) tables: Tables,
    /// Sorted by IPA, never overlapping; [`MAX_EXTENTS`] at the most, for which there is room from the start.
    extents: Vec<Extent>,
}

impl Stage2 {
    /// An empty address space. Allocates.
    ///
    /// # Errors
    /// [`Error::OutOfTables`].
    pub fn new(hw: &mut impl Mmu, vm: VmId, vmid: Vmid) -> Result<Self, Error> {
        Ok(Self { vm, tables: Tables::new(hw, vmid)?, extents: Vec::with_capacity(MAX_EXTENTS) })
    }

    /// An address space with the translations of another that had `extents`. On an error everything is freed.
    ///
    /// # Errors
    /// As [`Stage2::insert`] and [`Stage2::populate`].
    pub fn rebuild(hw: &mut impl Mmu, vm: VmId, vmid: Vmid, extents: &[Extent]) -> Result<Self, Error> {
        let mut stage2 = Self::new(hw, vm, vmid)?;
        match stage2.fill(hw, extents) {
            Ok(()) => Ok(stage2),
            Err(error) => {
                while !stage2.tables.destroy(hw) {}
                Err(error)
            }
        }
    }

    fn fill(&mut self, hw: &mut impl Mmu, extents: &[Extent]) -> Result<(), Error> {
        for &extent in extents {
            self.insert(extent)?;
            let mut next = Some(extent.ipa);
            while let Some(from) = next {
                next = self.populate(hw, from)?;
            }
        }
        Ok(())
    }

    /// The VM that this is the address space of.
    pub const fn vm(&self) -> VmId {
        self.vm
    }

    /// VTTBR_EL2.
    pub const fn vttbr(&self) -> u64 {
        self.tables.vttbr()
    }

    /// The extents, sorted by IPA. Together with the VM they are all the state that has to be kept.
    pub fn extents(&self) -> &[Extent] {
        &self.extents
    }

    /// The extent around `ipa`.
    pub fn extent(&self, ipa: Ipa) -> Option<&Extent> {
        self.extents.get(self.index(ipa)?)
    }

    /// What the tables translate `ipa` to.
    pub fn lookup(&self, hw: &impl TableMem, ipa: Ipa) -> Option<Mapping> {
        self.tables.lookup(hw, ipa)
    }

    /// Adds an extent. [`GuestMem`](crate::GuestMem) can use it at once, the guest after [`Stage2::populate`].
    ///
    /// # Errors
    /// [`Error::Misaligned`], [`Error::OutOfRange`], [`Error::Mapped`] if it overlaps another,
    /// [`Error::TooManyExtents`].
    pub fn insert(&mut self, extent: Extent) -> Result<(), Error> {
        check(extent.ipa, extent.len)?;
        check_pa(extent.pa, extent.len)?;
        let at = self.extents.partition_point(|other| other.ipa < extent.ipa);
        let before = at.checked_sub(1).and_then(|i| self.extents.get(i));
        let after = self.extents.get(at);
        if before.is_some_and(|e| e.end() > extent.ipa) || after.is_some_and(|e| extent.end() > e.ipa) {
            return Err(Error::Mapped);
        }
        if self.extents.len() == MAX_EXTENTS {
            return Err(Error::TooManyExtents);
        }
        self.extents.insert(at, extent);
        Ok(())
    }

    /// One step of mapping the extent around `from`, from there on. Begin at its start. Returns where the next step
    /// begins, none at the end of the extent.
    ///
    /// # Errors
    /// [`Error::NoExtent`]; [`Error::OutOfTables`]: the same step may be tried again; [`Error::Mapped`]: it was done
    /// before.
    pub fn populate(&mut self, hw: &mut impl Mmu, from: Ipa) -> Result<Option<Ipa>, Error> {
        let extent = self.extent(from).ok_or(Error::NoExtent)?;
        let (end, part) = (extent.end(), (from, extent.translate(from), extent.end().0 - from.0));
        let done = self.tables.map(hw, part, extent.kind(), extent.rights, extent.logging)?;
        Ok(after(from, done, end))
    }

    /// One step of giving the guest other rights to the extent around `from`, from there on. Steps as
    /// [`Stage2::populate`]; for GuestMem the first one is enough.
    ///
    /// # Errors
    /// [`Error::NoExtent`], [`Error::OutOfTables`] if `from` is inside a block that cannot be split.
    pub fn protect(&mut self, hw: &mut impl Mmu, from: Ipa, rights: Rights) -> Result<Option<Ipa>, Error> {
        let at = self.index(from).ok_or(Error::NoExtent)?;
        let extent = &mut self.extents[at];
        extent.rights = rights;
        let done = self.tables.protect(hw, from, extent.end().0 - from.0, rights, extent.logging)?;
        Ok(after(from, done, extent.end()))
    }

    /// One step of taking loan `id` away: the front of its extent is unmapped and cut off, so GuestMem loses it together with the guest.
    /// Returns true when it is gone.
    pub(crate) fn remove_loan(&mut self, hw: &mut impl Mmu, id: LoanId) -> Result<bool, Error> {
        let loan = self.extents.iter().position(|extent| extent.backing == Backing::Borrowed(id));
        let Some(at) = loan else { return Ok(true) };
        let extent = &mut self.extents[at];
        let done = self.tables.unmap(hw, extent.ipa, extent.len)?;
        extent.ipa.0 += done;
        extent.pa.0 += done;
        extent.len -= done;
        let gone = extent.len == 0;
        if gone {
            self.extents.remove(at);
        }
        Ok(gone)
    }

    /// One step of write-protecting the extent around `from`, from there on, so that the first write to each page is
    /// logged in the [`DirtyMap`]. Steps as [`Stage2::populate`]. Marks from before are not cleared:
    /// [`Stage2::collect_dirty`] does.
    ///
    /// # Errors
    /// [`Error::NoExtent`], [`Error::OutOfTables`] if `from` is inside a block that cannot be split.
    pub fn start_logging(&mut self, hw: &mut impl Mmu, from: Ipa) -> Result<Option<Ipa>, Error> {
        let at = self.index(from).ok_or(Error::NoExtent)?;
        let extent = &mut self.extents[at];
        extent.logging = true;
        let done = self.tables.edit(hw, from, extent.end().0 - from.0, Desc::write_protected)?;
        Ok(after(from, done, extent.end()))
    }

    /// Logs no more writes to the extent around `ipa`. What is still write-protected becomes writable when the guest
    /// writes to it.
    ///
    /// # Errors
    /// [`Error::NoExtent`].
    pub fn stop_logging(&mut self, ipa: Ipa) -> Result<(), Error> {
        let at = self.index(ipa).ok_or(Error::NoExtent)?;
        self.extents[at].logging = false;
        Ok(())
    }

    /// One step of collecting the pages of the extent around `from` that were written, from there on: takes their
    /// marks, write-protects them again, and then calls `found` for each. Their contents are to be read after that, and
    /// for a page that is on loan also after the borrower's [`Stage2::start_logging`] for it. Returns where the next
    /// step begins, none at the end of the extent.
    ///
    /// # Errors
    /// [`Error::NoExtent`]; [`Error::Borrowed`]: the marks are the owner's.
    pub fn collect_dirty(
        &mut self,
        hw: &mut impl Mmu,
        dirty: &DirtyMap,
        from: Ipa,
        found: impl FnMut(Ipa),
    ) -> Result<Option<Ipa>, Error> {
        let extent = self.extent(from).ok_or(Error::NoExtent)?;
        if extent.backing != Backing::Owned {
            return Err(Error::Borrowed);
        }
        let end = extent.end();
        let (pages, marked) = dirty.take(extent.translate(from), (end.0 - from.0) / PAGE);
        let marked = (0..pages).filter(|n| marked >> n & 1 != 0).map(|n| Ipa(from.0 + n * PAGE));
        self.tables.write_protect(hw, marked.clone());
        marked.for_each(found);
        Ok(after(from, pages * PAGE, end))
    }

    /// One step of splitting the block around `ipa`; true when there is none any more.
    ///
    /// # Errors
    /// [`Error::OutOfTables`].
    pub fn split(&mut self, hw: &mut impl Mmu, ipa: Ipa) -> Result<bool, Error> {
        self.tables.split(hw, ipa)
    }

    /// Answers a stage 2 translation or permission fault at `ipa`, taken for the virtual address `va` (FAR_EL2) by an access that
    /// needs this right. A fault that comes of a descriptor that was broken, or cached with fewer permissions, is retried.
    pub fn fault(
        &mut self,
        hw: &mut impl Mmu,
        dirty: &DirtyMap,
        ipa: Ipa,
        va: u64,
        needed: Rights,
    ) -> Resolution {
        let Some(extent) = self.extent(ipa).copied() else {
            return Resolution::Unmapped;
        };
        if !extent.rights.contains(needed) {
            return Resolution::Permission;
        }
        let Some(mapping) = self.tables.lookup(hw, ipa) else {
            return Resolution::Retry;
        };
        let first_write = needed == Rights::WRITE && mapping.write_protected;
        if first_write && extent.logging {
            if mapping.size > PAGE {
                return Resolution::Split;
            }
            dirty.mark(mapping.pa, 1);
        }
        self.tables.relax(hw, ipa, va, first_write);
        Resolution::Retry
    }

    /// One step of freeing the tables; true when that is done. No CPU may enter the guest any more, and the address
    /// space is of no use from the first step on. After the last its VMID may be freed.
    ///
    /// # Errors
    /// [`Error::Borrowed`]: there are loans to be revoked first.
    pub fn destroy(&mut self, hw: &mut impl Mmu) -> Result<bool, Error> {
        if self.extents.iter().any(|extent| matches!(extent.backing, Backing::Borrowed(_))) {
            return Err(Error::Borrowed);
        }
        self.extents.clear();
        Ok(self.tables.destroy(hw))
    }

    fn index(&self, ipa: Ipa) -> Option<usize> {
        let at = self.extents.partition_point(|extent| extent.end() <= ipa);
        (self.extents.get(at)?.ipa <= ipa).then_some(at)
    }
}

/// Where the step after one that did `done` bytes from `from` on begins, if not at the `end`.
fn after(from: Ipa, done: u64, end: Ipa) -> Option<Ipa> {
    let next = Ipa(from.0 + done);
    (next < end).then_some(next)
}
