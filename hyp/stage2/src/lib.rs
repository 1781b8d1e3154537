//! Guest memory: who owns it, where each guest sees it, and how EL2 reads and writes it.
//!
//! * [`Owners`] divides physical memory: every page is free or belongs to one VM, and may be lent to one other.
//! * [`Stage2`] is a VM's view: a list of [`Extent`]s, and the stage 2 translation tables that follow from it.
//! * [`GuestMem`] is the only way for EL2 to touch guest RAM.
//! * [`DirtyMap`] remembers which physical pages were written, whoever wrote them.
//!
//! # Bounded steps
//! What takes long is done in steps, so that the caller can hold its lock and mask interrupts for one step only. A
//! step changes at most [`STEP`] descriptors (a split fills [`SPLIT_STEP`]) and says where to go on. All state
//! between steps is in the objects, as plain data; other operations may come between two steps.
//!
//! "Arm ARM" below is the Arm Architecture Reference Manual for A-profile, DDI 0487.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod desc;
mod dirty;
mod guest_mem;
mod owner;
mod phys;
mod space;
mod table;
mod vmid;

#[cfg(test)]
mod tests;

pub use desc::{Kind, vtcr};
pub use dirty::DirtyMap;
pub use guest_mem::{Fault, GuestMem, LINES, PIECE, PhysMem, Reason, zero};
pub use owner::{GrantError, LendError, Loan, LoanId, MAX_LOANS, MAX_OWNED, Owners, RevokeError};
pub use phys::{AllocError, FreeRanges, MAX_BOOT_RANGES, MAX_PIECES, PhysRange};
pub use space::{Backing, Extent, MAX_EXTENTS, Resolution, Stage2};
pub use table::{Mapping, Mmu, SPLIT_STEP, STEP, TableMem, Tables, Tlb};
pub use vmid::{Vmid, VmidAllocator};

/// Bytes in a page, the smallest unit of mapping: the 4 KiB granule.
pub const PAGE: u64 = 1 << 12;
/// Bytes in a level 2 block.
pub const BLOCK: u64 = 1 << 21;
/// Intermediate physical addresses are below this: 40 bits.
pub const IPA_END: u64 = 1 << 40;

/// An intermediate physical address: what a guest takes for physical.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ipa(pub u64);

/// A physical address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pa(pub u64);

/// A virtual machine: its index in the machine file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VmId(pub u8);

bitflags::bitflags! {
    /// What a guest may do with a page.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Rights: u8 {
        /// Load from it.
        const READ = 1;
        /// Store to it.
        const WRITE = 2;
        /// Fetch instructions from it.
        const EXEC = 4;
    }
}

/// Why a change to a VM's address space was refused. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// An address or length is not a multiple of [`PAGE`], or the length is 0.
    Misaligned,
    /// It reaches beyond [`IPA_END`] or the 48-bit physical address space.
    OutOfRange,
    /// Something is mapped there.
    Mapped,
    /// There is no memory for another table.
    OutOfTables,
    /// The VM has [`MAX_EXTENTS`] extents.
    TooManyExtents,
    /// No extent that the operation can work on is at this address.
    NoExtent,
    /// The extent is borrowed: it goes away by [`Owners::revoke`].
    Borrowed,
}
