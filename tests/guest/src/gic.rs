//! The guest's interrupt controller, either version: the one that ID_AA64PFR0_EL1.GIC says.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering};

use aarch64_cpu::asm::barrier::{ISHST, dsb};

const GICD: usize = 0x0800_0000;
const GICC: usize = 0x0801_0000;
const GICR: usize = 0x080a_0000;

/// The first of the SPIs that no device of the guest platform in use has.
pub const SPARE_SPI: u32 = 48;

/// vCPU 0 ends interrupts in two steps, and leaves spare SPIs active: see [`set_split`].
static SPLIT: AtomicBool = AtomicBool::new(false);

macro_rules! write_register {
    ($register:literal, $value:expr) => {{
        let value: u64 = $value;
        // SAFETY: a register of this vCPU's interrupt interface; the handlers touch nothing but atomics.
        unsafe { asm!(concat!("msr ", $register, ", {}"), "isb", in(reg) value, options(nostack)) }
    }};
}

/// Whether this is a GICv3.
pub fn v3() -> bool {
    let pfr0: u64;
    // SAFETY: reads an ID register.
    unsafe { asm!("mrs {}, id_aa64pfr0_el1", out(reg) pfr0, options(nomem, nostack)) };
    pfr0 >> 24 & 0xf != 0
}

/// Reads a 32-bit device register.
pub fn read(at: usize) -> u32 {
    let value: u32;
    // SAFETY: addresses of the guest platform's devices; a fault is caught by `cpu::probe`.
    unsafe { asm!("ldr {:w}, [{}]", out(reg) value, in(reg) at, options(nostack)) };
    value
}

/// Writes a 32-bit device register.
pub fn write(at: usize, value: u32) {
    // SAFETY: as `read`.
    unsafe { asm!("str {:w}, [{}]", in(reg) value, in(reg) at, options(nostack)) };
}

fn write_byte(at: usize, value: u8) {
    // SAFETY: as `read`.
    unsafe { asm!("strb {:w}, [{}]", in(reg) u32::from(value), in(reg) at, options(nostack)) };
}

/// The distributor's register at this offset.
pub fn distributor(offset: usize) -> usize {
    GICD + offset
}

/// A vCPU's redistributor register at this offset (GICv3): the second 64 KiB are those of its private interrupts.
pub fn redistributor(index: usize, offset: usize) -> usize {
    GICR + index * 0x2_0000 + offset
}

/// The frame that holds the private interrupts' registers of a vCPU.
fn private(index: usize) -> usize {
    if v3() { redistributor(index, 0x1_0000) } else { GICD }
}

/// Sets up this vCPU's interface, and the distributor on the first one. Everything is Group 1 on a GICv3, Group 0 on a GICv2.
pub fn init(index: usize) {
    if index == 0 {
        write(GICD, if v3() { 0x12 } else { 1 });
    }
    if v3() {
        let waker = redistributor(index, 0x14);
        write(waker, read(waker) & !2);
        while read(waker) & 4 != 0 {}
        write(private(index) + 0x80, !0);
        write_register!("s3_0_c12_c12_5", 7); // ICC_SRE_EL1
        write_register!("s3_0_c4_c6_0", 0xff); // ICC_PMR_EL1
        write_register!("s3_0_c12_c12_7", 1); // ICC_IGRPEN1_EL1
    } else {
        write(GICC + 4, 0xff);
        write(GICC, 1);
    }
    // SGIs, and the timers' PPIs 27 and 30.
    write(private(index) + 0x100, 0xffff | 1 << 27 | 1 << 30);
}

/// Enables or disables a private interrupt of this vCPU.
pub fn set_private(index: usize, intid: u32, enabled: bool) {
    write(private(index) + if enabled { 0x100 } else { 0x180 }, 1 << intid);
}

/// Enables an SPI for a vCPU with a priority; edge-triggered if `edge`.
pub fn enable_spi(intid: usize, index: usize, priority: u8, edge: bool) {
    write_byte(GICD + 0x400 + intid, priority);
    if v3() {
        write(GICD + 0x6000 + 8 * intid, index as u32);
        let group = GICD + 0x80 + intid / 32 * 4;
        write(group, read(group) | 1 << (intid % 32));
    } else {
        write_byte(GICD + 0x800 + intid, 1 << index);
    }
    let config = GICD + 0xc00 + intid / 16 * 4;
    let bit = 2 << (intid % 16 * 2);
    write(config, if edge { read(config) | bit } else { read(config) & !bit });
    write(GICD + 0x100 + intid / 32 * 4, 1 << (intid % 32));
}

/// Makes an SPI pending.
pub fn set_pending(intid: usize) {
    write(GICD + 0x200 + intid / 32 * 4, 1 << (intid % 32));
}

/// Whether an SPI is active.
pub fn is_active(intid: usize) -> bool {
    read(GICD + 0x300 + intid / 32 * 4) & 1 << (intid % 32) != 0
}

/// Sends an SGI to one vCPU.
pub fn send_sgi(to: usize, sgi: u32) {
    if v3() {
        send_sgi_raw(u64::from(sgi) << 24 | 1 << to);
    } else {
        send_sgi_raw(1 << (16 + to) | u64::from(sgi));
    }
}

/// Writes ICC_SGI1R_EL1 or GICD_SGIR.
pub fn send_sgi_raw(value: u64) {
    dsb(ISHST);
    if v3() {
        write_register!("s3_0_c12_c11_5", value);
    } else {
        write(GICD + 0xf00, value as u32);
    }
}

/// Has this vCPU, number 0, end interrupts in two steps from now on (EOImode = 1): [`handle`] drops the priority of a spare SPI, and
/// [`deactivate`] does the rest.
pub fn set_split(split: bool) {
    SPLIT.store(split, Ordering::Release);
    if v3() {
        write_register!("s3_0_c12_c12_4", u64::from(split) << 1); // ICC_CTLR_EL1
    } else {
        write(GICC, 1 | u32::from(split) << 9);
    }
}

/// Deactivates an interrupt of this vCPU.
pub fn deactivate(intid: u32) {
    if v3() {
        write_register!("s3_0_c12_c11_1", intid.into()); // ICC_DIR_EL1
    } else {
        write(GICC + 0x1000, intid);
    }
}

/// Acknowledges one interrupt, lets `f` handle it, and ends it.
pub fn handle(index: usize, f: impl FnOnce(usize, u32)) {
    let iar = acknowledge();
    let intid = iar & if v3() { 0xff_ffff } else { 0x3ff };
    if (1020..1024).contains(&intid) {
        return;
    }
    f(index, intid);
    if v3() {
        write_register!("s3_0_c12_c12_1", iar.into()); // ICC_EOIR1_EL1
    } else {
        write(GICC + 0x10, iar);
    }
    if index == 0 && intid < SPARE_SPI && SPLIT.load(Ordering::Acquire) {
        deactivate(iar);
    }
}

fn acknowledge() -> u32 {
    if !v3() {
        return read(GICC + 0xc);
    }
    let iar: u64;
    // SAFETY: ICC_IAR1_EL1.
    unsafe { asm!("mrs {}, s3_0_c12_c12_0", "dsb sy", out(reg) iar, options(nostack)) };
    iar as u32
}
