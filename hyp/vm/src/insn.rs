//! Loads and stores that a guest's syndrome does not describe (ISV = 0): with write-back, and of pairs
//! (Arm ARM, "Loads and Stores"). Others, exclusives and vectors among them, do not belong on a device.

use crate::exit::Access;

/// A load or store of one or two general-purpose registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instruction {
    /// Bytes of one register's access: 1, 2, 4 or 8.
    pub(crate) size: u8,
    /// The register: 31 is XZR.
    pub(crate) rt: u8,
    /// The second one of a pair.
    pub(crate) rt2: Option<u8>,
    /// A load that sign-extends.
    sign_extend: bool,
    /// The register is 64 bits wide, else 32.
    wide: bool,
    /// A register other than 31, and what is added to it.
    pub(crate) writeback: Option<(u8, i64)>,
}

impl From<Access> for Instruction {
    fn from(access: Access) -> Self {
        let Access { size, rt, sign_extend, wide } = access;
        Self { size, rt, rt2: None, sign_extend, wide, writeback: None }
    }
}

impl Instruction {
    /// Decodes an instruction. Returns also whether it loads, its base register, and the offset from that at which it
    /// accesses memory.
    pub(crate) fn decode(word: u32) -> Option<(Self, bool, u8, i64)> {
        let (rt, base) = ((word & 31) as u8, (word >> 5 & 31) as u8);
        // The stack pointer is no general-purpose register, and nobody keeps one in a device.
        if base == 31 {
            return None;
        }
        if word & 0x3f20_0400 == 0x3800_0400 {
            Self::single(word, rt, base)
        } else if word & 0x3e00_0000 == 0x2800_0000 {
            Self::pair(word, rt, base)
        } else {
            None
        }
    }

    /// LDR and STR (immediate), post-indexed (bit 11 clear) and pre-indexed.
    fn single(word: u32, rt: u8, base: u8) -> Option<(Self, bool, u8, i64)> {
        let size = 1u8 << (word >> 30);
        let (load, sign_extend, wide) = match word >> 22 & 3 {
            0 => (false, false, size == 8),
            1 => (true, false, size == 8),
            2 if size < 8 => (true, true, true),
            3 if size < 4 => (true, true, false),
            _ => return None,
        };
        let add = sign_extend_from(word >> 12 & 0x1ff, 9);
        let offset = if word & 1 << 11 != 0 { add } else { 0 };
        // Write-back to the transferred register is UNPREDICTABLE.
        (rt != base).then_some((
            Self { size, rt, rt2: None, sign_extend, wide, writeback: Some((base, add)) },
            load,
            base,
            offset,
        ))
    }

    /// LDP, STP, LDPSW, LDNP and STNP.
    fn pair(word: u32, rt: u8, base: u8) -> Option<(Self, bool, u8, i64)> {
        let rt2 = (word >> 10 & 31) as u8;
        let load = word & 1 << 22 != 0;
        let (size, sign_extend) = match word >> 30 {
            0 => (4, false),
            1 if load => (4, true),
            2 => (8, false),
            _ => return None,
        };
        let add = sign_extend_from(word >> 15 & 0x7f, 7) * i64::from(size);
        let (offset, writeback) = match word >> 23 & 3 {
            1 => (0, Some((base, add))),
            3 => (add, Some((base, add))),
            _ => (add, None),
        };
        let unpredictable = load && rt == rt2 || writeback.is_some() && (rt == base || rt2 == base);
        (!unpredictable).then_some((
            Self { size, rt, rt2: Some(rt2), sign_extend, wide: sign_extend || size == 8, writeback },
            load,
            base,
            offset,
        ))
    }

    /// Bytes of the whole access.
    pub(crate) fn bytes(&self) -> u64 {
        u64::from(self.size) * if self.rt2.is_some() { 2 } else { 1 }
    }

    /// The bits of a register that one access moves.
    pub(crate) fn mask(&self) -> u64 {
        u64::MAX >> (64 - u32::from(self.size) * 8)
    }

    /// What a load of `value` leaves in the register.
    pub(crate) fn extend(&self, value: u64) -> u64 {
        let mut value = value & self.mask();
        if self.sign_extend && value > self.mask() >> 1 {
            value |= !self.mask();
        }
        if self.wide { value } else { value & 0xffff_ffff }
    }
}

/// The signed value of a field of so many bits.
fn sign_extend_from(field: u32, bits: u32) -> i64 {
    i64::from((field << (32 - bits)) as i32 >> (32 - bits))
}

#[cfg(test)]
mod tests;
