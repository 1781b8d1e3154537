//! GICv2 with the virtualization extensions (Arm IHI 0048B), such as the GIC-400.
//!
//! The bits used in the control registers mean the same, "this world's interrupts", in the Non-secure view of a GIC with the
//! Security Extensions and in a GIC without.

use core::ops::Range;
use core::sync::atomic::{AtomicU8, Ordering};

use arch::mmu::DeviceMemory;

use crate::MAX_CPUS;
use crate::gic::{
    Acknowledged, ActivePriorities, CPU_PRIORITY, DEVICE_PRIORITY, priority_mask, publish_memory,
};
use crate::irq_bank::{Bank, ICACTIVER, ICENABLER, ISACTIVER, ISENABLER};
use crate::mmio::Mmio;

// Distributor: section 4.3.
const GICD_CTLR: usize = 0x000;
const GICD_TYPER: usize = 0x004;
const GICD_ITARGETSR: usize = 0x800;
const GICD_SGIR: usize = 0xf00;
// CPU interface: section 4.4.
const GICC_CTLR: usize = 0x0000;
const GICC_PMR: usize = 0x0004;
const GICC_BPR: usize = 0x0008;
const GICC_IAR: usize = 0x000c;
const GICC_HPPIR: usize = 0x0018;
const GICC_EOIR: usize = 0x0010;
const GICC_APR: usize = 0x00d0;
const GICC_DIR: usize = 0x1000;
// Virtual interface control: section 5.3.
const GICH_HCR: usize = 0x000;
const GICH_VTR: usize = 0x004;
const GICH_VMCR: usize = 0x008;
const GICH_ELRSR0: usize = 0x030;
const GICH_APR: usize = 0x0f0;
const GICH_LR: usize = 0x100;

/// GICC_CTLR: enable, and EOImode (bit 9: EOImodeNS in the Non-secure view, EOImode without the Security Extensions).
const GICC_ON: u32 = 1 | 1 << 9;
/// GICC_CTLR: which signals bypass the GIC, firmware's choice.
const GICC_BYPASS: u32 = 0xf << 5;

const GICD_SIZE: usize = 0x1000;
const GICC_SIZE: usize = 0x2000;
const GICH_SIZE: usize = 0x200;
/// GICV: as the CPU interface, with its deactivation register in the second page (section 5.5).
const GICV_SIZE: usize = 0x2000;

/// A GICv2.
#[derive(Debug)]
pub struct GicV2 {
    gicd: Mmio<GICD_SIZE>,
    gicc: Mmio<GICC_SIZE>,
    gich: Mmio<GICH_SIZE>,
    gicv: u64,
    /// The bit that means a CPU as a target; known once it has been through `init_cpu`.
    targets: [AtomicU8; MAX_CPUS],
}

impl GicV2 {
    /// The GIC with these registers: distributor, CPU interface, virtual interface control, virtual CPU interface. `None` if
    /// there are not enough.
    pub fn new([gicd, gicc, gich, gicv]: [&DeviceMemory; 4]) -> Option<Self> {
        Some(Self {
            gicd: Mmio::within(gicd, 0)?,
            gicc: Mmio::within(gicc, 0)?,
            gich: Mmio::within(gich, 0)?,
            gicv: Mmio::<GICV_SIZE>::within(gicv, 0).map(|_| gicv.range().start)?,
            targets: [const { AtomicU8::new(0) }; MAX_CPUS],
        })
    }

    const fn bank(&self) -> Bank {
        Bank(self.gicd)
    }

    pub(crate) fn init_distributor(&mut self) {
        self.gicd.write(GICD_CTLR, 0);
        for n in 1..self.intid_limit().div_ceil(32) as usize {
            self.bank().reset_word(n, DEVICE_PRIORITY);
        }
        self.gicd.write(GICD_CTLR, 1);
    }

