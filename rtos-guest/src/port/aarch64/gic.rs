//! The interrupt controller as one CPU uses it: GICv2 (Arm IHI 0048B) or GICv3 (Arm IHI 0069H). All interrupts are of
//! Group 1 where there are groups, and of one priority: handlers do not nest.

use core::arch::asm;

use aarch64_cpu::asm::barrier;
use aarch64_cpu::registers::{MPIDR_EL1, Readable};

use super::mmio::Mmio;
use crate::dt;
use crate::interrupt::Trigger;

const GICD_CTLR: usize = 0x000;
const GICD_IGROUPR: usize = 0x080;
const GICD_ISENABLER: usize = 0x100;
const GICD_ICENABLER: usize = 0x180;
const GICD_IPRIORITYR: usize = 0x400;
const GICD_ITARGETSR: usize = 0x800;
const GICD_ICFGR: usize = 0xC00;
const GICD_IROUTER: usize = 0x6000;

const GICC_CTLR: usize = 0x00;
const GICC_PMR: usize = 0x04;
const GICC_IAR: usize = 0x0C;
const GICC_EOIR: usize = 0x10;

const GICR_TYPER: usize = 0x0008;
const GICR_WAKER: usize = 0x0014;
/// A redistributor's second frame, for SGIs and PPIs; its registers are laid out as the distributor's.
const GICR_SGI_BASE: usize = 0x1_0000;

/// GICD_CTLR: EnableGrp0 of a GICv2 with one security state, EnableGrp1 of the non-secure view.
const V2_ENABLE: u32 = 1;
/// GICD_CTLR of a GICv3: ARE_NS, EnableGrp1A and EnableGrp1 (or, with one security state, ARE and both groups).
const V3_ENABLE: u32 = 1 << 4 | 1 << 1 | 1;
/// GICD_CTLR.RWP: a write has not taken effect everywhere.
const V3_PENDING: u32 = 1 << 31;
/// The priority of all interrupts.
const PRIORITY: u8 = 0xA0;
/// Lets all priorities through.
const PRIORITY_MASK: u32 = 0xF8;
/// The first SPI; below are each CPU's own interrupts.
const FIRST_SHARED: u32 = 32;
/// The first number that an acknowledgement returns if there is no interrupt.
const SPECIAL: u32 = 1020;

/// A GIC.
pub(super) enum Gic {
    V2 {
        gicd: Mmio,
        gicc: Mmio,
    },
    /// With the SGI frame of this CPU's redistributor.
    V3 {
        gicd: Mmio,
        sgi: Mmio,
    },
}

/// An interrupt that was acknowledged and is to be ended.
pub(super) struct Acknowledged(u32);

impl Acknowledged {
    /// Its number, without a GICv2 SGI's source.
    pub(super) fn intid(&self) -> u32 {
        self.0 & 0x3FF
    }
}

impl Gic {
    /// Starts the GIC that the device tree describes, with all interrupts still disabled.
    pub(super) fn set_up(gic: dt::Gic) -> Self {
        // SAFETY: the device tree says what is there, boot has mapped it, and this is the only driver of it.
        let device = |region| unsafe { Mmio::new(region) };
        match gic {
            dt::Gic::V2 { gicd, gicc } => {
                let (gicd, gicc) = (device(gicd), device(gicc));
                gicd.write(GICD_CTLR, V2_ENABLE);
                gicc.write(GICC_PMR, PRIORITY_MASK);
                gicc.write(GICC_CTLR, V2_ENABLE);
                Self::V2 { gicd, gicc }
            }
            dt::Gic::V3 { gicd, gicr } => {
                let (gicd, redistributor) = (device(gicd), own_redistributor(device(gicr)));
                gicd.write(GICD_CTLR, V3_ENABLE);
                while gicd.read(GICD_CTLR) & V3_PENDING != 0 {}
                // ProcessorSleep off, until ChildrenAsleep says that it is.
                redistributor.write(GICR_WAKER, redistributor.read(GICR_WAKER) & !(1 << 1));
                while redistributor.read(GICR_WAKER) & 1 << 2 != 0 {}
                enable_cpu_interface();
                Self::V3 { gicd, sgi: redistributor.from(GICR_SGI_BASE) }
            }
        }
    }

