//! GICv3 (Arm IHI 0069H) with affinity routing and the system register interface, and neither LPIs nor extended ranges.
//!
//! All interrupts are Group 1: Non-secure with two Security states, simply Group 1 with one.

use core::arch::asm;

use arch::mmu::DeviceMemory;
use heapless::Vec;

use crate::MAX_CPUS;
use crate::gic::publish_memory;
use crate::gic::{Acknowledged, ActivePriorities, CPU_PRIORITY, DEVICE_PRIORITY, Error, priority_mask};
use crate::irq_bank::{Bank, ICACTIVER, ICENABLER, IGROUPR, ISACTIVER, ISENABLER};
use crate::mmio::Mmio;
use crate::platform::Cpu;

// Distributor: section 12.9.
const GICD_CTLR: usize = 0x0000;
const GICD_TYPER: usize = 0x0004;
const GICD_IROUTER: usize = 0x6000;
/// GICD_CTLR: affinity routing, and Group 1 enabled. Bits 0 and 1 are EnableGrp1 and EnableGrp1A in the Non-secure view,
/// EnableGrp0 (of which there are none) and EnableGrp1 with one Security state.
const GICD_ON: u32 = 1 << 4 | 3;
const GICD_RWP: u32 = 1 << 31;
// Redistributor: section 12.11.
const GICR_CTLR: usize = 0x0000;
const GICR_TYPER: usize = 0x0008;
const GICR_WAKER: usize = 0x0014;
const GICR_SGI_BASE: usize = 0x10000;
const GICR_RWP: u32 = 1 << 3;
const GICR_TYPER_VLPIS: u64 = 1 << 1;
const GICR_TYPER_LAST: u64 = 1 << 4;
const GICR_WAKER_PROCESSOR_SLEEP: u32 = 1 << 1;
const GICR_WAKER_CHILDREN_ASLEEP: u32 = 1 << 2;

const GICD_SIZE: usize = 0x10000;
const GICR_SIZE: usize = 0x20000;
/// ICC_CTLR_EL1.EOImode (section 12.2).
const ICC_CTLR_EOIMODE: u64 = 1 << 1;
/// ICC_SRE_EL2: system registers on, no bypass, EL1 may use them as well (section 12.2).
const ICC_SRE_ON: u64 = 0xf;
/// Reads of a register before hardware that does not answer is given up.
const PATIENCE: u32 = 1_000_000;

macro_rules! read {
    ((), $($register:tt)+) => { read!($($register)+) };
    ($($register:tt)+) => {{
        let value: u64;
        // SAFETY: reads a register of the CPU interface, which changes nothing that Rust knows of.
        unsafe { asm!(concat!("mrs {}, ", $($register)+), out(reg) value, options(nostack, preserves_flags)) };
        value
    }};
}

macro_rules! write {
    (($value:expr), $($register:tt)+) => { write!($value, $($register)+) };
    ($value:expr, $($register:tt)+) => {{
        let value: u64 = $value;
        // SAFETY: writes a register of the CPU interface, which changes what interrupts come, but no memory.
        unsafe { asm!(concat!("msr ", $($register)+, ", {}"), in(reg) value, options(nostack, preserves_flags)) }
    }};
}

/// Accesses one of the list registers by `read!` or `write!`: the number is part of the instruction.
macro_rules! list_register {
    ($n:expr, $access:ident $arguments:tt) => {
        list_register!($n, $access $arguments, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15)
    };
    ($n:expr, $access:ident $arguments:tt, $($i:literal)*) => {
        match $n {
            $($i => $access!($arguments, concat!("ich_lr", $i, "_el2")),)*
            _ => unreachable!("there are at most 16 list registers"),
        }
    };
}

/// A GICv3.
#[derive(Debug)]
pub struct GicV3 {
    gicd: Mmio<GICD_SIZE>,
    cpus: Vec<Redistributor, MAX_CPUS>,
}

