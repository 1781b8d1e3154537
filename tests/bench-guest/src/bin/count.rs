//! A program of which it is known how many instructions it executes, for the QEMU plugin's own test: at EL2, on every CPU of QEMU's `virt`,
//! without a hypervisor. What it does between its marks is said, with the numbers, in `tests/src/plugin.rs`.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
core::arch::global_asm!(
    r#"
        .section .text.start, "ax"
        .global _start
_start: mov     x20, #0
        // PSCI CPU_ON of the others, one after the other, until there is none left.
        mov     x21, #1
0:      ldr     x0, =0xc4000003
        mov     x1, x21
        adr     x2, secondary
        mov     x3, x21
        smc     #0
        cbnz    x0, 1f
        add     x21, x21, #1
        b       0b
secondary:
        mov     x20, x0
1:      add     x0, x20, #1
        msr     tpidr_el2, x0
        adr     x0, vectors
        msr     vbar_el2, x0
        adr     x10, scratch
        add     x10, x10, x20, lsl #12
        add     sp, x10, #0x800
        mov     x12, #1 << 46                   // beyond physical memory
        // The PMU's event counter 0: instructions executed, at EL2 only.
        mov     x0, #6
        msr     mdcr_el2, x0
        ldr     x0, =0xc8000008
        msr     pmevtyper0_el0, x0
        mov     x0, #1
        msr     pmcntenset_el0, x0
        msr     pmcr_el0, x0
        isb

        // At EL2, with an exception in the middle of a block.
        mrs     x1, pmevcntr0_el0
        msr     daifset, #2
        mov     x9, #1000
2:      str     x9, [x10]
        ldr     x11, [x10]
        add     x11, x11, #1
        eor     x11, x11, x9
        subs    x9, x9, #1
        b.ne    2b
        ldr     x11, [x12]
        add     x11, x11, #1
        add     x11, x11, #1
        msr     daifset, #2
        mrs     x2, pmevcntr0_el0
        sub     x0, x2, x1

        // At EL1, with calls to EL2.
        mov     x1, #1 << 31                    // HCR_EL2.RW
        msr     hcr_el2, x1
        mov     x1, #0x3c5                      // EL1h, all masked
        msr     spsr_el2, x1
        adr     x1, 3f
        msr     elr_el2, x1
        eret
3:      movz    xzr, #1
        mov     x9, #100
4:      str     x9, [x10]
        hvc     #0
        add     x11, x11, #1
        subs    x9, x9, #1
        b.ne    4b
        movz    xzr, #2

        // All have to come here before the first one ends the machine.
        adr     x1, scratch
        add     x1, x1, #0x400
5:      ldxr    w2, [x1]
        add     w2, w2, #1
        stxr    w3, w2, [x1]
        cbnz    w3, 5b
        cbnz    x20, 7f
6:      yield
        ldr     w2, [x1]
        cmp     w2, w21
        b.ne    6b
        movz    xzr, #0xffff
        hvc     #1
7:      wfi
        b       7b

        .balign 0x800
vectors:
        .rept   4
        .balign 0x80
        b       .
        .endr
        .balign 0x80
        mrs     x13, elr_el2                    // a fault at EL2: go on behind it
        add     x13, x13, #4
        msr     elr_el2, x13
        eret
        .rept   3
        .balign 0x80
        b       .
        .endr
        .balign 0x80
        mrs     x13, esr_el2                    // HVC
        tbnz    x13, #0, 8f
        eret
8:      ldr     x0, =0x84000008                 // PSCI SYSTEM_OFF
        smc     #0
        .ltorg

        .section .bss.scratch, "aw", @nobits
        .balign 0x1000
scratch: .zero  8 << 12
    "#
);

include!("../../../on_target_only.rs");
