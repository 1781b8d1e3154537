// Exception vectors and the assembly half of the world switch.
//
// While a guest runs, SP_EL2 is the run loop's stack pointer as mobivmm_enter left it, so an exit finds room there for two
// scratch registers; the guest's context is found through TPIDR_EL2.

// Cortex-A72 without firmware mitigation: overwrite the branch history before the first indirect branch
// (Arm "Spectre-BHB: Speculative Target Reuse Attacks", table of loop counts: A72 k = 8). x0 and x1 are free.
.macro  scrub_branch_history
        mov     x0, #{BHB_LOOPS}
1:      b       . + 4
        subs    x0, x0, #1
        b.ne    1b
        dsb     nsh
        isb
.endm

// An exit from a guest: x0 = cause, then the common path.
.macro  guest_exit, cause, bhb
        .balign 0x80
        stp     x0, x1, [sp, #-16]!
    .if \bhb
        scrub_branch_history
    .endif
        mov     x1, #\cause
        b       leave_guest
.endm

// An exception that EL2 itself caused: never returns. x0 and x1 are kept in EL1 scratch registers, which no longer matter.
.macro  own_fault, kind
        .balign 0x80
        msr     tpidr_el1, x0
        mrs     x0, tpidr_el2
        add     x0, x0, #{CRASH}
        str     x1, [x0, #8]
        mov     x1, #\kind
        b       fatal
.endm

.macro  vector_table, name, bhb
        .balign 0x800
        .global \name
\name:
        // Current EL with SP_EL0: EL2 never uses it.
        own_fault 0
        own_fault 1
        own_fault 2
        own_fault 3
        // Current EL with SP_EL2: an interrupt preempts a work item; anything else is a bug.
        own_fault 4
        .balign 0x80
        b       preempt_work
        own_fault 6
        own_fault 7
        // Lower EL, AArch64.
        guest_exit {SYNC}, \bhb
        guest_exit {IRQ}, \bhb
        guest_exit {IRQ}, \bhb
        guest_exit {SERROR}, \bhb
        // Lower EL, AArch32: a 32-bit EL0 below an AArch64 EL1.
        guest_exit {SYNC}, \bhb
        guest_exit {IRQ}, \bhb
        guest_exit {IRQ}, \bhb
        guest_exit {SERROR}, \bhb
.endm

        .section .text.vectors, "ax"
        vector_table mobivmm_vectors, 0
        vector_table mobivmm_vectors_bhb, 1

        .text

.macro  save_host
        stp     x29, x30, [sp, #-96]!
        stp     x19, x20, [sp, #16]
        stp     x21, x22, [sp, #32]
        stp     x23, x24, [sp, #48]
        stp     x25, x26, [sp, #64]
        stp     x27, x28, [sp, #80]
.endm

.macro  restore_host
        ldp     x19, x20, [sp, #16]
        ldp     x21, x22, [sp, #32]
        ldp     x23, x24, [sp, #48]
        ldp     x25, x26, [sp, #64]
        ldp     x27, x28, [sp, #80]
        ldp     x29, x30, [sp], #96
.endm

// u64 mobivmm_enter(VcpuState *context)
        .global mobivmm_enter
mobivmm_enter:
        save_host
        mrs     x1, tpidr_el2
        str     x0, [x1, #{CONTEXT}]
        ldp     x2, x3, [x0, #{PC}]             // pc, pstate
        msr     elr_el2, x2
        msr     spsr_el2, x3
        add     x30, x0, #{GPRS}
        ldp     x0, x1, [x30]
        ldp     x2, x3, [x30, #16]
        ldp     x4, x5, [x30, #32]
        ldp     x6, x7, [x30, #48]
        ldp     x8, x9, [x30, #64]
        ldp     x10, x11, [x30, #80]
        ldp     x12, x13, [x30, #96]
        ldp     x14, x15, [x30, #112]
        ldp     x16, x17, [x30, #128]
        ldp     x18, x19, [x30, #144]
        ldp     x20, x21, [x30, #160]
        ldp     x22, x23, [x30, #176]
        ldp     x24, x25, [x30, #192]
        ldp     x26, x27, [x30, #208]
        ldp     x28, x29, [x30, #224]
        ldr     x30, [x30, #240]
        eret
        // No speculation past ERET (straight-line speculation, CVE-2020-13844).
        dsb     nsh
        isb

// x1 = cause; the guest's x0 and x1 are on the stack.
leave_guest:
        mrs     x0, tpidr_el2
        ldr     x0, [x0, #{CONTEXT}]
        add     x0, x0, #{GPRS}
        stp     x2, x3, [x0, #16]
        stp     x4, x5, [x0, #32]
        stp     x6, x7, [x0, #48]
        stp     x8, x9, [x0, #64]
        stp     x10, x11, [x0, #80]
        stp     x12, x13, [x0, #96]
        stp     x14, x15, [x0, #112]
        stp     x16, x17, [x0, #128]
        stp     x18, x19, [x0, #144]
        stp     x20, x21, [x0, #160]
        stp     x22, x23, [x0, #176]
        stp     x24, x25, [x0, #192]
        stp     x26, x27, [x0, #208]
        stp     x28, x29, [x0, #224]
        str     x30, [x0, #240]
        ldp     x2, x3, [sp], #16
        stp     x2, x3, [x0]
        mrs     x2, elr_el2
        mrs     x3, spsr_el2
        stp     x2, x3, [x0, #({PC} - {GPRS})]
        mov     x0, x1
        restore_host
        ret

// u64 mobivmm_work_resume(u64 sp)
        .global mobivmm_work_resume
mobivmm_work_resume:
        save_host
        mrs     x1, tpidr_el2
        mov     x2, sp
        str     x2, [x1, #{HOST_SP}]
        mov     sp, x0
        ldp     x2, x3, [sp, #248]              // ELR, SPSR
        msr     elr_el2, x2
        msr     spsr_el2, x3
        ldp     x0, x1, [sp]
        ldp     x2, x3, [sp, #16]
        ldp     x4, x5, [sp, #32]
        ldp     x6, x7, [sp, #48]
        ldp     x8, x9, [sp, #64]
        ldp     x10, x11, [sp, #80]
        ldp     x12, x13, [sp, #96]
        ldp     x14, x15, [sp, #112]
        ldp     x16, x17, [sp, #128]
        ldp     x18, x19, [sp, #144]
        ldp     x20, x21, [sp, #160]
        ldp     x22, x23, [sp, #176]
        ldp     x24, x25, [sp, #192]
        ldp     x26, x27, [sp, #208]
        ldp     x28, x29, [sp, #224]
        ldr     x30, [sp, #240]
        add     sp, sp, #{WORK_FRAME}
        eret
        dsb     nsh
        isb

preempt_work:
        sub     sp, sp, #{WORK_FRAME}
        stp     x0, x1, [sp]
        stp     x2, x3, [sp, #16]
        stp     x4, x5, [sp, #32]
        stp     x6, x7, [sp, #48]
        stp     x8, x9, [sp, #64]
        stp     x10, x11, [sp, #80]
        stp     x12, x13, [sp, #96]
        stp     x14, x15, [sp, #112]
        stp     x16, x17, [sp, #128]
        stp     x18, x19, [sp, #144]
        stp     x20, x21, [sp, #160]
        stp     x22, x23, [sp, #176]
        stp     x24, x25, [sp, #192]
        stp     x26, x27, [sp, #208]
        stp     x28, x29, [sp, #224]
        str     x30, [sp, #240]
        mrs     x2, elr_el2
        mrs     x3, spsr_el2
        stp     x2, x3, [sp, #248]
        mov     x0, #{IRQ}
leave_work:
        mrs     x1, tpidr_el2
        mov     x2, sp
        str     x2, [x1, #{WORK_SP}]
        ldr     x2, [x1, #{HOST_SP}]
        mov     sp, x2
        restore_host
        ret

        .global mobivmm_work_start
mobivmm_work_start:
        mov     x0, x20
        mov     x29, xzr
        mov     x30, xzr
        blr     x19
        msr     daifset, #2
        mov     x0, #{WORK_DONE}
        b       leave_work

// x0 = crash area, x1 = kind, x1 of the fault in [x0, #8], x0 of the fault in TPIDR_EL1.
fatal:
        stp     x2, x3, [x0, #16]
        stp     x4, x5, [x0, #32]
        stp     x6, x7, [x0, #48]
        stp     x8, x9, [x0, #64]
        stp     x10, x11, [x0, #80]
        stp     x12, x13, [x0, #96]
        stp     x14, x15, [x0, #112]
        stp     x16, x17, [x0, #128]
        stp     x18, x19, [x0, #144]
        stp     x20, x21, [x0, #160]
        stp     x22, x23, [x0, #176]
        stp     x24, x25, [x0, #192]
        stp     x26, x27, [x0, #208]
        stp     x28, x29, [x0, #224]
        mov     x2, sp
        stp     x30, x2, [x0, #240]
        mrs     x2, tpidr_el1
        str     x2, [x0]
        // The faulting stack may be the cause (guard page): report from the emergency stack, with a frame record that leads
        // back to the fault.
        mov     x2, x0
        adrp    x3, {EMERGENCY}
        add     x3, x3, :lo12:{EMERGENCY}
        mov     x4, #{EMERGENCY_SIZE}
        add     sp, x3, x4
        mrs     x4, elr_el2
        stp     x29, x4, [sp, #-16]!
        mov     x29, sp
        mov     x0, x1
        mov     x1, x2
        b       {FATAL}
