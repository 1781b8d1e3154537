//! EL2's access to guest RAM.

use crate::{BLOCK, Backing, DirtyMap, Ipa, Pa, Rights, Stage2};

/// The most bytes that one call moves: what is short enough to run with interrupts masked.
pub const PIECE: usize = 2048;
/// The most that one call cleans, which goes by cache lines.
pub const LINES: usize = 16 * 1024;

/// Access to physical memory that guests own. All ranges come from extents.
pub trait PhysMem {
    /// Copies from memory.
    fn read(&mut self, from: Pa, to: &mut [u8]);
    /// Copies to memory.
    fn write(&mut self, to: Pa, from: &[u8]);
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
/// Each call does one piece, of up to [`PIECE`] bytes ([`LINES`] if it is cleaned) and within one extent, and returns how long it was: more than 0
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
        let (pa, len) = self.piece(ipa, from.len().min(PIECE), Rights::WRITE)?;
        self.phys.write(pa, &from[..len]);
        self.dirty.mark(pa, len as u64);
        Ok(len)
    }

    /// Finds a piece of the `len` bytes at `ipa`, of up to [`BLOCK`] bytes, to be cleared by [`zero`].
    ///
    /// # Errors
    /// A fault at `ipa`.
    pub fn find(&self, ipa: Ipa, len: usize) -> Result<(Pa, usize), Fault> {
        self.piece(ipa, len.min(BLOCK as usize), Rights::WRITE)
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

/// Clears what [`GuestMem::find`] has found, and cleans it as [`GuestMem::clean_to_poc`] does. Without the VM's lock, since that takes long: the
/// VM must not run, nor give its memory back meanwhile.
pub fn zero(phys: &mut impl PhysMem, dirty: &DirtyMap, at: Pa, len: usize) {
    phys.zero(at, len);
    dirty.mark(at, len as u64);
}