#[derive(Clone, Copy, Debug)]
struct Redistributor {
    gicr: Mmio<GICR_SIZE>,
    mpidr: u64,
    /// ICC_SGI1R_EL1 for SGI 0.
    sgi1r: u64,
}

impl GicV3 {
    /// The GIC with this distributor and these redistributors, of which each CPU has one.
    pub fn new(gicd: &DeviceMemory, gicr: &[DeviceMemory], cpus: &[Cpu]) -> Result<Self, Error> {
        let mut gic = Self { gicd: Mmio::within(gicd, 0).ok_or(Error::TooSmall)?, cpus: Vec::new() };
        for (index, &Cpu { mpidr, .. }) in cpus.iter().enumerate() {
            let gicr = gicr.iter().find_map(|region| find_redistributor(region, mpidr));
            let gicr = gicr.ok_or(Error::NoRedistributor(index))?;
            gic.cpus
                .push(Redistributor { gicr, mpidr, sgi1r: sgi1r(mpidr) })
                .map_err(|_| Error::NoRedistributor(index))?;
        }
        Ok(gic)
    }

    fn bank(&self, cpu: usize, intid: u32) -> Bank {
        if intid < 32 { Bank(self.cpus[cpu].gicr.part(GICR_SGI_BASE)) } else { Bank(self.gicd.part(0)) }
    }

    pub(crate) fn init_distributor(&mut self) {
        self.gicd.write(GICD_CTLR, 0);
        self.wait_for_gicd();
        let bank = Bank(self.gicd.part(0));
        for n in 1..self.intid_limit().div_ceil(32) as usize {
            bank.reset_word(n, DEVICE_PRIORITY);
            bank.write_word(IGROUPR, n, !0);
        }
        self.wait_for_gicd();
        self.gicd.write(GICD_CTLR, GICD_ON);
        self.wait_for_gicd();
        for intid in 32..self.intid_limit() {
            self.route(intid, 0);
        }
    }

    pub(crate) fn init_cpu(&self, cpu: usize) {
        write!(ICC_SRE_ON, "icc_sre_el2");
        isb();

        // Section 12.11, GICR_WAKER: the redistributor forwards nothing while it believes the CPU asleep.
        let gicr = self.cpus[cpu].gicr;
        gicr.write(GICR_WAKER, gicr.read(GICR_WAKER) & !GICR_WAKER_PROCESSOR_SLEEP);
        wait_while(|| gicr.read(GICR_WAKER) & GICR_WAKER_CHILDREN_ASLEEP != 0);
        let bank = self.bank(cpu, 0);
        bank.reset_word(0, CPU_PRIORITY);
        bank.write_word(IGROUPR, 0, !0);
        bank.write_word(ISENABLER, 0, 0xffff);
        wait_while(|| gicr.read(GICR_CTLR) & GICR_RWP != 0);

        self.set_hcr(0);
        self.load_interface(0, &ActivePriorities::default());
        for n in 0..self.list_registers() {
            self.write_lr(n, 0);
        }
        write!(ICC_CTLR_EOIMODE, "icc_ctlr_el1");
        write!(0, "icc_bpr1_el1");
        self.let_devices(true);
        write!(1, "icc_igrpen1_el1");
        isb();
    }

    fn wait_for_gicd(&self) {
        wait_while(|| self.gicd.read(GICD_CTLR) & GICD_RWP != 0);
    }

    fn intid_limit(&self) -> u32 {
        ((self.gicd.read(GICD_TYPER) & 0x1f) * 32 + 32).min(1020)
    }

    pub(crate) fn set_enabled(&self, cpu: usize, intid: u32, enabled: bool) {
        self.bank(cpu, intid).write_bit(if enabled { ISENABLER } else { ICENABLER }, intid);
        if intid < 32 {
            wait_while(|| self.cpus[cpu].gicr.read(GICR_CTLR) & GICR_RWP != 0);
        } else {
            self.wait_for_gicd();
        }
    }

