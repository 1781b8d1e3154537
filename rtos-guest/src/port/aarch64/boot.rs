//! From the first instruction to the idle task.

use core::arch::global_asm;
use core::cell::RefCell;

use abi::channel::PAGE_SIZE;
use critical_section::Mutex;
use dtoolkit::fdt::Fdt;

use super::{INTERRUPTS, PAGE, Stack, context, gic::Gic, mmu, serial, smccc, stolen, timer};
use crate::dt::{self, Platform, Region};
use crate::pv::channel::MAX_CHANNELS;
use crate::pv::page::Page;
use crate::{console, interrupt, kernel, time};

/// Where QEMU puts the device tree of an ELF image, which it starts with x0 = 0: at the start of RAM.
const DTB_DEFAULT: usize = 0x4000_0000;

/// The largest device tree of the arm64 boot protocol.
const DTB_MAX: usize = 2 << 20;

global_asm!(
    r#"
    .section .text.boot, "ax"
    .global _start
_start:
    msr daifset, #0xf
    mov x19, x0
    mrs x0, CurrentEL
    cmp x0, #(2 << 2)
    b.ne 2f

    // From EL2 (a machine without a hypervisor) down to EL1 with nothing trapped: EL1 is AArch64 (HCR_EL2.RW), sees
    // the counters undisturbed, the CPU's own identity, and, if there are any (ID_AA64PFR0_EL1.GIC), the GIC's
    // system registers.
    mov x0, #(1 << 31)
    msr hcr_el2, x0
    isb
    mov x0, #3
    msr cnthctl_el2, x0
    msr cntvoff_el2, xzr
    mov x0, #0x33ff
    msr cptr_el2, x0
    msr hstr_el2, xzr
    mrs x0, midr_el1
    msr vpidr_el2, x0
    mrs x0, mpidr_el1
    msr vmpidr_el2, x0
    mrs x0, id_aa64pfr0_el1
    tst x0, #(0xf << 24)
    b.eq 1f
    mov x0, #0xf
    msr S3_4_C12_C9_5, x0       // ICC_SRE_EL2
1:  mov x0, #0x3c5              // EL1 with SP_EL1, all masked
    msr spsr_el2, x0
    adr x0, 2f
    msr elr_el2, x0
    eret

    // At EL1: the MMU and caches off, the fixed bits of ARMv8.0 set.
2:  mov x0, #0x0800
    movk x0, #0x30d0, lsl #16
    msr sctlr_el1, x0
    msr SPSel, #1
    adrp x0, vectors
    add x0, x0, :lo12:vectors
    msr vbar_el1, x0
    isb
    adrp x0, __exception_stack_top
    add x0, x0, :lo12:__exception_stack_top
    mov sp, x0
    mov x29, xzr
    mov x30, xzr

    adrp x0, __bss_start
    add x0, x0, :lo12:__bss_start
    adrp x1, __bss_end
    add x1, x1, :lo12:__bss_end
3:  cmp x0, x1
    b.hs 4f
    stp xzr, xzr, [x0], #16
    b 3b
4:  mov x0, x19
    b {boot}
"#,
    boot = sym boot,
);

unsafe extern "Rust" {
    /// What [`app!`](crate::app) names.
    safe fn mobi_rtos_app();
}

/// Sets the machine up, calls the application and becomes the idle task.
extern "C" fn boot(x0: usize) -> ! {
    let dtb = if x0 == 0 { DTB_DEFAULT } else { x0 };
    // SAFETY: the loader put a device tree there; it is aligned to 8 bytes and begins with its magic and its size.
    let dtb_size =
        u32::from_be(unsafe { core::ptr::with_exposed_provenance::<u32>(dtb + 4).read_volatile() });
    mmu::enable(dtb, (dtb_size as usize).min(DTB_MAX));
    time::set_clock(time::Clock::new(timer::frequency()));
    let platform = platform(dtb);
    let paravirtual = platform.conduit.is_some_and(smccc::set_up);
    stolen::set_up();
    serial::set_up(paravirtual, platform.uart);
    let gic = Gic::set_up(platform.gic);
    gic.configure(platform.timer_intid, interrupt::Trigger::Level);
    gic.set_enabled(platform.timer_intid, true);
    critical_section::with(|cs| {
        let fresh = INTERRUPTS.borrow(cs).set((gic, platform.timer_intid));
        assert!(fresh.is_ok(), "the machine is set up once");
    });
    if let Some(uart) = platform.uart {
        interrupt::attach(uart.intid, interrupt::Trigger::Level, &console::interrupt)
            .expect("the table is empty");
    }
    mobi_rtos_app();
    static IDLE: Stack<4096> = Stack::new();
    mmu::unmap(IDLE.addresses().start - PAGE);
    kernel::with(|kernel, _| kernel.set_idle_stack(IDLE.addresses()));
    // SAFETY: boot is run once, and this is the only use of the stack.
    context::idle(unsafe { IDLE.claim() })
}

/// The channels that the device tree names; their pages are mapped when they are asked for.
static CHANNELS: Mutex<RefCell<heapless::Vec<dt::Channel<'static>, MAX_CHANNELS>>> =
    Mutex::new(RefCell::new(heapless::Vec::new()));

/// Maps the page of the channel `name`.
pub(crate) fn channel(name: &str) -> Option<(usize, dt::Channel<'static>, &'static Page)> {
    let (index, channel) = critical_section::with(|cs| {
        let channels = CHANNELS.borrow_ref(cs);
        channels.iter().copied().enumerate().find(|(_, channel)| channel.name == name)
    })?;
    mmu::map_shared(channel.page.base, PAGE_SIZE);
    let page = core::ptr::with_exposed_provenance::<Page>(channel.page.base);
    // SAFETY: the hypervisor says that memory is there, aligned to pages; it is mapped for good. It consists of atomics, so
    // that it may be shared with another VM, and all values are valid.
    Some((index, channel, unsafe { &*page }))
}

/// Reads the device tree at `dtb` and maps the devices that it names.
fn platform(dtb: usize) -> Platform {
    // SAFETY: the loader put it there, `mmu::enable` has mapped it read-only, and nothing writes it.
    let fdt = unsafe { Fdt::from_raw(core::ptr::with_exposed_provenance(dtb)) }.expect("a device tree");
    let platform = Platform::from_fdt(fdt).expect("the device tree");
    let (first, second) = match platform.gic {
        dt::Gic::V2 { gicd, gicc } => (gicd, gicc),
        dt::Gic::V3 { gicd, gicr } => (gicd, gicr),
    };
    let uart = platform.uart.map(|uart| uart.registers);
    let mut channels = dt::channels(fdt);
    critical_section::with(|cs| CHANNELS.borrow_ref_mut(cs).extend(channels.by_ref().take(MAX_CHANNELS)));
    for Region { base, size } in [Some(first), Some(second), uart].into_iter().flatten() {
        mmu::map_device(base, size);
    }
    platform
}