    pub(crate) fn init_cpu(&self, cpu: usize) {
        // Reads as the reading CPU's own bit; as zero where there is only one CPU (section 4.3.12).
        let target = (self.gicd.read(GICD_ITARGETSR) as u8).max(1);
        self.targets[cpu].store(target, Ordering::Relaxed);
        self.bank().reset_word(0, CPU_PRIORITY);
        self.bank().write_word(ISENABLER, 0, 0xffff);

        self.gich.write(GICH_HCR, 0);
        self.load_interface(0, &ActivePriorities::default());
        for n in 0..self.list_registers() {
            self.write_lr(n, 0);
        }
        for n in 0..4 {
            self.gicc.write(GICC_APR + n * 4, 0);
        }
        self.gicc.write(GICC_BPR, 0);
        self.let_devices(true);
        let bypass = self.gicc.read(GICC_CTLR) & GICC_BYPASS;
        self.gicc.write(GICC_CTLR, bypass | GICC_ON);
    }

    fn intid_limit(&self) -> u32 {
        ((self.gicd.read(GICD_TYPER) & 0x1f) * 32 + 32).min(1020)
    }

    pub(crate) fn set_enabled(&self, _cpu: usize, intid: u32, enabled: bool) {
        self.bank().write_bit(if enabled { ISENABLER } else { ICENABLER }, intid);
    }

    pub(crate) fn let_devices(&self, through: bool) {
        self.gicc.write(GICC_PMR, priority_mask(through).into());
    }

    pub(crate) fn route(&self, intid: u32, to: usize) {
        self.gicd.write_u8(GICD_ITARGETSR + intid as usize, self.targets[to].load(Ordering::Relaxed));
    }

    pub(crate) fn set_active(&self, _cpu: usize, intid: u32, active: bool) {
        self.bank().write_bit(if active { ISACTIVER } else { ICACTIVER }, intid);
    }

    pub(crate) fn acknowledge(&self) -> Option<Acknowledged> {
        let interrupt = Acknowledged(self.gicc.read(GICC_IAR) & 0x1fff);
        // 1,020 to 1,023: nothing, or nothing for us (section 3.2).
        (interrupt.intid() < 1020).then_some(interrupt)
    }

    pub(crate) fn highest_pending(&self) -> u32 {
        self.gicc.read(GICC_HPPIR) & 0x3ff
    }

    pub(crate) fn priority_drop(&self, interrupt: Acknowledged) {
        self.gicc.write(GICC_EOIR, interrupt.0);
    }

    pub(crate) fn deactivate(&self, interrupt: Acknowledged) {
        self.gicc.write(GICC_DIR, interrupt.0);
    }

    pub(crate) fn send_sgi(&self, sgi: u32, to: usize) {
        publish_memory();
        let target = u32::from(self.targets[to].load(Ordering::Relaxed));
        self.gicd.write(GICD_SGIR, target << 16 | sgi & 0xf);
    }

    pub(crate) fn list_registers(&self) -> usize {
        (self.vtr() & 0x3f) as usize + 1
    }

    fn vtr(&self) -> u32 {
        self.gich.read(GICH_VTR)
    }

    /// List register `n`, below [`crate::gic::Gic::list_registers`].
    #[inline]
    pub fn read_lr(&self, n: usize) -> u32 {
        self.gich.read(GICH_LR + n * 4)
    }

    /// Writes list register `n`.
    #[inline]
    pub fn write_lr(&self, n: usize, value: u32) {
        self.gich.write(GICH_LR + n * 4, value);
    }

    pub(crate) fn hcr(&self) -> u32 {
        self.gich.read(GICH_HCR)
    }

    pub(crate) fn set_hcr(&self, value: u32) {
        self.gich.write(GICH_HCR, value);
    }

    pub(crate) fn vmcr(&self) -> u32 {
        self.gich.read(GICH_VMCR)
    }

    pub(crate) fn elrsr(&self) -> u16 {
        self.gich.read(GICH_ELRSR0) as u16
    }

    #[inline]
    pub(crate) fn save_interface(&self, vmcr: &mut u32, priorities: &mut ActivePriorities) {
        *vmcr = self.vmcr();
        priorities[0][0] = self.gich.read(GICH_APR);
    }

    #[inline]
    pub(crate) fn load_interface(&self, vmcr: u32, priorities: &ActivePriorities) {
        self.gich.write(GICH_VMCR, vmcr);
        self.gich.write(GICH_APR, priorities[0][0]);
    }

    pub(crate) const fn gicv(&self) -> Range<u64> {
        self.gicv..self.gicv + GICV_SIZE as u64
    }
}
