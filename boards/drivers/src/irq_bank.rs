//! The registers that configure interrupts: laid out alike in a GICv2 distributor (Arm IHI 0048B, table 4-1), a GICv3
//! distributor and the SGI_base frame of a GICv3 redistributor (Arm IHI 0069H, sections 12.8 and 12.10).

use crate::gic::Trigger;
use crate::mmio::Mmio;

pub(crate) const IGROUPR: usize = 0x080;
pub(crate) const ISENABLER: usize = 0x100;
pub(crate) const ICENABLER: usize = 0x180;
pub(crate) const ISPENDR: usize = 0x200;
pub(crate) const ICPENDR: usize = 0x280;
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

    pub fn set_priority(self, intid: u32, priority: u8) {
        self.0.write_u8(IPRIORITYR + intid as usize, priority);
    }

    /// Read and written back: two CPUs must not do it at once for INTIDs of one register.
    pub fn set_trigger(self, intid: u32, trigger: Trigger) {
        let at = ICFGR + intid as usize / 16 * 4;
        let edge = 2 << (intid % 16 * 2);
        let others = self.0.read(at) & !edge;
        self.0.write(at, if trigger == Trigger::Edge { others | edge } else { others });
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
