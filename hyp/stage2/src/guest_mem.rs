//! EL2's access to guest RAM.

use crate::{Backing, DirtyMap, Ipa, Pa, Rights, Stage2};

/// The most bytes that one call moves: what is short enough to run with interrupts masked.
pub const PIECE: usize = 2048;
/// The most that one call clears or cleans, which goes by cache lines.
pub const LINES: usize = 16 * 1024;

/// Access to physical memory that guests own. All ranges come from extents.
pub trait PhysMem {
    /// Copies from memory.
    fn read(&mut self, from: Pa, to: &mut [u8]);
    /// Copies to memory.
    fn write(&mut self, to: Pa, from: &[u8]);
    /// Copies within memory; the two do not overlap.
    fn copy(&mut self, to: Pa, from: Pa, len: usize);
    /// Fills memory with zeros, and cleans it as [`PhysMem::clean_to_poc`] does.
    fn zero(&mut self, at: Pa, len: usize);
    /// Cleans the data cache to the point of coherency for these bytes (DC CVAC on each line, then DSB SY), so that a
    /// guest whose caches are off sees them.
    fn clean_to_poc(&mut self, at: Pa, len: usize);
    /// Invalidates all instruction caches (IC IALLUIS, DSB ISH, ISB), so that no CPU executes what was there before.
    fn invalidate_icache(&mut self);
}

/// Why an access stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The first byte that was not accessed.
    pub ipa: Ipa,
    /// What is wrong with it.
    pub reason: Reason,
}

/// What is wrong with an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nothing is there.
    Unmapped,
    /// A device is there.
    Device,
    /// The guest itself may not do that there.
    Forbidden,
}

/// A VM's RAM as EL2 sees it, at the guest's own addresses and with the guest's own rights; borrowed pages, too. To be
/// made under the VM's stage 2 lock for one call or a few.
///
/// Each call does one piece, of up to [`PIECE`] bytes ([`LINES`] if it is cleared or cleaned) and within one extent, and returns how long it was: more than 0
/// unless it was asked for nothing. The caller goes on behind it. A fault means that nothing was done in this call.
pub struct GuestMem<'a, P> {
    stage2: &'a Stage2,
    dirty: &'a DirtyMap,
    phys: &'a mut P,
}

impl<'a, P: PhysMem> GuestMem<'a, P> {
    /// The RAM of the VM with this address space. What is written is marked in `dirty`.
    pub const fn new(stage2: &'a Stage2, dirty: &'a DirtyMap, phys: &'a mut P) -> Self {
        Self { stage2, dirty, phys }
    }

    /// Reads a piece at `ipa` into the beginning of `to`.
    ///
    /// # Errors
    /// A fault at `ipa`.
    pub fn read(&mut self, ipa: Ipa, to: &mut [u8]) -> Result<usize, Fault> {
        let (pa, len) = self.piece(ipa, to.len().min(PIECE), Rights::READ)?;
        self.phys.read(pa, &mut to[..len]);
        Ok(len)
    }

    /// Writes a piece, the beginning of `from`, at `ipa`.
    ///
    /// # Errors
    /// A fault at `ipa`.
    pub fn write(&mut self, ipa: Ipa, from: &[u8]) -> Result<usize, Fault> {
        self.modify(ipa, from.len().min(PIECE), |phys, pa, len| phys.write(pa, &from[..len]))
    }

    /// Clears a piece of the `len` bytes at `ipa`, and cleans it as [`GuestMem::clean_to_poc`] does.
    ///
    /// # Errors
    /// A fault at `ipa`.
    pub fn zero(&mut self, ipa: Ipa, len: usize) -> Result<usize, Fault> {
        self.modify(ipa, len.min(LINES), |phys, pa, len| phys.zero(pa, len))
    }

    /// Copies a piece of the `len` bytes at `from`, which is no guest's memory, to `ipa`: an image from the bundle.
    ///
    /// # Errors
    /// A fault at `ipa`.
    pub fn copy_from_phys(&mut self, ipa: Ipa, from: Pa, len: usize) -> Result<usize, Fault> {
        self.modify(ipa, len.min(PIECE), |phys, pa, len| phys.copy(pa, from, len))
    }

    /// Cleans a piece of the `len` bytes at `ipa` to the point of coherency: to be done with all that was written or
    /// cleared before a guest runs on it with its caches off (Arm ARM, "Mismatched memory attributes": a
    /// Non-cacheable access does not see dirty lines; ARMv8.0 has no FWB to force it to be cacheable).
    ///
    /// # Errors
    /// A fault at `ipa`.
    pub fn clean_to_poc(&mut self, ipa: Ipa, len: usize) -> Result<usize, Fault> {
        let (pa, len) = self.piece(ipa, len.min(LINES), Rights::empty())?;
        self.phys.clean_to_poc(pa, len);
        Ok(len)
    }

    /// To be called after code has been written and cleaned.
    pub fn invalidate_icache(&mut self) {
        self.phys.invalidate_icache();
    }

    fn modify(
        &mut self,
        ipa: Ipa,
        len: usize,
        change: impl FnOnce(&mut P, Pa, usize),
    ) -> Result<usize, Fault> {
        let (pa, len) = self.piece(ipa, len, Rights::WRITE)?;
        change(self.phys, pa, len);
        self.dirty.mark(pa, len as u64);
        Ok(len)
    }

    /// Where `ipa` is, and how many of the `len` bytes there are one piece.
    fn piece(&self, ipa: Ipa, len: usize, needed: Rights) -> Result<(Pa, usize), Fault> {
        let fault = |reason| Fault { ipa, reason };
        let extent = self.stage2.extent(ipa).ok_or(fault(Reason::Unmapped))?;
        if extent.backing == Backing::Device {
            return Err(fault(Reason::Device));
        }
        if !extent.rights.contains(needed) {
            return Err(fault(Reason::Forbidden));
        }
        let rest = usize::try_from(extent.end().0 - ipa.0).unwrap_or(usize::MAX);
        Ok((extent.translate(ipa), len.min(rest)))
    }
}
