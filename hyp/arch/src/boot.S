// Position-independent: runs at any 4 KiB-aligned address, MMU and caches off, until the jump to Rust.

.macro  adr_l, reg, symbol
        adrp    \reg, \symbol
        add     \reg, \reg, :lo12:\symbol
.endm

.macro  mov_q, reg, value
        movz    \reg, #((\value) & 0xffff)
        movk    \reg, #(((\value) >> 16) & 0xffff), lsl #16
        movk    \reg, #(((\value) >> 32) & 0xffff), lsl #32
        movk    \reg, #(((\value) >> 48) & 0xffff), lsl #48
.endm

        .section .head, "ax"
        .global __image_start
        // The 64-byte header of an arm64 Image (booting.rst, section 4).
        b       primary
        .word   0
        .quad   0                               // text_offset: any 2 MiB-aligned base
        .quad   __image_size                    // image_size, with .bss and stacks
        .quad   0b1010                          // little-endian, 4 KiB pages, anywhere in memory
        .quad   0, 0, 0
        .ascii  "ARM\x64"
        .word   0

        .text
primary:
        msr     daifset, #0xf
        mov     x20, x0                         // device tree
        mrs     x0, currentel
        cmp     x0, #(2 << 2)
        b.ne    park                            // EL3 and EL1 starts are not the boot protocol's

        mov_q   x0, {SCTLR_OFF}
        msr     sctlr_el2, x0
        isb

        // Clear .bss before the relocation, so that nothing it writes is lost.
        adr_l   x0, __file_end
        adr_l   x1, __bss_end
1:      cmp     x0, x1
        b.hs    2f
        stp     xzr, xzr, [x0, #16]
        stp     xzr, xzr, [x0, #32]
        stp     xzr, xzr, [x0, #48]
        stp     xzr, xzr, [x0], #64
        b       1b
2:
        // RELR (generic ELF ABI, "Relative relocation table"): an even entry is the offset of a word to which the base is added, an odd
        // one a bitmap of which of the next 63 words are.
        adr_l   x0, __image_start
        adr_l   x1, __relr_start
        adr_l   x2, __relr_end
3:      cmp     x1, x2
        b.hs    8f
        ldr     x3, [x1], #8
        tbnz    x3, #0, 4f
        add     x4, x0, x3                      // the next word
        ldr     x5, [x4]
        add     x5, x5, x0
        str     x5, [x4], #8
        b       3b
4:      mov     x6, x4
5:      lsr     x3, x3, #1
        cbz     x3, 7f
        tbz     x3, #0, 6f
        ldr     x5, [x6]
        add     x5, x5, x0
        str     x5, [x6]
6:      add     x6, x6, #8
        b       5b
7:      add     x4, x4, #(63 * 8)
        b       3b
8:
        // The boot mapping: the GiB of the image and the GiB of the device tree.
        adr_l   x6, {BOOT_TABLE}
        mov_q   x7, {BLOCK}
        lsr     x1, x0, #30
        orr     x2, x7, x1, lsl #30
        str     x2, [x6, x1, lsl #3]
        lsr     x1, x20, #30
        cmp     x1, #512
        b.hs    9f
        orr     x2, x7, x1, lsl #30
        str     x2, [x6, x1, lsl #3]
9:
        // What was written with caches off must not hide behind lines that the boot loader left in them.
        adr_l   x1, __bss_end
        bl      invalidate

        mov     x19, #0                         // CPU index
        b       to_rust

        .global mobivmm_secondary_entry
mobivmm_secondary_entry:
        msr     daifset, #0xf
        mrs     x0, currentel
        cmp     x0, #(2 << 2)
        b.ne    park
        mov_q   x0, {SCTLR_OFF}
        msr     sctlr_el2, x0
        isb
        mrs     x0, mpidr_el1
        mov_q   x1, 0xff00ffffff
        and     x0, x0, x1
        orr     x0, x0, #(1 << 63)
        adr_l   x1, {AFFINITY}
        mov     x19, #0
6:      ldr     x2, [x1, x19, lsl #3]
        cmp     x2, x0
        b.eq    7f
        add     x19, x19, #1
        cmp     x19, #{MAX_CPUS}
        b.lo    6b
        b       park
7:      adr_l   x6, {SECONDARY_TTBR}
        ldr     x6, [x6]

// x19 = CPU index, x6 = translation table, x20 = device tree (primary)
to_rust:
        mov_q   x0, {MAIR}
        msr     mair_el2, x0
        mov_q   x0, {TCR}
        mrs     x1, id_aa64mmfr0_el1            // PARange into TCR_EL2.PS, 48 bits at the most
        and     x1, x1, #0xf
        mov     x2, #5
        cmp     x1, x2
        csel    x1, x1, x2, lo
        bfi     x0, x1, #16, #3
        msr     tcr_el2, x0
        msr     ttbr0_el2, x6
        // Nothing of an earlier translation regime may survive (Arm ARM, "TLB maintenance").
        tlbi    alle2
        ic      iallu
        dsb     nsh
        isb
        mov_q   x0, {SCTLR_ON}
        msr     sctlr_el2, x0
        isb

        adr_l   x0, {VECTORS}
        msr     vbar_el2, x0
        adr_l   x0, {LOCALS}
        mov     x1, #{LOCAL}
        madd    x0, x19, x1, x0
        msr     tpidr_el2, x0
        adr_l   x0, {STACKS}
        mov     x1, #{STACK}
        madd    x0, x19, x1, x0
        add     sp, x0, x1
        isb
        mov     x29, xzr
        mov     x30, xzr
        cbnz    x19, 8f
        mov     x0, x20
        b       mobivmm_primary
8:      mov     x0, x19
        b       mobivmm_secondary

park:
        wfe
        b       park

// Invalidates the data cache lines of [x0, x1) to the Point of Coherency.
invalidate:
        mrs     x2, ctr_el0
        ubfx    x2, x2, #16, #4
        mov     x3, #4
        lsl     x2, x3, x2
        sub     x3, x2, #1
        bic     x0, x0, x3
9:
        .rept   8                               // a page has more lines
        dc      ivac, x0
        add     x0, x0, x2
        .endr
        cmp     x0, x1
        b.lo    9b
        dsb     sy
        ret