    pub(crate) fn let_devices(&self, through: bool) {
        write!(priority_mask(through).into(), "icc_pmr_el1");
    }

    pub(crate) fn route(&self, intid: u32, to: usize) {
        // The affinity fields are where MPIDR_EL1 has them; bit 31 clear: to this CPU only.
        self.gicd.write_u64(GICD_IROUTER + intid as usize * 8, self.cpus[to].mpidr);
    }

    pub(crate) fn set_active(&self, cpu: usize, intid: u32, active: bool) {
        self.bank(cpu, intid).write_bit(if active { ISACTIVER } else { ICACTIVER }, intid);
    }

    pub(crate) fn acknowledge(&self) -> Option<Acknowledged> {
        let interrupt = Acknowledged(read!("icc_iar1_el1") as u32);
        // What the handler does to the device must not overtake the acknowledgement ("Observability
        // of the effects of accesses to the GIC registers").
        dsb_sy();
        // 1,020 to 1,023: nothing, or nothing for us (section 2.2.1).
        (interrupt.intid() < 1020).then_some(interrupt)
    }

    pub(crate) fn highest_pending(&self) -> u32 {
        read!("icc_hppir1_el1") as u32
    }

    pub(crate) fn priority_drop(&self, interrupt: Acknowledged) {
        write!(interrupt.0.into(), "icc_eoir1_el1");
    }

    pub(crate) fn deactivate(&self, interrupt: Acknowledged) {
        write!(interrupt.0.into(), "icc_dir_el1");
    }

    pub(crate) fn send_sgi(&self, sgi: u32, to: usize) {
        publish_memory();
        write!(self.cpus[to].sgi1r | u64::from(sgi & 0xf) << 24, "icc_sgi1r_el1");
        isb();
    }

    pub(crate) fn list_registers(&self) -> usize {
        (self.vtr() & 0x1f) as usize + 1
    }

    fn vtr(&self) -> u32 {
        read!("ich_vtr_el2") as u32
    }

    /// List register `n`, below [`crate::gic::Gic::list_registers`].
    #[inline(always)]
    pub fn read_lr(&self, n: usize) -> u64 {
        // As in `write_lr`.
        if n & !3 != 0 {
            Self::read_upper_lr(n)
        } else if n & 2 == 0 {
            if n & 1 == 0 { read!("ich_lr0_el2") } else { read!("ich_lr1_el2") }
        } else if n & 1 == 0 {
            read!("ich_lr2_el2")
        } else {
            read!("ich_lr3_el2")
        }
    }

    #[inline(never)]
    fn read_upper_lr(n: usize) -> u64 {
        list_register!(n, read(), 4 5 6 7 8 9 10 11 12 13 14 15)
    }

    /// Writes list register `n`.
    #[inline(always)]
    pub fn write_lr(&self, n: usize, value: u64) {
        // Most implementations have no more than four.
        if n & !3 != 0 {
            Self::write_upper_lr(n, value);
        } else if n & 2 == 0 {
            if n & 1 == 0 { write!(value, "ich_lr0_el2") } else { write!(value, "ich_lr1_el2") }
        } else if n & 1 == 0 {
            write!(value, "ich_lr2_el2");
        } else {
            write!(value, "ich_lr3_el2");
        }
    }

    #[inline(never)]
    fn write_upper_lr(n: usize, value: u64) {
        list_register!(n, write(value), 4 5 6 7 8 9 10 11 12 13 14 15)
    }

    pub(crate) fn hcr(&self) -> u32 {
        read!("ich_hcr_el2") as u32
    }

    pub(crate) fn set_hcr(&self, value: u32) {
        write!(value.into(), "ich_hcr_el2");
    }

    pub(crate) fn vmcr(&self) -> u32 {
        read!("ich_vmcr_el2") as u32
    }

    pub(crate) fn elrsr(&self) -> u16 {
        read!("ich_elrsr_el2") as u16
    }

