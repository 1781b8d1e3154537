//! The format of VMSAv8-64 stage 2 descriptors with the 4 KiB granule (Arm ARM, "Translation table descriptor
//! formats") and of the registers that go with it.

use crate::{BLOCK, PAGE, Pa, Rights};

/// The type of memory that a mapping gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Normal, inner and outer write-back cacheable, inner shareable.
    Normal,
    /// Device-nGnRE.
    Device,
}

/// VTCR_EL2 for the tables of this crate on a CPU with the given ID_AA64MMFR0_EL1.PARange (2 or more: a physical
/// address space of 40 bits): 40-bit input, 4 KiB granule, start at level 1, walks inner shareable and
/// write-back cacheable, 8-bit VMIDs (Arm ARM, VTCR_EL2).
pub const fn vtcr(pa_range: u64) -> u64 {
    const RES1: u64 = 1 << 31;
    const SH0_INNER: u64 = 0b11 << 12;
    const ORGN0_WRITE_BACK: u64 = 0b01 << 10;
    const IRGN0_WRITE_BACK: u64 = 0b01 << 8;
    const SL0_LEVEL_1: u64 = 0b01 << 6;
    const T0SZ_40_BITS: u64 = 64 - 40;
    // 48 bits are all that a descriptor of this granule can hold without FEAT_LPA2.
    let ps = if pa_range < 5 { pa_range } else { 5 };
    RES1 | ps << 16 | SH0_INNER | ORGN0_WRITE_BACK | IRGN0_WRITE_BACK | SL0_LEVEL_1 | T0SZ_40_BITS
}

/// A translation table descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Desc(pub u64);

const VALID: u64 = 1 << 0;
/// At levels 1 and 2 a table; at level 3 always set in a valid descriptor.
const TABLE_OR_PAGE: u64 = 1 << 1;
const MEM_ATTR_NORMAL_WB: u64 = 0b1111 << 2;
const MEM_ATTR_DEVICE_NGNRE: u64 = 0b0001 << 2;
const MEM_ATTR: u64 = 0b1111 << 2;
const S2AP_READ: u64 = 1 << 6;
const S2AP_WRITE: u64 = 1 << 7;
const SH_INNER: u64 = 0b11 << 8;
const ACCESS_FLAG: u64 = 1 << 10;
/// XN[1] alone: never executable, with and without FEAT_XNX.
const XN: u64 = 1 << 54;
/// Software: the guest may write here, but S2AP forbids it, so that the first write is noticed and logged.
const LOGGED: u64 = 1 << 55;
const OUTPUT: u64 = 0x0000_FFFF_FFFF_F000;

impl Desc {
    pub const INVALID: Self = Self(0);

    pub const fn table(table: Pa) -> Self {
        Self(table.0 | TABLE_OR_PAGE | VALID)
    }

    /// A level 2 block, or with [`Desc::page`] a level 3 page. With `logging`, writes are forbidden at first.
    pub fn block(pa: Pa, kind: Kind, rights: Rights, logging: bool) -> Self {
        let attr = match kind {
            Kind::Normal => MEM_ATTR_NORMAL_WB,
            Kind::Device => MEM_ATTR_DEVICE_NGNRE,
        };
        Self(pa.0 | attr | SH_INNER | ACCESS_FLAG | VALID).with_rights(rights, logging)
    }

    /// The level 3 descriptor with the meaning that this one has at level 2.
    pub const fn page(self) -> Self {
        Self(self.0 | TABLE_OR_PAGE)
    }

    /// This descriptor for the memory `offset` bytes further on.
    pub const fn advanced(self, offset: u64) -> Self {
        Self(self.0 + offset)
    }

    pub fn with_rights(self, rights: Rights, logging: bool) -> Self {
        let mut bits = self.0 & !(S2AP_READ | S2AP_WRITE | XN | LOGGED);
        if rights.contains(Rights::READ) {
            bits |= S2AP_READ;
        }
        if rights.contains(Rights::WRITE) {
            bits |= if logging { LOGGED } else { S2AP_WRITE };
        }
        if !rights.contains(Rights::EXEC) {
            bits |= XN;
        }
        Self(bits)
    }

    /// What the guest is entitled to, whether or not its first write is logged.
    pub fn rights(self) -> Rights {
        let mut rights = Rights::empty();
        rights.set(Rights::READ, self.0 & S2AP_READ != 0);
        rights.set(Rights::WRITE, self.0 & (S2AP_WRITE | LOGGED) != 0);
        rights.set(Rights::EXEC, self.0 & XN == 0);
        rights
    }

    pub fn kind(self) -> Kind {
        if self.0 & MEM_ATTR == MEM_ATTR_NORMAL_WB { Kind::Normal } else { Kind::Device }
    }

    /// Forbids writes until the next one has been noticed.
    pub fn write_protected(self) -> Self {
        self.with_rights(self.rights(), true)
    }

    /// Permits all that the guest is entitled to.
    pub fn unprotected(self) -> Self {
        self.with_rights(self.rights(), false)
    }

    pub const fn is_write_protected(self) -> bool {
        self.0 & LOGGED != 0
    }

    pub const fn is_valid(self) -> bool {
        self.0 & VALID != 0
    }

    /// Whether this descriptor, of level 1 or 2, leads to a table.
    pub const fn is_table(self) -> bool {
        self.0 & (TABLE_OR_PAGE | VALID) == TABLE_OR_PAGE | VALID
    }

    /// The next table, or the memory.
    pub const fn output(self) -> Pa {
        Pa(self.0 & OUTPUT)
    }
}

/// The levels below the root: what one entry of their tables covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Two,
    Three,
}

impl Level {
    pub const fn entry_size(self) -> u64 {
        match self {
            Self::Two => BLOCK,
            Self::Three => PAGE,
        }
    }
}
