//! The guest's interrupt controller, either version: the one that ID_AA64PFR0_EL1.GIC says.

use core::arch::asm;

const GICD: usize = 0x0800_0000;
const GICC: usize = 0x0801_0000;
const GICR: usize = 0x080a_0000;

/// Whether this is a GICv3.
pub fn v3() -> bool {
    let pfr0: u64;
    // SAFETY: reads an ID register.
    unsafe { asm!("mrs {}, id_aa64pfr0_el1", out(reg) pfr0, options(nomem, nostack)) };
    pfr0 >> 24 & 0xf != 0
}

/// Reads a 32-bit device register.
pub fn read(at: usize) -> u32 {
    // SAFETY: addresses of the guest platform's devices; a fault is caught by `cpu::probe`.
    unsafe {
        let value: u32;
        asm!("ldr {:w}, [{}]", out(reg) value, in(reg) at, options(nostack));
        value
    }
}

/// Writes a 32-bit device register.
pub fn write(at: usize, value: u32) {
    // SAFETY: as `read`.
    unsafe { asm!("str {:w}, [{}]", in(reg) value, in(reg) at, options(nostack)) };
}

/// The distributor's register at this offset.
pub fn distributor(offset: usize) -> usize {
    GICD + offset
}

/// The frame that holds the private interrupts' registers of a vCPU.
fn private(index: usize) -> usize {
    if v3() { GICR + index * 0x2_0000 + 0x1_0000 } else { GICD }
}

/// Sets up this vCPU's interface, and the distributor on the first one. Everything is Group 1 on a GICv3, Group 0 on a GICv2.
pub fn init(index: usize) {
    if index == 0 {
        write(GICD, if v3() { 0x12 } else { 1 });
    }
    if v3() {
        let waker = GICR + index * 0x2_0000 + 0x14;
        write(waker, read(waker) & !2);
        while read(waker) & 4 != 0 {}
        write(private(index) + 0x80, !0);
        // SAFETY: this vCPU's interrupt interface.
        unsafe {
            asm!("msr s3_0_c12_c12_5, {}", "isb", in(reg) 7u64, options(nostack)); // ICC_SRE_EL1
            asm!("msr s3_0_c4_c6_0, {}", in(reg) 0xffu64, options(nostack)); // ICC_PMR_EL1
            asm!("msr s3_0_c12_c12_7, {}", "isb", in(reg) 1u64, options(nostack)); // ICC_IGRPEN1_EL1
        }
    } else {
        write(GICC + 4, 0xff);
        write(GICC, 1);
    }
    // SGIs, and the timers' PPIs 27 and 30.
    write(private(index) + 0x100, 0xffff | 1 << 27 | 1 << 30);
}

/// Enables an SPI for vCPU 0 with a priority; edge-triggered if `edge`.
pub fn enable_spi(intid: usize, priority: u8, edge: bool) {
    // SAFETY: byte registers of the distributor.
    unsafe {
        let at = GICD + 0x400 + intid;
        asm!("strb {:w}, [{}]", in(reg) u32::from(priority), in(reg) at, options(nostack));
        if !v3() {
            let at = GICD + 0x800 + intid;
            asm!("strb {:w}, [{}]", in(reg) 1u32, in(reg) at, options(nostack));
        }
    }
    let config = GICD + 0xc00 + intid / 16 * 4;
    let bit = 2 << (intid % 16 * 2);
    write(config, if edge { read(config) | bit } else { read(config) & !bit });
    let group = GICD + 0x80 + intid / 32 * 4;
    if v3() {
        write(group, read(group) | 1 << (intid % 32));
    }
    write(GICD + 0x100 + intid / 32 * 4, 1 << (intid % 32));
}

/// Makes an SPI pending.
pub fn set_pending(intid: usize) {
    write(GICD + 0x200 + intid / 32 * 4, 1 << (intid % 32));
}

/// Sends an SGI to one vCPU.
pub fn send_sgi(to: usize, sgi: u32) {
    if v3() {
        let value = u64::from(sgi) << 24 | 1 << to;
        // SAFETY: ICC_SGI1R_EL1.
        unsafe { asm!("dsb ishst", "msr s3_0_c12_c11_5, {}", "isb", in(reg) value, options(nostack)) };
    } else {
        aarch64_cpu::asm::barrier::dsb(aarch64_cpu::asm::barrier::ISHST);
        write(GICD + 0xf00, 1 << (16 + to) | sgi);
    }
}

/// Acknowledges one interrupt, lets `f` handle it, and ends it.
pub fn handle(index: usize, f: impl FnOnce(usize, u32)) {
    if v3() {
        let iar: u64;
        // SAFETY: ICC_IAR1_EL1 and ICC_EOIR1_EL1.
        unsafe { asm!("mrs {}, s3_0_c12_c12_0", "dsb sy", out(reg) iar, options(nostack)) };
        if iar < 1020 {
            f(index, iar as u32);
            // SAFETY: as above.
            unsafe { asm!("msr s3_0_c12_c12_1, {}", "isb", in(reg) iar, options(nostack)) };
        }
    } else {
        let iar = read(GICC + 0xc);
        if iar & 0x3ff < 1020 {
            f(index, iar & 0x3ff);
            write(GICC + 0x10, iar);
        }
    }
}