    /// How many registers a group's active priorities take: 32 preemption levels each (VTR.PREbits, section 12.4).
    fn active_priorities_registers(&self) -> usize {
        1 << ((self.vtr() >> 26) & 7).saturating_sub(4)
    }

    #[inline]
    pub(crate) fn save_interface(&self, vmcr: &mut u32, into: &mut ActivePriorities) {
        *vmcr = self.vmcr();
        let count = self.active_priorities_registers();
        into[0][0] = read!("ich_ap0r0_el2") as u32;
        into[1][0] = read!("ich_ap1r0_el2") as u32;
        if count > 1 {
            into[0][1] = read!("ich_ap0r1_el2") as u32;
            into[1][1] = read!("ich_ap1r1_el2") as u32;
        }
        if count > 2 {
            into[0][2] = read!("ich_ap0r2_el2") as u32;
            into[1][2] = read!("ich_ap1r2_el2") as u32;
            into[0][3] = read!("ich_ap0r3_el2") as u32;
            into[1][3] = read!("ich_ap1r3_el2") as u32;
        }
    }

    #[inline]
    pub(crate) fn load_interface(&self, vmcr: u32, from: &ActivePriorities) {
        write!(vmcr.into(), "ich_vmcr_el2");
        let count = self.active_priorities_registers();
        write!(from[0][0].into(), "ich_ap0r0_el2");
        write!(from[1][0].into(), "ich_ap1r0_el2");
        if count > 1 {
            write!(from[0][1].into(), "ich_ap0r1_el2");
            write!(from[1][1].into(), "ich_ap1r1_el2");
        }
        if count > 2 {
            write!(from[0][2].into(), "ich_ap0r2_el2");
            write!(from[1][2].into(), "ich_ap1r2_el2");
            write!(from[0][3].into(), "ich_ap0r3_el2");
            write!(from[1][3].into(), "ich_ap1r3_el2");
        }
    }
}

/// The redistributor of the CPU with this affinity, if it is in the region (section 12.10: frames of two 64 KiB pages, of
/// four with virtual LPIs; GICR_TYPER tells whose, and which is a region's last).
fn find_redistributor(region: &DeviceMemory, mpidr: u64) -> Option<Mmio<GICR_SIZE>> {
    let affinity = (mpidr >> 8 & 0xff00_0000) | (mpidr & 0x00ff_ffff);
    let mut at = 0;
    loop {
        let gicr: Mmio<GICR_SIZE> = Mmio::within(region, at)?;
        let typer = gicr.read_u64(GICR_TYPER);
        if typer >> 32 == affinity {
            return Some(gicr);
        }
        if typer & GICR_TYPER_LAST != 0 {
            return None;
        }
        at += GICR_SIZE as u64 * if typer & GICR_TYPER_VLPIS != 0 { 2 } else { 1 };
    }
}

/// ICC_SGI1R_EL1 for SGI 0 to one CPU (section 12.2): Aff3, RS (Aff0 / 16), Aff2, Aff1, and a bit for the lower part of Aff0.
const fn sgi1r(mpidr: u64) -> u64 {
    let (aff3, aff2, aff1, aff0) = (mpidr >> 32 & 0xff, mpidr >> 16 & 0xff, mpidr >> 8 & 0xff, mpidr & 0xff);
    aff3 << 48 | (aff0 >> 4) << 44 | aff2 << 32 | aff1 << 16 | 1 << (aff0 & 0xf)
}

fn wait_while(condition: impl Fn() -> bool) {
    for _ in 0..PATIENCE {
        if !condition() {
            return;
        }
    }
}

fn isb() {
    // SAFETY: a barrier.
    unsafe { asm!("isb", options(nostack, preserves_flags)) };
}

fn dsb_sy() {
    // SAFETY: a barrier.
    unsafe { asm!("dsb sy", options(nostack, preserves_flags)) };
}
