//! The registers that configure interrupts: laid out alike in a GICv2 distributor (Arm IHI 0048B, table 4-1), a GICv3
//! distributor and the SGI_base frame of a GICv3 redistributor (Arm IHI 0069H, sections 12.8 and 12.10).

use crate::mmio::Mmio;

pub(crate) const IGROUPR: usize = 0x080;
pub(crate) const ISENABLER: usize = 0x100;
pub(crate) const ICENABLER: usize = 0x180;
const ICPENDR: usize = 0x280;
pub(crate) const ISACTIVER: usize = 0x300;
pub(crate) const ICACTIVER: usize = 0x380;
const IPRIORITYR: usize = 0x400;
const ICFGR: usize = 0xc00;

/// The 4 KiB that have these registers.
#[derive(Clone, Copy)]
pub(crate) struct Bank(pub Mmio<0x1000>);

impl Bank {
    /// Writes the bit of `intid` in the register array at `array`, one of those that are set or cleared by ones.
    pub fn write_bit(self, array: usize, intid: u32) {
        self.0.write(array + intid as usize / 32 * 4, 1 << (intid % 32));
    }

    /// Writes `value` to the word of `array` for INTIDs 32 × `n` and up.
    pub fn write_word(self, array: usize, n: usize, value: u32) {
        self.0.write(array + n * 4, value);
    }

    /// Makes INTIDs 32 × `n` and up disabled, inactive, not pending, of priority `priority`, and level-triggered if they
    /// are not SGIs.
    pub fn reset_word(self, n: usize, priority: u8) {
        self.write_word(ICENABLER, n, !0);
        self.write_word(ICPENDR, n, !0);
        self.write_word(ICACTIVER, n, !0);
        for i in 0..8 {
            self.0.write(IPRIORITYR + n * 32 + i * 4, u32::from_ne_bytes([priority; 4]));
        }
        for i in usize::from(n == 0)..2 {
            self.0.write(ICFGR + n * 8 + i * 4, 0);
        }
    }
}