    /// Configures an interrupt and aims it at this CPU.
    pub(super) fn configure(&self, intid: u32, trigger: Trigger) {
        let n = intid as usize;
        let registers = self.registers(intid);
        if intid >= FIRST_SHARED {
            match *self {
                // What a CPU reads in the first words, those of the private interrupts, is itself; a GIC for one CPU
                // has no targets.
                Self::V2 { gicd, .. } => gicd.write8(GICD_ITARGETSR + n, gicd.read8(GICD_ITARGETSR)),
                Self::V3 { gicd, .. } => gicd.write64(GICD_IROUTER + 8 * n, affinity()),
            }
            let (at, edge) = (GICD_ICFGR + n / 16 * 4, 2 << (n % 16 * 2));
            let others = registers.read(at) & !edge;
            registers.write(at, others | if trigger == Trigger::Edge { edge } else { 0 });
        }
        if let Self::V3 { .. } = self {
            let at = GICD_IGROUPR + n / 32 * 4;
            registers.write(at, registers.read(at) | 1 << (n % 32));
        }
        registers.write8(GICD_IPRIORITYR + n, PRIORITY);
    }

    /// Enables or disables an interrupt.
    pub(super) fn set_enabled(&self, intid: u32, enabled: bool) {
        let n = intid as usize;
        let register = if enabled { GICD_ISENABLER } else { GICD_ICENABLER };
        self.registers(intid).write(register + n / 32 * 4, 1 << (n % 32));
    }

    /// The frame with an interrupt's registers.
    fn registers(&self, intid: u32) -> Mmio {
        match *self {
            Self::V3 { sgi, .. } if intid < FIRST_SHARED => sgi,
            Self::V2 { gicd, .. } | Self::V3 { gicd, .. } => gicd,
        }
    }

    /// Takes the interrupt that is pending, if any.
    pub(super) fn acknowledge(&self) -> Option<Acknowledged> {
        let iar = match self {
            Self::V2 { gicc, .. } => gicc.read(GICC_IAR),
            Self::V3 { .. } => {
                let iar: u64;
                // SAFETY: acknowledging has no effect on memory.
                unsafe {
                    asm!("mrs {}, ICC_IAR1_EL1", "dsb sy", out(reg) iar, options(nostack, preserves_flags))
                };
                iar as u32
            }
        };
        let acknowledged = Acknowledged(iar);
        (acknowledged.intid() < SPECIAL).then_some(acknowledged)
    }

    /// Ends an interrupt whose cause has been dealt with.
    pub(super) fn end(&self, Acknowledged(iar): Acknowledged) {
        match self {
            Self::V2 { gicc, .. } => gicc.write(GICC_EOIR, iar),
            Self::V3 { .. } => {
                let iar = u64::from(iar);
                // SAFETY: ending an interrupt has no effect on memory.
                unsafe { asm!("msr ICC_EOIR1_EL1, {}", in(reg) iar, options(nostack, preserves_flags)) };
            }
        }
    }
}

/// This CPU's affinity as in GICD_IROUTER: Aff3 in bits 39:32, Aff2 to Aff0 in 23:0.
fn affinity() -> u64 {
    MPIDR_EL1.get() & 0xFF_00FF_FFFF
}

/// Walks the redistributors of all CPUs until this one's.
fn own_redistributor(mut redistributor: Mmio) -> Mmio {
    // GICR_TYPER has the affinity in bits 63:32, four bytes in a row; bit 1 (VLPIS) says that there are two more frames.
    let mpidr = affinity();
    let mine = (mpidr >> 8 & 0xFF00_0000) | mpidr & 0xFF_FFFF;
    loop {
        let typer = redistributor.read64(GICR_TYPER);
        if typer >> 32 == mine {
            return redistributor;
        }
        redistributor = redistributor.from(if typer & 1 << 1 != 0 { 0x4_0000 } else { 0x2_0000 });
    }
}

/// System registers on, all priorities let through, an EOI ends an interrupt whole, Group 1 on.
fn enable_cpu_interface() {
    // SAFETY: this CPU's interrupts are masked; nothing of it has an effect on memory.
    unsafe {
        asm!(
            "mrs {scratch}, ICC_SRE_EL1",
            "orr {scratch}, {scratch}, #1",
            "msr ICC_SRE_EL1, {scratch}",
            "isb",
            "msr ICC_CTLR_EL1, xzr",
            "msr ICC_PMR_EL1, {mask}",
            "mov {scratch}, #1",
            "msr ICC_IGRPEN1_EL1, {scratch}",
            scratch = out(reg) _,
            mask = in(reg) u64::from(PRIORITY_MASK),
            options(nostack, preserves_flags),
        );
    }
    barrier::isb(barrier::SY);
}
