// Exception vectors and the assembly half of the world switch.
//
// While a guest runs, SP_EL2 points at its VcpuState, whose first field are the general registers; EL2's own stack pointer is in the
// CpuLocal. An exit saves the registers that a call may change, and calls its handler with the others still in their places. It
// returns to the guest, or, if the byte that mobivmm_run was told of is not zero, out of mobivmm_run.

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

// An exit from a guest: x0 and x1 are saved and free.
.macro  guest_exit, to, bhb
        .balign 0x80
        stp     x0, x1, [sp]
    .if \bhb
        scrub_branch_history
    .endif
        b       \to
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
        guest_exit guest_trap, \bhb
        guest_exit guest_interrupt, \bhb
        guest_exit guest_interrupt, \bhb
        guest_exit guest_trap, \bhb
        // Lower EL, AArch32: a 32-bit EL0 below an AArch64 EL1.
        guest_exit guest_trap, \bhb
        guest_exit guest_interrupt, \bhb
        guest_exit guest_interrupt, \bhb
        guest_exit guest_trap, \bhb
.endm

        .section .text.vectors, "ax"
        vector_table mobivmm_vectors, 0
        vector_table mobivmm_vectors_bhb, 1

        .text

// The frame of mobivmm_run: the caller's registers, then the handlers, of interrupts, of hypercalls and of traps, with their data
// behind the first, and the address of the byte that has the guest left.
        .equ    FRAME, 144
        .equ    ON_INTERRUPT, 96
        .equ    DATA, 104
        .equ    ON_HYPERCALL, 112
        .equ    ON_TRAP, 120
        .equ    LEAVE, 128

.macro  save_host
        stp     x29, x30, [sp, #-FRAME]!
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
        ldp     x29, x30, [sp], #FRAME
.endm

// Stores (stp) or loads (ldp) x4 to x17, at their places above SP.
.macro  move_x4_to_x17, op
        \op     x4, x5, [sp, #32]
        \op     x6, x7, [sp, #48]
        \op     x8, x9, [sp, #64]
        \op     x10, x11, [sp, #80]
        \op     x12, x13, [sp, #96]
        \op     x14, x15, [sp, #112]
        \op     x16, x17, [sp, #128]
.endm

// What a call may change, x19, which holds the context meanwhile, and x29. x0 to x3 are saved already. Then x19 = context, SP = EL2's.
.macro  save_guest
        move_x4_to_x17 stp
        stp     x18, x19, [sp, #144]
        stp     x29, x30, [sp, #232]
        mov     x19, sp
        mrs     x4, tpidr_el2
        ldr     x4, [x4, #{HOST_SP}]
        mov     sp, x4
        mov     x29, x4                         // the frame record of mobivmm_run
.endm

// Calls x4, void handler(VcpuState *context, u64 syndrome, void *data); then w0 = whether the guest is to be left.
.macro  call_handler
        mov     x0, x19
        blr     x4
        ldr     x0, [sp, #LEAVE]
        ldrb    w0, [x0]
.endm

.macro  return_to_guest
        mov     sp, x19
        ldp     x0, x1, [sp]
        ldp     x2, x3, [sp, #16]
        move_x4_to_x17 ldp
        ldp     x18, x19, [sp, #144]
        ldp     x29, x30, [sp, #232]
        eret
        // No speculation past ERET (straight-line speculation, CVE-2020-13844).
        dsb     nsh
        isb
.endm

.macro  save_rest
        mrs     x4, elr_el2
        mrs     x5, spsr_el2
        stp     x4, x5, [x19, #{PC}]
        stp     x20, x21, [x19, #160]
        stp     x22, x23, [x19, #176]
        stp     x24, x25, [x19, #192]
        stp     x26, x27, [x19, #208]
        str     x28, [x19, #224]
.endm

.macro  load_rest
        ldp     x4, x5, [x19, #{PC}]
        msr     elr_el2, x4
        msr     spsr_el2, x5
        ldp     x20, x21, [x19, #160]
        ldp     x22, x23, [x19, #176]
        ldp     x24, x25, [x19, #192]
        ldp     x26, x27, [x19, #208]
        ldr     x28, [x19, #224]
.endm

guest_trap:
        stp     x2, x3, [sp, #16]
        mrs     x1, esr_el2
        ubfx    x0, x1, #26, #6
        cmp     x0, #{EC_HVC}
        b.eq    hypercall
        // Any other trap may concern any register.
        save_guest
        save_rest
        ldr     x2, [sp, #DATA]
        ldr     x4, [sp, #ON_TRAP]
        call_handler
        cbnz    w0, leave_guest
        load_rest
        return_to_guest

// A hypercall has its arguments in x0 to x17.
hypercall:
        save_guest
        ldp     x2, x4, [sp, #DATA]
        call_handler
        cbnz    w0, save_and_leave
        return_to_guest

guest_interrupt:
        stp     x2, x3, [sp, #16]
        save_guest
        ldp     x4, x2, [sp, #ON_INTERRUPT]
        call_handler
        cbnz    w0, save_and_leave
        return_to_guest

save_and_leave:
        save_rest
leave_guest:
        restore_host
        ret

// void mobivmm_run(VcpuState *context, void *data, on_interrupt, on_hypercall, on_trap, const bool *leave)
        .global mobivmm_run
mobivmm_run:
        save_host
        stp     x2, x1, [sp, #ON_INTERRUPT]
        stp     x3, x4, [sp, #ON_HYPERCALL]
        str     x5, [sp, #LEAVE]
        mrs     x1, tpidr_el2
        mov     x2, sp
        str     x2, [x1, #{HOST_SP}]
        mov     x19, x0
        load_rest
        return_to_guest

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
        move_x4_to_x17 ldp
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
        move_x4_to_x17 stp
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
        mov     x0, #{WORK_PREEMPTED}
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
