//! The interrupt controller, either version. Every interrupt is Group 1 on a GICv3 and Group 0 on a GICv2.

use core::arch::asm;

use crate::mmio::{read, write};
use crate::platform::Gic;

/// What is acknowledged when nothing is pending.
const SPURIOUS: u32 = 1020;
/// The first of the four in a word that come first in a [crowd](Gic::crowd): no SGI, and there in the last word too.
const FIRST: usize = 20;

macro_rules! write_register {
    ($register:literal, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: a register of this CPU's interrupt interface; the handlers touch nothing but atomics.
        unsafe { asm!(concat!("msr ", $register, ", {}"), "isb", in(reg) value, options(nostack)) }
    }};
}

impl Gic {
    /// The frame that has the private interrupts' registers of a CPU.
    fn private(self, index: usize) -> usize {
        match self {
            Self::V2 { gicd, .. } => gicd,
            Self::V3 { gicr, .. } => gicr + index * 0x2_0000 + 0x1_0000,
        }
    }

    /// The distributor.
    pub fn distributor(self) -> usize {
        match self {
            Self::V2 { gicd, .. } | Self::V3 { gicd, .. } => gicd,
        }
    }

    /// Sets up a CPU's interface, and the distributor on the first one: all SGIs and the interrupt `timer`.
    pub fn init(self, index: usize, timer: u32) {
        let private = self.private(index);
        match self {
            Self::V2 { gicd, gicc } => {
                if index == 0 {
                    write(gicd, 1);
                }
                write(gicc + 4, 0xff);
                write(gicc, 1);
            }
            Self::V3 { gicd, .. } => {
                if index == 0 {
                    write(gicd, 0x12); // GICD_CTLR: ARE_NS, EnableGrp1
                }
                let waker = private - 0x1_0000 + 0x14;
                write(waker, read(waker) & !2);
                while read(waker) & 4 != 0 {}
                write(private + 0x80, !0); // GICR_IGROUPR0
                write_register!("s3_0_c12_c12_5", 7); // ICC_SRE_EL1
                write_register!("s3_0_c4_c6_0", 0xff); // ICC_PMR_EL1
                write_register!("s3_0_c12_c12_7", 1); // ICC_IGRPEN1_EL1
            }
        }
        write(private + 0x100, 0xffff | 1 << timer); // ISENABLER0
    }

    /// Enables an edge-triggered SPI, for the first CPU.
    pub fn enable(self, spi: u32) {
        let (gicd, spi) = (self.distributor(), spi as usize);
        match self {
            Self::V2 { .. } => write(gicd + 0x800 + spi / 4 * 4, 0x0101_0101), // ITARGETSR
            Self::V3 { .. } => write(gicd + 0x80 + spi / 32 * 4, !0),          // IGROUPR
        }
        let configuration = gicd + 0xc00 + spi / 16 * 4;
        write(configuration, read(configuration) | 2 << (spi % 16 * 2));
        write(gicd + 0x100 + spi / 32 * 4, 1 << (spi % 32)); // ISENABLER
    }

    /// Writes GICD_CTLR as [`Gic::init`] does.
    pub fn restore(self) {
        match self {
            Self::V2 { gicd, .. } => write(gicd, 1),
            Self::V3 { gicd, .. } => write(gicd, 0x12),
        }
    }

    /// Makes all interrupts of this CPU pending that no line holds: enabled, of equal priorities, and none active. Before the others
    /// come four of word `w` (32 INTIDs), if one is given, one by one and each more urgent than those before it; `f` is called after
    /// each of them.
    pub fn crowd(self, first: Option<usize>, mut f: impl FnMut()) {
        let distributor = self.distributor();
        let group = if matches!(self, Self::V3 { .. }) { !0 } else { 0 };
        let words = read(distributor + 4) as usize & 0x1f;
        let frame = |w| if w == 0 { self.private(0) } else { distributor };
        for w in 0..=words {
            write(frame(w) + 0x280 + 4 * w, !0); // ICPENDR
            write(frame(w) + 0x380 + 4 * w, !0); // ICACTIVER
            write(frame(w) + 0x80 + 4 * w, group); // IGROUPR
            for first in (0..32).step_by(4) {
                write(frame(w) + 0x400 + 32 * w + first, 0xa0a0_a0a0); // IPRIORITYR
            }
            write(frame(w) + 0x100 + 4 * w, !0); // ISENABLER
        }
        let first = first.filter(|w| *w <= words);
        if let Some(w) = first {
            write(frame(w) + 0x400 + 32 * w + FIRST, 0x6070_8090); // IPRIORITYR
            for n in FIRST..FIRST + 4 {
                write(frame(w) + 0x200 + 4 * w, 1 << n); // ISPENDR
                f();
            }
        }
        for w in 0..=words {
            let first = if first == Some(w) { 0xf << FIRST } else { 0 };
            write(frame(w) + 0x200 + 4 * w, !first); // ISPENDR
        }
    }

    /// Sends SGI 0 to a CPU by its MPIDR and index.
    #[inline(always)]
    pub fn send_sgi(self, mpidr: u64, index: usize) {
        match self {
            Self::V2 { gicd, .. } => write(gicd + 0xf00, 1 << (16 + index)),
            Self::V3 { .. } => {
                let (aff0, aff1) = (mpidr & 0xf, mpidr >> 8 & 0xff);
                write_register!("s3_0_c12_c11_5", aff1 << 16 | 1 << aff0); // ICC_SGI1R_EL1
            }
        }
    }

    /// Acknowledges the most urgent pending interrupt: what IAR says, and whether there was one.
    pub fn acknowledge(self) -> (u32, bool) {
        let iar = match self {
            Self::V2 { gicc, .. } => read(gicc + 0xc),
            Self::V3 { .. } => {
                let iar: u64;
                // SAFETY: ICC_IAR1_EL1.
                unsafe { asm!("mrs {}, s3_0_c12_c12_0", "dsb sy", out(reg) iar, options(nostack)) };
                iar as u32
            }
        };
        (iar, iar & 0x3ff < SPURIOUS)
    }

    /// Ends what IAR said.
    pub fn end(self, iar: u32) {
        match self {
            Self::V2 { gicc, .. } => write(gicc + 0x10, iar),
            Self::V3 { .. } => write_register!("s3_0_c12_c12_1", iar.into()), // ICC_EOIR1_EL1
        }
    }

    /// Acknowledges the pending interrupt, has `f` handle it, and ends it.
    pub fn handle(self, f: impl FnOnce(u32)) {
        if let (iar, true) = self.acknowledge() {
            f(iar & 0x3ff);
            self.end(iar);
        }
    }
}
